"""Text → value for everything that names something: addresses, paths, images, labels, environment, URIs.

Responsible for: refusing whatever could be read as something else by a shell, Docker, Nginx or SSH (a leading `-`, a
colon, a control character), or would let `--purge-data` delete a system directory. Not responsible for: whether the
named thing exists. Parsers follow the rules of `scalars`.
"""

from __future__ import annotations

import ipaddress
import re

from wsctl.inventory.scalars import Text
from wsctl.routes import HOST_SUFFIX, NODE_DOMAIN, check_endpoint

NAME = r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?"
"""A node, class or cluster."""

_HOST = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?"
_LOGIN = r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\$?"
_ENV = r"[A-Za-z_][A-Za-z0-9_]{0,254}"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REGISTRY = r"(?:[A-Za-z0-9][A-Za-z0-9-]*(?:\.[A-Za-z0-9][A-Za-z0-9-]*)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9_+.-]*:[0-9a-fA-F]{32,}"
_SEGMENT = r"[A-Za-z0-9._~-]+"

# Directories below which nothing of a user may lie, and those whose children belong to somebody else already:
# `/home` as host_root would make `rm --purge-data alice` delete the login user alice's home.
_SYSTEM_TREES = (
    "bin boot dev etc lib lib32 lib64 libx32 proc sbin sys usr var/lib/containerd var/lib/docker var/lib/dpkg"
)
_SHARED_ROOTS = "home media mnt opt root run srv tmp var var/cache var/lib var/log var/mail var/run var/spool var/tmp"
_CONTAINER_TREES = "dev proc sys"
_CONTAINER_ROOTS = "bin boot etc lib lib64 run sbin usr usr/bin usr/lib usr/sbin var"


def parse_name(text: str) -> str:
    """The name of a node, a class or the cluster: what a label, a file name and a table can all show."""
    if re.fullmatch(NAME, text):
        return text
    if re.fullmatch(NAME, text.lower()):
        raise ValueError(f"has upper-case letters (write {text.lower()})")
    raise ValueError


def _no_controls(text: str) -> None:
    if not text.isprintable():
        raise ValueError("has a control or invisible character")


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _usable(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """The canonical spelling of an IP address that packets can be sent to."""
    if "%" in str(ip):
        raise ValueError("has a zone, which neither Docker nor Nginx takes (name a routable address)")
    if ip.is_multicast or str(ip) == "255.255.255.255":
        raise ValueError("is a multicast or broadcast address, not one machine's")
    return str(ip)


def parse_host(text: str) -> str:
    """An IP literal or a host name (or ssh_config alias)."""
    if "://" in text:
        raise ValueError("is a URL (write only the host)")
    if re.fullmatch(r"\[.*\]", text):
        raise ValueError("has brackets (write the IPv6 address without)")
    ip = _ip(text)
    if ip is not None:
        return _usable(ip)
    if re.fullmatch(r"(?:[^:]+|\[.*\]):[0-9]+", text):
        raise ValueError("has a port (write the port as ssh.port)")
    if "@" in text:
        raise ValueError("has a user (write the user as ssh.user)")
    if re.fullmatch(r"[0-9.]+|0[xX][0-9a-fA-F.]+", text):
        raise ValueError("looks like an IP address but isn't one")
    if not re.fullmatch(_HOST, text) or ".." in text:
        raise ValueError
    return text


def parse_address(text: str) -> str:
    """Where a node is: `local`, an IP literal, a host name or an alias."""
    if text.lower() == "local" and text != "local":
        raise ValueError("is ambiguous (write local)")
    ip = _ip(text)
    if ip is not None and ip.is_unspecified:
        raise ValueError("means every address of a machine, not a machine")
    return parse_host(text)


def parse_bind(text: str) -> str:
    """The one IP literal that ports are published on."""
    ip = _ip(text)
    if ip is not None and ip.is_unspecified:
        raise ValueError("publishes every workspace to the world, past the node's firewall")
    if ip is None:
        raise ValueError("is not an IP address, and Docker publishes on nothing else")
    return _usable(ip)


def parse_login(text: str) -> str:
    """A user name on a node."""
    if not re.fullmatch(_LOGIN, text):
        raise ValueError
    return text


def parse_jump(text: str) -> str:
    """`[user@]host[:port]`, several separated by commas, as ssh's ProxyJump takes them."""
    for hop in text.split(","):
        user, at, rest = hop.rpartition("@")
        found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::([0-9]{1,5}))?", rest)
        if found is None or (at and not re.fullmatch(_LOGIN, user)):
            raise ValueError
        if found[2] and not 1 <= int(found[2]) <= 65535:
            raise ValueError("has a port out of range")
        parse_host(found[1].strip("[]"))
    return text


