"""The keys of `backup:`.

Responsible for: what can be said about the repository of backups, and that no password stands in it. Not responsible
for: reaching it (`transport.restic`), nor for what the numbers of `keep` lead to (`wsctl.snapshots`).
"""

from __future__ import annotations

import re

from wsctl.inventory import names
from wsctl.inventory.kinds import Key, section
from wsctl.inventory.scalars import Text, number

_SFTP = re.compile(r"sftp:(?:[A-Za-z0-9_.-]+@)?[A-Za-z0-9.-]+:[^\s:]+|sftp://[^\s:/]+(?::[0-9]+)?//?[^\s:]+")
_WEB = re.compile(r"(?:s3:https?://|s3:|rest:https?://)[A-Za-z0-9._~:/-]+")


def _repository(text: str) -> str:
    """Restic's word for a place: a path on the nodes, SFTP, S3 or a REST server."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("has characters that a repository can't have")
    scheme, colon, rest = text.partition(":")
    userinfo, at, _ = rest.partition("@")
    if colon and at and (":" in userinfo.removeprefix("//").removeprefix("https://").removeprefix("http://")):
        raise ValueError("has a password in it, which this file mustn't hold (use backup.env_file)")
    if text.startswith("/"):
        return names.parse_absolute(text)
    if scheme == "sftp" and _SFTP.fullmatch(text):
        return text
    if scheme in ("s3", "rest") and _WEB.fullmatch(text):
        return text
    raise ValueError


REPOSITORY = Text(
    _repository,
    "an absolute path on the nodes, sftp:user@host:/path, s3:https://host/bucket or rest:https://host/name",
    {"type": "string", "minLength": 1},
    secret=True,
)


def _count(what: str, default: str) -> Key:
    return Key(number(0, 10_000, "a number of snapshots"), f"So many of {what} are kept.", default)


KEEP = section(
    last=_count("the newest snapshots of a user", "3"),
    daily=_count("the newest of a day", "14"),
    weekly=_count("the newest of a week", "8"),
    monthly=_count("the newest of a month", "12"),
)

BACKUP = section(
    repository=Key(REPOSITORY, "Where restic on the nodes keeps workspaces, for `backup run`.", null="no backups"),
    password_file=Key(
        names.FILE,
        "A file here with the repository's password. `WSCTL_BACKUP_PASSWORD` wins over it.",
        null="no password",
    ),
    env_file=Key(
        names.FILE,
        "A file here with lines NAME=VALUE for restic, such as AWS_ACCESS_KEY_ID; they reach nodes by stdin only.",
        null="none",
    ),
    keep=Key(KEEP, "Which snapshots stay."),
)
