"""An adapter's weights by block and over the run: the same as merging by hand, in rows and in weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from laur.core.denoiser import Row
from laur.core.errors import RecipeError
from laur.core.pytorch.cpu.interface import PlainUNet
from laur.core.recipe import AdapterRef, Recipe
from laur.optimize import algebra, blocks
from laur.optimize.merge import merged_state
from laur.pipeline.device import choose
from laur.pipeline.engine import Engine
from laur.pipeline.library import Library
from laur.render.compare import psnr

SMALL = {"prompt": "a red fox", "seed": 7, "steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def ink(engine32: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random LoRA of all layers that may differ between rows, and of the text encoder's."""
    draw = torch.Generator().manual_seed(3)
    state: dict[str, torch.Tensor] = {}
    for name, layer in engine32.library.layers(engine32.library.checkpoint("mini").key).items():
        if "time_emb" in name:
            continue
        out, inner, *kernel = layer.weight
        state[f"{name}.lora_A.weight"] = torch.randn(2, inner, *kernel, generator=draw) * (inner * 2) ** -0.5
        state[f"{name}.lora_B.weight"] = torch.randn(out, 2, *(1 for _ in kernel), generator=draw) * 0.05
    path = tmp_path_factory.mktemp("weights") / "ink.safetensors"
    save_file(state, path)
    return str(path)


@pytest.fixture(scope="module")
def merging() -> Engine:
    """What merges everything."""
    return Engine("mini", library=Library(choose("cpu", "float32"), per_row=False))


def wish(*refs: AdapterRef | str, **fields: object) -> Recipe:
    return Recipe.from_dict({**SMALL, "adapters": ["lcm-lora-mini", *refs], **fields})


def drawn(engine: Engine, *refs: AdapterRef | str) -> np.ndarray:
    return engine.pictures([wish(*refs)])[0].pixels


@pytest.mark.parametrize(
    ("by_block", "layer", "factor"),
    [
        ({"mid": 0.5}, "unet.mid_block.resnets.0.conv1", 0.5),
        ({"mid": 0.5}, "unet.conv_in", 1.0),
        ({"unet": 0.2, "down1": 3}, "unet.down_blocks.1.resnets.0.conv1", 3.0),
        ({"unet": 0.2, "down1": 3}, "unet.down_blocks.2.resnets.0.conv1", 0.2),
        ({"in4": 0.1, "down1": 3}, "unet.down_blocks.1.resnets.0.conv1", 0.1),
        ({"in4": 0.1, "down1": 3}, "unet.down_blocks.1.resnets.1.conv1", 3.0),
        ({"in5": 0.1}, "unet.down_blocks.1.attentions.1.proj_in", 0.1),
        ({"in6": 0.1}, "unet.down_blocks.1.downsamplers.0.conv", 0.1),
        ({"in0": 0.1}, "unet.conv_in", 0.1),
        ({"out5": 0.1}, "unet.up_blocks.1.upsamplers.0.conv", 0.1),
        ({"out5": 0.1}, "unet.up_blocks.1.resnets.2.conv1", 0.1),
        ({"out3": 0.1}, "unet.up_blocks.1.attentions.0.proj_in", 0.1),
        ({"text": 0.1}, "text_encoder.encoder.layer.0.output.dense", 0.1),
        ({"text2": 0.1}, "text_encoder.encoder.layer.0.output.dense", 1.0),
    ],
)
def test_blocks_are_those_of_the_model(engine32: Engine, by_block: dict[str, float], layer: str, factor: float) -> None:
    layers = engine32.library.layers(engine32.library.checkpoint("mini").key)
    assert layer in layers
    assert blocks.factor_of(layer, blocks.by_prefix(by_block, layers)) == factor