def _path(text: str) -> str:
    _no_controls(text)
    if not text.startswith("/"):
        raise ValueError("is not absolute")
    stripped = text.rstrip("/") or "/"
    if "//" in stripped or any(part in (".", "..") for part in stripped.split("/")):
        raise ValueError("is not in its plain form (write it without //, . and ..)")
    if len(stripped.encode()) > 1024:
        raise ValueError("is too long")
    return stripped


def _refuse_system(path: str, trees: str, roots: str) -> None:
    if path == "/":
        raise ValueError("is the whole file system")
    for tree in trees.split():
        if path == f"/{tree}" or path.startswith(f"/{tree}/"):
            raise ValueError(f"lies in the system's /{tree}")
    if path[1:] in roots.split():
        raise ValueError(f"is the system's own (name a directory of its own, such as {path}/workspaces)")


def parse_host_root(text: str) -> str:
    """A directory on a node below which users' directories are made and, when told to, deleted."""
    path = _path(text)
    if ":" in path:
        raise ValueError("has a colon, which separates the parts of a Docker mount")
    _refuse_system(path, _SYSTEM_TREES, _SHARED_ROOTS)
    return path


def parse_mount(text: str) -> str:
    """The directory inside the container where a user's files appear."""
    path = _path(text)
    if ":" in path:
        raise ValueError("has a colon, which separates the parts of a Docker mount")
    _refuse_system(path, _CONTAINER_TREES, _CONTAINER_ROOTS)
    return path


def parse_socket(text: str) -> str:
    """The path of a Unix socket."""
    if "://" in text:
        raise ValueError(f"is a URL (write only the path{', ' + text[7:] if text.startswith('unix:///') else ''})")
    path = _path(text)
    if len(path.encode()) > 107:
        raise ValueError("is longer than a socket's path may be (107 bytes)")
    return path


def parse_file(text: str) -> str:
    """A file on the control host: absolute, below `~`, or relative to the inventory."""
    _no_controls(text)
    if not text.strip() or text.startswith("-") or text.endswith("/"):
        raise ValueError
    return text


def parse_absolute(text: str) -> str:
    """A file on another machine, in its plain form."""
    path = _path(text)
    if text.endswith("/"):
        raise ValueError("is a folder")
    return path


def parse_status_url(text: str) -> str:
    """Where the gateway's Nginx is asked: http, https, or a Unix socket with the path behind a colon."""
    if text.startswith("unix:"):
        path, _, rest = text.removeprefix("unix:").partition(":")
        parse_socket(path)
        return f"unix:{path}:{parse_uri_path(rest)}" if rest else text
    found = re.fullmatch(r"https?://(\[[0-9a-fA-F:]+\]|[^/:@]+)(?::([0-9]{1,5}))?(/.*)?", text, re.ASCII)
    if found is None:
        raise ValueError
    parse_host(found[1].strip("[]"))
    if found[2] and not 1 <= int(found[2]) <= 65535:
        raise ValueError("has a port out of range")
    if found[3]:
        parse_uri_path(found[3])
    return text


def parse_image(text: str) -> str:
    """An image reference: `[registry[:port]/]name[:tag][@digest]`."""
    if not text or len(text) > 255 or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError
    rest, at, digest = text.partition("@")
    if at and not re.fullmatch(_DIGEST, digest):
        raise ValueError("has a malformed digest")
    parts = rest.split("/")
    last, colon, tag = parts[-1].partition(":")
    if colon and not re.fullmatch(_TAG, tag):
        raise ValueError("has a malformed tag")
    parts[-1] = last
    first = parts[0]
    is_registry = len(parts) > 1 and (first == "localhost" or "." in first or ":" in first)
    if is_registry and not re.fullmatch(_REGISTRY, parts.pop(0)):
        raise ValueError("has a malformed registry")
    if any(part != part.lower() for part in parts):
        raise ValueError("has upper-case letters in its name, which Docker refuses")
    if not all(re.fullmatch(_COMPONENT, part) for part in parts):
        raise ValueError
    return text


def parse_env_name(text: str) -> str:
    """The name of an environment variable."""
    if not re.fullmatch(_ENV, text):
        raise ValueError
    return text


def parse_text(text: str) -> str:
    """Any text that a process can be given as an argument or in its environment."""
    if "\0" in text:
        raise ValueError("has a NUL character, which ends a text for the kernel")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("has a lone surrogate, which isn't text")
    if len(text) > 32_768:
        raise ValueError("is longer than 32768 characters")
    return text


def parse_label_key(text: str) -> str:
    """A label's name: one printable word without `=`, as `--label name=value` needs it."""
    if not text or len(text) > 63 or not text.isprintable() or any(char in text for char in " =,"):
        raise ValueError
    return text


def parse_label(text: str) -> str:
    """A label's value."""
    _no_controls(text)
    if len(text) > 255:
        raise ValueError("is longer than 255 characters")
    return text


