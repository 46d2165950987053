"""The loop: slices, states, what is kept, and how it ends."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_training import TinyObjective, tiny_config, tiny_trainer

from laur.core.errors import OutputError, TrainingError
from laur.train import journal as journals
from laur.train import state as states
from laur.train.journal import Journal, read
from laur.train.loop import Trainer
from laur.train.processes import Processes


def weights(path: Path | None) -> dict[str, torch.Tensor]:
    assert path is not None
    return load_file(path)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_keeps_a_journal_and_two_states(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, tiny_config(updates=30))
    assert trainer.run()
    lines = list(read(tmp_path / "journal.jsonl"))
    assert [line["update"] for line in lines] == list(range(30))
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert set(lines[0]["parts"]) == {"plain", "tie"}
    assert lines[0]["peak_memory_mib"] > 1
    assert lines[0]["pictures_per_second"] > 0
    assert sorted(p.name for p in (tmp_path / "states").iterdir()) == ["00000029", "00000030"]


def test_the_learning_rate_rises_and_falls(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, tiny_config(updates=6, optimiser={"lr": 1.0e-3, "warmup": 2, "final": 0.0})).run()
    rates = [line["lr"] for line in read(tmp_path / "journal.jsonl")]
    assert rates[0] == pytest.approx(5e-4)
    assert rates[2] == pytest.approx(1e-3 * 0.75)
    assert rates == [rates[0], *sorted(rates[1:], reverse=True)]


def test_slices_give_the_update_of_the_whole_batch(tmp_path: Path) -> None:
    outcomes = []
    for slices in (1, 2, 4):
        folder = tmp_path / str(slices)
        trainer = tiny_trainer(folder_of(folder), tiny_config(accumulate=slices))
        trainer.run()
        outcomes.append([line["loss"] for line in read(folder / "journal.jsonl")])
    assert outcomes[1] == pytest.approx(outcomes[0], rel=1e-5)
    assert outcomes[2] == pytest.approx(outcomes[0], rel=1e-5)


def folder_of(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_stopped_and_gone_on_equals_never_stopped(tmp_path: Path, optimiser: str, precision: str) -> None:
    config = tiny_config(updates=8, precision=precision, optimiser={"name": optimiser})
    whole = tiny_trainer(folder_of(tmp_path / "whole"), config)
    assert whole.run()
    parts = folder_of(tmp_path / "parts")
    for stop_at in (2, 5, 99):
        trainer = tiny_trainer(parts, config)
        finished = trainer.run(lambda trainer=trainer, at=stop_at: trainer.update >= at)
        assert finished == (stop_at == 99)
        assert trainer.update == min(stop_at, 8)
    assert same(weights(trainer.export()), weights(whole.export()))
    assert [line["update"] for line in read(parts / "journal.jsonl")] == list(range(8))
    losses = [[line["loss"] for line in read(f / "journal.jsonl")] for f in (parts, tmp_path / "whole")]
    assert losses[0] == losses[1]


def test_the_objective_hears_every_update_once(tmp_path: Path) -> None:
    objective = TinyObjective()
    tiny_trainer(tmp_path, objective=objective).run()
    assert objective.seen == [0, 1, 2, 3, 4]


def test_a_loss_that_is_nan_stops_and_keeps_the_last_state(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, objective=TinyObjective(poison=3))
    with pytest.raises(TrainingError) as fault:
        trainer.run()
    line = str(fault.value)
    assert "\n" not in line
    for words in ("update 3", "loss nan", "plain ", "picture-24", "2 more", "after update 3, is kept"):
        assert words in line, words
    state = states.newest(tmp_path, pytest.fail)
    assert state is not None
    assert state.update == 3
    assert all(bool(tensor.isfinite().all()) for tensor in state.parts["parameters"].values())
    again = tiny_trainer(tmp_path)  # the poison is gone: the run goes on from there
    assert again.update == 3
    assert again.run()


def test_a_gradient_that_is_infinite_stops_too(tmp_path: Path) -> None:
    objective = TinyObjective()
    first = next(objective.model.parameters())
    first.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="gradient norm"):
        tiny_trainer(tmp_path, objective=objective).run()


def test_a_full_disk_keeps_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_trainer(tmp_path)
    plain = states._write

    def full(folder: Path, state: states.RunState) -> None:
        if state.update == 3:
            (folder / "parameters.safetensors").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(folder, state)

    monkeypatch.setattr(states, "_write", full)
    with pytest.raises(OutputError, match=r"after update 3 cannot be written .*No space left.* update 2 is kept"):
        trainer.run()
    assert sorted(p.name for p in (tmp_path / "states").iterdir()) == ["00000001", "00000002"]
    monkeypatch.setattr(states, "_write", plain)
    whole = tiny_trainer(folder_of(tmp_path / "whole"))
    whole.run()
    again = tiny_trainer(tmp_path)
    assert again.run()
    assert same(weights(again.export()), weights(whole.export()))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_under_the_journal_is_told_in_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing writes what waits once more, and fails once more."""

    def full(self: Trainer) -> Journal:
        journal = Journal(self.folder, self.update, tensorboard=False)
        journal._file.close()
        journal._file = Path("/dev/full").open("a", encoding="utf-8")  # noqa: SIM115
        return journal

    monkeypatch.setattr(Trainer, "_journal", full)
    with pytest.raises(OutputError, match=r"journal\.jsonl cannot be written: No space left on device; make room"):
        tiny_trainer(tmp_path).run()


