"""The table of keys: every key of the inventory with its form, its default and what it is for.

Responsible for: the one description that validation, JSON Schema, the reference page and the completeness tests are
all made from. Not responsible for: how text becomes a value (`scalars`, `names`, `urls`) nor for rules between keys
(`checks`). To add a key: add a line here, the field it fills (`settings` or `model`) and its place in `build` and
`show`; the tests then ask for it in the example.
"""

from __future__ import annotations

from wsctl.inventory import names
from wsctl.inventory.backups import BACKUP
from wsctl.inventory.failing import FAILOVER
from wsctl.inventory.kinds import Key, ListOf, MapOf, Section, Values, section
from wsctl.inventory.moves import MIGRATE
from wsctl.inventory.reaping import REAP
from wsctl.inventory.scalars import PORTS, SWITCH, choice, decimal, duration, number, size
from wsctl.inventory.urls import COORDINATION, STATE
from wsctl.inventory.watching import WATCH
from wsctl.model import PullPolicy, ReadyProbe, Strategy
from wsctl.routes import MAP_FILE, Mode

VERSION = number(1, 1, "1")._replace(expected="1, the version that this wsctl knows", schema={"const": 1})
_PORT = number(1, 65535, "a port")
_WORKSPACE_MEMORY = size(6 * 1024**2)  # less is refused by Docker


def _probe(values: Values) -> ReadyProbe:
    """`{http: /, timeout: 30s}` or `{tcp: true}`."""
    tcp = values.get("tcp")
    if tcp is False:
        raise ValueError("'tcp: false' checks nothing, expected 'ready: null' to switch the check off")
    if tcp is None and "http" not in values:
        raise ValueError("neither http nor tcp, expected one of them, or null")
    if tcp and "http" in values:
        raise ValueError("both http and tcp, expected one of them (http includes tcp)")
    return ReadyProbe(http_path=values.get("http"), timeout_s=values.get("timeout", 30.0))


READY = section(
    _probe,
    http=Key(names.URI_PATH, "Ready when a GET of this path on the workspace's port answers with a status below 500."),
    tcp=Key(SWITCH, "Instead of `http`: ready when the port accepts a connection."),
    timeout=Key(duration("30s"), "How long a started container may take; then `place` reports it as failed.", "30s"),
)

LABELS = MapOf(names.LABEL_KEY, names.LABEL, "NAME")

SSH = section(
    user=Key(names.LOGIN, "The user to log in as; needs access to the Docker socket.", null="as ssh decides"),
    port=Key(_PORT, "The port of sshd.", null="as ssh decides, usually 22"),
    identity_file=Key(names.FILE, "A private key to log in with.", null="the agent's and ssh's usual keys"),
    known_hosts=Key(names.FILE, "The file of known host keys. Unknown and changed keys are refused.", null="ssh's own"),
    proxy_jump=Key(names.JUMP, "Hosts to go through, as ssh's ProxyJump.", null="as ssh decides"),
    config=Key(SWITCH, "Whether `~/.ssh/config` fills in what isn't said here.", "true"),
)

CAPACITY = section(
    workspaces=Key(number(1, 100_000, "a number of workspaces"), "Most users on the node, stopped ones too.", "100"),
    memory=Key(size(6 * 1024**2), "Memory for all workspaces that aren't stopped.", "64g"),
    cpus=Key(decimal(10, 4_096_000, "a number of cores"), "Cores for those workspaces.", "32"),
)

