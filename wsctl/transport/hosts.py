"""A node as a place where scripts about files run: here or through SSH, as root by `sudo -n` where that takes it.

Responsible for: one way to run, to follow and to couple scripts, whatever the node is. Not responsible for: which
scripts (`file_scripts`, `copy_scripts`), nor for what their outcome means (`files`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from wsctl.model import Node
from wsctl.transport.following import follow, follow_local
from wsctl.transport.pipes import LocalLauncher, Pipe, SshLauncher
from wsctl.transport.shell import RISE, Done, LocalShell, SshShell

if TYPE_CHECKING:
    from wsctl.transport.ssh import Session

SILENCE_S = 330.0
"""rsync itself gives up after 300 s without a word from the other end."""


class Host:
    """One node. All methods raise `NodeUnreachable` when it doesn't answer, the first also when it can't be reached."""

    def __init__(self, node: Node, session: Callable[[], Session]) -> None:
        self.node = node
        self._session = session

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def is_local(self) -> bool:
        return self.node.is_local

    @property
    def session(self) -> Session:
        """The connection to the node. Not for one that is here."""
        return self._session()

    def run(self, script: str, *words: str, data: bytes, timeout_s: float, rise: bool = True) -> Done:
        """Run the script to its end; `rise` as root, if that can be had."""
        argv = self._argv(script, words, rise=rise)
        shell = LocalShell(self.name) if self.is_local else SshShell(self.name, self._session)
        return shell.run(argv, data, timeout_s)

    def follow(self, script: str, *words: str, heard: Callable[[bytes], None]) -> Done:
        """Run the script as long as it takes; it hears the end of its stdin when we are no more."""
        argv = self._argv(script, words)
        if self.is_local:
            return follow_local(self.name, argv, heard)
        return follow(self.name, self.session, argv, heard)

    def start(
        self, script: str, *words: str, heard: Callable[[bytes], None] = lambda part: None
    ) -> AbstractContextManager[Pipe]:
        """Start the script, with its stdin and stdout as streams; `heard` gets what it says on stderr."""
        argv = self._argv(script, words)
        if self.is_local:
            return LocalLauncher(self.name, SILENCE_S).start(argv, heard)
        return SshLauncher(self.name, self.session, SILENCE_S).start(argv, heard)

    def _argv(self, script: str, words: tuple[str, ...], *, rise: bool = True) -> list[str]:
        is_root = os.geteuid() == 0 if self.is_local else self.session.target.user == "root"
        if is_root or not rise:
            return ["sh", "-c", script, "wsctl", *words]
        return ["sh", "-c", RISE, "wsctl", script, *words]
