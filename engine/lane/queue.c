/* SPDX-License-Identifier: BSD-3-Clause */
/* queue.c: see queue.h. The scheme is Dmitry Vyukov's bounded MPMC queue. */
#include "engine/lane/queue.h"

#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"

int sluice_queue_init(struct sluice_queue *queue, uint32_t values)
{
	uint32_t capacity = 2;

	SLUICE_ASSERT(values <= 1u << 29);
	while (capacity < 2 * values) /* twice: a slow consumer's cell is not needed at once */
		capacity *= 2;
	queue->cells = calloc(capacity, sizeof(*queue->cells));
	if (queue->cells == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < capacity; i++)
		queue->cells[i].turn = i;
	queue->mask = capacity - 1;
	queue->tail = 0;
	queue->head = 0;
	return 0;
}

void sluice_queue_fini(struct sluice_queue *queue)
{
	free(queue->cells);
	queue->cells = NULL;
}

void sluice_queue_push(struct sluice_queue *queue, uint32_t value)
{
	uint32_t at = __atomic_load_n(&queue->tail, __ATOMIC_RELAXED);

	for (;;) {
		struct sluice_queue_cell *cell = &queue->cells[at & queue->mask];
		uint32_t turn = __atomic_load_n(&cell->turn, __ATOMIC_ACQUIRE);

		if (turn == at) {
			if (__atomic_compare_exchange_n(&queue->tail, &at, at + 1, true,
				    __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
				cell->value = value;
				__atomic_store_n(&cell->turn, at + 1, __ATOMIC_RELEASE);
				return;
			}
			continue; /* `at` was reloaded by the failed exchange */
		}
		/* Another producer was faster, or a consumer has claimed the cell of the previous
		   round and is about to free it: never full, so looking again is enough. */
		at = __atomic_load_n(&queue->tail, __ATOMIC_RELAXED);
	}
}

bool sluice_queue_pop(struct sluice_queue *queue, uint32_t *ret_value)
{
	uint32_t at = __atomic_load_n(&queue->head, __ATOMIC_RELAXED);

	for (;;) {
		struct sluice_queue_cell *cell = &queue->cells[at & queue->mask];
		uint32_t turn = __atomic_load_n(&cell->turn, __ATOMIC_ACQUIRE);
		int32_t ahead = (int32_t)(turn - (at + 1));

		if (ahead == 0) {
			if (__atomic_compare_exchange_n(&queue->head, &at, at + 1, true,
				    __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
				*ret_value = cell->value;
				__atomic_store_n(
					&cell->turn, at + queue->mask + 1, __ATOMIC_RELEASE);
				return true;
			}
			continue;
		}
		if (ahead < 0)
			return false; /* empty, or the next push has not finished */
		at = __atomic_load_n(&queue->head, __ATOMIC_RELAXED);
	}
}

uint32_t sluice_queue_count(const struct sluice_queue *queue)
{
	return __atomic_load_n(&queue->tail, __ATOMIC_ACQUIRE) -
	       __atomic_load_n(&queue->head, __ATOMIC_ACQUIRE);
}

int sluice_queue_grow(struct sluice_queue *queue, uint32_t values)
{
	struct sluice_queue grown;
	uint32_t value;
	int r;

	if (2 * values <= queue->mask + 1)
		return 0;
	r = sluice_queue_init(&grown, values);
	if (r < 0)
		return r;
	while (sluice_queue_pop(queue, &value))
		sluice_queue_push(&grown, value);
	sluice_queue_fini(queue);
	*queue = grown;
	return 0;
}

bool sluice_queue_is_empty(const struct sluice_queue *queue)
{
	return __atomic_load_n(&queue->head, __ATOMIC_ACQUIRE) ==
	       __atomic_load_n(&queue->tail, __ATOMIC_ACQUIRE);
}
