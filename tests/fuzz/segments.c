/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * segments.c: fuzz target: announcements of device segments at the target, credits at the source.
 * Each step of the input is a byte that says what, and then its bytes.
 */
#include "engine/device/inbox.h"
#include "engine/device/outbox.h"
#include "tests/fuzz/fuzz.h"

#define SLOTS      8u
#define SLOT_BYTES 4096u
#define LANES      3u

struct world {
	struct sluice_inbox *inbox;
	struct sluice_outbox *outbox;
	struct sluice_announce loading[SLOTS];
	unsigned int loading_count;
	uint32_t next_seq; /* of device 0 at the source */
};

static void announce(struct world *w, struct fuzz_input *input, bool sound)
{
	struct sluice_announce a = {0};
	struct sluice_error err = {0};
	size_t bytes = fuzz_byte(input) % 32;
	const uint8_t *raw = fuzz_take(input, &bytes);
	uint8_t written[SLUICE_ANNOUNCE_BYTES];
	int r;

	if (sound) { /* the numbers are anybody's, the frame is ours */
		a = (struct sluice_announce){.device = fuzz_byte(input) % 4,
			.last = fuzz_byte(input) % 8 == 0,
			.seq = fuzz_byte(input) % 16,
			.slot = fuzz_byte(input) % (SLOTS + 1),
			.len_bytes = fuzz_u32(input) % (SLOT_BYTES + 2)};
		sluice_announce_write(&a, written);
		FUZZ_CHECK(sluice_announce_read(written, sizeof(written), &a));
	} else if (!sluice_announce_read(raw, (uint32_t)bytes, &a)) {
		return;
	}
	r = sluice_inbox_announced(w->inbox, &a, &err);
	FUZZ_CHECK((r < 0) == (err.code != 0));
	FUZZ_CHECK(r < 0 || (a.slot < SLOTS && a.len_bytes <= SLOT_BYTES));
}

static void load(struct world *w, struct fuzz_input *input)
{
	struct sluice_announce *a = &w->loading[w->loading_count];

	if (w->loading_count < SLOTS && sluice_inbox_next(w->inbox, fuzz_byte(input), a)) {
		/* What the writer thread does with it. */
		memset(sluice_inbox_data(w->inbox, a->slot), 0, a->len_bytes);
		w->loading_count++;
	}
}

static void loaded(struct world *w)
{
	if (w->loading_count > 0)
		sluice_inbox_loaded(w->inbox, &w->loading[--w->loading_count]);
}

static void fill(struct world *w)
{
	struct sluice_announce a = {.seq = w->next_seq, .len_bytes = SLOT_BYTES};

	if (!sluice_outbox_claim(w->outbox, &a.slot))
		return;
	memset(sluice_outbox_slot(w->outbox, a.slot), 1, SLOT_BYTES);
	sluice_outbox_ready(w->outbox, &a);
	w->next_seq++;
}

static void credit(struct world *w, struct fuzz_input *input, bool keep)
{
	struct sluice_error err = {0};
	uint32_t before = w->outbox->unaccepted, slot = fuzz_byte(input);
	int r = keep ? sluice_outbox_keep(w->outbox, slot, fuzz_byte(input) % LANES, &err)
		     : sluice_outbox_accept(w->outbox, slot, &err);

	FUZZ_CHECK((r < 0) == (err.code != 0));
	FUZZ_CHECK(w->outbox->unaccepted == before - (r == 0 && !keep));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {data, size};
	struct world w = {0};
	uint32_t slot;

	FUZZ_CHECK(sluice_inbox_create(SLOTS, SLOT_BYTES, &w.inbox) == 0);
	FUZZ_CHECK(sluice_outbox_create(SLOTS, SLOT_BYTES, &w.outbox) == 0);
	while (input.left > 0) {
		switch (fuzz_byte(&input) % 9) {
		case 0:
			announce(&w, &input, false);
			break;
		case 1:
		case 2:
			announce(&w, &input, true);
			break;
		case 3:
			load(&w, &input);
			break;
		case 4:
			loaded(&w);
			break;
		case 5:
			fill(&w);
			break;
		case 6:
			sluice_outbox_pop(w.outbox, fuzz_byte(&input) % LANES, &slot);
			break;
		case 7:
			credit(&w, &input, fuzz_byte(&input) % 2 == 0);
			break;
		default:
			sluice_outbox_reclaim(w.outbox, fuzz_byte(&input) % LANES);
			break;
		}
		FUZZ_CHECK(w.outbox->unaccepted <= SLOTS);
	}
	sluice_inbox_destroy(w.inbox);
	sluice_outbox_destroy(w.outbox);
	return 0;
}
