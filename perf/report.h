/* SPDX-License-Identifier: BSD-3-Clause */
/* report.h: results as text: one in full, two side by side. Prints only; no state. */
#ifndef SLUICE_PERF_REPORT_H
#define SLUICE_PERF_REPORT_H

#include <stdio.h>

#include <jansson.h>

#include <sluice/error.h>

#define PERF_RESULT_FORMAT "sluice-perf/1"

/* Read a result and check that it is one. */
int perf_result_load(const char *path, json_t **ret_result, struct sluice_error *err);

void perf_report_print(const json_t *result, FILE *out);
void perf_compare_print(const json_t *a, const json_t *b, FILE *out);

#endif
