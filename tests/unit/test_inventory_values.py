"""Every kind of value: what is taken, and what is refused in which words."""

import re
from pathlib import Path
from typing import Any

import pytest

from wsctl.errors import InventoryError
from wsctl.inventory import Inventory, parse
from wsctl.inventory.names import parse_text
from wsctl.inventory.scalars import duration_text, parse_duration, parse_size, size_text
from wsctl.model import SshSettings
from wsctl.routes import GatewayHost, Mode

ONE_OF = {
    "node": "version: 1\ncluster: a\nworkspace: {{image: a}}\nnodes: {{n: {{address: h, {key}: {value} }}}}\n",
    "workspace": "version: 1\ncluster: a\nnodes: {{n: {{address: h}}}}\nworkspace: {{image: a, {key}: {value} }}\n",
    "gateway": "version: 1\ncluster: a\nnodes: {{n: {{address: h}}}}\nworkspace: {{image: a}}\n"
    "gateway: {{{key}: {value} }}\n",
    "requests": "version: 1\ncluster: a\nnodes: {{n: {{address: h}}}}\nworkspace: {{image: a}}\n"
    "requests: {{{key}: {value} }}\n",
}  # fmt: skip


def text_of(path: str, value: str) -> str:
    """An inventory in which the key at `path` has `value`."""
    if path == "address":
        return f"version: 1\ncluster: a\nworkspace: {{image: a}}\nnodes: {{n: {{address: {value} }}}}\n"
    if path == "image":
        return f"version: 1\ncluster: a\nworkspace: {{image: {value} }}\nnodes: {{n: {{address: h}}}}\n"
    if path == "cluster":
        return f"version: 1\ncluster: {value}\nworkspace: {{image: a}}\nnodes: {{n: {{address: h}}}}\n"
    if path == "strategy":
        nodes = "nodes: {n: {address: h}}"
        return f"version: 1\ncluster: a\nworkspace: {{image: a}}\nscheduler: {{strategy: {value} }}\n{nodes}\n"
    where, _, key = path.partition(".")
    outer, _, inner = key.partition(".")
    return ONE_OF[where].format(key=outer, value=f"{{{inner}: {value} }}" if inner else value)


def take(path: str, value: str) -> Inventory:
    return parse(text_of(path, value), Path("i.yaml"))


def refusal(path: str, value: str) -> str:
    """The one problem, without its place."""
    with pytest.raises(InventoryError) as caught:
        take(path, value)
    (problem,) = caught.value.problems
    return problem.split(": ", 2)[2]


def reason(path: str, value: str) -> str:
    """What is said before what was expected."""
    return re.sub(r",? expected .*$", "", refusal(path, value))


@pytest.mark.parametrize("text", ["a", "n1", "a-b", "0", "a" * 64, "007", "no", "null-1", "1e3"])
def test_names(text: str) -> None:
    assert take("cluster", text).cluster == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("A", "'A' has upper-case letters (write a)"),
        ("a" * 65, f"'{'a' * 47}…'"),
        ("-a", "'-a'"),
        ("a-", "'a-'"),
        ("a_b", "'a_b'"),
        ("a.b", "'a.b'"),
        ("a/b", "'a/b'"),
        ("ä", "'ä'"),
        ("'a b'", "'a b'"),
        ("''", "''"),
        ('"a\\n"', "'a\\n'"),
        ('"../a"', "'../a'"),
        ("", "no value"),
        ("~", "no value"),
        ("[a]", "a list"),
        ("{a: b}", "a mapping"),
    ],
)
def test_bad_names(text: str, why: str) -> None:
    assert reason("cluster", text) == why


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("local", "local"),
        ("10.0.0.11", "10.0.0.11"),
        ("127.0.0.1", "127.0.0.1"),
        ("fd00:0:0::1", "fd00::1"),
        ("'::1'", "::1"),
        ("n1.example.com", "n1.example.com"),
        ("my_alias", "my_alias"),
        ("Alias-2", "Alias-2"),
        ("localhost", "localhost"),
        ("no", "no"),
        ("1e3", "1e3"),
    ],
)
def test_addresses(text: str, address: str) -> None:
    assert take("address", text).nodes["n"].address == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.0.0.0", "'0.0.0.0' means every address of a machine, not a machine"),
        ("'::'", "'::' means every address of a machine, not a machine"),
        ("10.0.0.1:22", "'10.0.0.1:22' has a port (write the port as ssh.port)"),
        ("host:2222", "'host:2222' has a port (write the port as ssh.port)"),
        ("'[::1]:22'", "'[::1]:22' has a port (write the port as ssh.port)"),
        ("'[::1]'", "'[::1]' has brackets (write the IPv6 address without)"),
        ("ssh://h", "'ssh://h' is a URL (write only the host)"),
        ("root@h", "'root@h' has a user (write the user as ssh.user)"),
        ("10.0.0", "'10.0.0' looks like an IP address but isn't one"),
        ("10.0.0.256", "'10.0.0.256' looks like an IP address but isn't one"),
        ("010.0.0.1", "'010.0.0.1' looks like an IP address but isn't one"),
        ("0x7f.1", "'0x7f.1' looks like an IP address but isn't one"),
        ("167772161", "'167772161' looks like an IP address but isn't one"),
        ("224.0.0.1", "'224.0.0.1' is a multicast or broadcast address, not one machine's"),
        ("255.255.255.255", "'255.255.255.255' is a multicast or broadcast address, not one machine's"),
        ("fe80::1%eth0", "'fe80::1%eth0' has a zone, which neither Docker nor Nginx takes (name a routable address)"),
        ("Local", "'Local' is ambiguous (write local)"),
        ("-oProxyCommand=x", "'-oProxyCommand=x'"),
        ("'a b'", "'a b'"),
        ("a..b", "'a..b'"),
        ("a;b", "'a;b'"),
        ("$(id)", "'$(id)'"),
        ('"a\\nb"', "'a\\nb'"),
        ('"\\x1b[2J"', "'\\x1b[2J'"),
        ("höst", "'höst'"),
        ("a" * 254, f"'{'a' * 47}…'"),
        ("''", "''"),
    ],
)
def test_bad_addresses(text: str, why: str) -> None:
    assert reason("address", text) == why


