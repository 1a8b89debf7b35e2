/* SPDX-License-Identifier: BSD-3-Clause */
/* refvm.h: the parts of the program, in one place. All belong to the main thread's loop. */
#ifndef REFVM_REFVM_H
#define REFVM_REFVM_H

#include "base/loop.h"
#include "vmm/refvm/engine.h"
#include "vmm/refvm/migration.h"
#include "vmm/refvm/monitor.h"
#include "vmm/refvm/options.h"
#include "vmm/refvm/sampler.h"
#include "vmm/refvm/vm.h"
#include "vmm/refvm/witness.h"

struct refvm {
	struct refvm_options options;
	struct sluice_loop *loop;
	struct refvm_vm vm;
	struct refvm_sampler *sampler;
	struct refvm_witness witness;
	struct refvm_engine engine;
	struct refvm_migration migration;
	struct refvm_monitor *monitor;
};

#endif
