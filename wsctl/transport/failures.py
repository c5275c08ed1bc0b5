"""Foreign exceptions into wsctl's own.

Responsible for: every exception that docker-py, requests, urllib3, paramiko and the system can raise out of an engine
call becomes a `NodeError` with a probable cause and a hint. Not responsible for: failures of the handshake
(`ssh`, `dial`), and finding out why a socket was refused (`diagnosis`).

What was answered is an `EngineError`: the effect didn't happen. What wasn't is a `NodeUnreachable`: it may have.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator

import docker.errors
import requests.exceptions
import urllib3.exceptions

from wsctl.errors import EngineError, ImageMissing, NameTaken, NodeError, NodeUnreachable, PortTaken

MAX_TEXT = 400
"""How much of an engine's own words a message may hold, in characters."""

# Patterns are compiled by the failure that needs them, not by every run.
_PORT_TAKEN = r"port is already allocated|address already in use|bind: (?!cannot assign|permission denied)"
_NAME_TAKEN = r"(?i)is already in use by container|name .* is already in use"
_IMAGE_MISSING = (
    r"(?i)no such image|manifest (for .* )?(unknown|not found)|pull access denied|not found: manifest|"
    r"repository does not exist"
)

_HINTS = (
    (r"no space left on device", "free space on the node: docker system df; df -h"),
    (r"disk quota exceeded", "the node's disk quota is used up"),
    (r"read-only file system", "a disk of the node is read-only: its kernel log says why (dmesg)"),
    (r"cannot assign requested address", "the node has no such address: correct `bind_address`"),
    (r"bind: permission denied", "choose `ports` above 1023"),
    (r"cannot allocate memory|out of memory", "the node is out of memory"),
    (r"executable file not found", "the image has no such program: correct `workspace.command`"),
    (r"too many open files", "raise the limit of open files of the node's engine"),
    (r"read unix .*|containerd.*(unavailable|connection refused)|shim", "restart the node's engine"),
    (r"(?i)minimum memory limit", "raise `workspace.memory`"),
    (r"Range of CPUs", "lower `workspace.cpus` to what the node has"),
)


_SOCKET_CAUSES = (
    (FileNotFoundError, "there is no socket {path}", "is Docker installed and running?"),
    (PermissionError, "this account may not use {path}", "add this account to the group `docker` (and log in again)"),
    (ConnectionRefusedError, "nothing listens on {path}: the engine isn't running", "systemctl start docker"),
)


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and everything it came from, each once. Libraries wrap: the oldest one tells the most."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        # urllib3 and requests carry the original as an argument or as `reason`, not always as the cause.
        waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


def answered(node: str, error: docker.errors.APIError) -> EngineError:
    """What the engine answered instead of doing it."""
    text = clean(str(error.explanation or error))
    status = error.status_code
    details = {"status": status}
    if re.search(_PORT_TAKEN, text):
        return PortTaken(node, text, hint="something else on the node uses this port: ss -ltnp", details=details)
    if status == 409 and re.search(_NAME_TAKEN, text):
        return NameTaken(node, text, hint="on the node: docker inspect shows whose it is", details=details)
    if re.search(_IMAGE_MISSING, text) or isinstance(error, docker.errors.ImageNotFound):
        return ImageMissing(node, text, hint="pull it on the node, or correct `workspace.image`", details=details)
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, text)), None)
    return EngineError(node, text, hint=hint, details=details)


def clean(text: str) -> str:
    """Somebody else's words on one line, without control characters, shortened."""
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text).split())
    return line if len(line) <= MAX_TEXT else f"{line[:MAX_TEXT]}…"


def is_timeout(error: BaseException) -> bool:
    """Whether no answer came in time."""
    kinds = (TimeoutError, requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)
    return any(isinstance(one, kinds) for one in chain(error))


def is_broken(error: BaseException) -> bool:
    """Whether the connection broke before the answer began: then nothing of the answer is known, and a request that may
    be repeated can be sent again."""
    kinds = (http.client.RemoteDisconnected, ConnectionError, EOFError)
    return not is_timeout(error) and any(isinstance(one, kinds) for one in chain(error))


def is_garbage(error: BaseException) -> bool:
    """Whether what answers doesn't speak HTTP, or not as a Docker Engine."""
    kinds = (
        http.client.BadStatusLine,
        http.client.LineTooLong,
        http.client.UnknownProtocol,
        urllib3.exceptions.HeaderParsingError,
        requests.exceptions.JSONDecodeError,
        docker.errors.StreamParseError,
    )
    # RemoteDisconnected is a BadStatusLine too: nothing was said at all.
    return any(isinstance(one, kinds) and not isinstance(one, http.client.RemoteDisconnected) for one in chain(error))


def without_answer(node: str, socket_path: str, error: BaseException, timeout_s: float) -> NodeError:
    """A request that got no answer, or none that can be understood. `NodeUnreachable` unless something was answered."""
    if is_timeout(error):
        return NodeUnreachable(
            node,
            f"no answer from the engine within {timeout_s:g} s",
            hint="the engine or the whole machine is frozen or very busy, or the network was dropped",
        )
    if is_garbage(error):
        return no_engine(node, socket_path)
    for one in chain(error):
        for kind, said, hint in _SOCKET_CAUSES:
            if isinstance(one, kind):
                return NodeUnreachable(node, said.format(path=socket_path), hint=hint)
    if isinstance(error, urllib3.exceptions.EmptyPoolError) or is_broken(error):
        said = "the connection broke in the middle of a request"
        return NodeUnreachable(node, said, hint="the engine was restarted, or the network was dropped")
    return NodeUnreachable(node, f"the engine can't be asked: {clean(str(error)) or type(error).__name__}")


def no_engine(node: str, socket_path: str) -> EngineError:
    """Something else answers."""
    said = f"what listens on {socket_path} isn't a Docker Engine"
    return EngineError(node, said, hint="correct `docker_socket`")


def blame(found: NodeUnreachable, sshd_answers: bool) -> NodeUnreachable:
    """A timeout, after sshd was asked whether it is still there."""
    if sshd_answers:
        said = found.reason.replace("no answer from the engine", "sshd answers, but the engine gave no answer")
        return NodeUnreachable(found.node, said, hint="the engine is frozen or overloaded: systemctl status docker")
    said = f"{found.reason}, and sshd doesn't answer any more either"
    return NodeUnreachable(found.node, said, hint="the machine is frozen, or the network was dropped")


def translate(node: str, socket_path: str, error: BaseException, timeout_s: float) -> NodeError:
    """Any exception out of an engine call as wsctl's own. Raise it `from` the original."""
    if isinstance(error, NodeError):
        return error
    if isinstance(error, docker.errors.APIError) and error.response is not None:
        return answered(node, error)
    if isinstance(error, docker.errors.InvalidVersion | docker.errors.DeprecatedMethod):
        return EngineError(node, f"the engine is too old for this: {clean(str(error))}")
    if isinstance(error, docker.errors.DockerException) and not isinstance(error, requests.exceptions.RequestException):
        # docker-py's own complaints about what it was given: nothing was sent.
        return EngineError(node, clean(str(error)) or type(error).__name__)
    return without_answer(node, socket_path, error, timeout_s)


FOREIGN = (
    docker.errors.DockerException,
    docker.errors.StreamParseError,
    requests.exceptions.RequestException,
    OSError,
    EOFError,
)
