/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engine_world.h: a whole engine (loop, server, peer link, tcp rail, workers) in this process,
 * and whoever speaks to it. For the targets vmm_socket and peer_link.
 *
 * The input is text that goes as it is, line ends included, to whoever is chosen; lines that
 * begin with '@' say something else:
 *
 *   @vmm  @other     what follows is said by the VMM's connection, by an operator's
 *   @peer N          ... by peer N (0 to 3), which connects to the engine's peer link
 *   @engine          ... by the peer that the engine has connected to (after @migrate)
 *   @close           whoever speaks hangs up
 *   @fd KIND         a descriptor goes along with the next line: memfd small unsealed bitmap
 *                    pipe null dir rdonly
 *   @fds N           N of /dev/null
 *   @turn            let the engine work
 *   @memory          the VMM adds memory and a feed as it should
 *   @incoming        and waits for a source
 *   @migrate         or migrates to a peer that is us
 *
 * @KEY@ in what a peer says is replaced by the key of some real memory.
 */
#ifndef SLUICE_TESTS_FUZZ_ENGINE_WORLD_H
#define SLUICE_TESTS_FUZZ_ENGINE_WORLD_H

#include "tests/fuzz/fuzz.h"

/* Run one input; @begin: lines of the same kind that come first. Then check that the engine is
   alive: a new client is greeted and answered, and guest memory is what it was. */
void engine_world_run(const char *begin, const uint8_t *data, size_t size);

#endif
