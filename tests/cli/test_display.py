"""What a person sees while pictures are drawn."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

from laur.cli import display
from laur.cli.display import Display, TerminalDisplay

PREVIEW = np.zeros((4, 4, 3), np.uint8)


def finished(path: str) -> Any:
    recipe = SimpleNamespace(width=256, height=192, steps=4, sampler="lcm", seed=7)
    return SimpleNamespace(path=Path(path), picture=SimpleNamespace(recipe=recipe), sampling=0.21)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    terminal = Console(file=text, force_terminal=True, width=60, color_system=None)
    monkeypatch.setattr("laur.cli.console.console", lambda err: terminal)
    return text


def test_plain_lines(capsys) -> None:
    with Display() as plain:
        plain.busy("loading mini")
        plain.begin(steps=4, pictures=1)
        for _ in range(4):
            plain.step(0, None)
        plain.saved(finished("out/fox.png"), 3.94)
    out, err = capsys.readouterr()
    assert out == "out/fox.png\n"
    assert err == "256x192, 4 steps, lcm, seed 7: 0.21 s sampling, 3.9 s in all\n"


def test_a_long_run_says_now_and_then_how_far_it_is(capsys, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(display, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    plain = Display()
    plain.begin(steps=30, pictures=1)
    for _ in range(30):
        now[0] += 1.0
        plain.step(0, None)
    assert capsys.readouterr().err.splitlines() == [f"{n} of 30 steps, {n} s" for n in (5, 10, 15, 20, 25)]


def test_a_bar_on_a_terminal_leaves_lines_and_nothing_else(screen, capsys) -> None:
    seen: list[int] = []

    def preview(pictures: list[np.ndarray]) -> Text:
        seen.append(len(pictures))
        return Text("PREVIEW")

    bar = TerminalDisplay(preview=preview)
    with bar:
        bar.busy("loading mini")
        bar.begin(steps=4, pictures=2)
        for _ in range(2):
            for picture in range(2):
                bar.step(picture, PREVIEW)
        bar.warn("mind the gap")
        bar.saved(finished("a-long-name" * 10 + ".png"), 1.0)
        bar.saved(finished("fox-8.png"), 1.0)
    out, err = capsys.readouterr()
    assert out == "a-long-name" * 10 + ".png\nfox-8.png\n"
    assert err.splitlines()[0] == "laur: warning: mind the gap"
    assert "drawing 2 pictures" in screen.getvalue()
    assert "4/4 steps" in screen.getvalue()
    assert "PREVIEW" in screen.getvalue()
    assert max(seen) == 2


def test_a_picture_shown_in_the_terminal_comes_before_its_path(capsys) -> None:
    with Display(inline=lambda saved: sys.stdout.write(f"<{saved.path.name}>\n")) as plain:
        plain.saved(finished("out/fox.png"), 1.0)
    assert capsys.readouterr().out == "<fox.png>\nout/fox.png\n"


def test_json_leaves_standard_output_alone(capsys) -> None:
    with Display(paths=False) as plain:
        plain.saved(finished("out/fox.png"), 1.0)
    assert capsys.readouterr().out == ""
