"""The verbs: one small module per verb or noun. Each parses, calls the layer below, and presents; nothing else.

Responsible for: the list of commands, with the module and function of each and its one line of help, so that
`wsctl --help` and `wsctl VERB` import only what they show or run. Not responsible for: what a verb does.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """Where a command lives, and what `--help` says of it."""

    target: str
    help: str


COMMANDS: dict[str, Entry | dict[str, Entry]] = {
    "place": Entry("place:place", "Bring users to run: on their node, or on the best one for new users."),
    "ls": Entry("show:ls", "List placements."),
    "show": Entry("show:show", "Show everything about one user."),
    "start": Entry("life:start", "Start the workspace of placed users."),
    "stop": Entry("life:stop", "Stop workspaces; data and placement stay."),
    "restart": Entry("life:restart", "Stop and start workspaces, or make them anew with --recreate."),
    "rm": Entry("life:rm", "Remove workspaces; the files stay unless --purge-data."),
    "logs": Entry("inside:logs", "Print what a workspace has written."),
    "exec": Entry("inside:exec_", "Run a command in a running workspace."),
    "stats": Entry("inside:stats", "Show what running workspaces take at the moment."),
    "top": Entry("inside:top", "Show the processes of a running workspace."),
    "migrate-user": Entry("migrate:migrate_user", "Move a user with their files to another node."),
    "rebalance": Entry("rebalance:rebalance", "Even out the load of the nodes, by as few moves as it takes."),
    "touch": Entry("activity:touch", "Record that users are active now."),
    "reap-idle": Entry("reap:reap_idle", "Stop workspaces that nobody uses (the cron job)."),
    "activity": {
        "ingest": Entry("activity:ingest", "Record activity from the gateway's access log."),
        "flush": Entry("activity:flush", "Bring activity from Redis to the state database."),
        "ls": Entry("activity:ls", "List the access logs that are ingested."),
        "forget": Entry("activity:forget", "Forget an access log that isn't ingested any more."),
    },
    "reconcile": Entry("reconcile:reconcile", "Find what differs from the state, and repair what is safe."),
    "watch": Entry("watch:watch", "Watch over the nodes, and wake who is asked for (a service)."),
    "render-gateway": Entry("gateway:render_gateway", "Write the Nginx route map, or the snippet that goes with it."),
    "gateway": {
        "ls": Entry("edges:ls", "List gateways with the map that they have, and serve."),
        "trust": Entry("edges:trust", "Trust a gateway's SSH host key after comparing its fingerprint."),
    },
    "serve-routes": Entry("serve_routes:serve_routes", "Answer Nginx where users are and who may pass."),
    "audit": Entry("audit:audit", "Show what was done and by whom, export it, or check that it is whole."),
    "systemd": {
        "print": Entry("systemd:print_", "Print units or cron lines that run wsctl regularly."),
        "install": Entry("systemd:install", "Write the units."),
    },
    "backup": {
        "state": Entry("backup:backup_state", "Copy the cluster's state into one portable file."),
        "export": Entry("archive:backup_export", "Write all files of a user into one archive."),
        "init": Entry("backups:init", "Make the repository of backups."),
        "run": Entry("backups:run", "Take snapshots of users' files."),
        "ls": Entry("restoring:ls", "List snapshots, and who has none."),
        "verify": Entry("restoring:verify", "Prove that snapshots can be restored."),
        "prune": Entry("backups:prune", "Free the space of snapshots that aren't kept."),
    },
    "restore": {
        "state": Entry("backup:restore_state", "Write the state of a file into the state database."),
        "import": Entry("archive:restore_import", "Put the files of an archive in a user's place."),
        "USER": Entry("restoring:restore_user", "Bring a user's files back from a snapshot."),
    },
    "node": {
        "ls": Entry("node:ls", "List nodes with state, load and reachability."),
        "show": Entry("node:show", "Show one node and who lives there."),
        "check": Entry("node:check", "Check nodes: reach, engine, time, image, disk, sshd."),
        "trust": Entry("node:trust", "Trust a node's SSH host key after comparing its fingerprint."),
        "cordon": Entry("node:cordon", "Let no new users onto nodes; those there stay."),
        "fail": Entry("fail:fail", "Give a dead node up: its users go on elsewhere."),
        "uncordon": Entry("node:uncordon", "Let new users onto nodes again."),
        "drain": Entry("drain:drain", "Move everybody off a node, and let nobody new onto it."),
    },
    "standby": {
        "sync": Entry("standby:sync", "Bring standby copies up to date (the timer's job)."),
        "ls": Entry("standby:ls", "List standby copies with their age."),
        "settle": Entry("standby:settle", "Say that files kept on a failed node aren't missed any more."),
    },
    "lease": {
        "ls": Entry("lease:ls", "List who is acting on what."),
        "break": Entry("lease:break_", "Take a lease away from its holder."),
    },
    "db": {
        "version": Entry("db:version", "Show the state database's schema version."),
        "upgrade": Entry("db:upgrade", "Bring the state database's schema up to date."),
    },
    "inventory": {
        "check": Entry("inventory:check", "Check the inventory; all problems at once."),
        "show": Entry("inventory:show", "Show the inventory with every default filled in."),
        "schema": Entry("inventory:schema", "Print the inventory's JSON Schema, for editors."),
    },
    "metrics": Entry("metrics:metrics", "Print figures of the cluster for Prometheus."),
    "doctor": Entry("doctor:doctor", "Check this side: inventory, database, coordination, keys, disk."),
    "init": Entry("init:init", "Write a starting inventory."),
}

GROUP_HELP = {
    "activity": "Who is active: the gateway's access log, and what is in Redis.",
    "systemd": "Running the reaper, reconcile, backup and metrics regularly, and watch all the time.",
    "backup": "Copies: of the state, of a user's files.",
    "restore": "Bring back what `backup` copied.",
    "node": "Nodes: list, check, trust, cordon, drain, give up.",
    "gateway": "Gateways: list, trust.",
    "standby": "Copies of users' files on other nodes, for failover.",
    "lease": "Leases: who is acting on what.",
    "db": "The state database's schema.",
    "inventory": "The inventory file.",
}
