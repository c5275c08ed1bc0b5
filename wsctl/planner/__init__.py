"""What to do for each verb: values in, a decision out.

Responsible for turning an intent ("place alice") and a view of the cluster into steps, or into the error that explains
why not. One file per family of verbs: `place` (place, start), `life` (stop, restart, remove, undo, mark), `idle` (who
is idle), `migrate` (one user), `drain` (a node's users), `rebalance` (`balance`: what is even), `relocation` (what
moving many needs), `failover`, `standby`, `reconcile` (what is wrong with a user; `drift`: with the cluster; `adopt`:
what is taken over; `fence`: what failed nodes have left). Not responsible for: looking (`observe`), acting
(`executor`), or choosing a node (`scheduler`). Pure: no clock, no chance, no I/O; the same view gives the same steps in
every process.
"""

from wsctl.planner.balance import By, loads_of
from wsctl.planner.decision import Decision
from wsctl.planner.difference import Difference, Kind
from wsctl.planner.drain import (
    Leftover,
    leftovers,
    may_drain,
    no_room,
    plan_drain,
    who_arrives,
    who_leaves,
    without_room,
)
from wsctl.planner.drift import differences, wrong_counts
from wsctl.planner.failover import plan_failover, users_of
from wsctl.planner.fence import plan_fence, users_to_fence
from wsctl.planner.idle import IdleEvidence, IdleLimits, IdleVerdict, Verdict, judge_idle, needs_look
from wsctl.planner.life import (
    plan_abandon,
    plan_keep,
    plan_mark,
    plan_remove,
    plan_restart,
    plan_stop,
    plan_undo,
)
from wsctl.planner.migrate import How, plan_migrate, plan_unmove
from wsctl.planner.place import plan_place, plan_start
from wsctl.planner.rebalance import Balance, Shift, plan_rebalance, spread
from wsctl.planner.reconcile import Rules, plan_repair
from wsctl.planner.relocation import Within, begins
from wsctl.planner.relocation import lines as relocation_lines
from wsctl.planner.standby import Errand, is_due, plan_standby, wants

__all__ = [
    "Balance",
    "By",
    "Decision",
    "Difference",
    "Errand",
    "How",
    "IdleEvidence",
    "IdleLimits",
    "IdleVerdict",
    "Kind",
    "Leftover",
    "Rules",
    "Shift",
    "Verdict",
    "Within",
    "begins",
    "differences",
    "is_due",
    "judge_idle",
    "leftovers",
    "loads_of",
    "may_drain",
    "needs_look",
    "no_room",
    "plan_abandon",
    "plan_drain",
    "plan_failover",
    "plan_fence",
    "plan_keep",
    "plan_mark",
    "plan_migrate",
    "plan_place",
    "plan_rebalance",
    "plan_remove",
    "plan_repair",
    "plan_restart",
    "plan_standby",
    "plan_start",
    "plan_stop",
    "plan_undo",
    "plan_unmove",
    "relocation_lines",
    "spread",
    "users_of",
    "users_to_fence",
    "wants",
    "who_arrives",
    "who_leaves",
    "without_room",
    "wrong_counts",
]
