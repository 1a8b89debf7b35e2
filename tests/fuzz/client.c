/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client.c: fuzz target: libsluice and an engine that says what it likes. The input is what comes
 * behind the greeting: answers and events. Beginning with '!' it is the greeting, too, and behind
 * it the engine hangs up.
 */
#include <sys/socket.h>
#include <unistd.h>

#include <jansson.h>

#include "tests/fuzz/fuzz.h"
#include "vmm/libsluice/internal.h"

static void take_events(struct sluice_vmm *vmm)
{
	struct sluice_vmm_event event;
	struct sluice_error err = {0};
	int r;

	while ((r = sluice_vmm_next_event(vmm, 0, &event, &err)) == 1) {
		json_t *data = json_loads(event.data_json, 0, NULL);

		FUZZ_CHECK(json_is_object(data)); /* as sluice.h promises */
		FUZZ_CHECK(strlen(event.name) < sizeof(event.name));
		FUZZ_CHECK(strlen(event.text) < sizeof(event.text));
		json_decref(data);
		sluice_vmm_event_clear(&event);
	}
	FUZZ_CHECK((r < 0) == (err.code != 0));
}

static void ask(struct sluice_vmm *vmm)
{
	struct sluice_error err = {0};
	char *json = NULL;
	int r = sluice_vmm_command(vmm, "query-migrate", NULL, &json, &err);

	FUZZ_CHECK((r < 0) == (err.code != 0));
	FUZZ_CHECK((r < 0) == (json == NULL));
	free(json);
	err.code = 0;
	r = sluice_vmm_dirty_sync_done(vmm, 1, &err);
	FUZZ_CHECK((r < 0) == (err.code != 0));
}

static void say(int fd, const void *bytes, size_t count)
{
	ssize_t sent = send(fd, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);

	(void)sent;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char greeting[] = "{\"QMP\": {}}\r\n{\"return\": {}, \"id\": 1}\r\n";
	bool raw = size > 0 && data[0] == '!';
	struct sluice_vmm *vmm = NULL;
	struct sluice_error err = {0};
	int pair[2], r;

	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	if (!raw)
		say(pair[1], greeting, sizeof(greeting) - 1);
	say(pair[1], data + raw, size - raw);
	if (raw)
		shutdown(pair[1], SHUT_WR);
	r = sluice_vmm_open(pair[0], &vmm, &err);
	FUZZ_CHECK((r < 0) == (err.code != 0));
	FUZZ_CHECK(raw || r == 0);
	if (r == 0) {
		sluice_vmm_set_timeout(vmm, 1);
		ask(vmm);
		take_events(vmm);
		sluice_vmm_close(vmm);
	}
	close(pair[1]);
	return 0;
}
