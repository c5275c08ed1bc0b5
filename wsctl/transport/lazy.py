"""Loading paramiko and docker when they are needed, and no more of them than is needed.

Responsible for: keeping two expensive, unused imports out of every run. Not responsible for: anything at run time.

paramiko imports `invoke` (half of its import time) only to evaluate `Match exec` in its own ssh_config parser, and
docker imports paramiko only for its own `ssh://` client. Neither is used here: `ssh -G` reads the configuration, and
`docker_socket` carries Docker's requests. Both packages treat them as optional (`except ImportError`), so they are told
that these aren't installed, only while they load.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PARAMIKO = threading.Lock()
_DOCKER = threading.Lock()


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Let `import module` fail inside the block. `None` in sys.modules is Python's own way to say so; the entry is
    taken out again, so that anybody may import the module later. One that is loaded already stays as it is."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop(module, None)


def load_paramiko() -> None:
    """Import paramiko without `invoke`, and keep its log off stderr. Does nothing the second time."""
    with _PARAMIKO:
        if "paramiko" not in sys.modules:
            with _without("invoke"):
                import paramiko  # noqa: F401
        log = logging.getLogger("paramiko")
        if not log.handlers:
            # Without any handler Python prints warnings ("Secsh channel 3 open FAILED") to stderr; whoever imported it.
            log.addHandler(logging.NullHandler())


def load_docker() -> None:
    """Import docker without its `ssh://` client, which would bring paramiko. Does nothing the second time."""
    with _DOCKER:
        if "docker" not in sys.modules:
            with _without("docker.transport.sshconn"):
                import docker  # noqa: F401
