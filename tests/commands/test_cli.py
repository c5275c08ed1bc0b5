"""The command line as such: help, versions, misspelt words, loudness, and errors in the form that was asked for."""

from __future__ import annotations

import pytest

from tests.commands.conftest import INVENTORY, Desk
from wsctl import __version__
from wsctl.cli import verb_first
from wsctl.commands import COMMANDS, Entry

VERBS = [name for name, entry in COMMANDS.items() if isinstance(entry, Entry)]
SUB = [(group, name) for group, entries in COMMANDS.items() if not isinstance(entries, Entry) for name in entries]
ALL = [(verb,) for verb in VERBS] + SUB


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_command_and_the_exit_codes(desk: Desk, flag: str) -> None:
    result = desk.ok(flag)
    first_words = {line.split()[0] for line in result.out.splitlines() if line.startswith("  ") and line.split()}
    assert set(COMMANDS) <= first_words
    for code in ("0 done", "1 a bug", "2 usage", "10 backend", "130 interrupted"):
        assert code.replace(" ", "") in result.out.replace(" ", "").replace("\n", "")


def test_nothing_at_all_is_the_help_and_2(desk: Desk) -> None:
    result = desk()
    assert (result.code, result.out) == (2, "")
    assert result.err == desk("--help").out
    assert desk("node").code == 2
    assert "cordon" in desk("node").err


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(desk: Desk, flag: str) -> None:
    assert desk.ok(flag).out == f"wsctl {__version__}\n"