class FullEvents:
    """TensorBoard's writer on a full disk."""

    def fail(self, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    add_scalar = add_image = flush = close = fail


def test_a_full_disk_under_tensorboard_is_told_in_the_same_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "_summary_writer", lambda *_: FullEvents())
    said = r"tensorboard cannot be written: No space left on device; make room"
    with pytest.raises(OutputError, match=said):
        tiny_trainer(tmp_path, tiny_config(journal={"tensorboard": True})).run()
    journal = Journal(tmp_path, 0, tensorboard=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "sheet.png")
    with pytest.raises(OutputError, match=said):
        journal.picture("sheet", 1, tmp_path / "sheet.png")
    with pytest.raises(OutputError, match=said):
        journal.sync()
    journal.close()
    monkeypatch.setattr(journals, "_summary_writer", FullEvents().fail)
    with pytest.raises(OutputError, match=said):
        Journal(tmp_path, 0, tensorboard=True)


def test_a_state_that_is_done_again_takes_damaged_ones_above_it_away(tmp_path: Path) -> None:
    """The newest two are damaged: what is written anew must not make room for them."""
    tiny_trainer(tmp_path, tiny_config(save={"updates": 1, "keep": 3})).run()
    for number in (4, 5):
        (tmp_path / "states" / f"{number:08d}" / "state.json").write_text("{", "utf-8")
    trainer = tiny_trainer(tmp_path, tiny_config(updates=9, save={"updates": 1, "keep": 3}))
    assert trainer.update == 3
    trainer.run(lambda: trainer.update >= 4)
    assert sorted(p.name for p in (tmp_path / "states").iterdir()) == ["00000003", "00000004"]
    (tmp_path / "states" / "00000004" / "state.json").write_text("{", "utf-8")
    assert tiny_trainer(tmp_path, tiny_config(updates=9)).update == 3


def test_a_truncated_state_is_passed_over(tmp_path: Path) -> None:
    tiny_trainer(tmp_path).run()
    newest = tmp_path / "states" / "00000005" / "parameters.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    said: list[str] = []
    state = states.newest(tmp_path, said.append)
    assert state is not None
    assert state.update == 4
    assert "00000005" in said[0]
    (tmp_path / "states" / "00000004" / "state.json").write_text("{", "utf-8")
    with pytest.raises(TrainingError, match="--fresh"):
        states.newest(tmp_path, said.append)


def test_states_hold_no_pickle(tmp_path: Path) -> None:
    tiny_trainer(tmp_path).run()
    names = {path.suffix for path in (tmp_path / "states").rglob("*") if path.is_file()}
    assert names == {".safetensors", ".json"}


def test_a_run_does_not_go_on_upon_another_checkpoint(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, identity={"checkpoint": "aaaa"}).run()
    with pytest.raises(TrainingError, match="another checkpoint"):
        tiny_trainer(tmp_path, identity={"checkpoint": "bbbb"})


def test_a_run_does_not_go_on_with_another_network(tmp_path: Path) -> None:
    tiny_trainer(tmp_path).run()
    with pytest.raises(TrainingError, match="another shape"):
        tiny_trainer(tmp_path, objective=TinyObjective(width=8))


def test_a_batch_that_cannot_be_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="multiple of 3"):
        tiny_trainer(tmp_path, tiny_config(accumulate=3))
    with pytest.raises(TrainingError, match="2 processes x 3 slices; take a multiple of 6"):
        Processes(0, 2).rows(8, 3)


def test_every_row_belongs_to_one_slice_of_one_process() -> None:
    rows = [part for rank in range(2) for part in Processes(rank, 2).rows(12, 3)]
    assert [i for part in rows for i in range(12)[part]] == list(range(12))


def test_a_network_without_parameters_is_refused(tmp_path: Path) -> None:
    objective = TinyObjective()
    objective.model.requires_grad_(False)
    with pytest.raises(TrainingError, match="nothing of this network"):
        tiny_trainer(tmp_path, objective=objective)


def test_checkpointing_needs_a_network_that_can(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="recompute"):
        tiny_trainer(tmp_path, tiny_config(checkpointing=True))


def test_a_budget_of_time_ends_the_run(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, tiny_config(minutes=0.01, save={"updates": 0}))
    assert trainer.run()
    assert trainer.seconds >= 0.6
    assert trainer.done == 1
    rates = [line["lr"] for line in read(tmp_path / "journal.jsonl")]
    assert rates[-1] < 0.5 * max(rates)
    longer = tiny_trainer(tmp_path, tiny_config(minutes=100.0))
    assert longer.update == trainer.update
    assert longer.done < 0.5


def test_a_resumed_journal_drops_what_is_done_again(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    trainer.run(lambda: trainer.update >= 3)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write(json.dumps({"update": 3, "loss": 9}) + "\n" + '{"update": 4, "lo')
    tiny_trainer(tmp_path).run()
    lines = list(read(tmp_path / "journal.jsonl"))
    assert [line["update"] for line in lines] == [0, 1, 2, 3, 4]
    assert lines[3]["loss"] < 9
