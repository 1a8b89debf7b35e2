/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * error.h: the one error convention.
 *
 * A function that can fail returns 0 (or a count) on success and -errno on
 * failure. The function that first decides what an error is describes it, once,
 * with sluice_fail(); callers on the way up only pass the code on. main() and
 * the VMM socket print it. Library code never logs.
 *
 * Threading: a struct sluice_error belongs to the caller; no shared state.
 */
#ifndef SLUICE_ERROR_H
#define SLUICE_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

#define SLUICE_ERROR_TEXT_MAX 512

/* What has to be rebuilt after the error; everything smaller is lost too. */
enum sluice_error_scope {
	SLUICE_SCOPE_OPERATION = 0, /* one command or call: correct it and repeat it */
	SLUICE_SCOPE_LANE, /* one lane connection: fence it and open it again */
	SLUICE_SCOPE_SESSION, /* this migration: start another one */
	SLUICE_SCOPE_ENGINE, /* the process: restart it */
};

struct sluice_error {
	int code; /* -errno; 0 while nothing failed */
	enum sluice_error_scope scope;
	char where[32]; /* the object that decided, for example "memory-add" */
	char text[SLUICE_ERROR_TEXT_MAX]; /* what happened and what to do, one sentence each */
};

/*
 * Describe an error and return @code, so that a failing function can end with
 * `return sluice_fail(err, -EINVAL, "memory-add", "...")`.
 * @err may be NULL (the code is still returned). @code must be negative.
 * An already described error is kept: the first one to decide is right.
 */
int sluice_fail(struct sluice_error *err, int code, const char *where, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* The same with a wider scope than SLUICE_SCOPE_OPERATION. */
int sluice_fail_scope(struct sluice_error *err, enum sluice_error_scope scope, int code,
	const char *where, const char *fmt, ...) __attribute__((format(printf, 5, 6)));

#ifdef __cplusplus
}
#endif
#endif