def test_stabilitys_numbers_are_those_of_sd1_and_sdxl() -> None:
    """As A1111's extension counts them: 12 on a side in SD 1.x; IN01 and OUT03 are the first with attention."""
    down, up = range(4), range(4)
    layers = ["unet.conv_in", *(f"unet.down_blocks.{b}.resnets.{j}.conv1" for b in down for j in (0, 1))]
    layers += [f"unet.down_blocks.{b}.downsamplers.0.conv" for b in (0, 1, 2)]
    layers += [f"unet.up_blocks.{b}.resnets.{j}.conv1" for b in up for j in (0, 1, 2)]
    layers += [f"unet.down_blocks.0.attentions.{j}.proj_in" for j in (0, 1)]
    layers += [f"unet.up_blocks.1.attentions.{j}.proj_in" for j in (0, 1, 2)] + ["unet.mid_block.resnets.0.conv1"]
    names = {block: dict(blocks.by_prefix({block: 1.0}, layers)) for block in ("in1", "in3", "in11", "out3", "out11")}
    assert set(names["in1"]) == {"unet.down_blocks.0.resnets.0", "unet.down_blocks.0.attentions.0"}
    assert set(names["in3"]) == {"unet.down_blocks.0.downsamplers"}
    assert set(names["in11"]) == {"unet.down_blocks.3.resnets.1"}
    assert set(names["out3"]) == {"unet.up_blocks.1.resnets.0", "unet.up_blocks.1.attentions.0"}
    assert set(names["out11"]) == {"unet.up_blocks.3.resnets.2"}
    every = {f"{side}{number}" for side in ("in", "out") for number in range(12)}
    covered = blocks.by_prefix(dict.fromkeys([*every, "mid"], 0.5), layers)
    assert all(blocks.factor_of(layer, covered) == 0.5 for layer in layers)
    with pytest.raises(RecipeError, match=r"no block in12; it has unet, text, down, mid, up, .*in0 to in11"):
        blocks.by_prefix({"in12": 1.0}, layers)


def test_merged_weights_are_those_of_merging_by_hand(engine32: Engine, ink: str) -> None:
    library = Library(choose("cpu", "float32"), per_row=False, plain=True)
    job = Engine("mini", library=library).resolve(wish(f"{ink}:0.7:down=0,mid=0.5,up1=-1,text=0"))
    (stage,) = job.plan.stages
    network = library.denoiser(stage.checkpoint, stage.adapters).network
    assert isinstance(network, PlainUNet)
    key = library.checkpoint("mini").key
    deltas = [library.rows.deltas(key, use.sha256) for use in stage.adapters]
    by_hand = {"unet.down_blocks": 0.0, "unet.mid_block": 0.5, "unet.up_blocks.1": -1.0, "text_encoder": 0.0}
    terms = [(deltas[0], 1.0), *algebra.by_block(deltas[1], by_hand, weight=0.7)]
    terms = [({name: delta for name, delta in found.items() if name.startswith("unet.")}, w) for found, w in terms]
    base = {f"unet.{name}": tensor for name, tensor in library.weights(key).unet().named_parameters()}
    wanted = base | merged_state(base, terms, torch.float32)
    for name, tensor in network.module.named_parameters():
        assert torch.equal(tensor, wanted[f"unet.{name}"]), name


def test_rows_draw_what_merged_weights_draw(engine32: Engine, merging: Engine, ink: str) -> None:
    text = f"{ink}:0.7:down=0,mid=0.5,up1=-1,text=0.5"
    one, plain = drawn(engine32, text), drawn(engine32, f"{ink}:0.7")
    assert psnr(drawn(merging, text), one) >= 70
    assert psnr(plain, one) < 45
    assert np.array_equal(drawn(engine32, f"{ink}:0.7:unet=1"), plain)
    assert np.array_equal(drawn(engine32, f"{ink}:0.7:unet=0,text=0"), drawn(engine32))


def test_a_row_adds_each_block_by_its_own_weight(engine32: Engine, ink: str) -> None:
    stage = engine32.resolve(wish(f"{ink}:0.7:down=0,mid=0.5")).plan.stages[0]
    rows = engine32.library.rows.row_set(stage.checkpoint, stage.adapters)
    plain = engine32.resolve(wish(f"{ink}:0.7")).plan.stages[0]
    whole = engine32.library.rows.row_set(plain.checkpoint, plain.adapters)
    assert rows is not None and whole is not None
    assert not any(name.startswith("down_blocks") for name in rows.layers)
    for name, factors in rows.layers.items():
        share = 0.5 if name.startswith("mid_block") else 1.0
        torch.testing.assert_close(factors.up, whole.layers[name].up * share, rtol=1e-6, atol=0)
        assert torch.equal(factors.down, whole.layers[name].down)


