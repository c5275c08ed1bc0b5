"""Loading an inventory: defaults, layers, origins, warnings, and the shape of a whole error."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsctl.errors import InventoryError, NotFound
from wsctl.inventory import GatewaySettings, Inventory, StateSettings, effective, load, parse, render_effective_yaml
from wsctl.model import (
    Capacity,
    Node,
    PortRange,
    PullPolicy,
    ReadyProbe,
    Resources,
    SshSettings,
    Strategy,
    WorkspaceSpec,
)

ROOT = Path(__file__).parents[2]
HERE = Path("/cluster/inventory.yaml")
HEAD = "version: 1\ncluster: studio\nworkspace: {image: a/b:1}\n"


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(InventoryError) as caught:
        parse(text, Path("i.yaml"))
    assert caught.value.exit_code == 3
    return caught.value.problems


def read(text: str) -> Inventory:
    return parse(text, HERE)


def test_the_shortest_inventory_gets_every_default() -> None:
    inventory = read(HEAD + "nodes:\n  here: {address: local}\n")
    assert inventory == Inventory(
        path=HERE,
        cluster="studio",
        state=StateSettings("sqlite:////cluster/wsctl.db"),
        coordination=None,
        coordination_password_file=None,
        classes={
            "default": WorkspaceSpec(
                image="a/b:1",
                resources=Resources(2 * 1024**3, 1000, 512),
                container_port=8080,
                mount="/workspace",
                command=None,
                env={},
                idle_after_s=1800.0,
                ready=ReadyProbe("/", 30.0),
                pull=PullPolicy.MISSING,
                labels={},
                name="default",
            )
        },
        strategy=Strategy.SPREAD,
        requests_keep_s=604_800.0,
        gateway=GatewaySettings("/ws/", True, None, 3600.0, 5.0, 1024**3),
        nodes={
            "here": Node(
                name="here",
                address="local",
                ports=PortRange(20000, 29999),
                capacity=Capacity(100, 64 * 1024**3, 32_000),
                ssh=SshSettings(),
                docker_socket="/var/run/docker.sock",
                host_root="/srv/workspaces",
                storage="local",
                bind_address=None,
                weight=1.0,
                max_concurrent_starts=8,
                labels={},
            )
        },
    )
    assert inventory.path == HERE
    assert inventory.workspace is inventory.classes["default"]


def test_written_defaults_are_what_absent_keys_mean() -> None:
    """The table's default texts, as the reference page shows them, against what is really taken."""
    from wsctl.inventory.docs import key_paths
    from wsctl.inventory.table import ROOT as TABLE

    lines = ["version: 1", "cluster: studio"]
    for name, key in TABLE.keys.items():
        if key.default is not None:
            lines.append(f"{name}: {key.default}")
    for section in ("defaults", "workspace", "gateway", "scheduler", "requests"):
        lines.append(f"{section}:")
        if section == "workspace":
            lines.append("  image: a/b:1")
        for name, key in TABLE.keys[section].kind.keys.items():  # type: ignore[union-attr]
            inner = getattr(key.kind, "keys", None)
            if key.default is not None:
                lines.append(f"  {name}: {key.default}")
            elif inner:
                lines += [f"  {name}:"] + [f"    {n}: {k.default}" for n, k in inner.items() if k.default is not None]
    written = read("\n".join(lines) + "\nnodes: {here: {address: local}}\n")
    assert written == read(HEAD + "nodes: {here: {address: local}}\n")
    assert len(list(key_paths())) > 60