@pytest.mark.parametrize(
    ("text", "address"), [("10.0.0.1", "10.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("fd00::0", "fd00::")]
)
def test_bind_addresses(text: str, address: str) -> None:
    assert take("node.bind_address", text).nodes["n"].bind_address == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.0.0.0", "'0.0.0.0' publishes every workspace to the world, past the node's firewall"),
        ("'::'", "'::' publishes every workspace to the world, past the node's firewall"),
        ("eth0", "'eth0' is not an IP address, and Docker publishes on nothing else"),
        ("ff02::1", "'ff02::1' is a multicast or broadcast address, not one machine's"),
        ("fe80::1%eth0", "'fe80::1%eth0' has a zone, which neither Docker nor Nginx takes (name a routable address)"),
    ],
)
def test_bad_bind_addresses(text: str, why: str) -> None:
    expected = "expected the one IP address of the node that the gateway reaches, such as 10.0.0.11"
    assert refusal("node.bind_address", text) == f"{why}, {expected}"


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [("20000-29999", 20000, 29999), ("1024-65535", 1024, 65535), ("8080", 8080, 8080), ("8080-8080", 8080, 8080),
     ("'2000 - 2001'", 2000, 2001)],
)  # fmt: skip
def test_ports(text: str, first: int, last: int) -> None:
    ports = take("node.ports", text).nodes["n"].ports
    assert (ports.first, ports.last) == (first, last)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("80-90", "'80-90' begins below 1024, where a node's own services listen"),
        ("0", "'0' begins below 1024, where a node's own services listen"),
        ("30000-20000", "'30000-20000' ends before it begins (write 20000-30000)"),
        ("60000-70000", "'60000-70000' goes beyond 65535, the last port there is"),
        ("99999999999999999999", "'99999999999999999999' goes beyond 65535, the last port there is"),
        ("012", "'012' has a leading zero and may be read as octal (write 12)"),
        ("2000-02001", "'2000-02001' has a leading zero and may be read as octal (write 2001)"),
        ("20_000-30_000", "'20_000-30_000' has underscores (write 20000-30000)"),
        ("20_000", "'20_000' has underscores (write 20000)"),
        ("0x4E20", "'0x4E20' is hexadecimal (write 20000)"),
        ("22:22", "'22:22' is a number in base 60 to YAML 1.1, and no such thing here"),
        ("20000:29999", "'20000:29999' is a number in base 60 to YAML 1.1, and no such thing here"),
        ("20000..29999", "'20000..29999'"),
        ("-1", "'-1'"),
        ("+5", "'+5' has a sign (write 5)"),
        ("1e4", "'1e4'"),
        ("٢٠٠٠", "'٢٠٠٠'"),
        ("[20000, 29999]", "a list"),
        ("''", "''"),
    ],
)
def test_bad_ports(text: str, why: str) -> None:
    expected = "expected a range of ports such as 20000-29999, within 1024-65535"
    assert refusal("node.ports", text) == f"{why}, {expected}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("012", "'012' has a leading zero and may be read as octal (write 12)"),
        ("0o17", "'0o17' has a leading zero and may be read as octal (write 17)"),
        ("00", "'00' has a leading zero and may be read as octal (write 0)"),
        ("1_0", "'1_0' has underscores (write 10)"),
        ("0x1F", "'0x1F' is hexadecimal (write 31)"),
        ("22:22", "'22:22' is a number in base 60 to YAML 1.1, and no such thing here"),
        ("22.0", "'22.0' is not a whole number"),
        ("0", "'0' is out of range"),
        ("65536", "'65536' is out of range"),
        ("-22", "'-22' is out of range"),
        ("9" * 5000, f"'{'9' * 47}…' is out of range"),
        ("ssh", "'ssh'"),
        (".nan", "'.nan'"),
        ("true", "'true'"),
    ],
)
def test_bad_whole_numbers(text: str, why: str) -> None:
    assert refusal("node.ssh.port", text) == f"{why}, expected a port, 1 to 65535"


