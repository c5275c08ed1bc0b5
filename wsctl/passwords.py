"""Secrets that the inventory only points to: from the environment or from files on the control host.

Responsible for: reading them, and for errors that name the key but never the secret. Not responsible for: what they
open.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from wsctl.errors import InventoryError

REPOSITORY_PASSWORD = "WSCTL_BACKUP_PASSWORD"  # noqa: S105 - the name of a variable


def secret(variable: str, file: str | None, key: str) -> str | None:
    """The value of the variable, else what is in the file; None if neither is given. Raises `InventoryError`."""
    value = os.environ.get(variable)
    if value is not None or file is None:
        return value
    return _read(file, key, f"chmod/chown it so that you can read it, or set {variable}").strip()


def repository_environment(repository: str, password_file: str | None, env_file: str | None) -> dict[str, str]:
    """What restic needs to know of the repository of backups. Raises `InventoryError`."""
    password = secret(REPOSITORY_PASSWORD, password_file, "backup.password_file")
    if not password or not password.isprintable():
        raise InventoryError(
            "the repository of backups needs a password of one line",
            hint=f"set backup.password_file in the inventory, or {REPOSITORY_PASSWORD}",
        )
    more = {} if env_file is None else _variables(env_file)
    return {**more, "RESTIC_REPOSITORY": repository, "RESTIC_PASSWORD": password}


def _variables(file: str) -> dict[str, str]:
    """Lines NAME=VALUE; empty ones and those that begin with # are left out."""
    found: dict[str, str] = {}
    for number, line in enumerate(
        _read(file, "backup.env_file", "chmod/chown it so that you can read it").split("\n"), 1
    ):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.strip().partition("=")
        if not equals or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) or not value.isprintable():
            raise InventoryError(f"{file}:{number}: not a line NAME=VALUE", hint="one variable a line, without quotes")
        found[name] = value
    return found


def _read(file: str, key: str, hint: str) -> str:
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InventoryError(
            f"{key}: cannot read {file}: {getattr(error, 'strerror', None) or error}", hint=hint
        ) from error