@pytest.mark.parametrize("command", ALL, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help_with_an_example_and_the_common_options(
    desk: Desk, command: tuple[str, ...], flag: str
) -> None:
    out = desk.ok(*command, flag).out
    assert f"Usage: wsctl {' '.join(command)} " in out
    assert "Example" in out
    for option in ("-i, --inventory", "-o, --output", "-v, --verbose", "-q, --quiet"):
        assert option in out
    assert not desk.reached.opened


WRITERS = [*VERBS, *(" ".join(pair) for pair in SUB)]
for reader in (
    "ls",
    "show",
    "node ls",
    "node show",
    "node check",
    "lease ls",
    "db version",
    "node trust",
    "gateway ls",
    "gateway trust",
    "audit",
    "activity ls",
    "standby ls",
    "systemd print",
    "doctor",
    "logs",
    "exec",
    "stats",
    "top",
    "metrics",
    "backup state",
    "backup init",
    "backup ls",
    "backup verify",
    "serve-routes",
    "watch",
):
    WRITERS.remove(reader)
WRITERS = [name for name in WRITERS if not name.startswith("inventory")]


@pytest.mark.parametrize("command", WRITERS)
def test_every_writer_can_be_rehearsed_and_told_yes(desk: Desk, command: str) -> None:
    out = desk.ok(*command.split(), "--help").out
    assert "-n, --dry-run" in out
    assert "-y, --yes" in out


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["plcae", "alice"], "place"),
        (["reap"], "reap-idle"),
        (["node", "cordn", "n1"], "cordon"),
        (["inventory", "chek"], "check"),
        (["place", "alice", "--dryrun"], "--dry-run"),
        (["ls", "--staet", "running"], "--state"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_misspelt_word_is_2_with_a_suggestion(desk: Desk, argv: list[str], meant: str) -> None:
    result = desk(*argv)
    assert (result.code, result.out) == (2, "")
    assert meant in result.err
    assert "hint: wsctl" in result.err
    error = desk(*argv, "-o", "json").error
    assert error["code"] == "usage"
    assert meant in error["message"]


@pytest.mark.parametrize(
    "form",
    [["-o", "json"], ["-ojson"], ["--output", "json"], ["--output=json"], ["-qo", "json"], ["-qojson"]],
    ids=" ".join,
)
def test_errors_have_the_form_that_was_asked_for_however_it_was_spelt(desk: Desk, form: list[str]) -> None:
    result = desk("show", "nobody", *form)
    assert (result.code, result.out, result.error["code"]) == (4, "", "not-found")


def test_a_word_that_only_looks_like_a_format_is_none(desk: Desk) -> None:
    assert desk("show", "nobody").err.startswith("error: user nobody")
    assert desk("show", "json", "-i", "nowhere").err.startswith("error: ")


def test_a_missing_argument_is_2(desk: Desk) -> None:
    for argv in (["show"], ["stop"], ["node", "show"], ["lease", "break"]):
        result = desk(*argv, "-o", "json")
        assert (result.code, result.out, result.error["code"]) == (2, "", "usage")


def test_quiet_keeps_answers_and_errors_and_drops_the_rest(alice: Desk) -> None:
    result = alice("stop", "alice", "nobody", "-q")
    assert result.code == 9
    assert "stopped" in result.out
    assert "error: 1 of 2 failed" in result.err
    assert alice("init", "other.yaml", "-q").err == ""
    assert "hint: edit it" in alice("init", "another.yaml").err


def test_verbose_is_taken_everywhere(alice: Desk) -> None:
    for argv in (["ls", "-v"], ["show", "alice", "-v"], ["node", "ls", "-v"], ["place", "alice", "-v"]):
        assert alice(*argv).code == 0


@pytest.mark.parametrize("argv", [["ls"], ["place", "alice"], ["node", "ls"], ["db", "version"]], ids=" ".join)
def test_no_inventory_is_3_and_says_where_it_was_looked_for(desk: Desk, argv: list[str]) -> None:
    (desk.folder / "inventory.yaml").unlink()
    result = desk(*argv)
    assert (result.code, result.out) == (3, "")
    assert "hint: `wsctl init` writes one" in result.err
    result = desk(*argv, "-i", "nowhere.yaml", "-o", "json")
    assert (result.code, result.error["code"]) == (3, "inventory")


def test_the_inventory_of_the_environment_is_found_and_i_wins(desk: Desk) -> None:
    desk.inventory(INVENTORY.replace("cluster: studio", "cluster: one"), "one.yaml")
    desk.inventory(INVENTORY.replace("cluster: studio", "cluster: two"), "two.yaml")
    desk.patch.setenv("WSCTL_INVENTORY", "one.yaml")
    assert desk.ok("inventory", "check", "-o", "json").json["cluster"] == "one"
    assert desk.ok("inventory", "check", "-i", "two.yaml", "-o", "json").json["cluster"] == "two"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("# nobody\n", "nothing but comments"),
        ("\0\x01\x02\xff", ""),
        ("version: 1\nnodes: {n1: {adress: 10.0.0.1}}\nworkspace: {image: x}\n", "address"),
        ("version: 2\n", "version"),
        ("a: &a [*a]\n", ""),
    ],
    ids=["empty", "comments", "binary", "misspelt key", "newer", "self-referring"],
)
def test_a_bad_inventory_is_3_with_its_problems(desk: Desk, text: str, says: str) -> None:
    desk.inventory(text)
    result = desk("place", "alice")
    assert (result.code, result.out) == (3, "")
    assert "inventory.yaml" in result.err
    assert says in result.err
    assert not desk.state.exists()


def test_problems_of_the_inventory_are_json_too(desk: Desk) -> None:
    desk.inventory(INVENTORY.replace("memory: 2g", "memory: lots").replace("cpus: 1\n", "cpus: none\n"))
    error = desk("ls", "-o", "json").error
    assert error["code"] == "inventory"
    assert len(error["details"]["problems"]) == 2
    assert all("inventory.yaml:" in problem for problem in error["details"]["problems"])


# ------------------------------------------------------------------------------------------------- inventory, init


def test_check_says_ok_and_touches_nothing(desk: Desk) -> None:
    found = desk.ok("inventory", "check", "-o", "json").json
    assert (found["result"], found["nodes"], found["classes"]) == ("ok", 3, ["default"])
    assert found["file"] == str(desk.folder / "inventory.yaml")
    assert not desk.state.exists()


def test_show_is_an_inventory_again(desk: Desk) -> None:
    text = desk.ok("inventory", "show").out
    desk.inventory(text, "again.yaml")
    assert desk.ok("inventory", "show", "-i", "again.yaml").out == text
    found = desk.ok("inventory", "show", "-o", "json").json
    assert found["nodes"]["n1"]["ports"] == "20000-20099"
    assert "password" not in str(found.get("state"))