def test_whole_numbers() -> None:
    assert take("node.ssh.port", "'22'").nodes["n"].ssh.port == 22
    assert take("node.ssh.port", "null").nodes["n"].ssh.port is None
    assert take("workspace.pids", "16").workspace.resources.pids == 16
    assert reason("workspace.pids", "15") == "'15' is out of range"
    assert reason("workspace.container_port", "0") == "'0' is out of range"
    assert reason("workspace.container_port", "null") == "no value"
    assert reason("node.capacity.workspaces", "0") == "'0' is out of range"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64g", 64 * 1024**3), ("64G", 64 * 1024**3), ("64gb", 64 * 1024**3), ("64GiB", 64 * 1024**3),
        ("512m", 512 * 1024**2), ("1.5g", 3 * 1024**3 // 2), ("2gib", 2 * 1024**3), ("0.25t", 1024**4 // 4),
        ("8192k", 8 * 1024**2), ("8388608", 8 * 1024**2), ("8388608b", 8 * 1024**2), ("0.1g", 107374182),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert take("workspace.memory", text).workspace.resources.memory_bytes == size


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2", "'2' means bytes (write 2m or 2g)"),
        ("5m", "'5m' is too small"),
        ("0", "'0' means bytes (write 0m or 0g)"),
        ("-1g", "'-1g'"),
        ("9000p", "'9000p' is too large"),
        ("1.5", "'1.5' is not a whole number of bytes"),
        ("64 g", "'64 g' has a space (write it without)"),
        ("064g", "'064g' has a leading zero and may be read as octal (write 64g)"),
        ("1_000m", "'1_000m' has underscores (write 1000m)"),
        ("0x40", "'0x40' is hexadecimal (write 64)"),
        ("1e9", "'1e9'"),
        (".5g", "'.5g'"),
        ("1,5g", None),
        ("64q", "'64q'"),
        ("64gg", "'64gg'"),
        (".inf", "'.inf'"),
        ("g", "'g'"),
        ("2026-11-20", "'2026-11-20'"),
        ("9" * 100 + "g", f"'{'9' * 47}…'"),
    ],
)
def test_bad_sizes(text: str, why: str | None) -> None:
    if why is None:  # a comma ends a value inside braces
        text, why = f"'{text}'", f"'{text}'"
    expected = "expected a size such as 512m, 1.5g or bytes, at least 6m"
    assert refusal("workspace.memory", text) == f"{why}, {expected}"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1h30m", 5400), ("2d", 172_800), ("500ms", 0.5), ("1.5h", 5400), ("1M", 60),
     ("1d1h1m1s1ms", 90_061.001)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert take("workspace.idle_after", text).workspace.idle_after_s == seconds


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("30", "'30' has no unit (write 30s or 30m)"),
        ("0", "'0' is no time at all"),
        ("0s", "'0s' is no time at all"),
        ("22:22", "'22:22' is a time of day or a base-60 number (write 22m or 1h30m)"),
        ("30m1h", "'30m1h'"),
        ("1w", "'1w'"),
        ("-5m", "'-5m'"),
        ("1h 30m", "'1h 30m'"),
        ("010m", "'010m' has a leading zero and may be read as octal (write 10)"),
        ("1.2.3s", "'1.2.3s'"),
        ("0.0005s", "'0.0005s' is finer than a millisecond"),
        ("4000d", "'4000d' is longer than ten years"),
        (".inf", "'.inf'"),
        ("never", "'never'"),
        ("''", "''"),
    ],
)
def test_bad_durations(text: str, why: str) -> None:
    assert refusal("workspace.idle_after", text) == f"{why}, expected a duration such as 30m, 500ms or 1h30m"


