"""Requests with styles of their own in one running batch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from laur.core.errors import AdapterError
from laur.core.plan import AdapterUse
from laur.core.recipe import AdapterRef, Recipe
from laur.optimize import ADAPTERS, BaseAdapter, register
from laur.optimize.deltas import Delta, Dense
from laur.optimize.layers import LayerShape
from laur.pipeline.device import choose
from laur.pipeline.engine import Engine
from laur.pipeline.events import Admitted, Done, Event, Failed
from laur.pipeline.library import Library
from laur.render.compare import psnr
from laur.style import cards

FEW = ("mid_block.resnets.0.conv1", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k", "conv_out")


def style(path: Path, layers: Mapping[str, LayerShape], seed: int, *, rank: int = 4, everywhere: bool = True) -> str:
    """A random LoRA file over linears and convolutions."""
    draw = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        if not name.startswith("unet.") or not (everywhere or name.endswith(FEW)):
            continue
        out, inner, *kernel = layer.weight
        scale = (inner * rank) ** -0.5
        state[f"{name}.lora_A.weight"] = torch.randn(rank, inner, *kernel, generator=draw) * scale
        state[f"{name}.lora_B.weight"] = torch.randn(out, rank, *(1 for _ in kernel), generator=draw) * 0.05
    save_file(state, path)
    return str(path)


@pytest.fixture(scope="module")
def styles(engine32: Engine, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    layers = engine32.library.layers(engine32.library.checkpoint("mini").key)
    folder = tmp_path_factory.mktemp("styles")
    return [style(folder / f"s{seed}.safetensors", layers, seed, rank=rank) for seed, rank in enumerate((4, 9, 3))]


def recipe(*styles: tuple[str, float], **fields: object) -> Recipe:
    refs = [AdapterRef(name="lcm-lora-mini"), *(AdapterRef(name=name, weight=weight) for name, weight in styles)]
    plain = {"prompt": "a red fox", "seed": 7, "steps": 2, "width": 64, "height": 64}
    return Recipe.from_dict({**plain, "adapters": refs, **fields})


def wishes(styles: list[str]) -> list[Recipe]:
    one, two, three = styles
    return [
        recipe((one, 1.0)),
        recipe((two, 0.8), (three, -0.5), seed=1),
        recipe(seed=2),
        recipe((three, 1.0), seed=3, guidance=1.5, negative_prompt="blue"),
    ]


def events_of(engine: Engine) -> list[Event]:
    events: list[Event] = []
    while engine.busy:
        events += engine.step()
    return events


@pytest.mark.parametrize(("name", "least"), [("engine32", 80.0), ("engine16", 50.0)])
def test_styles_share_a_batch_and_change_nobody(
    name: str, least: float, styles: list[str], request: pytest.FixtureRequest
) -> None:
    engine: Engine = request.getfixturevalue(name)
    alone = [engine.pictures([wish])[0].pixels for wish in wishes(styles)]
    jobs = [engine.resolve(wish) for wish in wishes(styles)]
    tickets = [engine.submit(job.plan, job.recipe) for job in jobs]
    first = engine.step()
    assert sum(isinstance(event, Admitted) for event in first) == len(tickets)
    assert len({running.lane for running in engine._active.values()}) == 1
    done = {event.ticket: event.picture.pixels for event in [*first, *events_of(engine)] if isinstance(event, Done)}
    for ticket, wanted in zip(tickets, alone, strict=True):
        assert psnr(done[ticket], wanted) >= least


def test_the_picture_is_that_of_merged_weights(engine32: Engine, styles: list[str]) -> None:
    merging = Library(choose("cpu", "float32"), per_row=False)
    merged = Engine("mini", library=merging)
    for wish in wishes(styles)[:2]:
        assert psnr(merged.pictures([wish])[0].pixels, engine32.pictures([wish])[0].pixels) >= 70
    assert psnr(merged.pictures([wishes(styles)[0]])[0].pixels, merged.pictures([recipe()])[0].pixels) < 40


def test_every_style_that_ships_shares_batches(engine32: Engine) -> None:
    library, checkpoint = engine32.library, engine32.library.checkpoint("mini").key
    names = [card.name for card in cards.shipped() if (file := card.forms["mini"].file) and file.is_file()]
    assert names
    for name in names:
        use = AdapterUse(sha256=library.adapter(name).sha256, weight=1.0)
        assert library.rows.pinned(checkpoint, (use,)) == (), name
        assert library.rows.row_set(checkpoint, (use,)) is not None, name


def test_a_file_that_is_written_anew_is_read_anew(engine32: Engine, tmp_path: Path) -> None:
    engine = Engine("mini", library=Library(choose("cpu", "float32")))
    layers = engine32.library.layers(engine32.library.checkpoint("mini").key)
    path, twin = tmp_path / "mine.safetensors", tmp_path / "twin.safetensors"

    def found(name: Path) -> str:
        ref = (engine.resolve(recipe((str(name), 1.0))).recipe.adapters or ())[-1]
        assert ref.sha256
        return ref.sha256

    style(path, layers, 1)
    twin.write_bytes(path.read_bytes())
    first = found(path)
    before = engine.resolve(recipe((str(path), 1.0)))
    pixels = engine.pictures([before])[0].pixels
    assert found(twin) == first
    style(path, layers, 2)
    second = found(path)
    assert second == hashlib.sha256(path.read_bytes()).hexdigest() != first
    assert psnr(engine.pictures([recipe((str(path), 1.0))])[0].pixels, pixels) < 40
    assert psnr(engine.pictures([before])[0].pixels, pixels) >= 80, "what was planned is drawn as it was"
    assert found(twin) == first
    assert engine.library.by_content(first).deltas(layers), "from the twin, which still is what it was"
    path.unlink()
    assert found(path) == second, "what is in memory can be drawn with"


def test_settings_beside_a_file_count_as_the_file(engine32: Engine, tmp_path: Path) -> None:
    layers = engine32.library.layers(engine32.library.checkpoint("mini").key)
    path, settings = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    style(path, layers, 1)
    state = {f"base_model.model.{name.removeprefix('unet.')}": value for name, value in load_file(path).items()}
    save_file(state, path)
    settings.write_text('{"r": 4, "lora_alpha": 4}')
    first = engine32.library.adapter(str(path)).sha256
    settings.write_text('{"r": 4, "lora_alpha": 16}')
    assert engine32.library.adapter(str(path)).sha256 != first


def test_accelerators_and_dense_differences_are_merged(
    engine32: Engine, styles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ADAPTERS, "_sources", {})

    class Whole(BaseAdapter):
        def deltas(self, layers: Mapping[str, LayerShape]) -> Mapping[str, Delta]:
            return {"unet.conv_out": Dense(torch.ones(layers["unet.conv_out"].weight) * 1e-3)}

    register("whole", Whole)
    plan = engine32.resolve(recipe((styles[0], 1.0), ("whole", 1.0))).plan
    stage = plan.stages[0]
    fast, own, whole = stage.adapters
    assert engine32.library.rows.pinned(stage.checkpoint, stage.adapters) == (fast, whole)
    rows = engine32.library.rows.row_set(stage.checkpoint, stage.adapters)
    assert rows is not None
    assert rows.key == (stage.checkpoint, (own,))


def test_a_corrupt_adapter_fails_its_own_request(engine32: Engine, styles: list[str], tmp_path: Path) -> None:
    layers = engine32.library.layers(engine32.library.checkpoint("mini").key)
    bad = Path(style(tmp_path / "bad.safetensors", layers, 5, everywhere=False))
    good = recipe((styles[0], 1.0), steps=4)
    alone = engine32.pictures([good])[0].pixels
    job, broken = engine32.resolve(good), engine32.resolve(recipe((str(bad), 1.0), seed=5))
    ticket = engine32.submit(job.plan, job.recipe)
    engine32.step()
    data = bytearray(bad.read_bytes())
    data[-400:] = b"\xff" * 400  # its last weights become NaN, after the plan was made
    bad.write_bytes(bytes(data))
    fails = engine32.submit(broken.plan, broken.recipe)
    events = events_of(engine32)
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.ticket is fails
    assert isinstance(failed.error, AdapterError)
    assert "\n" not in str(failed.error)
    (done,) = [event for event in events if isinstance(event, Done)]
    assert done.ticket is ticket
    assert psnr(done.picture.pixels, alone) >= 80


def test_files_are_read_once_and_leave_when_the_budget_is_spent(tmp_path: Path, engine32: Engine) -> None:
    layers = engine32.library.layers(engine32.library.checkpoint("mini").key)
    names = [style(tmp_path / f"{seed}.safetensors", layers, seed, everywhere=False) for seed in range(6)]
    library = Library(choose("cpu", "float32"), budget=40 << 20)
    engine = Engine("mini", library=library)
    small = {"width": 32, "height": 32, "steps": 1}
    first = engine.pictures([recipe((names[0], 1.0), **small)])[0].pixels
    engine.pictures([recipe((names[0], 1.0), seed=seed, **small) for seed in range(3)])
    assert library.rows.store.reads == 2  # the style and LCM-LoRA
    for name in names:
        engine.pictures([recipe((name, 1.0), **small)])
    assert library.budget.most <= 40 << 20
    again = engine.pictures([recipe((names[0], 1.0), **small)])[0].pixels
    assert np.array_equal(first, again)


def test_one_content_under_two_names_is_what_each_is_called(engine32: Engine, tmp_path: Path) -> None:
    """A file is known as an accelerator by its name too: what it was called before does not decide."""
    layers = engine32.library.layers(engine32.library.checkpoint("mini").key)
    plain, fast = tmp_path / "download.safetensors", tmp_path / "lcm-lora.safetensors"
    style(plain, layers, 5)
    fast.write_bytes(plain.read_bytes())
    library = Engine("mini", device="cpu", dtype="float32").library
    for _ in range(2):
        found = [library.adapter(str(path)) for path in (plain, fast)]
        assert [adapter.recommends.accelerates for adapter in found] == [False, True]
        assert found[0].sha256 == found[1].sha256
        assert library.by_content(found[1].sha256) is found[0]
    library.budget.hold("another", library.budget.limit, lambda: None)
    assert [library.adapter(str(path)).recommends.accelerates for path in (fast, plain)] == [True, False]