def test_a_node_overrides_the_defaults_key_by_key_where_that_makes_sense() -> None:
    inventory = read(
        HEAD
        + """
defaults:
  ssh: {user: wsctl, port: 2222, proxy_jump: bastion}
  capacity: {workspaces: 10, memory: 8g, cpus: 4}
  labels: {zone: a, disk: hdd}
  bind_address: 10.9.9.9
  weight: 2
  max_concurrent_starts: 20
nodes:
  n2:
    address: 10.0.0.2
    ssh: {port: 22, proxy_jump: null}
    capacity: {memory: 16g}
    labels: {disk: ssd}
    bind_address: null
    weight: 0.5
    max_concurrent_starts: null
  n1: {address: 10.0.0.1}
"""
    )
    assert list(inventory.nodes) == ["n1", "n2"]
    one, two = inventory.nodes["n1"], inventory.nodes["n2"]
    assert (one.ssh.user, one.ssh.port, one.ssh.proxy_jump) == ("wsctl", 2222, "bastion")
    assert (two.ssh.user, two.ssh.port, two.ssh.proxy_jump) == ("wsctl", 22, None)
    assert one.capacity == Capacity(10, 8 * 1024**3, 4000)
    assert two.capacity == Capacity(10, 16 * 1024**3, 4000)
    assert (one.labels, two.labels) == ({"zone": "a", "disk": "hdd"}, {"zone": "a", "disk": "ssd"})
    assert (one.bind_address, two.bind_address) == ("10.9.9.9", None)
    assert (one.weight, two.weight) == (2.0, 0.5)
    assert (one.max_concurrent_starts, two.max_concurrent_starts) == (20, None)


def test_a_class_inherits_from_the_workspace() -> None:
    inventory = read(
        """
version: 1
cluster: studio
workspace:
  image: a/b:1
  env: {A: 1, B: x}
  labels: {disk: ssd}
  ready: {http: /up, timeout: 5s}
  command: [serve]
  classes:
    gpu: {memory: 16g, env: {B: y}, labels: {gpu: yes}, ready: {tcp: true}, command: null, idle_after: null}
    same:
nodes: {here: {address: local, labels: {disk: ssd, gpu: yes}}}
"""
    )
    gpu = inventory.workspace_class("gpu")
    assert gpu.name == "gpu"
    assert gpu.image == "a/b:1"
    assert gpu.resources == Resources(16 * 1024**3, 1000, 512)
    assert gpu.env == {"A": "1", "B": "y"}
    assert gpu.labels == {"disk": "ssd", "gpu": "yes"}
    assert gpu.ready == ReadyProbe(None, 30.0)
    assert gpu.command is None
    assert gpu.idle_after_s is None
    assert inventory.workspace.ready == ReadyProbe("/up", 5.0)
    assert inventory.classes["same"].digest() == inventory.workspace.digest()


def test_unknown_names_get_a_suggestion() -> None:
    inventory = read(HEAD + "nodes: {here: {address: local}}")
    with pytest.raises(NotFound, match="no node 'hree'") as caught:
        inventory.node("hree")
    assert caught.value.hint == "did you mean 'here'?"
    with pytest.raises(NotFound, match="no workspace class 'x'") as caught:
        inventory.workspace_class("x")
    assert caught.value.hint == "known: default"
    assert inventory.node("here").is_local


def test_files_are_relative_to_the_inventory_or_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/op")
    file = tmp_path / "a b%c" / "inventory.yaml"
    file.parent.mkdir()
    file.write_text(
        HEAD
        + "state_password_file: secrets/db\ncoordination: rediss://h:1?ca=ca.pem\ncoordination_password_file: /etc/r\n"
        + "nodes: {n: {address: h, ssh: {identity_file: ~/.ssh/k, known_hosts: ../hosts}}}"
    )
    inventory = load(file)
    folder = str(file.parent)
    assert inventory.state.url == "sqlite:///" + folder.replace(" ", "%20").replace("b%c", "b%25c") + "/wsctl.db"
    assert inventory.state.password_file == f"{folder}/secrets/db"
    assert inventory.coordination == "rediss://h:1?ca=" + folder.replace("%", "%25").replace(" ", "%20") + "/ca.pem"
    assert inventory.coordination_password_file == "/etc/r"
    assert inventory.nodes["n"].ssh.identity_file == "/home/op/.ssh/k"
    assert inventory.nodes["n"].ssh.known_hosts == f"{tmp_path}/hosts"
    monkeypatch.chdir(file.parent)
    assert load(Path("inventory.yaml")) == inventory


def test_origins_name_the_line_of_each_node() -> None:
    inventory = read(HEAD + "nodes:\n  b: {address: h1}\n  a:\n    address: h2\n")
    assert inventory.origins == {"a": "/cluster/inventory.yaml:6:3", "b": "/cluster/inventory.yaml:5:3"}