def test_never_idle() -> None:
    assert take("workspace.idle_after", "null").workspace.idle_after_s is None
    assert reason("gateway.read_timeout", "null") == "no value"


@pytest.mark.parametrize(
    ("text", "milli"), [("1", 1000), ("0.5", 500), ("1.250", 1250), ("0.01", 10), ("4096", 4_096_000), ("2.0", 2000)]
)
def test_cpus(text: str, milli: int) -> None:
    assert take("workspace.cpus", text).workspace.resources.cpus_milli == milli


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0", "'0' is out of range"),
        ("0.001", "'0.001' is out of range"),
        ("-1", "'-1' is out of range"),
        ("5000", "'5000' is out of range"),
        ("0.3333", "'0.3333' has more than three decimals"),
        ("01", "'01' has a leading zero and may be read as octal (write 1)"),
        (".inf", "'.inf'"),
        (".nan", "'.nan'"),
        ("1e3", "'1e3'"),
        ("500m", "'500m'"),
    ],
)
def test_bad_cpus(text: str, why: str) -> None:
    assert (
        refusal("workspace.cpus", text)
        == f"{why}, expected a number of cores, 0.01 to 4096 with at most three decimals"
    )


def test_limits_of_starts() -> None:
    assert take("node.max_concurrent_starts", "1000").nodes["n"].max_concurrent_starts == 1000
    assert take("node.max_concurrent_starts", "null").nodes["n"].max_concurrent_starts is None
    for text in ("0", "1001", "-1"):
        assert refusal("node.max_concurrent_starts", text) == (
            f"'{text}' is out of range, expected a number of starts, 1 to 1000"
        )


def test_how_long_request_ids_are_kept() -> None:
    assert take("requests.keep", "36h").requests_keep_s == 129_600
    assert reason("requests.keep", "7") == "'7' has no unit (write 7s or 7m)"
    assert reason("requests.keep", "0") == "'0' is no time at all"


def test_weights() -> None:
    assert take("node.weight", "0.25").nodes["n"].weight == 0.25
    assert reason("node.weight", "0") == "'0' is out of range"
    assert reason("node.weight", "-1") == "'-1' is out of range"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("yes", "'yes' is ambiguous (write true)"),
        ("On", "'On' is ambiguous (write true)"),
        ("TRUE", "'TRUE' is ambiguous (write true)"),
        ("1", "'1' is ambiguous (write true)"),
        ("no", "'no' is ambiguous (write false)"),
        ("off", "'off' is ambiguous (write false)"),
        ("False", "'False' is ambiguous (write false)"),
        ("maybe", "'maybe'"),
        ("null", "no value"),
    ],
)
def test_bad_switches(text: str, why: str) -> None:
    assert refusal("node.ssh.config", text) == f"{why}, expected true or false"


def test_switches() -> None:
    assert take("node.ssh.config", "false").nodes["n"].ssh.config is False
    assert take("gateway.strip_prefix", "true").gateway.strip_prefix is True


@pytest.mark.parametrize("text", ["spread", "binpack", "least-loaded", "weighted", "round-robin", "hash"])
def test_strategies(text: str) -> None:
    assert take("strategy", text).strategy == text


def test_bad_choices() -> None:
    known = "expected one of spread, binpack, least-loaded, weighted, round-robin, hash"
    assert refusal("strategy", "spraed") == f"'spraed' is unknown, did you mean 'spread'?, {known}"
    assert refusal("strategy", "Spread") == f"'Spread' is unknown, did you mean 'spread'?, {known}"
    assert refusal("strategy", "zzz") == f"'zzz', {known}"
    assert refusal("node.storage", "nfs") == "'nfs', expected one of local, shared"
    assert refusal("workspace.pull", "always") == "'always', expected one of missing, never"
    assert take("node.storage", "shared").nodes["n"].storage == "shared"


