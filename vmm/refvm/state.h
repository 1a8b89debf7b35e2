/* SPDX-License-Identifier: BSD-3-Clause */
/* state.h: the whole machine's state to and from a device blob. Main thread, vCPUs stopped. */
#ifndef REFVM_STATE_H
#define REFVM_STATE_H

#include "vmm/refvm/vm.h"

/* One buffer to be sent; free() it. @running: whether it shall run at the target. */
int refvm_state_save(struct refvm_vm *vm, uint64_t generation, bool running, uint8_t **ret_bytes,
	size_t *ret_len, struct sluice_error *err);
/* Load a blob whose shape refvm_blob_read() has checked. Touches no guest memory, which may
   still be arriving. On failure the vCPUs hold no guest. */
int refvm_state_load(struct refvm_vm *vm, const struct refvm_blob *blob, struct sluice_error *err);
/* Memory and vCPUs are complete: the machine holds a guest. Before it is started. */
void refvm_state_enter(struct refvm_vm *vm);

#endif
