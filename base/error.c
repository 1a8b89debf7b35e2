/* SPDX-License-Identifier: BSD-3-Clause */
/* error.c: describing an error once, and stopping on a broken invariant. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sluice/error.h>

#include "base/assert.h"
#include "base/text.h"

__attribute__((format(printf, 5, 0))) static int fail(struct sluice_error *err,
	enum sluice_error_scope scope, int code, const char *where, const char *fmt, va_list ap)
{
	SLUICE_ASSERT(code < 0);
	if (err == NULL || err->code != 0)
		return code;
	err->code = code;
	err->scope = scope;
	snprintf(err->where, sizeof(err->where), "%s", where);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	sluice_text_make_utf8(err->text); /* it may quote what others sent, cut anywhere */
	return code;
}

int sluice_fail(struct sluice_error *err, int code, const char *where, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fail(err, SLUICE_SCOPE_OPERATION, code, where, fmt, ap);
	va_end(ap);
	return code;
}

int sluice_fail_scope(struct sluice_error *err, enum sluice_error_scope scope, int code,
	const char *where, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fail(err, scope, code, where, fmt, ap);
	va_end(ap);
	return code;
}

void sluice_assert_failed(const char *expression, const char *file, int line, const char *function)
{
	fprintf(stderr, "%s:%d: %s: broken invariant: %s\n", file, line, function, expression);
	abort();
}
