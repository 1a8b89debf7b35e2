/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * threads_test.c: what threads share, with real threads, for ThreadSanitizer above all: device
 * segments on their whole way (outbox, queue, mailbox, inbox, streams), a feed that is harvested
 * while a VMM writes and lanes work, counters, and a guarded mapping that many threads read. The
 * ledger has a test of its own, and so have the loop's wake-ups and tcp's rails.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/loop.h"
#include "base/random.h"
#include "engine/device/inbox.h"
#include "engine/device/outbox.h"
#include "engine/device/streams.h"
#include "engine/feeds/bitmap.h"
#include "engine/lane/counters.h"
#include "engine/lane/ledger.h"
#include "engine/lane/mailbox.h"
#include "engine/memory/guard.h"
#include "tests/unit/unit.h"

/* ---- device state: a reader, two lanes, control, a writer ---- */

#define DEVICES      4u
#define DEVICE_BYTES (300u << 10)
#define SLOTS        8u
#define SLOT_BYTES   4096u
#define LANES        2u

static struct transfer {
	struct sluice_outbox *outbox;
	struct sluice_inbox *inbox;
	struct sluice_streams *source, *target;
	struct sluice_mailbox mailbox[LANES]; /* to control */
	struct sluice_loop *loop;
	unsigned int done;
	int code;
	atomic_bool stop;
} transfer;

struct device {
	uint32_t index;
	int in, out; /* our ends: what the device says, and what arrives */
	uint64_t arrived;
	bool same;
};

static uint8_t content(uint32_t device, uint64_t at)
{
	return (uint8_t)((at * 31 + at / 4096 + device * 7) >> 1);
}

static void *device_speaks(void *arg)
{
	struct device *device = arg;
	uint8_t bytes[1000];

	for (uint64_t at = 0; at < DEVICE_BYTES; at += sizeof(bytes)) {
		for (uint64_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = content(device->index, at + i);
		for (size_t put = 0; put < sizeof(bytes);) {
			ssize_t n = write(device->in, bytes + put, sizeof(bytes) - put);

			if (n <= 0)
				return NULL;
			put += (size_t)n;
		}
	}
	close(device->in);
	return NULL;
}

static void *device_listens(void *arg)
{
	struct device *device = arg;
	uint8_t bytes[5000];
	ssize_t got;

	device->same = true;
	while ((got = read(device->out, bytes, sizeof(bytes))) > 0) {
		for (ssize_t i = 0; i < got; i++)
			device->same &= bytes[i] == content(device->index, device->arrived++);
	}
	close(device->out);
	return NULL;
}

/* A lane: what is ready is copied to the target's slot, then announced. */
static void *lane_carries(void *arg)
{
	struct sluice_mailbox *mailbox = arg;
	uint32_t lane = (uint32_t)(mailbox - transfer.mailbox), slot;

	while (!atomic_load(&transfer.stop)) {
		const struct sluice_announce *announce;

		if (sluice_mailbox_room(mailbox) == 0 ||
			!sluice_outbox_pop(transfer.outbox, lane, &slot)) {
			sched_yield();
			continue;
		}
		announce = &transfer.outbox->segments[slot].announce;
		memcpy(sluice_inbox_data(transfer.inbox, slot),
			sluice_outbox_slot(transfer.outbox, slot), announce->len_bytes);
		sluice_mailbox_put(
			mailbox, SLUICE_NOTE_RECEIVED, 0, announce, (uint32_t)sizeof(*announce));
		sluice_loop_wake(transfer.loop);
	}
	return NULL;
}

static void wake(void *ctx)
{
	(void)ctx;
	sluice_loop_wake(transfer.loop);
}

static void slot_loaded(void *ctx, uint32_t slot)
{
	(void)ctx;
	CU_ASSERT_EQUAL(sluice_outbox_accept(transfer.outbox, slot, NULL), 0);
	sluice_streams_credits(transfer.source);
}

static void device_done(void *ctx, uint32_t device, int code)
{
	(void)ctx, (void)device;
	transfer.code |= code;
	transfer.done++;
}

static void on_wake(void *ctx, uint64_t now_ns)
{
	struct sluice_announce announce;
	struct sluice_note note;

	(void)ctx, (void)now_ns;
	sluice_streams_poll(transfer.source);
	sluice_streams_poll(transfer.target);
	for (uint32_t lane = 0; lane < LANES; lane++) {
		while (sluice_mailbox_take(&transfer.mailbox[lane], &note)) {
			memcpy(&announce, note.bytes, sizeof(announce));
			CU_ASSERT_EQUAL(sluice_streams_announced(
						transfer.target, transfer.inbox, &announce, NULL),
				1);
		}
	}
}

static void device_open(struct device *device, uint32_t index)
{
	int in[2], out[2];

	*device = (struct device){.index = index};
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in), 0);
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, out), 0);
	device->in = in[0];
	device->out = out[0];
	CU_ASSERT_EQUAL_FATAL(
		sluice_streams_read(transfer.source, transfer.outbox, index, in[1], NULL), 0);
	CU_ASSERT_EQUAL_FATAL(
		sluice_streams_write(transfer.target, transfer.inbox, index, out[1], NULL), 0);
}

