"""The steps themselves: files, checksums, one statement each."""

import hashlib
import re
from importlib import resources

import pytest

from wsctl.errors import SchemaError
from wsctl.store import migrations, mysql, sqlite


def test_files_and_checksums() -> None:
    files = sorted(f.name for f in resources.files("wsctl.store").joinpath("schema").iterdir())
    assert files == [f"{step.title}.sql" for step in migrations.STEPS]
    for step in migrations.STEPS:
        data = resources.files("wsctl.store").joinpath("schema", f"{step.title}.sql").read_bytes()
        assert step.checksum == hashlib.sha256(data).hexdigest(), f"{step.title}: new steps only, old ones never change"


# A released file never changes: these are the ones that databases in use have had.
RELEASED: dict[str, str] = {}


def test_released_steps_are_frozen() -> None:
    known = {step.title: step.checksum for step in migrations.STEPS}
    for title, checksum in RELEASED.items():
        assert known[title] == checksum


def test_versions_rise() -> None:
    versions = [step.version for step in migrations.STEPS]
    assert versions == sorted(set(versions))
    assert versions[-1] == migrations.KNOWN


@pytest.mark.parametrize("step", migrations.STEPS, ids=lambda step: step.title)
def test_one_ddl_statement_each(step: migrations.Step) -> None:
    text = re.sub(r"--.*", "", migrations.step_text(step))
    assert ";" not in text
    assert len(re.findall(r"\b(CREATE|ALTER|DROP)\b", text)) == 1
    for dialect in (sqlite.DIALECT, mysql.DIALECT):
        assert set(re.findall(r"\$(\w+)", text)) <= set(dialect.macros)


def test_a_changed_file_is_refused() -> None:
    step = migrations.STEPS[0]
    with pytest.raises(SchemaError, match="was changed"):
        migrations.step_text(migrations.Step(step.version, step.name, "0" * 64))