def parse_uri_path(text: str) -> str:
    """The path of a request, with an optional query, in characters that need no escaping anywhere."""
    if not text.startswith("/"):
        raise ValueError("does not begin with /")
    if len(text) > 1024 or not re.fullmatch(r"/[A-Za-z0-9._~/?&=%+,:@-]*", text, re.ASCII):
        raise ValueError
    return text


def parse_location(text: str) -> str:
    """An internal location of Nginx: a path and nothing else."""
    if not text.startswith("/"):
        raise ValueError("does not begin with /")
    _segments(text.strip("/"))
    return text


def parse_prefix(text: str) -> str:
    """The part of a request's path before the user id: begins and ends with /."""
    if not (text.startswith("/") and text.endswith("/")):
        raise ValueError("does not begin and end with /")
    if text == "/":
        raise ValueError("would take over every path of the site")
    _segments(text[1:-1])
    return text


def parse_host_suffix(text: str) -> str:
    """What follows a user in host names."""
    if not text.startswith("."):
        raise ValueError("does not begin with a dot")
    if not HOST_SUFFIX.fullmatch(text.lower()) or len(text) > 189:  # 253 with a user of 63 and its dot
        raise ValueError
    return text.lower()


def parse_node_domain(text: str) -> str:
    """A node's host name, with `{node}` where the node's name goes, and a port if it isn't the scheme's."""
    if not text.startswith("{node}."):
        raise ValueError("does not begin with {node}.")
    found = NODE_DOMAIN.fullmatch(text)
    if found is None or len(text) > 189 or int(found["port"] or 1) > 65535:
        raise ValueError
    return text


def parse_endpoint(text: str) -> str:
    """An IP literal (IPv6 in brackets) and a port."""
    try:
        check_endpoint(text)
    except ValueError:
        raise ValueError from None
    return text


def _segments(path: str) -> None:
    parts = path.split("/")
    if len(path) > 200 or not all(re.fullmatch(_SEGMENT, part) and part not in (".", "..") for part in parts):
        raise ValueError


def _string(pattern: str = "", low: int = 1) -> dict[str, object]:
    return {"type": "string", "minLength": low} | ({"pattern": pattern} if pattern else {})


# JSON Schema sees a plain `1` or `true` as a number or a switch where the inventory sees the text that was written.
_AS_WRITTEN = {"type": ["string", "number", "boolean"]}

_NAME_RULE = "a name of lower-case letters, digits and '-', at most 64, not beginning or ending with '-'"
CLUSTER = Text(parse_name, _NAME_RULE, _string(f"^{NAME}$"))
NODE_NAME = Text(parse_name, _NAME_RULE, _string(f"^{NAME}$"))
ADDRESS = Text(parse_address, "local, an IP address, a host name or an alias of ~/.ssh/config", _string())
BIND = Text(parse_bind, "the one IP address of the node that the gateway reaches, such as 10.0.0.11", _string())
LOGIN = Text(parse_login, "a user name", _AS_WRITTEN)
JUMP = Text(parse_jump, "[user@]host[:port], several separated by commas", _string())
HOST_ROOT = Text(parse_host_root, "an absolute path that holds nothing but users' files", _string("^/"))
MOUNT = Text(parse_mount, "an absolute path inside the container, such as /workspace", _string("^/"))
SOCKET = Text(parse_socket, "the absolute path of a Unix socket", _string("^/"))
FILE = Text(parse_file, "the path of a file", _string())
ABSOLUTE = Text(parse_absolute, "the absolute path of a file", _string("^/"))
STATUS_URL = Text(
    parse_status_url,
    "a URL such as http://127.0.0.1:8081/ws/.wsctl-status, or unix:SOCKET:PATH",
    _string("^(https?://|unix:/)"),
)
IMAGE = Text(parse_image, "an image such as registry.example.com:5000/team/workspace:1", _string())
ENV_NAME = Text(parse_env_name, "a variable's name of letters, digits and _", _string("^[A-Za-z_][A-Za-z0-9_]*$"))
ANY_TEXT = Text(parse_text, "a text", _AS_WRITTEN)
LABEL_KEY = Text(parse_label_key, "a label's name: one printable word without '=' or ','", _string())
LABEL = Text(parse_label, "a label's value", _AS_WRITTEN)
URI_PATH = Text(parse_uri_path, "a path such as /healthz", _string("^/"))
LOCATION = Text(parse_location, "an internal location such as /auth", _string("^/"))
ENDPOINT = Text(parse_endpoint, "an IP address and a port such as 127.0.0.1:8095", _string(":[0-9]+$"))
SUFFIX = Text(parse_host_suffix, "the end of a host name such as .ws.example.org", _string("^[.]"))
DOMAIN = Text(parse_node_domain, "a host name such as {node}.ws.example.org", _string("^[{]node[}][.]"))
PREFIX = Text(parse_prefix, "a path such as /ws/", _string("^/.*/$"))
