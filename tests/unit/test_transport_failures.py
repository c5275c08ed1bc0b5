"""Every foreign exception becomes one of ours; the words of engines are recognised."""

from __future__ import annotations

import http.client
import inspect
import socket
from typing import Any

import docker.errors
import paramiko
import paramiko.ssh_exception
import pytest
import requests
import urllib3.exceptions

from wsctl.errors import EngineError, ImageMissing, NameTaken, NodeError, NodeUnreachable, PortTaken
from wsctl.model import SshSettings
from wsctl.transport import failures, ssh
from wsctl.transport.channels import ChannelRefused
from wsctl.transport.ssh_config import resolve


def classes(module: Any) -> list[type[BaseException]]:
    return [
        one
        for _, one in inspect.getmembers(module, inspect.isclass)
        if issubclass(one, BaseException) and one.__module__ == module.__name__
    ]


def make(kind: type[BaseException]) -> BaseException:
    """An instance, without knowing what each constructor wants."""
    error = kind.__new__(kind)
    error.args = ("something",)
    for name in ("msg", "explanation", "build_log", "param", "extra", "name"):
        if not hasattr(error, name):
            error.__dict__[name] = "something"
    if isinstance(error, requests.RequestException):
        error.__dict__["response"] = error.__dict__["request"] = None
    return error


@pytest.mark.parametrize("kind", classes(docker.errors), ids=lambda kind: kind.__name__)
def test_every_class_of_docker_errors(kind: type[BaseException]) -> None:
    error = make(kind)
    assert isinstance(error, failures.FOREIGN)
    assert isinstance(failures.translate("n1", "/s", error, 1), NodeError)


@pytest.mark.parametrize("kind", classes(requests.exceptions), ids=lambda kind: kind.__name__)
def test_every_class_of_requests(kind: type[BaseException]) -> None:
    if issubclass(kind, Warning):
        return
    assert isinstance(make(kind), failures.FOREIGN)
    assert isinstance(failures.translate("n1", "/s", make(kind), 1), NodeError)


@pytest.mark.parametrize("kind", classes(paramiko.ssh_exception), ids=lambda kind: kind.__name__)
def test_every_class_of_paramiko(kind: type[BaseException]) -> None:
    target = resolve("n1", "h", SshSettings(user="u", config=False), 1)
    error = kind.__new__(kind)
    error.__dict__.update(
        errors={}, allowed_types=[], explanation="", key=paramiko.PKey(), expected_key=paramiko.PKey(), hostname="h"
    )
    error.__dict__.update(code=2, text="no", command="x", error="no")

    def fail() -> None:
        raise error

    with pytest.raises(NodeUnreachable) as caught:
        ssh._guarded(target, fail, "the login")
    assert caught.value.__cause__ is error


def wrapped(error: Exception) -> requests.ConnectionError:
    """As requests and urllib3 wrap it."""
    return requests.ConnectionError(urllib3.exceptions.ProtocolError("x", error))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), "no answer from the engine within 7 s"),
        (requests.ReadTimeout("slow"), "no answer from the engine within 7 s"),
        (wrapped(FileNotFoundError(2, "no")), "there is no socket /s"),
        (wrapped(PermissionError(13, "no")), "may not use /s"),
        (wrapped(ConnectionRefusedError(111, "no")), "isn't running"),
        (wrapped(http.client.RemoteDisconnected("x")), "broke"),
        (wrapped(http.client.BadStatusLine("x")), "isn't a Docker Engine"),
        (EOFError(), "broke"),
        (OSError("odd"), "can't be asked: odd"),
        (docker.errors.NullResource("Resource ID was not provided"), "Resource ID"),
    ],
)  # fmt: skip
def test_what_went_wrong_without_an_answer(error: BaseException, expected: str) -> None:
    assert expected in failures.translate("n1", "/s", error, 7).message


def answer(status: int, text: str) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    kind = docker.errors.NotFound if status == 404 else docker.errors.APIError
    return kind("HTTP error", response=response, explanation=text)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (500, "driver failed …: Bind for 10.0.0.1:20000 failed: port is already allocated", PortTaken),
        (500, "Error starting userland proxy: listen tcp4 10.0.0.1:20000: bind: address already in use", PortTaken),
        (500, "failed to bind host port 10.0.0.1:20000/tcp: address already in use", PortTaken),
        (500, "listen tcp4 10.9.9.9:20000: bind: cannot assign requested address", EngineError),
        (500, "listen tcp4 10.9.9.9:80: bind: permission denied", EngineError),
        (409, 'Conflict. The container name "/ws-u-a" is already in use by container "4f"', NameTaken),
        (409, "removal of container x is already in progress", EngineError),
        (404, "No such image: studio/workspace:1", ImageMissing),
        (404, "manifest for x:1 not found: manifest unknown: manifest unknown", ImageMissing),
        (404, "pull access denied for x, repository does not exist or may require 'docker login'", ImageMissing),
        (404, "No such container: x", EngineError),
        (500, "write /var/lib/docker/x: no space left on device", EngineError),
    ],
)  # fmt: skip
def test_what_the_engine_said(status: int, text: str, kind: type[EngineError]) -> None:
    found = failures.translate("n1", "/s", answer(status, text), 1)
    assert type(found) is kind
    assert found.details["status"] == status
    if "no space" in text:
        assert "free space" in (found.hint or "")
    if "cannot assign" in text:
        assert "bind_address" in (found.hint or "")


def test_control_characters_and_length_of_an_answer() -> None:
    found = failures.translate("n1", "/s", answer(500, "a\x1b[31mb\nc" + "x" * 9999), 1)
    assert "\x1b" not in found.message
    assert "\n" not in found.message
    assert len(found.message) < 500


def test_timeouts_are_blamed_on_who_is_silent() -> None:
    slow = failures.translate("n1", "/s", TimeoutError(), 2)
    assert isinstance(slow, NodeUnreachable)
    assert "sshd answers" in failures.blame(slow, True).message
    assert "doesn't answer any more" in failures.blame(slow, False).message


def test_what_may_be_sent_again() -> None:
    assert failures.is_broken(requests.ConnectionError(ConnectionResetError()))
    assert not failures.is_broken(requests.ReadTimeout())
    assert not failures.is_broken(answer(500, "no"))
    assert not failures.is_broken(socket.gaierror(-2, "x"))


def test_paramikos_log_stays_off_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    from wsctl.transport import lazy

    lazy.load_paramiko()
    logging.getLogger("paramiko.transport").error("Secsh channel 3 open FAILED")
    assert capfd.readouterr().err == ""


def test_a_refused_channel_is_no_paramiko_exception() -> None:
    assert not issubclass(ChannelRefused, paramiko.SSHException)