@pytest.mark.parametrize(
    "text", ["/srv/workspaces", "/srv/workspaces/", "/home/wsctl/data", "/mnt/disk 1/ws", "/var/lib/wsctl", "/tmp/x"]
)
def test_host_roots(text: str) -> None:
    assert take("node.host_root", text).nodes["n"].host_root == text.rstrip("/")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("/", "'/' is the whole file system"),
        ("//", "'//' is the whole file system"),
        ("/etc", "'/etc' lies in the system's /etc"),
        ("/etc/", "'/etc/' lies in the system's /etc"),
        ("/usr/local/ws", "'/usr/local/ws' lies in the system's /usr"),
        ("/proc/1", "'/proc/1' lies in the system's /proc"),
        ("/sys", "'/sys' lies in the system's /sys"),
        ("/dev/shm/ws", "'/dev/shm/ws' lies in the system's /dev"),
        ("/boot", "'/boot' lies in the system's /boot"),
        ("/bin", "'/bin' lies in the system's /bin"),
        ("/lib64", "'/lib64' lies in the system's /lib64"),
        ("/var/lib/docker/volumes", "'/var/lib/docker/volumes' lies in the system's /var/lib/docker"),
        ("/home", "'/home' is the system's own (name a directory of its own, such as /home/workspaces)"),
        ("/var/lib", "'/var/lib' is the system's own (name a directory of its own, such as /var/lib/workspaces)"),
        ("/srv", "'/srv' is the system's own (name a directory of its own, such as /srv/workspaces)"),
        ("srv/ws", "'srv/ws' is not absolute"),
        ("~/ws", "'~/ws' is not absolute"),
        ("''", "'' is not absolute"),
        ("/srv/../etc", "'/srv/../etc' is not in its plain form (write it without //, . and ..)"),
        ("/srv/./ws", "'/srv/./ws' is not in its plain form (write it without //, . and ..)"),
        ("//srv/ws", "'//srv/ws' is not in its plain form (write it without //, . and ..)"),
        ("/srv/a:b", "'/srv/a:b' has a colon, which separates the parts of a Docker mount"),
        ('"/srv/a\\nb"', "'/srv/a\\nb' has a control or invisible character"),
        ('"/srv/a\\u202eb"', "'/srv/a\\u202eb' has a control or invisible character"),
        ("/srv/" + "a" * 1024, f"'/srv/{'a' * 42}…' is too long"),
    ],
)
def test_bad_host_roots(text: str, why: str) -> None:
    assert refusal("node.host_root", text) == f"{why}, expected an absolute path that holds nothing but users' files"


def test_mounts() -> None:
    assert take("workspace.mount", "/home/").workspace.mount == "/home"
    assert take("workspace.mount", "/usr/src/app").workspace.mount == "/usr/src/app"
    assert reason("workspace.mount", "/") == "'/' is the whole file system"
    assert reason("workspace.mount", "/proc/x") == "'/proc/x' lies in the system's /proc"
    assert reason("workspace.mount", "/usr").startswith("'/usr' is the system's own")
    assert reason("workspace.mount", "work") == "'work' is not absolute"
    assert reason("workspace.mount", "/a:b") == "'/a:b' has a colon, which separates the parts of a Docker mount"


def test_sockets() -> None:
    assert (
        take("node.docker_socket", "/run/user/1000/docker.sock").nodes["n"].docker_socket
        == "/run/user/1000/docker.sock"
    )
    assert (
        reason("node.docker_socket", "unix:///run/d.sock")
        == "'unix:///run/d.sock' is a URL (write only the path, /run/d.sock)"
    )
    assert reason("node.docker_socket", "tcp://h:2375") == "'tcp://h:2375' is a URL (write only the path)"
    assert reason("node.docker_socket", "docker.sock") == "'docker.sock' is not absolute"
    assert reason("node.docker_socket", "/" + "a" * 107).endswith("is longer than a socket's path may be (107 bytes)")


@pytest.mark.parametrize("text", ["wsctl", "no", "a.b-c_d", "dom-user@corp", "host$", "007"])
def test_logins(text: str) -> None:
    assert take("node.ssh.user", text).nodes["n"].ssh.user == text


@pytest.mark.parametrize("text", ["-oX", "a b", "a;b", "$(id)", "''", "ü", "a:b"])
def test_bad_logins(text: str) -> None:
    assert refusal("node.ssh.user", text).endswith("expected a user name")


@pytest.mark.parametrize("text", ["bastion", "ops@bastion:2222", "a@h1,b@h2:22", "'[fd00::1]:22'", "10.0.0.1"])
def test_jumps(text: str) -> None:
    value = text if "," not in text else f"'{text}'"
    assert take("node.ssh.proxy_jump", value).nodes["n"].ssh.proxy_jump == text.strip("'")


@pytest.mark.parametrize(
    "text", ["'-oProxyCommand=id'", "'a,,b'", "h:99999", "'a b'", "a@-h", "h:x", "'user:pw@h'", "ssh://h"]
)
def test_bad_jumps(text: str) -> None:
    assert "expected [user@]host[:port], several separated by commas" in refusal("node.ssh.proxy_jump", text)


