/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * text.c: fuzz target: what people and peers write by hand: addresses, sets of CPUs, sizes, times.
 * The first byte chooses which; what is understood can be written, and is read back as itself.
 */
#include "base/cpus.h"
#include "base/params.h"
#include "engine/peer/address.h"
#include "tests/fuzz/fuzz.h"

static void address(const char *text, enum sluice_address_use use)
{
	struct sluice_peer_address parsed, again;
	struct sluice_error err = {0};
	char uri[SLUICE_URI_BYTES];
	int r = sluice_peer_address_parse(text, use, &parsed, &err);

	FUZZ_CHECK((r < 0) == (err.code != 0));
	if (r < 0)
		return;
	FUZZ_CHECK(parsed.count >= 1 && parsed.count <= SLUICE_ADDRESSES_MAX);
	FUZZ_CHECK(strcmp(parsed.uri, text) == 0);
	for (uint32_t i = 0; i < parsed.count; i++) {
		sluice_sockaddr_format(&parsed.list[i].addr, parsed.list[i].len, uri);
		FUZZ_CHECK(sluice_peer_address_parse(uri, use, &again, &err) == 0);
		FUZZ_CHECK(again.list[0].len == parsed.list[i].len);
		FUZZ_CHECK(sluice_peer_address_is_local(&again) ||
			   !sluice_peer_address_is_local(&parsed));
	}
}

static void cpus(const char *text)
{
	struct sluice_cpus parsed, again;
	char shown[SLUICE_CPUS_TEXT_BYTES];

	if (sluice_cpus_parse(text, &parsed) < 0)
		return;
	sluice_cpus_format(&parsed, shown, sizeof(shown));
	FUZZ_CHECK(strlen(shown) < sizeof(shown));
	if (sluice_cpus_is_empty(&parsed) || strstr(shown, "...") != NULL)
		return;
	FUZZ_CHECK(sluice_cpus_parse(shown, &again) == 0);
	FUZZ_CHECK(sluice_cpus_is_equal(&parsed, &again));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t number;
	char *text;

	if (size == 0)
		return 0;
	text = fuzz_string(data + 1, size - 1);
	switch (data[0]) {
	case 'c':
		address(text, SLUICE_ADDRESS_CONNECT);
		break;
	case 'l':
		address(text, SLUICE_ADDRESS_LISTEN);
		break;
	case 'p':
		cpus(text);
		break;
	case 's':
		sluice_parse_size(text, &number);
		break;
	default:
		sluice_parse_time(text, &number);
		break;
	}
	free(text);
	return 0;
}
