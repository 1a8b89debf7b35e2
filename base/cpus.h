/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cpus.h: sets of logical CPUs, as the kernel numbers them, and their text form "0-3,8".
 * Plain values without allocation, large enough for any machine of today. Pure; any thread.
 */
#ifndef SLUICE_BASE_CPUS_H
#define SLUICE_BASE_CPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SLUICE_CPUS_MAX        4096u
#define SLUICE_CPUS_TEXT_BYTES 256 /* enough for what is shown; longer lists end in "..." */

/* The words are laid out as those of the kernel's and libc's CPU masks. */
struct sluice_cpus {
	unsigned long words[SLUICE_CPUS_MAX / (8 * sizeof(unsigned long))];
};

void sluice_cpus_add(struct sluice_cpus *cpus, uint32_t cpu);
void sluice_cpus_add_range(struct sluice_cpus *cpus, uint32_t first, uint32_t last);
void sluice_cpus_add_all(struct sluice_cpus *cpus, const struct sluice_cpus *others);
void sluice_cpus_remove_all(struct sluice_cpus *cpus, const struct sluice_cpus *others);
void sluice_cpus_keep_only(struct sluice_cpus *cpus, const struct sluice_cpus *others);
bool sluice_cpus_has(const struct sluice_cpus *cpus, uint32_t cpu);
bool sluice_cpus_is_empty(const struct sluice_cpus *cpus);
bool sluice_cpus_is_equal(const struct sluice_cpus *a, const struct sluice_cpus *b);
bool sluice_cpus_meet(const struct sluice_cpus *a, const struct sluice_cpus *b);
uint32_t sluice_cpus_count(const struct sluice_cpus *cpus);
/* The first one that is at least @from, or SLUICE_CPUS_MAX. */
uint32_t sluice_cpus_next(const struct sluice_cpus *cpus, uint32_t from);

/* A list such as "2-5,8"; "" is the empty set. -EINVAL. */
int sluice_cpus_parse(const char *text, struct sluice_cpus *ret_cpus);
/* "0-3,8", "none" when empty. Returns @text. */
const char *sluice_cpus_format(const struct sluice_cpus *cpus, char *text, size_t text_bytes);

#endif