_NODE_KEYS = {
    "ssh": Key(SSH, "How to reach the node by SSH."),
    "docker_socket": Key(names.SOCKET, "The Docker Engine's socket on the node.", "/var/run/docker.sock"),
    "host_root": Key(names.HOST_ROOT, "Where users' files are: `<host_root>/<user>` on the node.", "/srv/workspaces"),
    "storage": Key(
        choice(("local", "shared")), "`shared`: every node sees the same files there; moving copies nothing.", "local"
    ),
    "bind_address": Key(names.BIND, "Where workspaces' ports are published.", null="the node's address"),
    "ports": Key(PORTS, "The ports that workspaces are published on. Keep them out of the firewall.", "20000-29999"),
    "capacity": Key(CAPACITY, "What the node offers."),
    "weight": Key(
        decimal(1, 1_000_000_000, "a weight"), "Its share of users under the strategies `weighted` and `hash`.", "1"
    ),
    "max_concurrent_starts": Key(
        number(1, 1000, "a number of starts"),
        "Most workspaces that start on the node at once, over all control hosts; the others wait.",
        "8",
        null="no limit",
    ),
    "labels": Key(LABELS, "Marks that workspaces can ask for; texts as written.", "{}"),
}
DEFAULTS = Section(_NODE_KEYS)
NODE = Section(
    {
        "address": Key(
            names.ADDRESS,
            "`local` (this machine, no SSH), an IP address, a host name or an alias of `~/.ssh/config`.",
            required=True,
        ),
        **_NODE_KEYS,
    }
)

_WORKSPACE_KEYS = {
    "command": Key(ListOf(names.ANY_TEXT, "a list of texts"), "The container's command.", null="the image's own"),
    "container_port": Key(_PORT, "The port that the workspace listens on inside its container.", "8080"),
    "mount": Key(names.MOUNT, "Where the user's files appear inside the container.", "/workspace"),
    "env": Key(
        MapOf(names.ENV_NAME, names.ANY_TEXT, "VARIABLE"), "Environment variables; texts as written, no secrets.", "{}"
    ),
    "memory": Key(_WORKSPACE_MEMORY, "Memory limit of one workspace.", "2g"),
    "cpus": Key(decimal(10, 4_096_000, "a number of cores"), "CPU limit of one workspace.", "1"),
    "pids": Key(number(16, 4_194_304, "a number of processes"), "Limit of processes and threads.", "512"),
    "idle_after": Key(duration("30m"), "Stop a workspace after this long without activity.", "30m", null="never"),
    "max_age": Key(duration("12h"), "Stop a workspace so long after its start, whatever happens in it.", null="never"),
    "busy_cpus": Key(
        decimal(1, 4_096_000, "a number of cores"),
        "Cores, on average between two looks, that count as activity.",
        "0.2",
        null="CPU doesn't count",
    ),
    "busy_bytes": Key(
        size(1),
        "Bytes sent between two looks that count as activity.",
        "256",
        null="traffic doesn't count",
    ),
    "busy_connections": Key(
        choice(("auto", "always", "never")),
        "Whether an open connection to its port keeps it: where the node's shell can tell, `always` (then one whose "
        "connections can't be seen isn't stopped), or `never`.",
        "auto",
    ),
    "ready": Key(READY, "When a started container counts as running.", "{http: /, timeout: 30s}", null="at once"),
    "standby": Key(
        number(0, 1, "a number of copies"),
        "Copies of the files on another node, kept up to date for failover; see docs/concepts/failover.md.",
        "0",
    ),
    "pull": Key(choice(PullPolicy), "Whether nodes may pull a missing image.", "missing"),
    "labels": Key(LABELS, "Labels that a node must have to get these workspaces.", "{}"),
}
_IMAGE = "The image of the container."
CLASS = Section({"image": Key(names.IMAGE, _IMAGE), **_WORKSPACE_KEYS})
WORKSPACE = Section(
    {
        "image": Key(names.IMAGE, _IMAGE, required=True),
        **_WORKSPACE_KEYS,
        "classes": Key(
            MapOf(names.NODE_NAME, CLASS, "CLASS", True, {"default": "the name of `workspace` itself"}),
            "Named variants. Each takes any key of `workspace` and inherits the others.",
            "{}",
        ),
    }
)

GATEWAY_HOST = section(
    address=Key(
        names.ADDRESS,
        "`local` (this machine, no SSH), an IP address, a host name or an alias of `~/.ssh/config`.",
        required=True,
    ),
    ssh=Key(SSH, "How to reach it by SSH; what isn't said is as in `defaults.ssh`."),
    map_file=Key(
        names.ABSOLUTE,
        "Where the map goes; where Nginx includes it, before other maps.",
        MAP_FILE,
    ),
    test=Key(
        ListOf(names.ANY_TEXT, "a list of words"), "The command that has Nginx read its configuration.", "[nginx, -t]"
    ),
    reload=Key(
        ListOf(names.ANY_TEXT, "a list of words"), "The command that makes Nginx load it.", "[nginx, -s, reload]"
    ),
    status_url=Key(
        names.STATUS_URL,
        "Where a worker tells which map it has (see the snippet). Always asked on the gateway's own loopback.",
        null="`http://127.0.0.1<path_prefix>.wsctl-status`",
    ),
)

