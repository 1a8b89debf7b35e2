/* SPDX-License-Identifier: BSD-3-Clause */
/* vmm_socket.c: fuzz target: anything on the VMM socket, with descriptors. See engine_world.h. */
#include "tests/fuzz/engine_world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	engine_world_run("@vmm\n", data, size);
	return 0;
}
