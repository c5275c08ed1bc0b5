"""The demo's stage: shows a command, runs it, shows what it really prints, and insists that it was as told.

Not here: which commands there are and in what order (demo.py).
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from lab.lab import Lab

COMMAND_TIMEOUT_S = 60
MAP = "gateway/wsctl-map.conf"
TITLE = re.compile(r"<title>(.*?)</title>")


class Surprise(Exception):
    """Something wasn't as the tour told it would be."""


class Answer(NamedTuple):
    """What came back through the gateway."""

    status: int
    text: str

    @property
    def title(self) -> str:
        """The page's title, or the first line of what isn't a page."""
        found = TITLE.search(self.text)
        return found[1] if found else self.text.split("\n")[0]


class Stage:
    """Where the tour takes place: a folder with an inventory, a lab, and an audience."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self._chapter = 0
        colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._bold, self._dim, self._plain = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if colours else ("", "", "")

    def chapter(self, title: str, *text: str) -> None:
        """A heading, and what it is about."""
        self._chapter += 1
        self._print(f"\n{self._bold}{self._chapter}. {title}{self._plain}")
        for line in text:
            self.tell(line)

    def tell(self, line: str) -> None:
        self._print(f"   {line}")

    def remark(self, line: str) -> None:
        """A word between two commands."""
        self._print(f"\n   {line}")

    def wsctl(self, *words: str, expect: int = 0) -> str:
        """Show a command, run it, show what it prints; a surprise unless it exits as expected."""
        self._print(f"\n{self._bold}$ wsctl {shlex.join(words)}{self._plain}")
        done = self._run(words)
        for line in done.stdout.splitlines():
            self._print(line)
        if expect:
            self._print(f"{self._dim}exit code {done.returncode}{self._plain}")
        if done.returncode != expect:
            raise Surprise(f"`wsctl {shlex.join(words)}` exited with {done.returncode} instead of {expect}")
        return done.stdout

    def table(self, *words: str) -> list[dict[str, str]]:
        """The same for a command that prints a table first: its rows, by their titles."""
        return rows(self.wsctl(*words))

    def chosen_node(self, user: str) -> str:
        """Where a new user would go; not shown."""
        steps = json.loads(self._run(("place", user, "--dry-run", "-o", "json")).stdout)["plan"][0]["steps"]
        return str(next(step["node"] for step in steps if step["step"] == "reserve"))

    def _run(self, words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        # The demo has a configuration of its own: the operator's must not change what it shows.
        env = {name: value for name, value in os.environ.items() if not name.startswith("WSCTL_")}
        env["PYTHONPATH"] = str(Path(__file__).parents[1])
        return subprocess.run(
            [sys.executable, "-m", "wsctl", *words],
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )

    def fetch(self, path: str, expect: int, *, body: str | None = None, quiet: bool = False) -> Answer:
        """Ask the gateway for a path (or, with a body, put it there); a surprise unless the status is as expected."""
        address = urlsplit(self.lab.gateway_url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
        method = "GET" if body is None else "PUT"
        try:
            connection.request(method, path, body=body)
            response = connection.getresponse()
            answer = Answer(response.status, response.read().decode(errors="replace"))
        except (OSError, http.client.HTTPException) as error:
            raise Surprise(f"{method} {path} got no answer from the gateway: {error}") from error
        finally:
            connection.close()
        if not quiet:
            self._print(f"\n{self._bold}{method} {path}{self._plain}  ->  {answer.status}  {answer.title}")
        if answer.status != expect:
            raise Surprise(f"{method} {path} was answered with {answer.status} instead of {expect}")
        return answer

    def put_live(self, *options: str) -> None:
        """Render the map and have Nginx use it."""
        self.wsctl("render-gateway", "--out", MAP, *options)
        self._print(f"\n{self._bold}$ nginx -s reload{self._plain}")
        self.lab.nginx_reload()

    def _print(self, line: str) -> None:
        print(line, flush=True)


def rows(text: str) -> list[dict[str, str]]:
    """The rows of the table that a text begins with: columns are at least two spaces apart."""
    titles, *lines = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
    return [dict(zip(titles, line, strict=True)) for line in lines if len(line) == len(titles)]


def check(fact: bool, what: str) -> None:
    """A surprise unless it is so."""
    if not fact:
        raise Surprise(what)


@contextmanager
def open_page(stage: Stage, path: str) -> Iterator[None]:
    """Somebody who fetches a page again and again while the block runs."""
    closed = threading.Event()
    failures: list[Surprise] = []

    def browse() -> None:
        while not closed.wait(0.3):
            try:
                stage.fetch(path, 200, quiet=True)
            except Surprise as error:
                failures.append(error)

    thread = threading.Thread(target=browse, daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()
    if failures:
        raise failures[0]
