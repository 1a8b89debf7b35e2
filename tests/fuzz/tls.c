/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tls.c: fuzz target: the handshake of an encrypted peer link, with somebody who has no key. The
 * input is a byte that says which end is looked at (odd: the one that connects), then all that the
 * other one says before it hangs up. Whatever that is, the handshake is never complete, and its
 * failure has a reason.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/peer/tls.h"
#include "tests/fuzz/fuzz.h"

#define KEY_LINE  "vm1:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"
#define STEPS_MAX 64 /* of a handshake that waits for nothing */

static char key_path[64];
static const struct sluice_tls_module *module;

static void remove_key(void)
{
	unlink(key_path);
}

static void setup(void)
{
	struct sluice_error err = {0};
	int fd;

	if (key_path[0] != '\0')
		return;
	signal(SIGPIPE, SIG_IGN);
	snprintf(key_path, sizeof(key_path), "/dev/shm/sluice-fuzz-tls-XXXXXX");
	fd = mkostemp(key_path, O_CLOEXEC);
	FUZZ_CHECK(fd >= 0 && write(fd, KEY_LINE, strlen(KEY_LINE)) == (ssize_t)strlen(KEY_LINE));
	close(fd);
	atexit(remove_key);
	if (sluice_tls_load(&module, &err) < 0)
		module = NULL; /* a build without OpenSSL has nothing to look at */
}

/* Until it fails, or waits for what will not come. */
static int step(struct sluice_tls *tls, struct sluice_error *err)
{
	int r = 0;

	for (int i = 0; i < STEPS_MAX && r == 0; i++) {
		uint32_t events = 0;

		r = module->handshake(tls, &events, err);
		FUZZ_CHECK(r != 1);
		FUZZ_CHECK((r < 0) == (err->code != 0));
		FUZZ_CHECK(r < 0 || events != 0);
	}
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sluice_tls_opts opts = {.psk_file = key_path, .psk_identity = ""};
	struct sluice_error err = {0};
	struct sluice_tls *tls = NULL;
	int pair[2];

	setup();
	if (module == NULL || size == 0)
		return 0;
	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
	opts.fd = pair[0];
	opts.role = data[0] % 2 == 1 ? SLUICE_TLS_CONNECTS : SLUICE_TLS_ACCEPTS;
	FUZZ_CHECK(module->create(&opts, &tls, &err) == 0);
	if (size > 1 && write(pair[1], data + 1, size - 1) < 0)
		size = 1; /* more than a socket holds: none of it */
	if (step(tls, &err) == 0) {
		shutdown(pair[1], SHUT_WR);
		FUZZ_CHECK(step(tls, &err) < 0);
	}
	FUZZ_CHECK(strlen(err.text) > 0);
	module->destroy(tls);
	close(pair[0]);
	close(pair[1]);
	return 0;
}
