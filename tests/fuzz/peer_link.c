/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * peer_link.c: fuzz target: anything on the peer link of an engine that waits for a source, or,
 * when the input begins with '<', that migrates to us. See engine_world.h.
 */
#include "tests/fuzz/engine_world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size > 0 && data[0] == '<')
		engine_world_run("@memory\n@migrate\n@engine\n", data + 1, size - 1);
	else
		engine_world_run("@memory\n@incoming\n@peer 0\n", data, size);
	return 0;
}
