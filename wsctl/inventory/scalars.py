"""Text → value for everything that is one number, quantity, word or switch.

Responsible for: the spelling of numbers, sizes, durations, CPUs, ports and choices, both ways, and for never guessing:
whatever YAML 1.1 or a C parser would read differently from a person is refused with what to write instead. Not
responsible for: names, paths and addresses (`names`), URLs (`urls`), nor for which key takes which (`table`).

A parser takes the text as written and returns the value, or raises `ValueError` whose text says what is wrong with it,
in the form that follows the quoted text: `'012' has a leading zero (write 12)`. An empty one means: not of that form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from wsctl.inventory.problems import suggestion
from wsctl.model import PortRange

Schema = Mapping[str, Any]
"""A piece of JSON Schema."""


class Text(NamedTuple):
    """What one scalar may be. With `secret` a refused text isn't repeated in the message: it may hold a password."""

    parse: Callable[[str], Any]
    expected: str
    schema: Schema
    secret: bool = False


_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4, "p": 1024**5}
# Patterns are texts: `re` compiles each when first needed, and most runs need few of them.
_SIZE = r"([0-9]{1,20})(?:\.([0-9]{1,9}))?([kmgtp]?)(?:b|ib)?"
_DURATION = r"(?:([0-9.]+)d)?(?:([0-9.]+)h)?(?:([0-9.]+)m)?(?:([0-9.]+)s)?(?:([0-9.]+)ms)?"
_AMOUNT = r"([0-9]{1,9})(?:\.([0-9]{1,9}))?"
_MILLISECONDS = (86_400_000, 3_600_000, 60_000, 1000, 1)
_TRUE_LIKE = {"yes", "y", "on", "true", "1"}
_FALSE_LIKE = {"no", "n", "off", "false", "0"}


def refuse_odd_number(text: str) -> None:
    """Refuse the spellings of numbers that mean different things to different readers."""
    if re.fullmatch(r"[+-]?[0-9]+(_[0-9]+)+\w*", text):
        raise ValueError(f"has underscores (write {text.replace('_', '')})")
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}", text):
        raise ValueError(f"is hexadecimal (write {int(text, 16)})")
    if re.match(r"0[oO]?[0-9]", text):
        digits = re.match(r"[0oO]*([0-9.]*\w*)", text)
        raise ValueError(f"has a leading zero and may be read as octal (write {(digits and digits[1]) or 0})")
    if re.fullmatch(r"[0-9]+(:[0-9]+)+", text):
        raise ValueError("is a number in base 60 to YAML 1.1, and no such thing here")
    if text.startswith("+"):
        raise ValueError(f"has a sign (write {text[1:]})")


def whole(text: str, low: int, high: int) -> int:
    """A whole number in decimal digits between `low` and `high`."""
    refuse_odd_number(text)
    if not re.fullmatch(r"-?[0-9]+", text):
        raise ValueError("is not a whole number" if re.fullmatch(r"-?[0-9]+\.[0-9]+", text) else "")
    if len(text) > 18 or not low <= int(text) <= high:
        raise ValueError("is out of range")
    return int(text)


def number(low: int, high: int, what: str) -> Text:
    """The kind of a whole number; `what` names it in messages."""
    return Text(
        lambda text: whole(text, low, high),
        f"{what}, {low} to {high}",
        {"type": "integer", "minimum": low, "maximum": high},
    )


def decimal(low: int, high: int, what: str) -> Text:
    """The kind of a number with up to three decimals, as an integer count of thousandths. So are the limits."""

    def parse(text: str) -> int:
        refuse_odd_number(text)
        found = re.fullmatch(r"([0-9]{1,12})(?:\.([0-9]{1,18}))?", text)
        if found is None:
            raise ValueError("is out of range" if re.fullmatch(r"-[0-9]+(\.[0-9]+)?", text) else "")
        value, lost = _scaled(found[1], found[2], 1000)
        if lost:
            raise ValueError("has more than three decimals")
        if not low <= value <= high:
            raise ValueError("is out of range")
        return value

    schema = {"type": "number", "minimum": low / 1000, "maximum": high / 1000}
    return Text(parse, f"{what}, {low / 1000:g} to {high // 1000} with at most three decimals", schema)


def parse_size(text: str) -> int:
    """`64g`, `1.5GiB`, `512m`, `1048576` as bytes, in powers of 1024."""
    refuse_odd_number(text)
    found = re.fullmatch(_SIZE, text.lower())
    if found is None:
        raise ValueError("has a space (write it without)" if re.fullmatch(_SIZE, text.lower().replace(" ", "")) else "")
    count, fraction, unit = found.groups()
    if fraction and not unit:
        raise ValueError("is not a whole number of bytes")
    return _scaled(count, fraction, _UNITS[unit])[0]


def _scaled(whole_part: str, fraction: str | None, unit: int) -> tuple[int, int]:
    """`whole_part.fraction` times `unit` rounded down, and what was lost by that (0: nothing); exact, no floats."""
    digits = fraction or ""
    divisor: int = 10 ** len(digits)
    return divmod(int(whole_part + digits) * unit, divisor)


