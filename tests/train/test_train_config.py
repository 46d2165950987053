"""Settings: where they come from, what is refused, and that they survive being written down."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from laur.core.errors import OutputError, TrainingError
from laur.train import fields
from laur.train.config import RunConfig, assignments, configure, read, require_same
from laur.train.folder import claimed, stored
from laur.train.objectives import TASKS

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Options:
    """As an objective has them."""

    rank: int = 8
    """Of every layer."""
    scale: tuple[float, float] = (2.0, 14.0)
    names: tuple[str, ...] = ()
    loss: Literal["l2", "huber"] = "l2"
    limit: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; it must be at least 1")


def test_later_sources_go_before_earlier_ones(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('updates = 7\n[optimiser]\nlr = 0.5\nwarmup = 3\n[objective]\nrank = 4\nnames = ["a"]\n')
    config = configure("lcm-lora", Options, read(file), {"batch": 6}, assignments(["optimiser.lr=1e-3", "seed=9"]))
    assert (config.updates, config.batch, config.seed) == (7, 6, 9)
    assert (config.optimiser.lr, config.optimiser.warmup) == (1e-3, 3)
    assert config.average == 0.98  # the task's own
    assert config.objective == Options(rank=4, names=("a",))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("optimizer.lr=1", "no setting optimizer; the nearest is optimiser"),
        ("optimiser.warm=1", "no setting optimiser.warm; the nearest is optimiser.warmup"),
        ("objective.rnak=1", "no setting objective.rnak; the nearest is objective.rank"),
        ("xyzzy=1", "no setting xyzzy; there are task, model"),
        ("optimiser.lr=fast", "optimiser.lr is 'fast'; it takes a number"),
        ("optimiser.lr=true", "optimiser.lr is True; it takes a number"),
        ("optimiser.lr=nan", "optimiser.lr is nan"),
        ("optimiser.lr=0", "optimiser.lr is 0.0; it must be above 0"),
        ("optimiser.name=sgd", "optimiser.name is 'sgd'; choose one of adamw, muon"),
        ("optimiser.betas=[0.9]", "optimiser.betas has 1 values; it takes 2"),
        ("optimiser=3", "optimiser is 3; it is a table"),
        ("updates=1.5", "updates is 1.5; it takes a whole number"),
        ("updates=true", "updates is True; it takes a whole number"),
        ("updates=0", "updates is 0; it must be at least 1"),
        ("compile=1", "compile is 1; it takes true or false"),
        ("objective.rank=0", "objective.rank is 0; it must be at least 1"),
        ("objective.scale=[1, 'x']", "objective.scale[1] is 'x'; it takes a number"),
        ("objective.parts={a = 'x'}", "objective.parts.a is 'x'; it takes a number"),
        ("model=3", "model is 3; it takes a text"),
        ("seed=-1", "seed is -1"),
        ("save.keep=0", "save.keep is 0"),
        ("noequals", "is not table.key=value"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(setting: str, words: str) -> None:
    with pytest.raises(TrainingError) as fault:
        configure("lcm-lora", Options, assignments([setting]))
    assert words in str(fault.value)
    assert "\n" not in str(fault.value)


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("updates = = 3")
    with pytest.raises(TrainingError, match=r"a\.toml is no TOML"):
        read(tmp_path / "a.toml")
    with pytest.raises(TrainingError, match="cannot be read: No such file"):
        read(tmp_path / "b.toml")


def test_a_file_for_another_task() -> None:
    with pytest.raises(TrainingError, match="one for lcm, but the command says style"):
        configure("style", None, {"task": "lcm"})


def strange() -> RunConfig:
    tables: dict[str, Any] = {
        "minutes": 2.5,
        "model": 'C:\\mödels\\"x"\x7f',
        "data": {"mix": {"fluent 3d": 3, "a.b": 0.5}},
        "sheet": {"prompts": ["a fox\n", "é"], "seeds": [1, 2]},
        "objective": {"limit": 1e-12, "parts": {"x": 1}},
    }
    return configure("base", Options, tables)


def test_written_and_read_back_it_is_the_same() -> None:
    config = strange()
    text = fields.to_toml(config)
    assert configure("base", Options, tomllib.loads(text)) == config
    assert "# Of every layer." in text
    assert "# rest_lr is not set" not in text
    assert "# device is not set" in text


def test_a_setting_that_there_was_not_then_has_its_default(tmp_path: Path) -> None:
    table = fields.to_table(configure("style", Options, {"updates": 5}))
    del table["data"]["hold_out"], table["objective"]["rank"]
    require_same(table, configure("style", Options, {"updates": 5}), tmp_path)
    with pytest.raises(TrainingError, match=r"a run with data\.hold_out = "):
        require_same(table, configure("style", Options, {"data": {"hold_out": True}}), tmp_path)


def test_the_first_difference_is_named(tmp_path: Path) -> None:
    config = configure("style", Options, {"updates": 5})
    table = fields.to_table(config)
    require_same(table, configure("style", Options, {"updates": 9, "sheet": {"updates": 3}}), tmp_path)
    with pytest.raises(TrainingError, match=r"a run with objective\.rank = 8, not 9"):
        require_same(table, configure("style", Options, {"objective": {"rank": 9}}), tmp_path)
    with pytest.raises(TrainingError, match=r"optimiser\.rest_lr = nothing, not 0\.5"):
        require_same(table, configure("style", Options, {"optimiser": {"rest_lr": 0.5}}), tmp_path)


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first, other = configure("style", Options), configure("style", Options, {"batch": 3})
    second = claimed(folder, first, "auto")
    with claimed(folder, first, "auto"), pytest.raises(TrainingError, match="a run is going on"), second:
        pass
    assert configure("style", Options, stored(folder)) == first
    with claimed(folder, other, "auto"):  # nothing had been learned
        pass
    with claimed(folder, first, "auto"):
        (folder / "states" / "00000001").mkdir(parents=True)
    with pytest.raises(TrainingError, match="batch = 8, not 3"), claimed(folder, other, "auto"):
        pass
    with claimed(folder, first, "resume"):
        pass
    (folder / "mine.txt").write_text("keep")
    with claimed(folder, other, "fresh"):
        assert not (folder / "states").exists()
    assert (folder / "mine.txt").read_text() == "keep"


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    config = configure("style", Options)
    with pytest.raises(TrainingError, match="holds no run to go on with"), claimed(tmp_path / "a", config, "resume"):
        pass
    (tmp_path / "thesis.tex").write_text("")
    for mode in ("auto", "fresh"):
        with pytest.raises(TrainingError, match=r"holds thesis\.tex and no run"), claimed(tmp_path, config, mode):
            pass
    with pytest.raises(OutputError, match="is a file"), claimed(tmp_path / "thesis.tex", config, "auto"):
        pass
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").rglob("*.toml")), ids=lambda file: file.name)
def test_the_recipes_that_are_told_of_can_be_read(file: Path) -> None:
    values = read(file)
    task = TASKS[str(values["task"])]
    config = configure(str(values["task"]), task.options, values)
    assert config.updates or config.minutes
