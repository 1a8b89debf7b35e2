/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * plant.h: mistakes planted on purpose, to prove that the simulation finds them.
 *
 * Only the test build of the engine core defines SLUICE_PLANTS; in `sluiced` every
 * SLUICE_PLANTED() is the constant false.
 */
#ifndef SLUICE_BASE_PLANT_H
#define SLUICE_BASE_PLANT_H

enum sluice_plant {
	SLUICE_PLANT_RELEASE_WITHOUT_FLUSH = 1 << 0, /* a chunk given away without a flush */
	SLUICE_PLANT_CLEAR_AFTER_READ = 1 << 1, /* a dirty bit cleared after the read */
	SLUICE_PLANT_ZERO_ON_A_GUESS = 1 << 2, /* a zero page skipped though not known zero */
	SLUICE_PLANT_NO_FENCE = 1 << 3, /* a lost lane's chunks reused before the fence */
	SLUICE_PLANT_RESUME_WITHOUT_FENCE = 1 << 4, /* resumed while old lanes may still land */
	SLUICE_PLANT_FORGET_CREDITS = 1 << 5, /* credits lost with a peer link stay lost */
	SLUICE_PLANT_REMOVE_WITHOUT_FLUSH = 1 << 6, /* a region given back while lanes own it */
	SLUICE_PLANT_TRUST_A_DEAD_NIC = 1 << 7, /* what it had placed counts as landed */
	SLUICE_PLANT_LOOK_ONCE = 1 << 8, /* a hole is believed the first time it is seen */
};

#ifdef SLUICE_PLANTS
extern unsigned int sluice_plants; /* set by the test before a run; one thread */
#define SLUICE_PLANTED(name) ((sluice_plants & SLUICE_PLANT_##name) != 0)
#else
#define SLUICE_PLANTED(name) 0
#endif

#endif
