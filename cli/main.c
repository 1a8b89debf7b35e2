/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * main.c: `sluice`: options, the table of commands, connecting, errors. What commands do is
 * in commands.c, migrate.c and watch.c.
 */
#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

const struct cli_command cli_commands[] = {
	{"migrate", "URI [--set NAME=VALUE]... [--detach]", "move the guest to another engine",
		"Moves the guest to the engine that waits at URI (tcp:HOST:PORT, as printed by\n"
		"'sluice incoming' there) and shows how it goes. The exit status is 0 only when\n"
		"the migration completed. Ctrl-C leaves the migration running.\n"
		"\n"
		"  --set NAME=VALUE  set a parameter first (see 'sluice params'); may be repeated\n"
		"  --detach          start it and return at once\n",
		cli_migrate},
	{"incoming", "URI", "wait for a guest",
		"Makes the engine wait for a source at URI; tcp:127.0.0.1:0 chooses a free port.\n"
		"Prints the URI that the source's 'sluice migrate' takes.\n",
		cli_incoming},
	{"status", "", "what the engine is doing",
		"Prints the state of the engine and of the migration that runs, or of the last\n"
		"one. The exit status says whether the engine answered.\n",
		cli_status},
	{"watch", "[--interval SECONDS] [--once]", "a live view of the migration",
		"Shows progress, dirty rate, throughput, lanes, throttling and the expected\n"
		"downtime, redrawn until Ctrl-C. When the output is not a terminal: one line per\n"
		"interval, until the migration has ended.\n"
		"\n"
		"  --interval SECONDS  between two pictures; default 1\n"
		"  --once              one whole picture, then return\n",
		cli_watch},
	{"cancel", "", "give up the migration; the source keeps the guest",
		"Cancels the migration that runs. Refused once the source's VMM has given the\n"
		"guest away.\n",
		cli_cancel},
	{"pause", "", "stop moving for a while; the guest runs on",
		"Closes the lanes and the connection to the target. What the guest writes is\n"
		"collected; 'sluice recover' goes on. Refused once everything has been sent.\n",
		cli_pause},
	{"recover", "[URI]", "go on with a paused migration",
		"Connects to the target again at once, with all retries anew; at URI when the\n"
		"same engine can be reached there now. For the source.\n",
		cli_recover},
	{"lanes", "", "the lanes of the migration",
		"Prints one line per lane of the migration that runs, or of the last one.\n",
		cli_lanes},
	{"memory", "", "the guest's memory", "Prints one line per region of guest memory.\n",
		cli_memory},
	{"preflight", "[URI]", "would a migration work?",
		"Looks for what would make a migration fail or slow, before anything moves; with\n"
		"URI also on the way to that peer. The exit status is 0 when no check failed.\n",
		cli_preflight},
	{"session", "[ID]", "what is known of a session",
		"Prints whether a session is active, committed, aborted or in doubt, also one of\n"
		"an engine that died. Without ID: the latest.\n",
		cli_session},
	{"resolve", "ID aborted|committed", "decide a session that is in doubt",
		"Tells the engine how a session in doubt ended, after you have looked at the\n"
		"other host: committed if the guest runs there, aborted if it does not and never\n"
		"will. The wrong answer makes two guests of one.\n",
		cli_resolve},
	{"params", "[NAME=VALUE]...", "show or set parameters",
		"Without arguments: prints all parameters. Else sets those given, all or none.\n"
		"Sizes and times take units (64M, 300ms); 'sluiced --help' explains each.\n",
		cli_params},
	{"topology", "[OPTIONS]", "this machine, and where workers and lanes would go",
		"Draws the NUMA nodes, cores and NICs of this machine (or of another one) with "
		"the\n"
		"workers and lanes that an engine would put there, and says why. Needs no engine.\n"
		"\n"
		"  --synthetic TEXT  a machine described to hwloc: \"pack:2 [numa] core:8 pu:2\"\n"
		"  --xml FILE        a machine that lstopo FILE.xml has written\n"
		"  --rail NIC        the rail, by NIC or own address; repeated: several\n"
		"  --lanes N         as --set lanes=N\n"
		"  --workers N       as --set workers=N\n"
		"  --set NAME=VALUE  lanes, workers, worker-cores, vcpu-cores, numa; as sluiced's\n"
		"  --engine          what the engine at --socket has really done "
		"(query-placement)\n",
		cli_topology},
	{"command", "NAME [JSON]", "run any command of the VMM socket",
		"Sends the command with the JSON object as its arguments and prints what it\n"
		"returns. 'sluice command query-commands' names them; docs/vmm-socket.md\n"
		"explains them.\n",
		cli_raw},
	{0},
};

