#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# cli.sh SLUICE TOY_ENGINE: `sluice` against the real server of the VMM socket.
# shellcheck source=tests/system/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

sluice=$1
engine=$2

# Without an engine.
expect 2 '^Usage: sluice' "$sluice"
expect 0 'migrate .*move the guest' "$sluice" --help
expect 0 '^sluice [0-9]' "$sluice" --version
expect 2 "no command 'migrat'" "$sluice" migrat
expect 2 "unknown option '--sockt'" "$sluice" --sockt x status
expect 1 'cannot connect to .*socket: No such file.*is sluiced running with --listen' "$sluice" status
SLUICE_SOCKET='' expect 2 'which engine' "$sluice" status
for command in migrate incoming status watch cancel pause recover lanes memory preflight session resolve params topology command; do
	expect 0 "^Usage: sluice $command" "$sluice" "$command" --help
done

# The machine, without an engine. Other machines need hwloc.
expect 0 '^this machine, [0-9]+ node' "$sluice" topology
expect 0 '"machine":.*"source":"this machine"' "$sluice" topology --json
expect 0 'worker 0 +(any of )?CPUs .*lanes 0 1 2$|worker 0 .*lanes 0 1 2 ' "$sluice" topology --workers 1 --lanes 3
expect 2 "lanes: 'x' is not a number" "$sluice" topology --lanes x
expect 2 "no parameter 'worker-core'.*did you mean" "$sluice" topology --set worker-core=1
expect 2 "unexpected argument 'x'" "$sluice" topology x
expect 2 '--xml needs a value' "$sluice" topology --xml
expect 2 'one machine at a time' "$sluice" topology --xml x --synthetic y
expect 2 'stands alone' "$sluice" topology --engine --lanes 1
expect 1 'is not a list of cores' "$sluice" topology --set worker-cores=a-b
expect 1 'worker-cores: this machine has no core 4095; it has' "$sluice" topology --set worker-cores=4095
expect 1 'nowhere.xml cannot be read|no hwloc' "$sluice" topology --xml /nowhere.xml
if "$sluice" topology --synthetic core:1 >/dev/null 2>&1; then
	expect 0 '^synthetic .*, 2 nodes, CPUs 0-15' "$sluice" topology --synthetic 'pack:2 [numa] core:4 pu:2'
	expect 0 'worker 1 +CPUs 8-15' "$sluice" topology --synthetic 'pack:2 [numa] core:4 pu:2'
	expect 1 "has no NIC 'eth9'" "$sluice" topology --synthetic core:4 --rail eth9
fi

start_engine "$engine"

# Wrong arguments never reach the engine.
expect 2 'A URI is needed' "$sluice" migrate
expect 2 "unknown option '--now'" "$sluice" migrate tcp:h:1 --now
expect 2 'needs name=value' "$sluice" migrate tcp:h:1 --set lanes
expect 2 'one URI is needed' "$sluice" incoming
expect 2 "unexpected argument 'x'" "$sluice" status x
expect 2 'goes before the command' "$sluice" status --socket x
expect 2 'aborted or committed' "$sluice" resolve 1 yes
expect 2 'not a number' "$sluice" watch --interval 0
expect 2 'not a JSON object' "$sluice" command query-status '[1]'

# The exit status is the migration's.
expect 0 'moved in .* downtime 12 ms' "$sluice" migrate tcp:h:1
expect 1 'migration failed: the toy was told to fail' "$sluice" migrate tcp:fail:1
expect 0 '^\{"status":"completed",' "$sluice" --json migrate tcp:h:1 --set lanes=8
expect 0 '^lanes +8$' "$sluice" params
expect 0 started "$sluice" migrate tcp:h:1 --detach
expect 0 '^completed 300 ms 100%' "$sluice" watch --interval 0.1

# Progress comes as plain lines when nobody's terminal is there.
expect 0 '^active .*%.*left.*pages/s' "$sluice" migrate tcp:h:1
"$sluice" migrate tcp:h:1 | grep -q $'\033' && fail "escape sequences in a pipe"

expect 0 '^tcp:127.0.0.1:40123$' "$sluice" incoming tcp:127.0.0.1:0
expect 0 '^engine +idle$' "$sluice" status
expect 0 '^\{"engine":\{"status":"idle"' "$sluice" status --json
expect 0 '^   3  active +tcp' "$sluice" lanes
expect 0 'is paused' "$sluice" pause
expect 0 'being resumed' "$sluice" recover tcp:127.0.0.1:1
expect 2 'unexpected argument' "$sluice" recover tcp:127.0.0.1:1 2
expect 0 '^region .*guest address' "$sluice" memory
expect 0 '^warning +discards' "$sluice" preflight
expect 2 "unknown option '--vmm'" "$sluice" preflight --vmm X
expect 0 '^status +committed$' "$sluice" session
expect 0 '^status +none$' "$sluice" session unknown
expect 1 'is not in doubt' "$sluice" resolve 1 committed
expect 0 '^set$' "$sluice" params window=64M
expect 0 '^window +64M$' "$sluice" params
expect 0 '"package":"sluice ' "$sluice" command query-version
expect 1 "'url' is not known .did you mean 'uri'" "$sluice" command migrate '{"url": "x"}'
expect 1 'command querystatus has not been found .did you mean' "$sluice" command querystatus
expect 0 'lane  state' "$sluice" watch --once --interval 0.1
expect 0 'being cancelled' "$sluice" cancel

# On a terminal: the live view leaves the screen as it was. `script` gives one.
if command -v script >/dev/null; then
	"$sluice" migrate tcp:h:1 --detach >/dev/null
	expect 0 $'\r\\[#' script -qec "'$sluice' migrate tcp:h:1" /dev/null
	screen=$scratch/screen
	{
		(wait_for_text $'\033\\[\\?1049h' "$screen") || true
		printf '\003' # Ctrl-C
	} | script -qfec "exec '$sluice' watch --interval 0.1" "$screen" >/dev/null ||
		fail "the live view failed"
	grep -Eq $'\033\\[\\?1049h' "$screen" || fail "no live view on a terminal"
	grep -Eq $'\033\\[\\?1049l.*completed' "$screen" || fail "no last line behind the live view"
fi

expect 0 '\{\}' "$sluice" command quit
wait "$engine_pid" || fail "the engine failed"
engine_pid=
expect 1 'is sluiced running' "$sluice" status
echo "sluice works"