def test_the_schema_is_json_and_needs_no_inventory(desk: Desk) -> None:
    import json

    (desk.folder / "inventory.yaml").unlink()
    assert "properties" in json.loads(desk.ok("inventory", "schema").out)


def test_init_writes_an_inventory_that_works_and_never_overwrites(desk: Desk) -> None:
    path = desk.folder / "inventory.yaml"
    before = path.read_text()
    result = desk("init")
    assert (result.code, result.out) == (5, "")
    assert "exists already; nothing was changed" in result.err
    assert desk("init", "--yes").code == 5
    assert path.read_text() == before
    path.unlink()
    done = desk("init", "--cluster", "lab", "-o", "json")
    assert (done.code, done.json["action"]) == (0, "written")
    assert desk.ok("inventory", "check", "-o", "json").json["cluster"] == "lab"


def test_init_with_nodes(desk: Desk) -> None:
    desk("init", "fleet.yaml", "--node", "a=10.0.0.1", "--node", "b=db-host", "--image", "me/it:2")
    shown = desk.ok("inventory", "show", "-i", "fleet.yaml", "-o", "json").json
    assert {name: node["address"] for name, node in shown["nodes"].items()} == {"a": "10.0.0.1", "b": "db-host"}
    assert shown["workspace"]["image"] == "me/it:2"


def test_init_rehearsed_prints_and_writes_nothing(desk: Desk) -> None:
    assert desk.ok("init", "new.yaml", "-n").out.startswith("# The inventory")
    assert not (desk.folder / "new.yaml").exists()


def test_init_follows_no_dangling_link(desk: Desk) -> None:
    (desk.folder / "link.yaml").symlink_to(desk.folder / "target.yaml")
    assert desk("init", "link.yaml").code == 5
    assert not (desk.folder / "target.yaml").exists()


@pytest.mark.parametrize(("where", "code"), [("nowhere/x.yaml", 5), (".", 5), ("inventory.yaml/x.yaml", 5)])
def test_init_where_it_cannot_write(desk: Desk, where: str, code: int) -> None:
    result = desk("init", where)
    assert (result.code, result.out) == (code, "")
    assert "unexpected" not in result.err


@pytest.mark.parametrize(
    "argv",
    [
        ["--node", "n1"], ["--node", "=10.0.0.1"], ["--node", "n1="], ["--node", "n1=a", "--node", "n1=b"],
        ["--node", "N 1=10.0.0.1"], ["--node", "n1=10.0.0.1, x: y"], ["--cluster", "a\nb: c"], ["--image", "x y"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_init_takes_no_words_that_could_leave_their_place(desk: Desk, argv: list[str]) -> None:
    result = desk("init", "new.yaml", *argv)
    assert (result.code, result.out) == (2, "")
    assert not (desk.folder / "new.yaml").exists()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("-i inv -o json ls", "ls -i inv -o json"),
        ("-q node ls n", "node ls -q n"),
        ("--inventory=x -vv -ojson db version --help", "db version --inventory=x -vv -ojson --help"),
        ("-qo plain place alice -n", "place -qo plain alice -n"),
        ("--output json show alice", "show --output json alice"),
        ("-i inv --help", "-i inv --help"),
        ("-i", "-i"),
        ("-i inv", "-i inv"),
        ("-i inv nonsense", "-i inv nonsense"),
        ("--help", "--help"),
        ("-x ls", "-x ls"),
        ("ls -i inv", "ls -i inv"),
    ],
)
def test_shared_options_may_stand_before_the_verb(typed: str, meant: str) -> None:
    assert verb_first(typed.split()) == meant.split()


def test_an_answer_is_the_same_wherever_the_options_stand(alice: Desk) -> None:
    path = str(alice.folder / "inventory.yaml")
    before = alice.ok("-i", path, "-o", "json", "ls")
    assert before.items == alice.ok("ls", "-i", path, "-o", "json").items != []
    assert alice("-o", "json", "show", "nobody").error["code"] == "not-found"
