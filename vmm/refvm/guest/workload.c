/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * workload.c: what the guest does: it changes pages and checks that every page it meets is
 * the one it left.
 *
 * Compiled twice: freestanding for ring 3 of a virtual machine, and as a part of refvm for
 * threads that stand in for vCPUs. So: no library, no static data, no floating point.
 * Runs on a vCPU; may be stopped between any two instructions and go on on another host,
 * where the time stamp counter may stand elsewhere.
 */
#include "abi.h"

#define STEP_PAGES         32 /* page writes per step */
#define STEP_FILL_PAGES    16
#define FILLER_CHECK_EVERY 64 /* operations between checks of a whole page */
#define HEARTBEAT_US       REFVM_YIELD_US_MAX
#define YIELD_US_MIN       1000 /* shorter sleeps cost more than they save */
#define STEP_DIMM_PAGES    4 /* writes to each DIMM per step, besides the others */
#define DIMM_NUMBER        (1ull << 40) /* numbers of their pages, for checksums */
#define CATCH_UP_PER_S     50 /* a late vCPU makes good for at most 1/50 s */

#define READ(field)         __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define WRITE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELAXED)

struct guest {
	uint64_t bias;
	uint64_t vcpu;
	const struct refvm_guest_control *control;
	struct refvm_guest_cpu *cpu;
	uint64_t seed;
	uint64_t first; /* number of its first page */
	uint64_t pages; /* how many it owns */
	uint32_t fill; /* enum refvm_fill */
};

/* The finalizer of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
   generators, 2014): every output bit depends on every input bit. */
static inline uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static inline uint64_t random_below(struct refvm_guest_cpu *cpu, uint64_t bound)
{
	cpu->random += 0x9e3779b97f4a7c15ull;
	return (uint64_t)(((unsigned __int128)mix(cpu->random) * bound) >> 64);
}

/* Whether that page starts as zero. */
static inline int starts_zero(const struct guest *g, uint64_t number)
{
	return g->fill == REFVM_FILL_ZERO || (g->fill == REFVM_FILL_ALTERNATE && number % 2 != 0);
}

static inline uint64_t checksum_of(const struct guest *g, uint64_t number, uint64_t version)
{
	if (version == 0 && starts_zero(g, number))
		return 0;
	return mix(mix(number ^ g->seed) + version);
}

static inline uint64_t filler_of(const struct guest *g, uint64_t number, uint64_t word)
{
	return starts_zero(g, number) ? 0 : mix(g->seed + number * 512 + word);
}

static struct refvm_guest_page *page_at(const struct guest *g, uint64_t number)
{
	const struct refvm_guest_segment *segment = g->control->segment;

	while (number >= segment->pages) {
		number -= segment->pages;
		segment++;
	}
	return (struct refvm_guest_page *)(g->bias + segment->gpa + number * REFVM_PAGE_BYTES);
}

static void report(struct guest *g, enum refvm_guest_error kind, uint64_t number)
{
	WRITE(g->cpu->error_page, number);
	WRITE(g->cpu->errors[kind], READ(g->cpu->errors[kind]) + 1);
}

static void check_filler(
	struct guest *g, const struct refvm_guest_page *page, uint64_t number, uint64_t ops)
{
	uint64_t word, from = ops % 510, to = from + 1;

	if (ops % FILLER_CHECK_EVERY == 0) {
		from = 0;
		to = 510;
	}
	for (word = from; word < to; word++) {
		if (page->filler[word] != filler_of(g, number, word)) {
			report(g, REFVM_ERROR_FILLER, number);
			return;
		}
	}
}

/* One operation: the page is as it was left, and gets its next version. After an error the
   page follows the table again, so that one lost write is not counted for ever. */
static void change_page(struct guest *g, uint64_t number, uint64_t ops)
{
	struct refvm_guest_page *page = page_at(g, number);
	uint32_t *table = (uint32_t *)(g->bias + REFVM_GPA_TABLE);
	uint64_t version = table[number];

	if (page->version != version)
		report(g, REFVM_ERROR_VERSION, number);
	else if (page->checksum != checksum_of(g, number, version))
		report(g, REFVM_ERROR_CHECKSUM, number);
	check_filler(g, page, number, ops);

	version = (uint32_t)(version + 1);
	page->version = version;
	page->checksum = checksum_of(g, number, version);
	table[number] = (uint32_t)version;
}

static void fill_page(struct guest *g, uint64_t number)
{
	struct refvm_guest_page *page = page_at(g, number);
	uint64_t word;

	if (g->fill == REFVM_FILL_ALTERNATE && starts_zero(g, number))
		return; /* memory that nobody touched is zero, and has no page yet */
	/* Volatile: a compiler would make a call to memset() of the zero case. */
	*(volatile uint64_t *)&page->version = 0;
	*(volatile uint64_t *)&page->checksum = checksum_of(g, number, 0);
	for (word = 0; word < 510; word++)
		*(volatile uint64_t *)&page->filler[word] = filler_of(g, number, word);
}