SAMPLE = """\
version: 1
cluster: Studio
state: mysql://wsctl:s3cr/et@db/x
memory: 1
defaults:
  ports: 012
  capacity: {memory: 64, memory: 3g}
  user: bob
workspace:
  image: a/b:1
  memry: 2g
  idle_after: 22:22
nodes:
  n1: {address: 10.0.0.1:22, capacity: {memory: 64 gb, cpus: .inf}}
  N2: {}
"""


def test_all_problems_come_at_once_with_their_places() -> None:
    with pytest.raises(InventoryError) as caught:
        parse(SAMPLE, Path("i.yaml"))
    error = caught.value
    name = "expected a name of lower-case letters, digits and '-', at most 64, not beginning or ending with '-'"
    address = "expected local, an IP address, a host name or an alias of ~/.ssh/config"
    assert error.message == "14 problems in i.yaml"
    assert error.hint == "wsctl inventory check"
    assert error.details["problems"] == list(error.problems)
    assert error.problems == (
        f"i.yaml:2:10: cluster: 'Studio' has upper-case letters (write studio), {name}",
        "i.yaml:3:8: state: the URL has a password in it, which this file mustn't hold (use state_password_file or"
        " WSCTL_STATE_PASSWORD), expected sqlite:///file or mysql://user@host:3306/database (h1:3306,h2:3306"
        " for several hosts)",
        "i.yaml:4:1: memory: unknown key, did you mean 'workspace.memory'?",
        "i.yaml:6:10: defaults.ports: '012' has a leading zero and may be read as octal (write 12), expected a range of"
        " ports such as 20000-29999, within 1024-65535",
        "i.yaml:7:22: defaults.capacity.memory: '64' means bytes (write 64m or 64g), expected a size such as 512m, 1.5g"
        " or bytes, at least 6m",
        "i.yaml:7:26: defaults.capacity.memory: duplicate key, first set in line 7",
        "i.yaml:8:3: defaults.user: unknown key, did you mean 'ssh.user'?",
        "i.yaml:11:3: workspace.memry: unknown key, did you mean 'memory'?",
        "i.yaml:12:15: workspace.idle_after: '22:22' is a time of day or a base-60 number (write 22m or 1h30m),"
        " expected a duration such as 30m, 500ms or 1h30m",
        f"i.yaml:14:17: nodes.n1.address: '10.0.0.1:22' has a port (write the port as ssh.port), {address}",
        "i.yaml:14:49: nodes.n1.capacity.memory: '64 gb' has a space (write it without), expected a size such as 512m,"
        " 1.5g or bytes, at least 6m",
        "i.yaml:14:62: nodes.n1.capacity.cpus: '.inf', expected a number of cores, 0.01 to 4096 with at most three"
        " decimals",
        f"i.yaml:15:3: nodes.N2: 'N2' has upper-case letters (write n2), {name}",
        f"i.yaml:15:7: nodes.N2.address: missing, {address}",
    )


def test_one_problem_is_one() -> None:
    with pytest.raises(InventoryError, match=r"^1 problem in i\.yaml$"):
        parse(HEAD + "nodes: {a: {}}", Path("i.yaml"))


def test_a_problem_in_a_shared_block_is_told_once() -> None:
    text = HEAD + "x-a: &a {address: h, wieght: 1}\nnodes: {a: *a, b: *a, c: {<<: *a, address: i}}"
    assert problems_of(text) == ("i.yaml:4:22: nodes.a.wieght: unknown key, did you mean 'weight'?",)


@pytest.mark.parametrize("nodes", ["nodes: {}", "nodes:", "nodes: null", "nodes: {x-a: {address: h}}"])
def test_an_inventory_without_nodes_is_refused(nodes: str) -> None:
    assert problems_of(HEAD + nodes) == (
        "i.yaml:4:1: nodes: empty, expected at least one node such as `here: {address: local}`",
    )


def test_missing_keys_are_named() -> None:
    assert problems_of("x-nothing: 1\n") == (
        "i.yaml:1:1: version: missing, expected 1, the version that this wsctl knows",
        "i.yaml:1:1: cluster: missing, expected a name of lower-case letters, digits and '-', at most 64, not beginning"
        " or ending with '-'",
        "i.yaml:1:1: workspace: missing, expected a mapping of keys to values",
        "i.yaml:1:1: nodes: missing, expected a mapping of keys to values",
    )