static void test_devices(void)
{
	struct sluice_stream_handlers handlers = {.wake = wake,
		.lanes_wake = wake,
		.slot_loaded = slot_loaded,
		.device_done = device_done};
	struct device devices[DEVICES];
	pthread_t threads[2 * DEVICES + LANES];
	uint32_t count = 0;

	_Static_assert(sizeof(struct sluice_announce) <= SLUICE_SEND_BYTES_MAX, "fits a note");
	CU_ASSERT_EQUAL_FATAL(sluice_loop_create(&transfer.loop), 0);
	sluice_loop_on_wake(transfer.loop, on_wake, NULL);
	CU_ASSERT_EQUAL_FATAL(sluice_outbox_create(SLOTS, SLOT_BYTES, &transfer.outbox), 0);
	CU_ASSERT_EQUAL_FATAL(sluice_inbox_create(SLOTS, SLOT_BYTES, &transfer.inbox), 0);
	CU_ASSERT_EQUAL_FATAL(sluice_streams_create(&handlers, &transfer.source), 0);
	CU_ASSERT_EQUAL_FATAL(sluice_streams_create(&handlers, &transfer.target), 0);
	for (uint32_t i = 0; i < LANES; i++)
		pthread_create(&threads[count++], NULL, lane_carries, &transfer.mailbox[i]);
	for (uint32_t i = 0; i < DEVICES; i++) {
		device_open(&devices[i], i);
		pthread_create(&threads[count++], NULL, device_speaks, &devices[i]);
		pthread_create(&threads[count++], NULL, device_listens, &devices[i]);
	}
	while (transfer.done < 2 * DEVICES && transfer.code == 0)
		sluice_loop_turn(transfer.loop, 1000);
	CU_ASSERT_EQUAL(transfer.code, 0);
	atomic_store(&transfer.stop, true);
	sluice_streams_destroy(transfer.source);
	sluice_streams_destroy(transfer.target);
	while (count-- > 0)
		pthread_join(threads[count], NULL);
	for (uint32_t i = 0; i < DEVICES; i++) {
		CU_ASSERT_EQUAL(devices[i].arrived, (DEVICE_BYTES + 999) / 1000 * 1000);
		CU_ASSERT_TRUE(devices[i].same);
	}
	CU_ASSERT_EQUAL(transfer.outbox->unaccepted, 0);
	sluice_outbox_destroy(transfer.outbox);
	sluice_inbox_destroy(transfer.inbox);
	sluice_loop_destroy(transfer.loop);
}

/* ---- a feed: the VMM writes, control harvests, lanes send; and their counters ---- */

#define FEED_PAGES  2048u
#define FEED_WRITES 100000

static struct {
	uint64_t bitmap[FEED_PAGES / 64];
	uint32_t version[FEED_PAGES], copy[FEED_PAGES];
	struct sluice_ledger *ledger;
	uint64_t sent[LANES]; /* counters, each its lane's */
	atomic_uint writers;
	atomic_bool stop;
} feed;

static void *vmm_writes(void *arg)
{
	struct sluice_random random;

	sluice_random_seed(&random, (uint64_t)(uintptr_t)arg);
	for (int i = 0; i < FEED_WRITES; i++) {
		uint32_t page = (uint32_t)sluice_random_below(&random, FEED_PAGES);

		__atomic_fetch_add(&feed.version[page], 1, __ATOMIC_RELEASE);
		__atomic_fetch_or(&feed.bitmap[page / 64], 1ull << page % 64, __ATOMIC_RELEASE);
	}
	atomic_fetch_sub(&feed.writers, 1);
	return NULL;
}