static void fill_some(struct guest *g)
{
	uint64_t filled = READ(g->cpu->filled), end = filled + STEP_FILL_PAGES;

	if (end > g->pages)
		end = g->pages;
	for (; filled < end; filled++)
		fill_page(g, g->first + filled);
	WRITE(g->cpu->filled, filled);
}

static uint64_t pick_hot(struct guest *g)
{
	uint64_t hot = g->pages * READ(g->control->hot_pages_percent) / 100;

	if (hot == 0)
		hot = 1;
	if (hot >= g->pages || random_below(g->cpu, 100) < READ(g->control->hot_writes_percent))
		return random_below(g->cpu, hot);
	return hot + random_below(g->cpu, g->pages - hot);
}

static uint64_t pick_page(struct guest *g, uint32_t pattern)
{
	uint64_t page;

	switch (pattern) {
	case REFVM_PATTERN_SEQUENTIAL:
		page = g->cpu->cursor < g->pages ? g->cpu->cursor : 0;
		g->cpu->cursor = page + 1;
		break;
	case REFVM_PATTERN_HOTSET:
		page = pick_hot(g);
		break;
	default:
		page = random_below(g->cpu, g->pages);
	}
	return g->first + page;
}

/* Page writes per second of the whole guest at this moment. */
static uint64_t rate_now(struct guest *g, uint32_t pattern, uint64_t now, uint64_t hz)
{
	struct refvm_guest_cpu *cpu = g->cpu;
	uint64_t rate = READ(g->control->rate), epoch = READ(g->control->ramp_epoch);

	if (pattern != REFVM_PATTERN_RAMP)
		return rate;
	if (cpu->ramp_epoch != epoch) {
		cpu->ramp_epoch = epoch;
		cpu->ramp_ticks = 0;
	} else if (now - cpu->ramp_seen < hz) { /* longer, or backwards: another host's clock */
		cpu->ramp_ticks += now - cpu->ramp_seen;
	}
	cpu->ramp_seen = now;
	return rate + 1 + READ(g->control->ramp_per_s) * (cpu->ramp_ticks / (hz / 1000)) / 1000;
}

/*
 * How many writes are due, up to @max; 0 and *ret_wait ticks when none is. A counter that
 * jumped, in either direction, and a vCPU that slept too long start afresh.
 */
static uint64_t writes_due(
	struct guest *g, uint64_t rate, uint64_t now, uint64_t hz, uint64_t max, uint64_t *ret_wait)
{
	struct refvm_guest_cpu *cpu = g->cpu;
	uint64_t gap = hz * g->control->vcpus / rate, due;

	if (gap > hz)
		gap = hz;
	if (gap == 0)
		gap = 1;
	if ((int64_t)(now - cpu->next_tick) > (int64_t)(hz / CATCH_UP_PER_S) ||
		(int64_t)(cpu->next_tick - now) > (int64_t)gap)
		cpu->next_tick = now;
	if ((int64_t)(now - cpu->next_tick) < 0) {
		*ret_wait = cpu->next_tick - now;
		return 0;
	}
	due = (now - cpu->next_tick) / gap + 1;
	if (due > max)
		due = max;
	cpu->next_tick += due * gap;
	return due;
}

static uint64_t yield_for(uint64_t ticks, uint64_t hz)
{
	uint64_t us = ticks / (hz / 1000000);

	if (us < YIELD_US_MIN)
		return YIELD_US_MIN;
	return us > REFVM_YIELD_US_MAX ? REFVM_YIELD_US_MAX : us;
}

static struct refvm_guest_result change_some(struct guest *g, uint32_t pattern, uint64_t ops)
{
	struct refvm_guest_result result = {.ops = STEP_PAGES, .yield_us = 0};
	uint64_t hz = READ(g->control->tick_hz), now = __builtin_ia32_rdtsc(), wait = 0, rate, i;

	if (hz < 1000000)
		hz = 1000000;
	rate = rate_now(g, pattern, now, hz);
	if (rate != 0)
		result.ops = writes_due(g, rate, now, hz, STEP_PAGES, &wait);
	for (i = 0; i < result.ops; i++)
		change_page(g, pick_page(g, pattern), ops + i);
	if (result.ops == 0)
		result.yield_us = yield_for(wait, hz);
	return result;
}

