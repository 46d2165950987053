"""Adapter files that are damaged, or for something else, while a batch runs: one line, and the batch as it was."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from safetensors.torch import save as save_tensors

from laur.core.errors import AdapterError, LaurError
from laur.core.recipe import Recipe
from laur.pipeline.engine import Engine
from laur.pipeline.events import Done, Event, Failed

State = dict[str, torch.Tensor]
SMALL = {"prompt": "a red fox", "seed": 7, "steps": 3, "width": 64, "height": 64}


def lora(layers: Mapping[str, tuple[int, ...]], seed: int = 1) -> State:
    draw = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, (out, inner, *kernel) in layers.items():
        state[f"{name}.lora_A.weight"] = torch.randn(4, inner, *kernel, generator=draw) * (4 * inner) ** -0.5
        state[f"{name}.lora_B.weight"] = torch.randn(out, 4, *(1 for _ in kernel), generator=draw) * 0.1
    return state


@pytest.fixture(scope="module")
def layers(engine32: Engine) -> dict[str, tuple[int, ...]]:
    found = engine32.library.layers(engine32.library.checkpoint("mini").key)
    wanted = ("attn2.to_k", "conv1", "conv_out")
    return {name: shape.weight for name, shape in found.items() if name.startswith("unet.") and name.endswith(wanted)}


@pytest.fixture(scope="module")
def good(layers: dict[str, tuple[int, ...]], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("good") / "good.safetensors"
    save_file(lora(layers), path)
    return str(path)


@pytest.fixture(scope="module")
def alone(engine32: Engine, good: str) -> np.ndarray:
    return engine32.pictures([wish(good)])[0].pixels


def wish(name: str, **fields: object) -> Recipe:
    return Recipe.from_dict({**SMALL, "adapters": ["lcm-lora-mini", name], **fields})


def save(state: State) -> bytes:
    return save_tensors({key: value.contiguous() for key, value in state.items()})


def _changed(state: State, part: str, change: Callable[[torch.Tensor], torch.Tensor]) -> bytes:
    """One tensor of the last layers alone: what is read before it is sound."""
    key = [key for key in sorted(state) if part in key][-1]
    return save({**state, key: change(state[key])})


def _narrow(state: State) -> bytes:
    """As for a model of another width of text."""
    return save({key: value[:, :-8] if "to_k" in key and "lora_A" in key else value for key, value in state.items()})


def _ranks_of_0(state: State) -> bytes:
    return save({k: v[:0] if "lora_A" in k else v[:, :0] for k, v in state.items()})


BAD: dict[str, tuple[Callable[[State], bytes], str]] = {
    "garbage": (lambda state: np.random.default_rng(0).bytes(4096), "bad"),
    "empty": (lambda state: b"", "empty"),
    "cut in the header": (lambda state: save(state)[:40], "truncated|damaged|cut"),
    "cut in the weights": (lambda state: save(state)[:-99], "truncated|damaged|cut"),
    "NaN": (lambda state: _changed(state, "lora_B", lambda t: t.index_fill(0, torch.tensor([0]), torch.nan)), "finite"),
    "infinity": (lambda state: _changed(state, "lora_A", lambda t: t + torch.inf), "finite"),
    "rank 0": (_ranks_of_0, "rank|empty|0"),
    "odd ranks": (lambda state: _changed(state, "lora_B", lambda t: t[:, :2]), "rank"),
    "another width": (_narrow, "made for"),
    "no layer of this model": (lambda state: save({f"unet.gone.{key[5:]}": v for key, v in state.items()}), "bad"),
    "whole numbers": (lambda state: save({key: value.to(torch.int8) for key, value in state.items()}), "I8"),
    "another file's pickle": (lambda state: pickle.dumps({"a": [1.0]}), "bad"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_running_batch_is_undisturbed(
    kind: str, engine32: Engine, good: str, alone: np.ndarray, tmp_path: Path
) -> None:
    make, says = BAD[kind]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(make(load_file(good)))
    kept = set(engine32.library.rows.store._host)
    job = engine32.resolve(wish(good))
    ticket = engine32.submit(job.plan, job.recipe)
    events: list[Event] = engine32.step()
    error = _fault(engine32, str(path), events)
    while engine32.busy:
        events += engine32.step()
    assert "\n" not in str(error) and len(str(error)) < 400
    assert path.name in str(error)
    assert any(word in str(error) for word in says.split("|")), str(error)
    (done,) = [event for event in events if isinstance(event, Done)]
    assert done.ticket is ticket
    assert np.array_equal(done.picture.pixels, alone)
    assert set(engine32.library.rows.store._host) == kept, "nothing of it stays"


def _fault(engine: Engine, name: str, events: list[Event]) -> LaurError:
    """What is said of a bad file: when it is planned, or when it would be drawn with."""
    try:
        job = engine.resolve(wish(name, seed=9))
    except LaurError as error:
        return error
    assert engine.notes(job.plan) == ()
    ticket = engine.submit(job.plan, job.recipe)
    events += engine.step()
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.ticket is ticket
    return failed.error


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".pth"])
def test_pickles_are_refused_without_being_opened(
    engine32: Engine, good: str, alone: np.ndarray, tmp_path: Path, suffix: str
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / f"style{suffix}"
    path.write_bytes(pickle.dumps(Bomb()))
    job = engine32.resolve(wish(good))
    engine32.submit(job.plan, job.recipe)
    events: list[Event] = engine32.step()
    with pytest.raises(AdapterError, match=r"pickle file, which can run code .*; convert it to \.safetensors"):
        engine32.resolve(wish(str(path)))
    while engine32.busy:
        events += engine32.step()
    assert not (tmp_path / "ran").exists()
    (done,) = [event for event in events if isinstance(event, Done)]
    assert np.array_equal(done.picture.pixels, alone)
