"""Values as words and as JSON: quantities for people, and every text made safe for a terminal.

Responsible for: the one spelling of quantities in reasons, tables and messages, and `clean` and `to_json`, one of
which every untrusted string passes before it is shown. Not responsible for: layout or streams (`output`), nor for
reading what people write (`inventory`). Pure, standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum

UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]",
)
"""C0 and C1 controls, DEL, line and paragraph separators, everything that changes the direction of text, and lone
surrogates: a terminal would obey them, or a reader be misled by them."""


def _escape(match: re.Match[str]) -> str:
    named = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
    char = match.group()
    if char in named:
        return named[char]
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"


def clean(text: str, *, keep: str = "") -> str:
    r"""`text` with every control character shown as an escape (`\x1b`, `\n`, `\u202e`), except those in `keep`."""
    if text.isascii() and text.isprintable():
        return text
    if not keep:
        return UNSAFE.sub(_escape, text)
    return UNSAFE.sub(lambda match: match.group() if match.group() in keep else _escape(match), text)


def human_bytes(count: float) -> str:
    """Bytes in binary units with one decimal: `512 B`, `1.5 KiB`, `2.0 GiB`."""
    if abs(count) < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        # 1023.95 would be rounded up to "1024.0": that is one of the next unit.
        if abs(count) < 1023.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} PiB"


def human_cpus(milli: int) -> str:
    """Thousandths of a core as cores: `0.5`, `1`, `2.25`."""
    return f"{milli / 1000:.3f}".rstrip("0").rstrip(".")


def human_duration(seconds: float) -> str:
    """Seconds in at most two units: `0.4 s`, `12 s`, `3m 20s`, `2h 5m`, `4d 1h`."""
    if seconds < 0:
        return f"-{human_duration(-seconds)}"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest_s = divmod(whole, 60)
    hours, rest_m = divmod(minutes, 60)
    days, rest_h = divmod(hours, 24)
    if days:
        return f"{days}d {rest_h}h" if rest_h else f"{days}d"
    if hours:
        return f"{hours}h {rest_m}m" if rest_m else f"{hours}h"
    return f"{minutes}m {rest_s}s" if rest_s else f"{minutes}m"


def ago(moment: datetime | None, now: datetime) -> str:
    """How long before `now` the moment was: `3m 20s ago`, `just now`, `never` for None."""
    if moment is None:
        return "never"
    seconds = (now - moment).total_seconds()
    return f"{human_duration(seconds)} ago" if seconds >= 1 else "just now"


def iso(moment: datetime) -> str:
    """A timezone-aware moment as UTC ISO 8601 with `Z`: `2026-01-31T12:00:00Z`, with milliseconds if it has any."""
    utc = moment.astimezone(UTC)
    spec = "milliseconds" if utc.microsecond else "seconds"
    return utc.isoformat(timespec=spec).replace("+00:00", "Z")


def shown(value: object) -> str:
    """A value as words, for tables; not yet clean."""
    match value:
        case None | True | False:
            return {None: "-", True: "yes", False: "no"}[value]
        case datetime():
            return iso(value)
        case float():
            return f"{value:g}"
        case Mapping():
            return ", ".join(f"{key}={shown(part)}" for key, part in value.items()) or "-"
        case list() | tuple() | set() | frozenset():
            return ", ".join(shown(part) for part in value) or "-"
        case _:
            return str(value)


def _jsonable(value: object) -> object:
    match value:
        case datetime():
            return iso(value)
        case timedelta():
            return value.total_seconds()
        case Enum():
            return value.value
        case Mapping():
            return dict(value)
        case set() | frozenset():
            return sorted(value)
    raise TypeError(f"a {type(value).__name__} in an answer has no JSON form")


def to_json(value: object, *, ascii_only: bool = False, indent: int | None = None) -> str:
    """`value` as JSON that is safe to look at: readable UTF-8, but with every control and bidi character escaped."""
    text = json.dumps(value, default=_jsonable, ensure_ascii=ascii_only, indent=indent)
    # All of these can only stand inside of strings, except for the line breaks of the indentation.
    return UNSAFE.sub(lambda m: m.group() if m.group() == "\n" else f"\\u{ord(m.group()):04x}", text)