/* ---- messages ---- */

int cli_usage(const struct cli_command *command, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "sluice %s: ", command->name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nUsage: sluice %s%s%s\n", command->name,
		command->usage[0] != '\0' ? " " : "", command->usage);
	return CLI_USAGE;
}

int cli_fail(const char *fmt, ...)
{
	va_list ap;

	fputs("sluice: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return CLI_FAILED;
}

static void print_help(FILE *out)
{
	fputs("Usage: sluice [--socket PATH] [--json] COMMAND [ARGUMENTS]\n"
	      "\n"
	      "Talks to a sluiced, the engine that moves a running virtual machine.\n"
	      "\n"
	      "  --socket PATH  the engine's socket (sluiced --listen PATH); default: "
	      "$SLUICE_SOCKET\n"
	      "  --json         print what the engine answers, as JSON\n"
	      "  --help         this, or with a command: about that command\n"
	      "  --version\n"
	      "\n"
	      "Commands:\n",
		out);
	for (const struct cli_command *c = cli_commands; c->name != NULL; c++)
		fprintf(out, "  %-10s %s\n", c->name, c->summary);
	fputs("\nExit status: 0 success, 1 failure, 2 wrong arguments.\n", out);
}

static void print_command_help(const struct cli_command *command)
{
	printf("Usage: sluice %s%s%s\n\n%s", command->name, command->usage[0] != '\0' ? " " : "",
		command->usage, command->help);
}

/* @bytes of @text for man(7): a bare '-' would be a hyphen, a leading '.' or '\'' a request. */
static void print_man_text(const char *text, size_t bytes)
{
	if (bytes > 0 && (*text == '\'' || *text == '.'))
		fputs("\\&", stdout);
	for (size_t i = 0; i < bytes; i++) {
		if (text[i] == '-')
			putchar('\\');
		putchar(text[i]);
	}
	putchar('\n');
}

/* A line of help: an option with its meaning, an empty line, or text. */
static void print_man_line(const char *text, size_t bytes, bool *in_options)
{
	const char *gap;

	if (bytes == 0) {
		puts(".IP");
		return;
	}
	if (strncmp(text, "  --", 4) != 0) {
		print_man_text(text, bytes);
		return;
	}
	if (!*in_options)
		puts(".RS");
	*in_options = true;
	gap = strstr(text + 2, "  ");
	puts(".TP");
	print_man_text(text + 2, (size_t)(gap - text) - 2);
	gap += strspn(gap, " ");
	print_man_text(gap, bytes - (size_t)(gap - text));
}

/* man(7) items for docs/man/sluice.1, so that the page cannot differ from --help. */
static void print_man_commands(void)
{
	for (const struct cli_command *c = cli_commands; c->name != NULL; c++) {
		const char *from = c->help, *end;
		bool in_options = false;

		printf(".TP\n\\fB%s\\fR %s\n", c->name, c->usage);
		for (; (end = strchr(from, '\n')) != NULL; from = end + 1)
			print_man_line(from, (size_t)(end - from), &in_options);
		if (in_options)
			puts(".RE");
	}
}

/* ---- signals ---- */

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
	(void)number;
	interrupted = 1;
}