def test_one_pass_of_a_mixed_batch_is_each_alone_with_merged_weights(
    engine32: Engine, merging: Engine, ink: str
) -> None:
    library = engine32.library
    texts = (f"{ink}:0.7:down=0,mid=0.5,up1=-1", f"{ink}:0.7", f"{ink}:1:unet=0,in4=2,out3=0.5")
    stage = engine32.resolve(wish()).plan.stages[0]
    pinned = library.rows.pinned(stage.checkpoint, stage.adapters)
    draw = torch.Generator().manual_seed(4)
    rows: list[Row] = []
    alone: list[torch.Tensor] = []
    for text in texts:
        stage, own = engine32.resolve(wish(text)).plan.stages[0], merging.resolve(wish(text)).plan.stages[0]
        latent, context = torch.randn(4, 8, 8, generator=draw), torch.randn(32, 384, generator=draw)
        row = Row(latent=latent, timestep=499.0, context=context)
        alone += merging.library.denoiser(own.checkpoint, own.adapters).predict([row])
        rows.append(replace(row, adapters=library.rows.row_set(stage.checkpoint, stage.adapters)))
    for mixed, wanted in zip(library.denoiser(stage.checkpoint, pinned).predict(rows), alone, strict=True):
        assert float((mixed - wanted).norm() / wanted.norm()) <= 1e-5


def test_texts_are_encoded_anew_only_where_their_weights_differ(engine32: Engine, ink: str) -> None:
    library, text = engine32.library, engine32.resolve(wish()).plan.stages[0].rows[0].text

    def states(ref: str) -> torch.Tensor:
        stage = engine32.resolve(wish(ref)).plan.stages[0]
        return library.encode(stage.checkpoint, stage.adapters, text).context

    assert states(f"{ink}:0.7:mid=0") is states(f"{ink}:0.7:up1=0.5") is states(f"{ink}:0.7")
    assert not torch.equal(states(f"{ink}:0.7:text=0.5"), states(f"{ink}:0.7"))
    plain = library.encode(library.checkpoint("mini").key, (), text).context
    assert torch.equal(states(f"{ink}:0.7:text=0"), plain)


def test_phases_are_parts_of_the_run(engine32: Engine, ink: str) -> None:
    plan = engine32.resolve(wish(f"{ink}:0.5,1@0.25,0@0.75", steps=4)).plan
    sizes = [len(stage.table.steps) for stage in plan.stages]
    weights = [[use.weight for use in stage.adapters[1:]] for stage in plan.stages]
    assert (sizes, weights) == ([1, 2, 1], [[0.5], [1.0], []])
    apart = [f"{ink}:0.5@..0.25", f"{ink}:1@0.25..0.75"]
    assert engine32.resolve(wish(*apart, steps=4)).plan == plan
    half = AdapterRef(name=ink, weight=0.5, phases=((0.0, 1.0), (0.25, 2.0), (0.75, 0.0)))
    assert engine32.resolve(wish(half, steps=4)).plan == plan
    assert [len(stage.table.steps) for stage in engine32.resolve(wish(f"{ink}:1,1@0.5")).plan.stages] == [2]
    assert not np.array_equal(drawn(engine32, f"{ink}:0.5,1@0.5"), drawn(engine32, f"{ink}:1,0.5@0.5"))


def test_they_are_recorded_and_reproduced(engine32: Engine, ink: str) -> None:
    asked = Recipe(**{**SMALL, "prompt": f"a fox <lora:{ink}:0.5,1@0.5:mid=0,text=0>"})  # pyright: ignore[reportArgumentType]
    job = engine32.resolve(asked)
    assert job.recipe.prompt == "a fox"
    assert job.recipe.adapters is not None
    ref = next(ref for ref in job.recipe.adapters if ref.name == ink)
    assert (ref.phases, ref.by_block) == (((0.0, 0.5), (0.5, 1.0)), {"mid": 0.0, "text": 0.0})
    again = engine32.resolve(Recipe.from_json(job.recipe.to_json()))
    assert again.recipe == job.recipe
    assert again.plan.key == job.plan.key
    other = engine32.resolve(asked.replace(prompt=f"a fox <lora:{ink}:0.5,1@0.5:mid=0.1,text=0>"))
    assert other.plan.key != job.plan.key


def test_a_block_that_is_not_there_is_one_line(engine32: Engine, ink: str) -> None:
    with pytest.raises(RecipeError, match=r"no block down7; it has unet, text, .*down0 to down2") as caught:
        engine32.resolve(wish(f"{ink}:1:down7=0"))
    assert "\n" not in str(caught.value)
