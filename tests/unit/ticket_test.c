/* SPDX-License-Identifier: BSD-3-Clause */
/* ticket_test.c: tickets of lanes: who knows them, and what they are bound to. */
#include <errno.h>

#include "base/bits.h"
#include "engine/peer/ticket.h"
#include "tests/unit/unit.h"

#define SESSION_A "0123456789abcdef0123456789abcdef"
#define SESSION_B "0123456789abcdef0123456789abcdee"

/* A link's secret: ctx points to a number that stands for it. */
static int derive(
	void *ctx, const void *context, size_t context_bytes, uint8_t *secret, size_t secret_bytes)
{
	const uint8_t *bytes = context;
	uint64_t sum = *(const uint64_t *)ctx;

	for (size_t i = 0; i < context_bytes; i++)
		sum = (sum ^ bytes[i]) * 0x100000001b3ull;
	for (size_t i = 0; i < secret_bytes; i++)
		secret[i] = (uint8_t)(sum >> (i % 8 * 8));
	return 0;
}

static int derive_fails(
	void *ctx, const void *context, size_t context_bytes, uint8_t *secret, size_t secret_bytes)
{
	(void)context, (void)context_bytes, (void)secret, (void)secret_bytes;
	return *(const int *)ctx;
}

static void make(const struct sluice_ticket_keys *keys, const struct sluice_ticket_use *use,
	struct sluice_ticket *ticket, char told[SLUICE_TICKET_TEXT_BYTES])
{
	memset(ticket, 0, sizeof(*ticket));
	CU_ASSERT_EQUAL_FATAL(sluice_ticket_make(keys, use, ticket, told, NULL), 0);
}

static void test_derived(void)
{
	static const struct sluice_ticket_use uses[] = {
		{SESSION_A, 3, 1}, {SESSION_A, 3, 2}, {SESSION_A, 4, 1}, {SESSION_B, 3, 1}};
	uint64_t link = 17, other_link = 18;
	struct sluice_ticket_keys keys = {derive, &link}, other = {derive, &other_link};
	struct sluice_ticket first, ticket, known;
	char told[SLUICE_TICKET_TEXT_BYTES];
	struct sluice_error err = {0};

	make(&keys, &uses[0], &first, told);
	CU_ASSERT_STRING_EQUAL(told, "");
	CU_ASSERT_EQUAL(sluice_ticket_know(&keys, &uses[0], told, &known, &err), 0);
	CU_ASSERT_EQUAL(memcmp(&first, &known, sizeof(first)), 0);
	for (size_t i = 1; i < SLUICE_ARRAY_LEN(uses); i++) {
		make(&keys, &uses[i], &ticket, told);
		CU_ASSERT_NOT_EQUAL(memcmp(&first, &ticket, sizeof(first)), 0);
	}
	make(&other, &uses[0], &ticket, told);
	CU_ASSERT_NOT_EQUAL(memcmp(&first, &ticket, sizeof(first)), 0);
	/* One that travels could have been chosen by somebody else. */
	memset(told, 'a', sizeof(told) - 1);
	told[sizeof(told) - 1] = '\0';
	CU_ASSERT_EQUAL(sluice_ticket_know(&keys, &uses[0], told, &known, &err), -EPROTO);
	UNIT_CONTAINS(err.text, "derive");
}

static void test_told(void)
{
	static const char *const wrong[] = {
		"", "00", "zz", SESSION_A, SESSION_A SESSION_A SESSION_A};
	int no_keys = -EOPNOTSUPP;
	struct sluice_ticket_keys none = {NULL, NULL}, clear = {derive_fails, &no_keys};
	struct sluice_ticket_use use = {SESSION_A, 0, 1};
	struct sluice_ticket first, second, known;
	char told[SLUICE_TICKET_TEXT_BYTES];

	make(&none, &use, &first, told);
	make(&clear, &use, &second, told);
	CU_ASSERT_NOT_EQUAL(memcmp(&first, &second, sizeof(first)), 0);
	CU_ASSERT_EQUAL(strlen(told), 2 * SLUICE_TICKET_BYTES);
	CU_ASSERT_EQUAL(sluice_ticket_know(&none, &use, told, &known, NULL), 0);
	CU_ASSERT_EQUAL(memcmp(&second, &known, sizeof(known)), 0);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(wrong); i++) {
		struct sluice_error err = {0};

		CU_ASSERT_EQUAL(sluice_ticket_know(&clear, &use, wrong[i], &known, &err), -EPROTO);
		UNIT_CONTAINS(err.text, "64 hexadecimal digits");
	}
}

/* A link that is just gone is not one in clear text. */
static void test_no_link(void)
{
	int gone = -ENOTCONN;
	struct sluice_ticket_keys keys = {derive_fails, &gone};
	struct sluice_ticket_use use = {SESSION_A, 0, 1};
	char told[SLUICE_TICKET_TEXT_BYTES];
	struct sluice_ticket ticket;

	CU_ASSERT_EQUAL(sluice_ticket_make(&keys, &use, &ticket, told, NULL), -ENOTCONN);
	CU_ASSERT_EQUAL(sluice_ticket_know(&keys, &use, "", &ticket, NULL), -ENOTCONN);
}

static const struct unit_test tests[] = {
	{"derived at both ends", test_derived},
	{"told by the target", test_told},
	{"no link", test_no_link},
	{0},
};

int main(void)
{
	return unit_run("ticket", tests);
}
