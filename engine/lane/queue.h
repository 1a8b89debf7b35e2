/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * queue.h: a bounded queue of small numbers (chunk or slot indices) that any thread may push to
 * and pop from, without locks. A ring of cells, each with a turn counter that says whose turn it
 * is: a producer writes in turn 2n, a consumer takes in turn 2n+1.
 *
 * The capacity is at least the number of distinct values, and a value is never in the queue
 * twice, so push cannot find it full. pop may miss a value whose push is still under way.
 */
#ifndef SLUICE_ENGINE_LANE_QUEUE_H
#define SLUICE_ENGINE_LANE_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#define SLUICE_CACHE_LINE 64

struct sluice_queue_cell {
	uint32_t turn; /* atomic */
	uint32_t value;
};

struct sluice_queue {
	struct sluice_queue_cell *cells;
	uint32_t mask;
	_Alignas(SLUICE_CACHE_LINE) uint32_t tail; /* next push */
	_Alignas(SLUICE_CACHE_LINE) uint32_t head; /* next pop */
};

/* @values: how many distinct values there are, at most 2^29. 0 or -ENOMEM. */
int sluice_queue_init(struct sluice_queue *queue, uint32_t values);
void sluice_queue_fini(struct sluice_queue *queue);
/* While nobody else uses the queue: room for so many distinct values; what is in it stays, in
   order. 0 or -ENOMEM, and then it is as it was. */
int sluice_queue_grow(struct sluice_queue *queue, uint32_t values);
/* How many values it holds. Exact while nobody else uses the queue. */
uint32_t sluice_queue_count(const struct sluice_queue *queue);
void sluice_queue_push(struct sluice_queue *queue, uint32_t value);
bool sluice_queue_pop(struct sluice_queue *queue, uint32_t *ret_value);
/* A hint: it may be outdated when it returns. */
bool sluice_queue_is_empty(const struct sluice_queue *queue);

#endif
