/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cli.h: what the parts of `sluice` share. A client of the VMM socket like any other: it
 * uses libsluice and knows nothing of the engine's insides. One thread.
 */
#ifndef SLUICE_CLI_CLI_H
#define SLUICE_CLI_CLI_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include <sluice/sluice.h>

/* Exit statuses. */
enum {
	CLI_OK = 0,
	CLI_FAILED = 1, /* the command or the migration failed; said on stderr */
	CLI_USAGE = 2, /* wrong arguments */
	CLI_INTERRUPTED = 130, /* Ctrl-C, as shells count it */
};

struct cli {
	struct sluice_vmm *vmm;
	const char *socket;
	bool json;
};

struct cli_command {
	const char *name;
	const char *usage; /* its arguments, for one line */
	const char *summary; /* one line for `sluice --help` */
	const char *help; /* paragraphs for `sluice COMMAND --help` and the man page */
	/* @args: what follows the name; ends with NULL. Returns an exit status. */
	int (*run)(struct cli *cli, const struct cli_command *self, int count, char **args);
};

extern const struct cli_command cli_commands[]; /* ends with a NULL name */

/* ---- main.c ---- */

/* Say that the arguments are wrong and how they should be; returns CLI_USAGE. */
int cli_usage(const struct cli_command *command, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Print "sluice: ..." on stderr; returns CLI_FAILED. */
int cli_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Connect to the engine; CLI_OK, or the exit status after having said why not. */
int cli_connect(struct cli *cli);
/* Run a command of the engine; steals @args (NULL: none). NULL when it failed, which is
   described in *err, or printed when @err is NULL. */
json_t *cli_call(struct cli *cli, const char *name, json_t *args, struct sluice_error *err);
/* Set by Ctrl-C and SIGTERM once cli_catch_signals() was called. */
void cli_catch_signals(void);
bool cli_interrupted(void);

/* ---- output.c ---- */

/* For --json: one value, indented on a terminal, on one line otherwise. Steals @value. */
void cli_print_json(json_t *value);
/* "1.50 GiB", "312 MiB"; "-" when negative. Returns @text. */
const char *cli_format_bytes(double bytes, char *text, size_t text_bytes);
/* "52.0k", "817". */
const char *cli_format_count(double count, char *text, size_t text_bytes);
/* "812 ms", "12.3 s", "4:07". */
const char *cli_format_ms(double ms, char *text, size_t text_bytes);
/* Members with a default for those that are missing. */
double cli_number(const json_t *object, const char *name, double otherwise);
const char *cli_text(const json_t *object, const char *name, const char *otherwise);
/* Columns of the terminal behind @file, or 80. */
unsigned int cli_width(FILE *file);
bool cli_is_terminal(FILE *file);

/* ---- view.c: pictures of a migration; pure ---- */

#define CLI_HISTORY_MAX 120

struct cli_view {
	const char *socket;
	json_t *migrate; /* query-migrate */
	json_t *lanes; /* query-lanes */
	json_t *previous; /* query-lanes one interval ago, or NULL */
	double interval_s; /* between the two */
	double bytes_per_second; /* placed */
	int throttle; /* percent */
	double placed_history[CLI_HISTORY_MAX], dirty_history[CLI_HISTORY_MAX];
	unsigned int history_count; /* oldest first */
	bool unicode;
};

/* The whole picture, each line at most @width columns, at most @rows lines (0: no limit). */
void cli_view_render(const struct cli_view *view, unsigned int width, unsigned int rows, FILE *out);
/* One line with what matters, at most @width columns (0: no limit), without a line end.
   @ram_holder: query-migrate's reply or MIGRATION_PROGRESS's data. */
void cli_view_line(const json_t *ram_holder, unsigned int width, FILE *out);
/* The same with a bar. */
/* Why it is paused and what comes next; what was lost and sent again. NULL: nothing of the kind. */
const char *cli_view_pause(const json_t *migrate, char *text, size_t text_bytes);
const char *cli_view_losses(const json_t *migrate, char *text, size_t text_bytes);
void cli_view_bar(const json_t *ram_holder, unsigned int width, FILE *out);
/* Share of guest memory that is at the target, 0 to 1. */
double cli_view_share(const json_t *ram_holder);

/* ---- machine.c: the picture of a machine; pure ---- */

/* @plan: what query-placement returns. */
void cli_machine_render(const json_t *plan, unsigned int width, bool unicode, FILE *out);

/* ---- the commands ---- */

int cli_migrate(struct cli *cli, const struct cli_command *self, int count, char **args);
int cli_watch(struct cli *cli, const struct cli_command *self, int count, char **args);

int cli_incoming(struct cli *cli, const struct cli_command *self, int count, char **args);
int cli_status(struct cli *cli, const struct cli_command *self, int count, char **args);
int cli_pause(struct cli *cli, const struct cli_command *self, int count, char **args);
int cli_recover(struct cli *cli, const struct cli_command *self, int count, char **args);
int cli_cancel(struct cli *cli, const struct cli_command *self, int count, char **args);
int cli_lanes(struct cli *cli, const struct cli_command *self, int count, char **args);
int cli_memory(struct cli *cli, const struct cli_command *self, int count, char **args);
int cli_preflight(struct cli *cli, const struct cli_command *self, int count, char **args);
int cli_session(struct cli *cli, const struct cli_command *self, int count, char **args);
int cli_resolve(struct cli *cli, const struct cli_command *self, int count, char **args);
int cli_params(struct cli *cli, const struct cli_command *self, int count, char **args);
int cli_topology(struct cli *cli, const struct cli_command *self, int count, char **args);
int cli_raw(struct cli *cli, const struct cli_command *self, int count, char **args);

/* "name=value" into @object, as a number, a boolean or text; false when it has no '='. */
bool cli_add_setting(json_t *object, const char *setting);

#endif
