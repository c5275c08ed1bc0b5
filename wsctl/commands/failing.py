"""What the watch loop does about a node that it found dead, or back: the same as an operator would type.

Responsible for: the policy of the inventory (also for those who type it), a fresh look at everything for each event
(the loop lives for weeks, a command's connections for its run), and one line about what was done. Not responsible for:
the verdict (the watch loop), nor for the work (`wsctl.failover`, `wsctl.fencing`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from wsctl.commands.applying import AsItGoes, auto_apply
from wsctl.context import App
from wsctl.errors import LeaseHeld, NoCopy, PartialFailure
from wsctl.standbys import DataLoss, FailoverPolicy, FailoverRules

PARALLEL = 16
"""Users acted on at once; how many start on a node at once is another limit."""

WAIT_S = 2.0
"""One user on whom somebody acts doesn't hold up the others for longer; they are tried again."""

VERB = "watch"


def on_down(app: App, node: str, reason: str) -> str:
    """A node is dead: with `failover.policy: automatic` its users go on elsewhere. What was done, in one line.

    Raises `PartialFailure` if some users couldn't, so that it is tried again; who has no copy stays down, and that is
    no failure. Safe to call again, and from several control hosts.
    """
    from wsctl.failover import Failover, fail_over

    if app.inventory.failover.policy is not FailoverPolicy.AUTOMATIC:
        return f"failover.policy is manual: wsctl node fail {node}"
    with _fresh(app) as own:
        world = own.world(parallel=PARALLEL, wait_s=WAIT_S)
        rules = rules_of(own, [node], world.clock.now())
        with auto_apply(own, VERB, dry_run=False):
            live = AsItGoes(own, VERB)
            asked = Failover(
                node, rules, own.inventory.strategy, reason, verb=VERB, report=lambda outcome: live.changed()
            )
            outcomes = fail_over(world, asked)
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    down = sum(isinstance(error, NoCopy) for error in errors)
    done = Counter(outcome.action for outcome in outcomes if outcome.error is None)["failed-over"]
    said = f"{done} users of {node} went on elsewhere, {down} stay down for want of a copy"
    if len(errors) > down:
        first = next(error.message for error in errors if not isinstance(error, NoCopy))
        raise PartialFailure(
            f"{said}, {len(errors) - down} failed: {first}", hint=f"wsctl node fail {node} --yes   # again"
        )
    return said


def on_return(app: App, node: str) -> str:
    """A node that is marked down answers: what is stale there is put aside, then it is cordoned. What was done; nothing
    while it is being given up, or somebody else lets it in.

    Raises `NodeUnreachable`, or `PartialFailure` if something stale is left: then it stays marked down.
    """
    from wsctl.fencing import Readmission, readmit

    with _fresh(app) as own:
        try:
            done = readmit(own.world(parallel=PARALLEL, wait_s=WAIT_S), Readmission(node, verb=VERB))
        except LeaseHeld:
            return ""
    users = sum(outcome.action == "fenced" for outcome in done.users)
    said = f"{node} is back: stale copies of {users} users put aside"
    return f"{said}, cordoned; wsctl node uncordon {node}" if done.mark.action == "cordoned" else said


def rules_of(app: App, failed: Collection[str], now: datetime, *, accept_loss: bool = False) -> FailoverRules:
    """How far a failover of these nodes may go, as the inventory says, or further. The repository of backups is asked
    only if what is in it may be used: where the loss of what is newer is accepted."""
    from wsctl.commands.backups import newest_backups

    rules = app.inventory.failover.rules(now, accept_loss=accept_loss)
    if not failed or rules.loss is not DataLoss.ACCEPT:
        return rules
    return replace(rules, backups=newest_backups(app, failed))


@contextmanager
def _fresh(app: App) -> Iterator[App]:
    """The same command, with connections of its own."""
    made = App(app.out, app.inventory_file, app.wiring)
    try:
        yield made
    finally:
        made.close()
