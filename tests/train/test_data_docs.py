"""What docs/data.md says can be done, can."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
from tiny_pictures import pictures

from laur.cli.app import run
from laur.train.data.reader import TrainingSet
from laur.train.data.sources.icon_sets import EXCLUDED, FLUENT_3D_STYLE, NOTO_STYLE, PERMITTED, SETS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text("utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S)
    for line in block.splitlines()
    if line.startswith("laur")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_these_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*shlex.split(command)[1:], "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_the_first_commands_and_the_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "my-pictures", 4, (280, 256))
    (tmp_path / "sets").mkdir()
    for command in COMMANDS[:2]:
        assert run(shlex.split(command)[1:]) == 0
    assert (tmp_path / "mine.png").stat().st_size > 1000
    printed = io.StringIO()
    space: dict[str, object] = {}
    with contextlib.redirect_stdout(printed):
        for block in re.findall(r"```python\n(.*?)```", TEXT, re.S):
            exec(block, space)
    assert "torch.Size([4, 4, 32, 32])" in printed.getvalue()
    assert len(TrainingSet.open(tmp_path / "sets" / "two")) == 4


def test_the_table_of_styles_is_that_of_the_code() -> None:
    told = re.findall(r"^\| ([^|]+) \| `([^`|]+)` \| ([^|]+) \|$", TEXT, re.M)
    styles = [(style, prefix) for style, prefix, _ in told if not prefix.startswith(("@", "folder", "museum", "pack"))]
    assert styles == [(one.style, one.prefix) for one in SETS]
    assert {FLUENT_3D_STYLE, NOTO_STYLE} < {style for style, _, _ in told}
    assert {licence.strip() for _, prefix, licence in told} <= PERMITTED
    assert all(name in TEXT for name in PERMITTED)
    assert "`EXCLUDED`" in TEXT and EXCLUDED