void cli_catch_signals(void)
{
	struct sigaction action = {.sa_handler = on_signal};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

bool cli_interrupted(void)
{
	return interrupted != 0;
}

/* ---- the engine ---- */

int cli_connect(struct cli *cli)
{
	struct sluice_error err = {0};
	int rc;

	if (cli->socket == NULL || cli->socket[0] == '\0') {
		cli_fail("which engine? Give --socket PATH or set SLUICE_SOCKET");
		return CLI_USAGE;
	}
	rc = sluice_vmm_connect(cli->socket, &cli->vmm, &err);
	if (rc == 0)
		return CLI_OK;
	if (rc == -ENOENT || rc == -ECONNREFUSED)
		return cli_fail("%s: is sluiced running with --listen %s?", err.text, cli->socket);
	return cli_fail("%s", err.text);
}

json_t *cli_call(struct cli *cli, const char *name, json_t *args, struct sluice_error *err)
{
	struct sluice_error why = {0};
	char *text = args != NULL ? json_dumps(args, JSON_COMPACT) : NULL;
	char *reply = NULL;
	json_t *value = NULL;
	int rc;

	json_decref(args);
	rc = sluice_vmm_command(cli->vmm, name, text, &reply, &why);
	free(text);
	if (rc == 0)
		value = json_loads(reply, JSON_DECODE_ANY, NULL);
	free(reply);
	if (value == NULL && err == NULL)
		cli_fail("%s: %s", name, why.text);
	else if (value == NULL)
		*err = why;
	return value;
}

/* ---- options ---- */

static bool is_help(const char *arg)
{
	return strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0;
}

static const struct cli_command *find_command(const char *name)
{
	for (const struct cli_command *c = cli_commands; c->name != NULL; c++) {
		if (strcmp(c->name, name) == 0)
			return c;
	}
	return NULL;
}

static int run_command(struct cli *cli, const char *name, int count, char **args)
{
	const struct cli_command *command = find_command(name);
	int status, kept = 0;

	if (command == NULL) {
		cli_fail("there is no command '%s'; see sluice --help", name);
		return CLI_USAGE;
	}
	for (int i = 0; i < count; i++) {
		if (is_help(args[i])) {
			print_command_help(command);
			return CLI_OK;
		}
		if (strcmp(args[i], "--socket") == 0 || strncmp(args[i], "--socket=", 9) == 0)
			return cli_usage(command, "--socket PATH goes before the command");
		if (strcmp(args[i], "--json") == 0) /* also allowed behind the command */
			cli->json = true;
		else
			args[kept++] = args[i];
	}
	args[kept] = NULL;
	status = command->run(cli, command, kept, args);
	sluice_vmm_close(cli->vmm);
	return status;
}

/* One option ahead of the command; @at is moved past it. -1: go on, else the exit status. */
static int take_option(struct cli *cli, int argc, char **argv, int *at)
{
	const char *option = argv[*at];

	if (is_help(option)) {
		print_help(stdout);
		return CLI_OK;
	}
	if (strcmp(option, "--version") == 0) {
		printf("sluice %s\n", SLUICE_VERSION);
		return CLI_OK;
	}
	if (strcmp(option, "--man-commands") == 0) {
		print_man_commands();
		return CLI_OK;
	}
	if (strcmp(option, "--json") == 0) {
		cli->json = true;
	} else if (strcmp(option, "--socket") == 0 && *at + 1 < argc) {
		cli->socket = argv[++*at];
	} else if (strncmp(option, "--socket=", 9) == 0) {
		cli->socket = option + 9;
	} else {
		cli_fail("%s '%s'; see sluice --help",
			strcmp(option, "--socket") == 0 ? "a path must follow" : "unknown option",
			option);
		return CLI_USAGE;
	}
	++*at;
	return -1;
}

int main(int argc, char **argv)
{
	struct cli cli = {.socket = getenv("SLUICE_SOCKET")};
	int at = 1, status = -1;

	setlocale(LC_CTYPE, "");
	signal(SIGPIPE, SIG_DFL);
	while (status < 0 && at < argc && argv[at][0] == '-')
		status = take_option(&cli, argc, argv, &at);
	if (status >= 0)
		return status;
	if (at == argc) {
		print_help(stderr);
		return CLI_USAGE;
	}
	return run_command(&cli, argv[at], argc - at - 1, argv + at + 1);
}
