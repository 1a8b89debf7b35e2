/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * region.h: guest memory as the engine holds it: the descriptor, the mapping, the pin, and the
 * rail's registration. A pin and a registration live as long as the region, not as long as a
 * migration.
 *
 * Threads: the control thread only. Lanes read the mapping through the ledger.
 */
#ifndef SLUICE_ENGINE_MEMORY_REGION_H
#define SLUICE_ENGINE_MEMORY_REGION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <sluice/error.h>
#include <sluice/transport.h>

#define SLUICE_REGIONS_MAX      64 /* of a VM; of one migration, ever: see peer-link.json */
#define SLUICE_REGION_ID_BYTES  64 /* with the final NUL */
#define SLUICE_REGION_BYTES_MAX (64ull << 40) /* 64 TiB */

enum sluice_pin {
	SLUICE_PIN_NONE, /* the kernel may swap; for tests and unprivileged trials */
	SLUICE_PIN_ONFAULT, /* mlock2(MLOCK_ONFAULT): what is touched stays, holes stay holes */
	SLUICE_PIN_FULL, /* all of it allocated and locked when it is added */
};

struct sluice_region {
	uint32_t wire_id; /* unique over the engine's life; names it on lanes */
	char id[SLUICE_REGION_ID_BYTES];
	int fd; /* our own open file description */
	dev_t dev;
	ino_t ino;
	uint64_t fd_offset, len_bytes, gpa;
	uint64_t backing_page_bytes;
	uint8_t *base; /* shared read-write mapping of the range */
	uint64_t pin_ns; /* what pinning it took */
	bool guarded; /* the file may shrink: reads go through the SIGBUS guard */
	struct sluice_bitmap_feed *feed;
	struct sluice_mem *mems[SLUICE_RAILS_MAX]; /* with each of the engine's rails, or NULL */
	uint64_t register_ns; /* what that took */
};

struct sluice_memory {
	struct sluice_region *regions[SLUICE_REGIONS_MAX]; /* sorted by id: both ends agree */
	uint32_t count;
	uint32_t next_wire_id;
	enum sluice_pin pin;
	uint32_t rails; /* that register guest memory: each pins it once more */
	/* The most that these lock with so much guest memory; NULL: there are none. */
	uint64_t (*rails_lock_bytes)(const void *rails_ctx, uint64_t guest_bytes);
	const void *rails_ctx;
	uint64_t pages_pinned; /* ever asked for: grows only when something is pinned anew */
	uint64_t pin_ns; /* time spent pinning */
};

struct sluice_region_opts {
	const char *id;
	int fd; /* borrowed */
	uint64_t fd_offset, len_bytes, gpa;
};

/*
 * Map, check seals, and pin a range. Every refusal says what to change. A region that is here
 * already, by id, file (device and inode), range and address, is handed out as it is: a VMM that
 * comes back finds its pins and registrations. 1: that happened; 0: it is new.
 */
int sluice_memory_add(struct sluice_memory *memory, const struct sluice_region_opts *opts,
	struct sluice_region **ret_region, struct sluice_error *err);
/* The region's registration with a rail must be gone. */
void sluice_memory_remove(struct sluice_memory *memory, struct sluice_region *region);
void sluice_memory_clear(struct sluice_memory *memory);
struct sluice_region *sluice_memory_find(const struct sluice_memory *memory, const char *id);
uint64_t sluice_memory_bytes(const struct sluice_memory *memory);
/* The memlock limit (RLIMIT_MEMLOCK, bytes) that an engine without CAP_IPC_LOCK needs for
   @guest_bytes of guest memory. Linux holds what a process has locked (mlock) and what NICs have
   pinned of it against the same limit, but each by itself: the larger of the two counts. */
uint64_t sluice_memory_lock_bytes(const struct sluice_memory *memory, uint64_t guest_bytes);

/* This process may lock as much as it likes (CAP_IPC_LOCK), whatever the limit. */
bool sluice_memory_may_lock_all(void);

/* Call @fn for each range that may hold data of @len_bytes from @offset on of the region; the gaps
   are holes of the file, that is zeros, but for a page that the kernel is just moving: it takes no
   lock for this. Offsets are bytes from the region's start. Where the file cannot tell: one range. */
void sluice_region_for_each_data(const struct sluice_region *region, uint64_t offset,
	uint64_t len_bytes, void (*fn)(void *ctx, uint64_t offset, uint64_t len_bytes), void *ctx);

/* True when a file of these regions shrank under us: what was read since is not the guest's. */
bool sluice_memory_is_lost(const struct sluice_memory *memory);

#endif
