# SPDX-License-Identifier: BSD-3-Clause
# shellcheck shell=bash
# common.sh: for shell tests: a temporary folder, an engine to talk to, comparisons. Sourced.
set -euo pipefail

scratch=$(mktemp -d "${TMPDIR:-/tmp}/sluice-test-XXXXXX")
engine_pid=
export SLUICE_SOCKET=$scratch/socket

end_engine() {
	[ -z "$engine_pid" ] || kill "$engine_pid" 2>/dev/null || true
	[ -z "$engine_pid" ] || wait "$engine_pid" 2>/dev/null || true
	engine_pid=
}

clean_up() {
	end_engine
	rm -rf "$scratch"
}
trap clean_up EXIT

fail() {
	printf 'FAILED: %s\n' "$*" >&2
	exit 1
}

skip() {
	printf 'skipped: %s\n' "$*"
	exit 77
}

# start_engine PROGRAM [ARGUMENTS]: with --listen; returns when the socket is there.
start_engine() {
	"$@" --listen "$SLUICE_SOCKET" &
	engine_pid=$!
	for _ in $(seq 1200); do
		[ -S "$SLUICE_SOCKET" ] && return 0
		kill -0 "$engine_pid" 2>/dev/null || fail "$1 ended"
		sleep 0.05
	done
	fail "$1 does not listen"
}

# wait_for_text PATTERN FILE: returns when a pattern (grep -E) is in what others write there.
wait_for_text() {
	for _ in $(seq 1200); do
		grep -Eqs -- "$1" "$2" && return 0
		sleep 0.05
	done
	fail "no '$1' in $2"
}

# expect STATUS PATTERN COMMAND...: exit status and a pattern (grep -E) in what it prints.
expect() {
	local want=$1 pattern=$2 status=0 output
	shift 2
	output=$("$@" 2>&1) || status=$?
	[ "$status" -eq "$want" ] ||
		fail "$*: exit status $status instead of $want; it printed: $output"
	grep -Eq -- "$pattern" <<<"$output" ||
		fail "$*: no '$pattern' in: $output"
}