@pytest.mark.parametrize(
    "text",
    ["a", "studio/workspace:1", "localhost/a", "localhost:5000/a:1", "reg.example.com:5000/team/ws:1.2-rc_3",
     "a@sha256:" + "0" * 64, "reg.io/a:1@sha256:" + "a" * 64, "a__b/c-d.e", "Reg.example.com/a", "a:Tag"],
)  # fmt: skip
def test_images(text: str) -> None:
    assert take("image", text).workspace.image == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Studio/ws", "'Studio/ws' has upper-case letters in its name, which Docker refuses"),
        ("-rf", "'-rf'"),
        ("a b", "'a b'"),
        ("a:", None),
        ("'a:'", "'a:' has a malformed tag"),
        ("a:b:c", "'a:b:c' has a malformed tag"),
        ("a:-x", "'a:-x' has a malformed tag"),
        ("a@sha256:12", "'a@sha256:12' has a malformed digest"),
        ("a@", "'a@' has a malformed digest"),
        ("'-a.b/c'", "'-a.b/c' has a malformed registry"),
        ("a.b:port/c", "'a.b:port/c' has a malformed registry"),
        ("https://reg.io/a", "'https://reg.io/a' has a malformed registry"),
        ("a//b", "'a//b'"),
        ("/a", "'/a'"),
        ("a/", "'a/'"),
        ("a;b", "'a;b'"),
        ("ä", "'ä'"),
        ("a" * 256, f"'{'a' * 47}…'"),
        ("''", "''"),
    ],
)
def test_bad_images(text: str, why: str | None) -> None:
    if why is not None:
        expected = "expected an image such as registry.example.com:5000/team/workspace:1"
        assert refusal("image", text) == f"{why}, {expected}"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("serve", "workspace.command: 'serve', expected a list of texts (write [\"sh\", \"-c\", 'serve'])"),
        ("[]", "workspace.command: an empty list, expected a list of texts, or null"),
        ("[a, null]", "workspace.command[1]: no value, expected a text (in quotes if it is meant so)"),
        ("[[a]]", "workspace.command[0]: a list, expected a text"),
        ("{a: b}", "workspace.command: a mapping, expected a list of texts"),
        ('["a\\0b"]', "workspace.command[0]: 'a\\x00b' has a NUL character, which ends a text for the kernel, expected"
         " a text"),
    ],
)  # fmt: skip
def test_bad_commands(value: str, problem: str) -> None:
    with pytest.raises(InventoryError) as caught:
        take("workspace.command", value)
    assert [line.split(": ", 1)[1] for line in caught.value.problems] == [problem]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("{1A: x}", "'1A', expected a variable's name of letters, digits and _"),
        ("{A-B: x}", "'A-B', expected a variable's name of letters, digits and _"),
        ("{x-a: x}", "'x-a', expected a variable's name of letters, digits and _"),
        ("{'': x}", "'', expected a variable's name of letters, digits and _"),
        ('{A: "\\0"}', "'\\x00' has a NUL character, which ends a text for the kernel, expected a text"),
        ("{A: null}", "no value, expected a text (in quotes if it is meant so)"),
        ("{A: }", "no value, expected a text (in quotes if it is meant so)"),
        ("{A: [x]}", "a list, expected a text"),
        ("[A]", "a list, expected a mapping of keys to values"),
        ("A=1", "'A=1', expected a mapping of keys to values"),
    ],
)
def test_bad_environments(value: str, why: str) -> None:
    assert refusal("workspace.env", value) == why


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("{a b: x}", "'a b'"),
        ("{a=b: x}", "'a=b'"),
        ("{'': x}", "''"),
        ('{"a\\e": x}', "'a\\x1b'"),
        ('{a: "x\\e[2J"}', "'x\\x1b[2J' has a control or invisible character"),
        ("{a: " + "x" * 256 + "}", f"'{'x' * 47}…' is longer than 255 characters"),
    ],
)
def test_bad_labels(value: str, why: str) -> None:
    assert reason("node.labels", value) == why
    assert reason("workspace.labels", value) == why


@pytest.mark.parametrize(
    ("value", "probe"),
    [
        ("null", None),
        ("{http: /}", ("/", 30.0)),
        ("{http: '/a/b?x=1', timeout: 1m}", ("/a/b?x=1", 60.0)),
        ("{tcp: true}", (None, 30.0)),
        ("{tcp: true, timeout: 500ms}", (None, 0.5)),
    ],
)
def test_probes(value: str, probe: tuple[Any, float] | None) -> None:
    ready = take("workspace.ready", value).workspace.ready
    assert (ready and (ready.http_path, ready.timeout_s)) == probe


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("{}", "neither http nor tcp, expected one of them, or null"),
        ("{timeout: 5s}", "neither http nor tcp, expected one of them, or null"),
        ("{http: /, tcp: true}", "both http and tcp, expected one of them (http includes tcp)"),
        ("{tcp: false}", "'tcp: false' checks nothing, expected 'ready: null' to switch the check off"),
        ("{http: up}", "'up' does not begin with /, expected a path such as /healthz"),
        ('{http: "/a b"}', "'/a b', expected a path such as /healthz"),
        ('{http: "/\\r\\nX: y"}', "'/\\r\\nX: y', expected a path such as /healthz"),
        ("{http: /, timeout: 0}", "'0' is no time at all, expected a duration such as 30s, 500ms or 1h30m"),
        ("{https: /}", "unknown key, did you mean 'http'?"),
        ("tcp", "'tcp', expected a mapping of keys to values"),
    ],
)
def test_bad_probes(value: str, why: str) -> None:
    assert refusal("workspace.ready", value) == why


