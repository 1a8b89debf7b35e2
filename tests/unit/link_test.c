/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * link_test.c: the peer link over real sockets on loopback: who is told what, and when. Sending
 * happens in the middle of other things, so it must not call back.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "base/loop.h"
#include "engine/peer/link.h"
#include "tests/unit/unit.h"

#define TURNS_MAX 6000 /* of 10 ms when nothing happens */

struct end {
	struct sluice_link *link;
	bool sending, down_while_sending;
	unsigned int ups, downs, messages;
	char why[128];
};

static const struct sluice_link_opts clear_text;
static struct sluice_loop *loop;

static void on_up(void *ctx)
{
	((struct end *)ctx)->ups++;
}

static void on_message(void *ctx, const json_t *message)
{
	(void)message;
	((struct end *)ctx)->messages++;
}

static void on_down(void *ctx, const char *why)
{
	struct end *end = ctx;

	end->downs++;
	end->down_while_sending |= end->sending;
	snprintf(end->why, sizeof(end->why), "%s", why);
}

static void turns_until(const unsigned int *counter)
{
	for (int i = 0; i < TURNS_MAX && *counter == 0; i++)
		sluice_loop_turn(loop, 10);
}

static void adopt(struct end *end, int fd)
{
	struct sluice_link_handlers handlers = {
		.up = on_up, .message = on_message, .down = on_down, .ctx = end};

	CU_ASSERT_EQUAL_FATAL(sluice_link_adopt(loop, fd, &clear_text, &handlers, &end->link), 0);
}

static void send_ping(struct end *end, const char *padding)
{
	end->sending = true;
	sluice_link_send(
		end->link, json_pack("{s:s, s:i, s:s*}", "type", "ping", "n", 1, "x", padding));
	end->sending = false;
}

static void setup(struct end *end, int *ret_other)
{
	int fds[2];

	CU_ASSERT_EQUAL_FATAL(sluice_loop_create(&loop), 0);
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	*end = (struct end){0};
	adopt(end, fds[0]);
	*ret_other = fds[1];
}

/* An adopted link may speak once it has been spoken to. */
static void setup_up(struct end *end, int *ret_other)
{
	static const char text[] = "{\"type\": \"ping\", \"n\": 1}\r\n";

	setup(end, ret_other);
	CU_ASSERT_EQUAL(write(*ret_other, text, sizeof(text) - 1), (ssize_t)sizeof(text) - 1);
	turns_until(&end->messages);
	CU_ASSERT_EQUAL(end->messages, 1);
}

static void test_a_dead_peer_is_told_by_the_loop(void)
{
	struct end end;
	int other;

	setup_up(&end, &other);
	close(other);
	send_ping(&end, NULL);
	send_ping(&end, NULL);
	CU_ASSERT_EQUAL(end.downs, 0);
	turns_until(&end.downs);
	CU_ASSERT_EQUAL(end.downs, 1);
	CU_ASSERT_FALSE(end.down_while_sending);
	CU_ASSERT_TRUE(end.why[0] != '\0');
	send_ping(&end, NULL); /* swallowed */
	sluice_link_close(end.link);
	sluice_loop_destroy(loop);
}

static void test_a_peer_that_does_not_read_is_given_up(void)
{
	static char padding[256 << 10];
	struct end end;
	int other;

	setup_up(&end, &other);
	memset(padding, 'a', sizeof(padding) - 1);
	for (int i = 0; i < 64; i++)
		send_ping(&end, padding);
	CU_ASSERT_EQUAL(end.downs, 0);
	turns_until(&end.downs);
	CU_ASSERT_EQUAL(end.downs, 1);
	CU_ASSERT_FALSE(end.down_while_sending);
	UNIT_CONTAINS(end.why, "does not read");
	sluice_link_close(end.link);
	close(other);
	sluice_loop_destroy(loop);
}

static void test_messages_before_the_end_are_heard(void)
{
	static const char text[] = "{\"type\": \"ping\", \"n\": 1}\r\n";
	struct end end;
	int other;

	setup(&end, &other);
	CU_ASSERT_EQUAL(write(other, text, sizeof(text) - 1), (ssize_t)sizeof(text) - 1);
	close(other);
	turns_until(&end.downs);
	CU_ASSERT_EQUAL(end.messages, 1);
	CU_ASSERT_EQUAL(end.downs, 1);
	sluice_link_close(end.link);
	sluice_loop_destroy(loop);
}

static const struct unit_test tests[] = {
	{"a dead peer is told by the loop, not by send", test_a_dead_peer_is_told_by_the_loop},
	{"a peer that does not read is given up", test_a_peer_that_does_not_read_is_given_up},
	{"messages before the end are heard", test_messages_before_the_end_are_heard},
	{0},
};

int main(void)
{
	return unit_run("link", tests);
}