GATEWAY = section(
    mode=Key(choice(Mode), "How a request finds its user's node; see docs/guides/routing.md.", "map"),
    host_suffix=Key(
        names.SUFFIX, "With `mode: host`: users are at `<user><host_suffix>`, such as `.ws.example.org`.", null="none"
    ),
    node_domain=Key(
        names.DOMAIN,
        "With `mode: redirect`: the host name of a node's own Nginx, such as `{node}.ws.example.org`.",
        null="none",
    ),
    endpoint=Key(
        names.ENDPOINT, "With `mode: auth_request`: where Nginx finds `wsctl serve-routes`, or yours.", "127.0.0.1:8095"
    ),
    path_prefix=Key(names.PREFIX, "Users are at `<path_prefix><user>/`.", "/ws/"),
    strip_prefix=Key(SWITCH, "Whether workspaces see `/` instead of `<path_prefix><user>/`.", "true"),
    auth_request=Key(names.LOCATION, "Location that Nginx asks before each request (`auth_request`).", null="no check"),
    wake=Key(
        names.LOCATION, "Location that gets the requests of users whose workspace is stopped.", null="a page says so"
    ),
    read_timeout=Key(duration("1h"), "How long a connection may be silent, WebSockets too.", "1h"),
    connect_timeout=Key(duration("5s"), "How long a node may take to accept a connection.", "5s"),
    max_body_size=Key(size(0), "Largest upload; 0 for no limit.", "1g"),
    auto_apply=Key(
        SWITCH, "Whether `place`, `start`, `stop`, `restart`, `rm` and `reap-idle` apply the map at their end.", "false"
    ),
    hosts=Key(
        MapOf(names.NODE_NAME, GATEWAY_HOST, "GATEWAY", True),
        "The machines that `render-gateway --apply` puts the map live on, by a name of their own.",
        "{}",
    ),
)

ROOT = section(
    version=Key(VERSION, "The version of this format: 1.", required=True),
    cluster=Key(names.CLUSTER, "Names the cluster, in a label on every container; never change it.", required=True),
    state=Key(STATE, "The database of placements. Needs no server with SQLite.", "sqlite:///wsctl.db"),
    state_password_file=Key(
        names.FILE, "A file with the database's password. `WSCTL_STATE_PASSWORD` wins over it.", null="no password"
    ),
    coordination=Key(COORDINATION, "Redis for leases, starts and activity.", null="in the state database"),
    coordination_password_file=Key(
        names.FILE, "A file with Redis' password. `WSCTL_REDIS_PASSWORD` wins over it.", null="no password"
    ),
    defaults=Key(DEFAULTS, "Any key of a node but its address, for all nodes."),
    workspace=Key(WORKSPACE, "The container every user gets.", required=True),
    scheduler=Key(
        section(strategy=Key(choice(Strategy), "How a node is chosen among those that fit.", "spread")), "Placement."
    ),
    failover=Key(FAILOVER, "What happens when a node dies; standby copies."),
    reap=Key(REAP, "What `reap-idle` does besides the limits of classes."),
    watch=Key(WATCH, "What `wsctl watch` does; and how long a node is set aside, also without it."),
    migrate=Key(MIGRATE, "How users are moved, unless the command says otherwise."),
    requests=Key(
        section(keep=Key(duration("7d"), "How long a request id is remembered, with its first result.", "7d")),
        "Request ids, which make a repeated command harmless.",
    ),
    backup=Key(BACKUP, "Backups of users' files; see docs/guides/backup.md."),
    gateway=Key(GATEWAY, "How Nginx routes to the workspaces."),
    nodes=Key(
        MapOf(names.NODE_NAME, NODE, "NODE", True),
        "The machines. Each takes any key of `defaults`; `ssh`, `capacity` and `labels` are merged key by key.",
        required=True,
    ),
)