def test_classes() -> None:
    assert (
        refusal("workspace.classes", "{default: {}}")
        == "'default' is the name of `workspace` itself, expected another name"
    )
    assert reason("workspace.classes", "{A: {}}") == "'A' has upper-case letters (write a)"
    assert refusal("workspace.classes", "{a: {classes: {}}}").startswith("unknown key")
    assert refusal("workspace.classes", "{a: {memory: 1m}}").startswith("'1m' is too small")


@pytest.mark.parametrize("text", ["/ws/", "/a/b/", "/u~1/x.y/"])
def test_prefixes(text: str) -> None:
    assert take("gateway.path_prefix", text).gateway.path_prefix == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("/", "'/' would take over every path of the site"),
        ("ws", "'ws' does not begin and end with /"),
        ("/ws", "'/ws' does not begin and end with /"),
        ("//", "'//'"),
        ("/a//b/", "'/a//b/'"),
        ("/../", "'/../'"),
        ("/a b/", "'/a b/'"),
        ('"/a;{}/"', "'/a;{}/'"),
        ("/$x/", "'/$x/'"),
        ('"/a\\n/"', "'/a\\n/'"),
    ],
)
def test_bad_prefixes(text: str, why: str) -> None:
    assert refusal("gateway.path_prefix", text) == f"{why}, expected a path such as /ws/"


def test_gateway_values() -> None:
    assert take("gateway.auth_request", "/auth/check").gateway.auth_request == "/auth/check"
    assert take("gateway.auth_request", "null").gateway.auth_request is None
    assert reason("gateway.auth_request", "auth") == "'auth' does not begin with /"
    assert reason("gateway.auth_request", "/a;b") == "'/a;b'"
    assert take("gateway.max_body_size", "0").gateway.max_body_bytes == 0
    assert take("gateway.connect_timeout", "250ms").gateway.connect_timeout_s == 0.25


def gateway_host(keys: str) -> GatewayHost:
    return take("gateway.hosts", f"{{e: {{address: local{keys} }}}}").gateway_hosts["e"]


def test_a_gateway_gets_the_defaults_of_a_stock_nginx() -> None:
    inventory = take("gateway.hosts", "{e: {address: edge.example}}")
    assert inventory.gateway_hosts == {
        "e": GatewayHost(
            name="e",
            address="edge.example",
            ssh=SshSettings(),
            map_file="/etc/nginx/conf.d/00-wsctl-map.conf",
            test=("nginx", "-t"),
            reload=("nginx", "-s", "reload"),
            status_url="http://127.0.0.1/ws/.wsctl-status",
        )
    }
    assert inventory.auto_apply is False
    assert take("gateway.auto_apply", "true").auto_apply is True


def test_a_gateway_is_reached_as_nodes_are_unless_it_says_otherwise() -> None:
    text = text_of("gateway.hosts", "{e: {address: h, ssh: {user: root}}}")
    text += "defaults: {ssh: {user: wsctl, port: 2222, config: false}}\n"
    assert parse(text, Path("i.yaml")).gateway_hosts["e"].ssh == SshSettings(user="root", port=2222, config=False)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("http://127.0.0.1:8081", "http://127.0.0.1:8081/ws/.wsctl-status"),
        ("https://gate.example", "https://gate.example/ws/.wsctl-status"),
        ("http://127.0.0.1/x", "http://127.0.0.1/x"),
        ("http://[::1]:81/x", "http://[::1]:81/x"),
        ("unix:/run/n.sock", "unix:/run/n.sock:/ws/.wsctl-status"),
        ("unix:/run/n.sock:/x", "unix:/run/n.sock:/x"),
        ("null", "http://127.0.0.1/ws/.wsctl-status"),
    ],
)
def test_status_urls(given: str, taken: str) -> None:
    assert gateway_host(f", status_url: '{given}'" if given != "null" else ", status_url: null").status_url == taken


