"""Adapters that are read before their turn, and what events tell of time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from laur.core.recipe import AdapterRef, Recipe
from laur.pipeline import foresight
from laur.pipeline.engine import Engine
from laur.pipeline.events import Admitted, Done, Progress


@pytest.fixture
def style(engine32: Engine, tmp_path: Path) -> str:
    layers = engine32.library.layers(engine32.library.checkpoint("mini").key)
    name, layer = next((n, one) for n, one in layers.items() if n.endswith("attn2.to_k"))
    out, inner = layer.weight
    draw = torch.Generator().manual_seed(int(tmp_path.name[-1]))
    state = {
        f"{name}.lora_A.weight": torch.randn(2, inner, generator=draw),
        f"{name}.lora_B.weight": torch.randn(out, 2, generator=draw),
    }
    save_file(state, tmp_path / "style.safetensors")
    return str(tmp_path / "style.safetensors")


def recipe(*names: str, **fields: Any) -> Recipe:
    refs = [AdapterRef(name=name) for name in ("lcm-lora-mini", *names)]
    return Recipe.from_dict(
        {"prompt": "a red fox", "seed": 7, "steps": 2, "width": 64, "height": 64, "adapters": refs, **fields}
    )


def test_what_was_foreseen_is_not_read_again(engine32: Engine, style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library, go = engine32.library, threading.Event()
    resolved = engine32.resolve(recipe(style))
    [ref] = [ref for ref in resolved.recipe.adapters or () if ref.name == style]
    adapter, key = library.by_content(ref.sha256 or ""), resolved.plan.stages[0].checkpoint
    read = type(adapter).deltas

    def slow(self: Any, layers: Any) -> Any:
        go.wait()
        return read(self, layers)

    monkeypatch.setattr(type(adapter), "deltas", slow)
    assert not foresight.resident(library, key, adapter.sha256)
    foresight.foresee(library, resolved.plan)
    assert foresight.coming(library, resolved.plan)
    before = library.rows.store.reads
    go.set()
    engine32.run([resolved])
    assert foresight.resident(library, key, adapter.sha256)
    assert not foresight.coming(library, resolved.plan)
    foresight.foresee(library, resolved.plan)
    engine32.run([resolved])
    assert library.rows.store.reads - before <= 1
    assert library.holds(key)
    assert not library.holds("another")


def test_events_say_when_things_began(engine32: Engine) -> None:
    engine = Engine("mini", library=engine32.library, row_pixels=3 * 8 * 8)
    texts = [f"a fox number {n} of a story" for n in range(2)]
    events = list(engine.stream([recipe(prompt=text, seed=n) for n, text in enumerate(texts)]))
    admitted = [event for event in events if isinstance(event, Admitted)]
    assert all(event.began is not None and 0 < event.text <= event.at - event.began for event in admitted)
    steps = [event for event in events if isinstance(event, Progress)]
    calls = list(dict.fromkeys(step.call for step in steps))
    assert (len(steps), len(calls)) == (4, 2)
    for call in calls:
        assert call is not None
        assert (call.rows, call.full) == (2, 3)
        assert call.began < call.ended <= min(step.at for step in steps if step.call is call)
    done = [event for event in events if isinstance(event, Done)]
    assert all(event.began is not None and calls[-1] is not None and event.began >= calls[-1].ended for event in done)
