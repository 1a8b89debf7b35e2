#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# stock-qmp-client.sh ENGINE [ARGUMENTS]: a QMP client that others wrote for QEMU drives the
# VMM socket: Ganeti's, which Ganeti uses to migrate KVM instances. Nothing in it is changed.
#
# It comes from Debian's package ganeti-3.0, installed, or only unpacked (dpkg -x) into
# $GANETI_ROOT or the user's cache: the package itself pulls in an SSH server and LVM. Its
# modules need python3-bitarray, python3-simplejson, python3-pyparsing and others; what is
# missing is named.
# shellcheck source=tests/system/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Debian's Python: its modules are for no other.
python=/usr/bin/python3
[ -x "$python" ] || skip "$python is missing"

modules=
for root in "${GANETI_ROOT:-}" "${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/sluice/ganeti" ""; do
	[ -e "$root/usr/share/ganeti/3.0/ganeti/hypervisor/hv_kvm/monitor.py" ] || continue
	modules=$root/usr/share/ganeti/3.0
	break
done
[ -n "$modules" ] || skip "package ganeti-3.0 is neither installed nor unpacked (scripts/deps)"
export PYTHONPATH=$modules PYTHONDONTWRITEBYTECODE=1
why=$("$python" -c 'import ganeti.hypervisor.hv_kvm.monitor' 2>&1) ||
	skip "the client of ganeti-3.0 cannot be loaded: ${why##*$'\n'}"

start_engine "$@"
"$python" - "$SLUICE_SOCKET" <<'PYTHON'
import os
import sys

from ganeti import errors
from ganeti.hypervisor.hv_kvm.monitor import QmpCommandNotSupported, QmpConnection

path = sys.argv[1]


def refused(text, call, *args):
    try:
        call(*args)
    except errors.HypervisorError as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"{call} {args} was not refused")


with QmpConnection(path) as qmp:
    # The greeting, the negotiation and query-commands are behind us.
    assert qmp.version >= (0, 1, 0), qmp.version
    assert qmp.package.startswith("sluice "), qmp.package
    for name in ("migrate", "migrate_cancel", "query-migrate", "memory-add", "getfd"):
        assert name in qmp.supported_commands, name
    status = qmp.Execute("query-status")["status"]
    print("greeted by", qmp.package, "- status", status)

    # A descriptor, sent ahead of its getfd with a blank, as this client does.
    ram = os.memfd_create("ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(ram, 4 << 20)
    for name in ("a", "b"):
        qmp._GetFd(ram, name)
    qmp.Execute("memory-add", {"id": "ram", "fdname": "a", "size": 4 << 20, "gpa": 0})
    qmp.Execute("closefd", {"fdname": "b"})
    refused("no descriptor is called 'b'", qmp.Execute, "closefd", {"fdname": "b"})
    regions = qmp.Execute("query-memory")
    assert [region["id"] for region in regions] == ["ram"], regions
    print("added memory:", regions[0]["size"], "bytes")

    # Errors have QEMU's form, and the connection survives them.
    refused("GenericError", qmp.Execute, "migrate", {"url": "tcp:127.0.0.1:1"})
    refused("'url' is not known", qmp.Execute, "migrate", {"url": "tcp:127.0.0.1:1"})
    try:
        qmp.Execute("device_add")
    except QmpCommandNotSupported:
        pass
    else:
        raise AssertionError("device_add should not be known")
    qmp.supported_commands = None
    refused("CommandNotFound", qmp.Execute, "device_add")

    answer = qmp.Execute("migrate-incoming", {"uri": "tcp:127.0.0.1:0"})
    print("waits at", answer["uri"])

# The calls with which Ganeti migrates an instance; each makes its own connection.
qmp = QmpConnection(path)
with qmp:
    qmp.Execute("migrate-set-parameters", {"downtime-limit": 50})
    assert "downtime-limit" in qmp.Execute("query-migrate-parameters")
status = qmp.GetMigrationStatus()["status"]
assert status == "none", status
refused("GenericError", qmp.StartMigration, "127.0.0.1", 1)

print("Ganeti's client drives the VMM socket")
PYTHON