@pytest.mark.parametrize(
    "given",
    ["ftp://a/x", "http://", "127.0.0.1:80", "http://a:99999/", "http://a b/", "http://u:p@h/", "http://h/ x", "unix:x",
     "http://h/x\\r\\ny", "unix:/a/../b"],
)  # fmt: skip
def test_bad_status_urls(given: str) -> None:
    with pytest.raises(InventoryError):
        gateway_host(f', status_url: "{given}"')


def test_gateway_commands_are_lists_of_words_and_the_map_an_absolute_file() -> None:
    host = gateway_host(", reload: [sudo, -n, systemctl, reload, nginx], map_file: /srv/my maps/m.conf")
    assert host.reload == ("sudo", "-n", "systemctl", "reload", "nginx")
    assert host.map_file == "/srv/my maps/m.conf"
    for bad in (
        "reload: nginx -s reload",
        "test: []",
        "map_file: m.conf",
        "map_file: /etc/nginx/",
        "map_file: /a/../b",
    ):
        with pytest.raises(InventoryError):
            gateway_host(f", {bad}")


def test_a_map_file_has_one_name() -> None:
    with pytest.raises(InventoryError) as caught:
        take("gateway.hosts", "{a: {address: h}, b: {address: H}, c: {address: h, map_file: /x.conf}}")
    (problem,) = caught.value.problems
    assert "gateway.hosts.b: the same map file as of gateway 'a'" in problem


def test_files() -> None:
    for bad in ("''", "-x", "dir/", '"a\\nb"'):
        assert "expected the path of a file" in refusal("node.ssh.identity_file", bad)


@pytest.mark.parametrize(
    "count", [0, 1, 1023, 1024, 1536, 1024**2, 1024**3, 3 * 1024**3 // 2, 64 * 1024**3, 1024**4, 2**60]
)
def test_a_size_is_written_as_it_is_read(count: int) -> None:
    assert parse_size(size_text(count)) == count


def test_sizes_are_written_short() -> None:
    assert [size_text(n) for n in (0, 1000, 1024, 1536 * 1024**2, 64 * 1024**3)] == ["0", "1000", "1k", "1536m", "64g"]


@pytest.mark.parametrize("seconds", [0, 0.001, 0.5, 1, 59, 60, 61.5, 3600, 5400, 86400, 90061.001])
def test_a_duration_is_written_as_it_is_read(seconds: float) -> None:
    assert parse_duration(duration_text(seconds)) == seconds


def test_durations_are_written_short() -> None:
    assert [duration_text(s) for s in (0, 0.5, 5400, 86400)] == ["0", "500ms", "1h30m", "1d"]


@pytest.mark.parametrize(("text", "why"), [("a\ud800", "lone surrogate"), ("x" * 32_769, "longer than 32768")])
def test_texts_that_no_process_takes(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_text(text)


def test_a_mode_of_routing_needs_its_key() -> None:
    assert take("gateway.mode", "map").gateway.mode is Mode.MAP
    assert take("gateway.mode", "host, host_suffix: .Ws.example.org").gateway.host_suffix == ".ws.example.org"
    assert take("gateway.mode", 'redirect, node_domain: "{node}.x.org:8443"').gateway.node_domain == "{node}.x.org:8443"
    for mode, key in (("host", "host_suffix"), ("redirect", "node_domain")):
        with pytest.raises(InventoryError) as caught:
            take("gateway.mode", mode)
        assert f"{mode} needs {key}, such as" in str(caught.value.problems[0])
    assert "'hots' is unknown" in reason("gateway.mode", "hots")


@pytest.mark.parametrize("text", ["x.org", ".", ".x..org", ".x/", ".x;.org", ".x.org.", ".-x.org", ".x_y", "'.x y'"])
def test_other_host_suffixes_are_refused(text: str) -> None:
    assert "such as .ws.example.org" in refusal("gateway.host_suffix", text)


@pytest.mark.parametrize(
    "text", ["x.org", "{node}", "{node}x.org", "{node}.x.org/a", "{node}.x.org:0", "{node}.x.org:70000", "a.{node}.org"]
)
def test_other_node_domains_are_refused(text: str) -> None:
    assert "such as {node}.ws.example.org" in refusal("gateway.node_domain", f'"{text}"')


def test_lua_needs_one_map_file() -> None:
    hosts = "hosts: {a: {address: h, map_file: /x.conf}, b: {address: i%s}}"
    assert take("gateway.mode", f"dynamic, {hosts % ', map_file: /x.conf'}").gateway.map_file == "/x.conf"
    with pytest.raises(InventoryError) as caught:
        take("gateway.mode", f"dynamic, {hosts % ''}")
    assert "dynamic needs one map_file for all gateways" in str(caught.value.problems[0])
