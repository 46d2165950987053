"""A mix of adapters that leaves the range in which the model draws is told of, once, and no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from laur.core.recipe import Recipe
from laur.pipeline import mixes
from laur.pipeline.engine import Engine
from laur.pipeline.standard import StandardPipeline
from laur.style import cards

SMALL = {"prompt": "a fox", "seed": 7, "steps": 1, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def styles(engine32: Engine, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two that change other directions of the same layers, by as much."""
    library = engine32.library
    key = library.checkpoint("mini").key
    unet = library.weights(key).unet()
    layers = {name: shape for name, shape in library.layers(key).items() if name.startswith("unet.")}
    changed = [name for name in layers if name.endswith(("to_q", "conv1"))]
    folder = tmp_path_factory.mktemp("mixes")
    for seed in (1, 2):
        draw = torch.Generator().manual_seed(seed)
        state: dict[str, torch.Tensor] = {}
        for name in changed:
            out, *inner = layers[name].weight
            up, down = torch.randn(out, 1, generator=draw), torch.randn(1, *inner, generator=draw)
            own = unet.get_parameter(f"{name.removeprefix('unet.')}.weight").norm()
            state[f"{name}.lora_A.weight"] = down / down.norm() * own.detach() * 0.05
            state[f"{name}.lora_B.weight"] = (up / up.norm()).view(out, 1, *(1 for _ in inner[1:]))
        save_file(state, folder / f"s{seed}.safetensors")
    return [str(folder / f"s{seed}.safetensors") for seed in (1, 2)]


def notes(engine: Engine, *refs: str, steps: int = 1) -> tuple[str, ...]:
    recipe = Recipe.from_dict({**SMALL, "steps": steps, "adapters": ["lcm-lora-mini", *refs]})
    return engine.notes(engine.resolve(recipe).plan)


def test_a_mix_is_told_of_beyond_the_limit(engine32: Engine, styles: list[str]) -> None:
    one, two = styles
    assert notes(engine32) == ()
    assert notes(engine32, one, two) == ()  # √2 times one
    (note,) = notes(engine32, f"{one}:1.2", f"{two}:1.2")
    assert "\n" not in note
    assert "1.7 times as much as the strongest of them alone" in note
    assert "0.88 times their weights stays within" in note
    assert notes(engine32, f"{one}:{1.2 * 0.88}", f"{two}:{1.2 * 0.88}") == (), "what is advised is within"
    (note,) = notes(engine32, f"{one}:20", f"{two}:20")
    assert "0.053 times their weights stays within" in note
    assert notes(engine32, f"{one}:1.2", f"{two}:1.2:unet=0.5") == ()
    assert notes(engine32, f"{one}:-1.4") == ()
    assert len(notes(engine32, f"{one}:-1.6")) == 1
    assert len(notes(engine32, one, f"{one}:0.6")) == 1, "the same direction twice adds up whole"
    assert notes(engine32, one, f"{one}:-1", f"{two}:1.2") == ()
    assert notes(engine32, f"{one}:0.1", f"{two}:0.1") == (), "weak ones are far from it"
    apart = f"{one}:1.4@..0.5", f"{two}:1.4@0.5.."
    assert notes(engine32, *apart, steps=2) == (), "one after the other never meet"
    late = f"{one}:0.3,1.8@0.5"
    assert notes(engine32, late, steps=2) == (), "a mean of 1.05 over the run"
    assert len(notes(engine32, f"{one}:1.3,1.8@0.5", steps=2)) == 1
    assert len(notes(engine32, f"{one}:1.2@left", f"{two}:1.2@left")) == 1
    assert notes(engine32, "lcm-lora-mini:3") == (), "an accelerator is part of what the model is"


def test_no_measured_balance_is_told_of(engine32: Engine) -> None:
    cases = [card.name for card in cards.shipped() if card.balances]
    assert cases
    for name in cases:
        for steps in (4, 8):
            wish = Recipe.from_dict({**SMALL, "steps": steps, "adapters": [name], "balance": "style"})
            resolved = engine32.resolve(wish)
            assert any(ref.phases for ref in resolved.recipe.adapters or ()), name
            assert engine32.notes(resolved.plan) == (), (name, steps)


def test_it_is_measured_once(engine32: Engine, styles: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = notes(engine32, f"{styles[0]}:3", styles[1])
    monkeypatch.setattr(mixes.Mixes, "_measure", None)
    assert notes(engine32, f"{styles[0]}:3", styles[1]) == first


def test_pipelines_give_it_among_their_warnings(engine32: Engine, styles: list[str]) -> None:
    draw = StandardPipeline(engine=engine32)
    found = draw("a fox", n=2, seed=7, steps=1, width=64, height=64, adapters=[f"{styles[0]}:3", "lcm-lora-mini"])
    assert len([note for note in found.warnings if "lose what the prompt says" in note]) == 1


def test_a_damaged_adapter_is_told_of_when_it_is_drawn_with(
    engine32: Engine, styles: list[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(Path(styles[0]).read_bytes()[:-4] + b"\xff\xff\xff\x7f")
    assert notes(engine32, f"{broken}:3") == ()


def test_json_of_the_command_line_has_it(styles: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from laur.cli.app import run

    adapters = ["-a", "lcm-lora-mini", "-a", f"{styles[0]}:3"]
    out = ["--out", str(tmp_path / "x.png"), "--json", "--size", "64x64", "--steps", "1", "-n", "2"]
    assert run(["generate", "a fox", *adapters, *out]) == 0
    told = json.loads(capfd.readouterr().out)["warnings"]
    assert len([note for note in told if "lose what the prompt says" in note]) == 1