@pytest.mark.parametrize(
    ("version", "complaint"),
    [
        ("2", "'2' is of another wsctl, expected 1: this wsctl knows version 1"),
        ("10", "'10' is of another wsctl, expected 1: this wsctl knows version 1"),
        ("0", "'0' is out of range, expected 1, the version that this wsctl knows"),
        ("1.0", "'1.0' is not a whole number, expected 1, the version that this wsctl knows"),
        ("01", "'01' has a leading zero and may be read as octal (write 1), expected 1, the version that this wsctl"
         " knows"),
        ("", "no value, expected 1, the version that this wsctl knows"),
        ("[1]", "a list, expected 1, the version that this wsctl knows"),
    ],
)  # fmt: skip
def test_the_version(version: str, complaint: str) -> None:
    rest = "cluster: a\nworkspace: {image: a}\nnodes: {a: {address: h}}\n"
    column = 9 if not version else 10
    assert problems_of(f"version: {version}\n{rest}") == (f"i.yaml:1:{column}: version: {complaint}",)


def test_a_newer_version_is_not_judged_by_this_ones_keys() -> None:
    assert len(problems_of("version: 2\nfleet: {}\n")) == 1


def test_the_same_machine_twice_is_refused() -> None:
    same = "the same machine as node 'a' (address, socket and ports), expected each machine once"
    assert problems_of(HEAD + "nodes:\n  a: {address: Host}\n  b: {address: host, ports: 25000-26000}\n") == (
        f"i.yaml:6:3: nodes.b: {same}",
    )
    assert problems_of(HEAD + "nodes:\n  b: {address: 'fd00:0::1'}\n  a: {address: 'fd00::1', ssh: {port: 22}}\n") == (
        f"i.yaml:5:3: nodes.b: {same}",
    )
    assert problems_of(HEAD + "nodes: {a: {address: local}, b: {address: local}}") == (f"i.yaml:4:30: nodes.b: {same}",)


@pytest.mark.parametrize(
    "difference",
    [
        "ports: 30000-30009",
        "docker_socket: /run/b.sock",
        "ssh: {port: 2222}",
        "ssh: {proxy_jump: bastion}",
        "address: i",
    ],
)
def test_two_engines_behind_one_address_are_fine(difference: str) -> None:
    text = HEAD + "x-h: &h {address: h, capacity: {workspaces: 5}}\nnodes: {a: *h, b: {<<: *h, " + difference + "}}"
    assert list(read(text).nodes) == ["a", "b"]


class TestWarnings:
    """Allowed, but probably not meant."""

    CAPACITY = "defaults: {capacity: {memory: 64g, cpus: 32}}\n"

    def warnings(self, text: str) -> tuple[str, ...]:
        return parse(text, Path("i.yaml")).warnings

    def test_none(self) -> None:
        assert self.warnings(HEAD + self.CAPACITY + "nodes: {a: {address: h}}") == ()

    def test_assumed_capacity(self) -> None:
        nodes = ", ".join(f"n{i}: {{address: h{i}}}" for i in range(5))
        assert self.warnings(HEAD + f"nodes: {{{nodes}}}") == (
            "capacity.memory isn't said for n0, n1, n2 and 2 more; 64g is assumed, whatever the machine has",
            "capacity.cpus isn't said for n0, n1, n2 and 2 more; 32 is assumed, whatever the machine has",
        )

    def test_ports_run_out_first(self) -> None:
        assert self.warnings(HEAD + self.CAPACITY + "nodes: {a: {address: h, ports: 20000-20098}}") == (
            "ports: a can have more workspaces than ports; the ports will run out first",
        )

    def test_a_node_that_begins_with_x(self) -> None:
        text = HEAD + self.CAPACITY + "nodes: {a: {address: h}, x-ray: {address: i}}"
        assert self.warnings(text) == ("i.yaml:5:26: nodes.x-ray is not a node: names that begin with x- are ignored",)

    def test_a_class_that_fits_nowhere(self) -> None:
        text = """
version: 1
cluster: a
workspace: {image: a, classes: {big: {memory: 65g}, gpu: {labels: {gpu: yes}}}}
defaults: {capacity: {memory: 64g, cpus: 32}}
nodes: {a: {address: h, labels: {gpu: no}}}
"""
        assert self.warnings(text) == (
            "workspace class 'big': no node has the memory and cores for even one",
            "workspace class 'gpu': no node has the labels it asks for",
        )

    def test_password_files_open_to_others(self, tmp_path: Path) -> None:
        secret = tmp_path / "db"
        secret.write_text("x")
        secret.chmod(0o640)
        text = HEAD + self.CAPACITY + f"state_password_file: {secret}\nnodes: {{a: {{address: h}}}}"
        assert self.warnings(text) == (
            f"state_password_file: {secret} is open to other users (mode 0640); run `chmod 600 {secret}`",
        )
        secret.chmod(0o600)
        assert self.warnings(text) == ()
        secret.unlink()
        assert self.warnings(text) == ()


