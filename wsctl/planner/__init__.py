"""What to do for each verb: values in, a decision out.

Responsible for turning an intent ("place alice") and a view of the cluster into steps, or into the error that explains
why not. One file per family of verbs: `place` (place, start), `life` (stop, restart, remove, undo, mark), `idle` (who
is idle), `migrate` (one user), `drain` (a node's users), `rebalance` (`balance`: what is even), `relocation` (what
moving many needs), `failover`, `standby`, `reconcile` (what is wrong with a user; `drift`: with the cluster; `adopt`:
what is taken over; `fence`: what failed nodes have left). Not responsible for: looking (`observe`), acting
(`executor`), or choosing a node (`scheduler`). Pure: no clock, no chance, no I/O; the same view gives the same steps in
every process.
"""
