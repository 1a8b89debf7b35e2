#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""kill: kill -9 of one of the four processes at a moment of a migration, again and again.

Whatever dies whenever: never do two guests run, and the guest runs on where it belongs:
  committed on the target's record   at the target
  not on the source's record         at the source, without anybody's help
  in between (in doubt)              where the target's record says; it may need an operator
A target that had prepared may be left in doubt by a source that aborted without it: an operator
frees it. Nobody runs it only if the VMM where it belongs is the one that was killed.

Who is killed at which moment goes round, so that each pair has its turn; the moment within a
window is random. The survivors go on with the next migration, in whichever direction.
"""

import collections
import os
import signal
import statistics
import time

import lab as lab_module
from lab import ENDED, IN_LAB, LabTest, guest, migrate, wait_until
from qmp import PATIENCE_S, QmpClosed, QmpError

KILLS = int(os.environ.get("SLUICE_KILLS", "50"))
VICTIMS = ("source VMM", "source engine", "target VMM", "target engine")
WINDOW_S = 0.005  # after an event of the switchover
QUESTION_S = 3.0  # for a process that may be dead
HELP_AFTER_S = 1.0
LINGER_S = 0.5
OPTIONS = {"ram": "128M", "vcpus": 2, "regions": 2, "accel": "kvm", "pattern": "uniform",
           "rate": 60000,
           "engine_set": {"downtime-limit": "300ms" if IN_LAB else "2ms", "memory-budget": "1M", "sync-interval": "50ms", "lanes": 2,
                          "recover-timeout": "1500ms",
                          "linger": f"{int(LINGER_S * 1000)}ms"}}

# Moments. `asked`: all is prepared and the source's VMM has not yet answered. `told`: the source
# has recorded the commit and the target has not yet heard of it.
MOMENTS = ("any", "ready", "asked", "any", "device", "told", "any", "commit")

# At these the processes stand still, so there is one outcome (or two: the target's engine may read
# the commit before it sees that its VMM is dead).
CERTAIN = {
    ("asked", "source VMM"): ("died with the source",),
    ("asked", "source engine"): ("source runs, other side freed",),
    ("asked", "target VMM"): ("source runs",),
    ("asked", "target engine"): ("source runs",),
    ("told", "source VMM"): ("target runs",),
    ("told", "source engine"): ("target runs",),
    ("told", "target VMM"): ("died with the target", "source runs"),
    ("told", "target engine"): ("source runs, resolved",),
}
HELD = ("asked", "told")


class Attempt:
    """One migration and one kill."""

    def __init__(self, lab, source, target, victim, moment, typical_s):
        self.lab, self.source, self.target = lab, source, target
        self.victim, self.moment, self.typical_s = victim, moment, typical_s
        self.session = ""
        self.resolved = False  # an operator had to say where the guest runs
        self.freed = False  # the guest ran, and an operator freed the other side
        self.ops = source.ops()
        self.threads = 0  # of the source's VMM

    # ---- getting to the moment ----

    def wait(self, watch, name, status=()):
        """Wait for an event; the end of the migration is one as good as any."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            event = watch.next_event(max(0.0, deadline - time.monotonic()))
            if event is None:
                raise AssertionError(f"no {name} {status} in {PATIENCE_S} s; {watch.command('query-migrate')}")
            data = event.get("data", {})
            if event["event"] == name and (not status or data["status"] in status):
                return
            if event["event"] == "MIGRATION" and data["status"] in ENDED:
                return

    def hold_until_asked(self, watch):
        """The target's VMM was held from the start, so nothing is loaded. The source's VMM stops
        when it has sent its state and answered its last sync: the next it will be asked is to give
        the guest away."""
        self.wait(watch, "MIGRATION", ("device",))
        watch.command("query-migrate")  # with its answer the engine is done asking for the sync
        for _ in range(3):
            self.source.status()  # and each turn of the VMM's loop answers what has arrived before
        wait_until("the thread that sends the state has ended",
                   lambda: self.source.vmm.threads() == self.threads)
        self.source.vmm.signal(signal.SIGSTOP)
        self.target.vmm.signal(signal.SIGCONT)
        self.wait(watch, "SWITCHOVER_COMMIT")

    def hold_until_told(self, watch):
        self.hold_until_asked(watch)
        self.target.engine.signal(signal.SIGSTOP)
        self.source.vmm.signal(signal.SIGCONT)
        wait_until("the source records the commit",
                   lambda: self.source.decision(self.session, "source"))

    def reach(self, watch):
        events = {"ready": ("SWITCHOVER_READY", ()), "device": ("MIGRATION", ("device",)),
                  "commit": ("SWITCHOVER_COMMIT", ())}
        if self.moment == "asked":
            self.hold_until_asked(watch)
        elif self.moment == "told":
            self.hold_until_told(watch)
        elif self.moment == "any":
            time.sleep(self.lab.random.uniform(0, self.typical_s))
        else:
            self.wait(watch, *events[self.moment])
            time.sleep(self.lab.random.uniform(0, WINDOW_S))

    def kill(self):
        side = self.source if self.victim.startswith("source") else self.target
        if self.victim.endswith("VMM"):
            side.vmm.signal(signal.SIGKILL)
            side.child.wait()
        else:
            side.engine.signal(signal.SIGKILL)
            wait_until("the engine is dead", lambda: not side.engine.alive())
        # The source's VMM, which would give the guest away, goes on when its engine has learnt of it.
        if self.moment == "asked" and side is self.target:
            wait_until("the source's engine knows",
                       lambda: self.source.engine_command("query-migrate")["status"] in ENDED)
        for process in (self.target.vmm, self.target.engine, self.source.vmm):
            process.signal(signal.SIGCONT)

    def run(self):
        uri = self.target.incoming()
        self.threads = self.source.vmm.threads()
        if self.moment in HELD:
            self.target.vmm.signal(signal.SIGSTOP)
        with self.source.operator() as watch:
            self.session = watch.command("migrate", uri=uri).get("session", "")
            if not self.session:
                self.session = watch.command("query-migrate")["session"]
            self.reach(watch)
            self.kill()
        return self.settle()

    # ---- what became of it ----

    def check_one_guest(self):
        """The source twice: the guest does not come back to it within one look."""
        first = self.source.running()
        both = self.target.running() and first and self.source.running()
        violations = self.lab.violations()
        if both or violations:
            raise AssertionError(f"two guests: {violations}")

    def belongs(self):
        """Where the guest belongs by the records: "source", "target", or None: in doubt."""
        at_target = self.target.decision(self.session, "target")
        if at_target == "committed":
            return "target"
        if at_target == "aborted" or self.source.decision(self.session, "source") != "committed":
            return "source"
        return None

    def migrating(self, host):
        """Whether its engine still works on it, as far as one can ask."""
        try:
            with host.operator(QUESTION_S) as operator:
                status = operator.command("query-migrate")["status"]
        except (QmpClosed, QmpError):
            return host.vmm_alive()
        return status not in ENDED + ("none",)

    def settled(self):
        """The outcome, or None while it can still change."""
        self.check_one_guest()
        place = self.belongs()
        if place is None:
            return None
        host = self.source if place == "source" else self.target
        other = self.target if place == "source" else self.source
        if host.vmm_alive() and not host.running():
            return None
        for side in (self.source, self.target):
            if side.vmm_alive() and self.migrating(side):
                return None
        if other.vmm_alive() and other.status()["state"] in ("given-away", "in-doubt"):
            return None
        return place if self.belongs() == place else None

    def ask(self, other):
        """What the other host knows: its engine, a new one, or only its record."""
        side = "target" if other is self.target else "source"
        try:
            with other.operator(QUESTION_S) as operator:
                known = operator.command("query-session", session=self.session)["status"]
        except (QmpClosed, QmpError):
            known = other.decision(self.session, side)
        if known is None and not other.vmm_alive():
            known = "aborted"  # nothing on record, and its VMM is dead: it never will
        return known if known in ("committed", "aborted") else None

    def lives(self):
        """The guest runs, or the VMM where it belongs is dead."""
        place = self.belongs()
        host = self.source if place == "source" else self.target
        return place is not None and (host.running() or not host.vmm_alive())

    def may_need_help(self):
        """Whether the guest may run only when an operator says where: the source has given it away
        on record. Everything else settles by itself, however long it takes; and so do most of the
        moments at which one outcome is certain."""
        certain = CERTAIN.get((self.moment, self.victim), ("resolved",))
        return (any("resolved" in outcome for outcome in certain)
                and self.source.decision(self.session, "source") == "committed")

    def help(self):
        """An operator: whoever is in doubt is told what the other host knows."""
        for doubtful, other in ((self.source, self.target), (self.target, self.source)):
            try:
                with doubtful.operator(QUESTION_S) as operator:
                    status = operator.command("query-session", session=self.session)["status"]
                    if status != "in-doubt":
                        continue
                    decision = self.ask(other)
                    if decision is None:
                        continue
                    lived = self.lives()
                    if not lived and not self.may_need_help():
                        continue
                    operator.command("session-resolve", session=self.session, decision=decision)
                    self.freed = self.freed or lived
                    self.resolved = self.resolved or not lived
            except (QmpClosed, QmpError):
                pass

    def describe(self):
        lines = [f"{self.victim} at {self.moment}, session {self.session}, records: source "
                 f"{self.source.decision(self.session, 'source')}, target "
                 f"{self.target.decision(self.session, 'target')}"]
        for host in (self.source, self.target):
            lines.append(f"{host.name}: {host.status() if host.vmm_alive() else 'dead'}")
            try:
                lines.append(f"{host.name}: {host.engine_command('query-migrate')}")
            except (QmpClosed, QmpError) as error:
                lines.append(f"{host.name}: {error}")
        return "; ".join(lines)

    def settle(self):
        begin = time.monotonic()
        place = None
        while place is None:
            place = self.settled()
            elapsed = time.monotonic() - begin
            if place is None and elapsed > PATIENCE_S:
                raise AssertionError(f"not settled in {PATIENCE_S} s: {self.describe()}")
            if place is None and elapsed > HELP_AFTER_S:
                self.help()
            time.sleep(0.02)
        host = self.source if place == "source" else self.target
        if host.vmm_alive():
            host.check_alive()
            if host.ops() < self.ops:
                raise AssertionError("the guest's counter went back")
        self.check_one_guest()
        where = f"{place} runs" if host.vmm_alive() else f"died with the {place}"
        outcome = (where + (", resolved" if self.resolved else "")
                   + (", other side freed" if self.freed else ""))
        certain = CERTAIN.get((self.moment, self.victim), (outcome,))
        if outcome not in certain:
            raise AssertionError(f"{outcome} instead of {certain}: {self.describe()}")
        return outcome