/* As change_page(), with the expected version in the same DIMM; so its count is kept outside. */
static void change_dimm_page(
	struct guest *g, const struct refvm_guest_dimm *dimm, uint32_t slot, uint64_t index)
{
	struct refvm_guest_page *page =
		(struct refvm_guest_page *)(g->bias + dimm->data + index * REFVM_PAGE_BYTES);
	uint64_t *count = (uint64_t *)(g->bias + dimm->gpa) + g->vcpu;
	uint32_t *table = (uint32_t *)(g->bias + dimm->gpa + REFVM_PAGE_BYTES);
	uint64_t number = DIMM_NUMBER * (slot + 1) + index, version = table[index];

	if (*count != g->cpu->dimm_ops[slot])
		report(g, REFVM_ERROR_COUNT, number);
	if (page->version != version)
		report(g, REFVM_ERROR_VERSION, number);
	else if (page->checksum != (version == 0 ? 0 : mix(mix(number ^ g->seed) + version)))
		report(g, REFVM_ERROR_CHECKSUM, number);
	version = (uint32_t)(version + 1);
	page->version = version;
	page->checksum = mix(mix(number ^ g->seed) + version);
	page->filler[version % 510] = mix(version ^ number);
	table[index] = (uint32_t)version;
	WRITE(g->cpu->dimm_ops[slot], g->cpu->dimm_ops[slot] + 1);
	*count = g->cpu->dimm_ops[slot];
}

static void change_dimms(struct guest *g)
{
	uint64_t epoch, i, share;
	uint32_t slot;

	for (slot = 0; slot < REFVM_DIMMS_MAX; slot++) {
		const struct refvm_guest_dimm *dimm = &g->control->dimm[slot];

		/* Behind it the rest of what is said of the DIMM is there. */
		epoch = __atomic_load_n(&dimm->epoch, __ATOMIC_ACQUIRE);
		share = READ(dimm->pages) / g->control->vcpus;
		if (epoch == 0 || share == 0)
			continue;
		if (g->cpu->dimm_epoch[slot] != epoch)
			WRITE(g->cpu->dimm_ops[slot], 0);
		WRITE(g->cpu->dimm_epoch[slot], epoch);
		for (i = 0; i < STEP_DIMM_PAGES; i++)
			change_dimm_page(g, dimm, slot,
				random_below(g->cpu, share) * g->control->vcpus + g->vcpu);
	}
}

static struct refvm_guest_result step(uint64_t bias, uint64_t vcpu, uint64_t ops, uint64_t ops_sse);

/* What is said of DIMMs is read behind the first line, and not used any more behind the last. */
struct refvm_guest_result refvm_guest_step(
	uint64_t bias, uint64_t vcpu, uint64_t ops, uint64_t ops_sse)
{
	const struct refvm_guest_control *control =
		(const struct refvm_guest_control *)(bias + REFVM_GPA_CONTROL);
	struct refvm_guest_cpu *cpu =
		(struct refvm_guest_cpu *)(bias + REFVM_GPA_CPU + vcpu * REFVM_PAGE_BYTES);
	uint64_t change = __atomic_load_n(&control->dimm_change, __ATOMIC_ACQUIRE);
	struct refvm_guest_result result = step(bias, vcpu, ops, ops_sse);

	if (READ(cpu->dimm_change) != change)
		__atomic_store_n(&cpu->dimm_change, change, __ATOMIC_RELEASE);
	return result;
}

static struct refvm_guest_result step(uint64_t bias, uint64_t vcpu, uint64_t ops, uint64_t ops_sse)
{
	struct refvm_guest_result result = {.ops = 0, .yield_us = 0};
	struct guest g = {
		.bias = bias,
		.vcpu = vcpu,
		.control = (const struct refvm_guest_control *)(bias + REFVM_GPA_CONTROL),
		.cpu = (struct refvm_guest_cpu *)(bias + REFVM_GPA_CPU + vcpu * REFVM_PAGE_BYTES),
	};
	uint32_t pattern = READ(g.control->pattern);

	g.seed = g.control->seed;
	g.fill = g.control->fill;
	g.first = refvm_guest_share(g.control, vcpu);
	g.pages = refvm_guest_share(g.control, vcpu + 1) - g.first;

	if (READ(g.cpu->ops) != ops || ops != ops_sse)
		report(&g, REFVM_ERROR_COUNT, 0);
	if (READ(g.cpu->filled) < g.pages) {
		fill_some(&g);
		return result;
	}
	if (pattern == REFVM_PATTERN_IDLE || g.pages == 0) {
		result.ops = 1;
		result.yield_us = HEARTBEAT_US;
	} else {
		result = change_some(&g, pattern, ops);
	}
	if (pattern != REFVM_PATTERN_IDLE && result.ops > 0)
		change_dimms(&g);
	WRITE(g.cpu->ops, ops + result.ops);
	return result;
}