class TestExample:
    """The example that ships with the program."""

    FILE = ROOT / "inventory.example.yaml"

    def test_it_loads_without_a_warning(self) -> None:
        inventory = load(self.FILE)
        assert inventory.warnings == ()
        assert sorted(inventory.nodes) == ["big", "here", "n1", "n2"]
        assert inventory.classes["gpu"].labels == {"gpu": "yes"}

    def test_what_show_prints_loads_to_the_same(self) -> None:
        inventory = load(self.FILE)
        assert parse(render_effective_yaml(inventory), Path("/elsewhere/i.yaml")) == inventory

    def test_effective_says_every_key(self) -> None:
        from wsctl.inventory.docs import key_paths

        shown = effective(load(self.FILE))
        absent = {path for path in key_paths() if not self.has(shown, path.split("."))}
        # A probe is one thing or the other, and `defaults` have gone into the nodes.
        assert {path for path in absent if not path.startswith("defaults")} == {
            "workspace.ready.tcp",
            "workspace.classes.CLASS.ready.http",
        }

    def has(self, data: object, path: list[str]) -> bool:
        for step in path:
            if not isinstance(data, dict):
                return False
            if step.isupper():
                data = next(iter(data.values()))
            elif step in data:
                data = data[step]
            else:
                return False
        return True


def many_nodes(count: int) -> str:
    head = HEAD + "defaults: {capacity: {workspaces: 80, memory: 128g, cpus: 48}, ssh: {user: wsctl}}\nnodes:\n"
    return head + "".join(
        f"  n{i}:\n    address: 10.{i // 62500}.{i // 250 % 250}.{i % 250 + 1}\n"
        f"    labels: {{zone: z{i % 3}, disk: ssd}}\n"
        f"    capacity: {{memory: {64 + i % 4}g}}\n    ssh: {{port: {2200 + i % 9}}}\n    weight: {1 + i % 5}\n"
        for i in range(count)
    )


def test_500_nodes_load_in_a_fifth_of_a_second(tmp_path: Path) -> None:
    file = tmp_path / "inventory.yaml"
    file.write_text(many_nodes(500))
    took = []
    for _ in range(5):
        start = time.perf_counter()
        inventory = load(file)
        took.append(time.perf_counter() - start)
    assert len(inventory.nodes) == 500
    assert min(took) < 0.2


def test_500_broken_nodes_are_as_quick(tmp_path: Path) -> None:
    text = many_nodes(500).replace("weight:", "wieght:").replace("disk:", "'':")
    start = time.perf_counter()
    assert len(problems_of(text)) == 1000
    assert time.perf_counter() - start < 2


def test_importing_the_package_imports_no_yaml_and_nothing_heavy() -> None:
    code = (
        "import sys, wsctl.inventory; heavy = {'yaml', 'pydantic', 'fractions', 'decimal', 'difflib', 'rich', 'typer'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "[]"


def test_what_a_terminal_would_obey_is_shown_escaped() -> None:
    plain = read('version: 1\ncluster: a\nworkspace: {image: a, env: {A: "gr\\u00fcn"}}\nnodes: {n: {address: h}}\n')
    assert "A: grün" in render_effective_yaml(plain)
    nasty = '"\\u00fc\\u202e\\x85\\u2028\\e[2J"'
    inventory = read(
        f"version: 1\ncluster: a\nworkspace: {{image: a, env: {{A: {nasty}}}}}\nnodes: {{n: {{address: h}}}}\n"
    )
    shown = render_effective_yaml(inventory)
    assert shown.isascii()
    assert "\x1b" not in shown
    assert read(shown) == inventory
    assert inventory.workspace.env == {"A": "ü\u202e\x85\u2028\x1b[2J"}