static void *lane_copies(void *arg)
{
	uint32_t lane = (uint32_t)(uintptr_t)arg, chunk;
	uint64_t bits[SLUICE_CHUNK_WORDS];

	while (!atomic_load(&feed.stop) || !sluice_ledger_is_drained(feed.ledger)) {
		if (!sluice_ledger_pop(feed.ledger, lane, SLUICE_HOME_ANY, &chunk))
			continue;
		SLUICE_COUNT_ADD(feed.sent[lane], sluice_ledger_take(feed.ledger, chunk, bits));
		for (uint32_t i = 0; i < SLUICE_CHUNK_PAGES; i++) {
			uint32_t page = chunk * (uint32_t)SLUICE_CHUNK_PAGES + i;

			if (bits[i / 64] >> i % 64 & 1)
				feed.copy[page] =
					__atomic_load_n(&feed.version[page], __ATOMIC_ACQUIRE);
		}
		sluice_ledger_release(feed.ledger, chunk, lane);
	}
	return NULL;
}

static void test_feed(void)
{
	static uint8_t memory[1];
	struct sluice_ledger_span span = {
		.base = memory, .len_bytes = (uint64_t)FEED_PAGES << SLUICE_PAGE_SHIFT};
	struct sluice_bitmap_feed *bitmap;
	pthread_t threads[2 + LANES];
	uint64_t sent, last = 0;

	CU_ASSERT_EQUAL_FATAL(sluice_ledger_create(&span, 1, &feed.ledger), 0);
	CU_ASSERT_EQUAL_FATAL(sluice_bitmap_feed_create_over(feed.bitmap, FEED_PAGES, &bitmap), 0);
	atomic_store(&feed.writers, 2);
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, vmm_writes, (void *)(i + 1));
	for (uintptr_t i = 0; i < LANES; i++)
		pthread_create(&threads[2 + i], NULL, lane_copies, (void *)i);
	while (atomic_load(&feed.writers) > 0) {
		sluice_bitmap_feed_harvest(bitmap, feed.ledger, 0);
		sent = SLUICE_COUNT_READ(feed.sent[0]) + SLUICE_COUNT_READ(feed.sent[1]);
		CU_ASSERT(sent >= last);
		last = sent;
	}
	sluice_bitmap_feed_harvest(bitmap, feed.ledger, 0);
	atomic_store(&feed.stop, true);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	CU_ASSERT_EQUAL(memcmp(feed.version, feed.copy, sizeof(feed.copy)), 0);
	CU_ASSERT(feed.sent[0] + feed.sent[1] >= last);
	sluice_bitmap_feed_destroy(bitmap);
	sluice_ledger_destroy(feed.ledger);
}

/* ---- a guarded mapping whose file shrinks under many readers ---- */

#define GUARDED_PAGES 64u

/* ThreadSanitizer takes the handler's mmap() for a plain write to the pages that it replaces. */
__attribute__((no_sanitize("thread"))) static void *reader_sums(void *arg)
{
	const volatile uint8_t *base = arg;
	uintptr_t sum = 0;

	for (uint32_t page = 0; page < GUARDED_PAGES; page++)
		sum += base[(uint64_t)page * SLUICE_PAGE_BYTES];
	return (void *)sum;
}

static void test_guard(void)
{
	const size_t bytes = (size_t)GUARDED_PAGES * SLUICE_PAGE_BYTES;
	int fd = memfd_create("guarded", MFD_CLOEXEC);
	pthread_t threads[4];
	uint8_t *base;

	CU_ASSERT_EQUAL_FATAL(ftruncate(fd, (off_t)bytes), 0);
	base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CU_ASSERT_FATAL(base != MAP_FAILED);
	memset(base, 1, bytes);
	CU_ASSERT_EQUAL_FATAL(sluice_guard_enter(base, bytes), 0);
	CU_ASSERT_FALSE(sluice_guard_is_lost(base));
	CU_ASSERT_EQUAL(ftruncate(fd, 0), 0);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(threads); i++)
		pthread_create(&threads[i], NULL, reader_sums, base);
	for (size_t i = 0; i < SLUICE_ARRAY_LEN(threads); i++) {
		void *sum;

		sluice_guard_is_lost(base); /* while they read */
		pthread_join(threads[i], &sum);
		CU_ASSERT_PTR_NULL(sum);
	}
	CU_ASSERT_TRUE(sluice_guard_is_lost(base));
	sluice_guard_leave(base);
	munmap(base, bytes);
	close(fd);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"device state on its way", test_devices},
		{"a feed under harvest", test_feed},
		{"a guarded mapping shrinks under its readers", test_guard},
		{0},
	};

	return unit_run("threads", tests);
}