class Kill(LabTest):
    def setUp(self):
        self.count = 0

    def start(self, lab, incoming):
        self.count += 1
        return lab.host(f"host{self.count}", witness=os.path.join(lab.folder, self.witness),
                        incoming="yes" if incoming else "no", **guest(**OPTIONS))

    def restart(self, lab):
        """A new guest, its own witness."""
        self.witness = f"witness{self.count}"
        source = self.start(lab, False)
        target = self.start(lab, True)
        source.wait_ready()
        return source, target

    def end(self, host):
        if host.vmm_alive():
            host.monitor.command("quit")
            host.child.wait(PATIENCE_S)

    def replace(self, lab, source, target):
        """Who goes on: the survivors, with a new VMM for one that is dead."""
        if not source.running() and not target.running():
            self.end(source)
            self.end(target)
            return self.restart(lab)
        if target.running():
            source, target = target, source
        if not target.vmm_alive():
            target = self.start(lab, True)
        for host in (source, target):
            wait_until(f"{host.name}: its engine is back",
                       lambda host=host: host.status()["engine"]["state"] == "up")
            host.learn_engine()
        return source, target

    def print_table(self, table):
        moments = sorted({moment for _, moment in table}, key=MOMENTS.index)
        for victim in VICTIMS:
            for moment in moments:
                outcomes = table.get((victim, moment), {})
                text = ", ".join(f"{count} x {name}" for name, count in sorted(outcomes.items()))
                if text:
                    print(f"  {victim:13} {moment:7} {text}", flush=True)

    def plan(self, lab):
        """(victim, moment): all pairs in random order, then all again."""
        pairs = [(victim, moment) for victim in VICTIMS for moment in MOMENTS]
        plan = []
        while len(plan) < KILLS:
            plan += lab.random.sample(pairs, len(pairs))
        return plan[:KILLS]

    def test_kills(self):
        table = collections.defaultdict(collections.Counter)
        lab = self.lab
        source, target = self.restart(lab)
        durations = []
        for _ in range(3):
            durations.append(migrate(source, target)["total-time"] / 1000)
            source, target = target, source
        for number, (victim, moment) in enumerate(self.plan(lab)):
            attempt = Attempt(lab, source, target, victim, moment,
                              statistics.median(durations))
            outcome = attempt.run()
            table[victim, moment][outcome] += 1
            print(f"{number:2} {victim:13} {moment:7} {outcome}", flush=True)
            source, target = self.replace(lab, source, target)
        migrate(source, target)
        target.check_alive()
        wait_until("the engines of dead VMMs have ended", lambda: all(
            host.vmm_alive() or not host.engine.alive() for host in lab.hosts))
        self.assertEqual(lab.violations(), [])
        print(f"{KILLS} migrations of about {statistics.median(durations):.2f} s:")
        self.print_table(table)


if __name__ == "__main__":
    lab_module.main("guest", "refvm", "sluiced")