def size(low: int, high: int = 2**60, *, what: str = "a size") -> Text:
    """The kind of a number of bytes."""
    least = "" if low == 0 else f", at least {size_text(low)}"

    def parse(text: str) -> int:
        value = parse_size(text)
        if value < low:
            raise ValueError(f"means bytes (write {text}m or {text}g)" if text.isdigit() else "is too small")
        if value > high:
            raise ValueError("is too large")
        return value

    pattern = r"^[0-9]+(\.[0-9]+)?([kKmMgGtTpP]([iI]?[bB])?|[bB])?$"
    schema = {"anyOf": [{"type": "integer", "minimum": low}, {"type": "string", "pattern": pattern}]}
    return Text(parse, f"{what} such as 512m, 1.5g or bytes{least}", schema)


def size_text(count: int) -> str:
    """The shortest exact spelling of a number of bytes: `64g`, `1536m`, `1000`."""
    for unit in "tgmk":
        if count and count % _UNITS[unit] == 0:
            return f"{count // _UNITS[unit]}{unit}"
    return str(count)


RATE = size(1024)
"""The kind of a number of bytes a second. Less isn't meant: nothing would ever arrive."""


def parse_duration(text: str) -> float:
    """`30s`, `1h30m`, `2d`, `500ms` as seconds. A bare number is refused: nobody knows its unit."""
    if re.fullmatch(r"[0-9]+(:[0-9]+)+", text):
        raise ValueError("is a time of day or a base-60 number (write 22m or 1h30m)")
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) and text != "0":
        raise ValueError(f"has no unit (write {text}s or {text}m)")
    if text == "0":
        return 0.0
    found = re.fullmatch(_DURATION, text.lower())
    if found is None or not text:
        raise ValueError
    return sum(_milliseconds(*pair) for pair in zip(found.groups(), _MILLISECONDS, strict=True)) / 1000


def _milliseconds(amount: str | None, unit: int) -> int:
    if amount is None:
        return 0
    refuse_odd_number(amount)
    found = re.fullmatch(_AMOUNT, amount)
    if found is None:
        raise ValueError
    value, lost = _scaled(found[1], found[2], unit)
    if lost:
        raise ValueError("is finer than a millisecond")
    return value


def duration(example: str) -> Text:
    """The kind of a time span above zero and up to ten years, as seconds."""

    def parse(text: str) -> float:
        seconds = parse_duration(text)
        if seconds <= 0:
            raise ValueError("is no time at all")
        if seconds > 3650 * 86400:
            raise ValueError("is longer than ten years")
        return seconds

    amount = r"[0-9]+(\.[0-9]+)?"
    pattern = "^" + "".join(f"({amount}{unit})?" for unit in ("d", "h", "m", "s", "ms")) + "$"
    return Text(
        parse, f"a duration such as {example}, 500ms or 1h30m", {"type": "string", "pattern": pattern, "minLength": 2}
    )


def duration_text(seconds: float) -> str:
    """The canonical spelling of seconds: `1h30m`, `500ms`, `0`."""
    rest, parts = round(seconds * 1000), []
    for unit, name in zip(_MILLISECONDS, ("d", "h", "m", "s", "ms"), strict=True):
        amount, rest = divmod(rest, unit)
        if amount:
            parts.append(f"{amount}{name}")
    return "".join(parts) or "0"


def parse_switch(text: str) -> bool:
    """`true` or `false`; YAML 1.1's other twenty spellings are refused with the one to write."""
    if text in ("true", "false"):
        return text == "true"
    if text.lower() in _TRUE_LIKE:
        raise ValueError("is ambiguous (write true)")
    if text.lower() in _FALSE_LIKE:
        raise ValueError("is ambiguous (write false)")
    raise ValueError


def choice(words: type[StrEnum] | tuple[str, ...]) -> Text:
    """The kind of one word out of few; an enum yields its member."""
    known = [str(word) for word in words]

    def parse(text: str) -> Any:
        if text not in known:
            raise ValueError(suggestion(text, known) and f"is unknown, {suggestion(text, known)}")
        return text if isinstance(words, tuple) else words(text)

    return Text(parse, f"one of {', '.join(known)}", {"enum": known})


def parse_ports(text: str) -> PortRange:
    """`20000-29999`, or one port."""
    refuse_odd_number(text)
    if re.fullmatch(r"[0-9_]+ *- *[0-9_]+", text) and "_" in text:
        raise ValueError(f"has underscores (write {text.replace('_', '')})")
    found = re.fullmatch(r"([0-9]+)(?: *- *([0-9]+))?", text)
    if found is None:
        raise ValueError
    for end in found.groups():
        refuse_odd_number(end or "1")
    first = int(found[1][:9])
    last = int((found[2] or found[1])[:9])
    if first < 1024:
        raise ValueError("begins below 1024, where a node's own services listen")
    if first > 65535 or last > 65535:
        raise ValueError("goes beyond 65535, the last port there is")
    if first > last:
        raise ValueError(f"ends before it begins (write {last}-{first})")
    return PortRange(first, last)


SWITCH = Text(parse_switch, "true or false", {"type": "boolean"})
PORTS = Text(
    parse_ports,
    "a range of ports such as 20000-29999, within 1024-65535",
    {"anyOf": [{"type": "integer", "minimum": 1024, "maximum": 65535}, {"type": "string"}]},
)
