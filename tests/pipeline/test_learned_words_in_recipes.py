"""Textual inversions in recipes: found by name or file, said in either prompt, recorded and found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers.tiny import tiny_folder
from laur.core.errors import AdapterError, LaurError, MismatchError, NotFoundError, RecipeError
from laur.core.recipe import AdapterRef, Recipe
from laur.pipeline.device import choose
from laur.pipeline.engine import Engine
from laur.pipeline.events import Done, Failed
from laur.pipeline.resolve import Resolved
from laur.render.metadata import read
from laur.serve.worker.named_library import NamedLibrary
from laur.serve.worker.names import Names

SMALL = {"seed": 7, "steps": 1, "width": 64, "height": 64}
WIDTH = 384
"""Of mini's text encoder."""


def vectors(rows: int, width: int = WIDTH, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 0.1


def wish(prompt: str, *refs: AdapterRef | str, **fields: object) -> Recipe:
    adapters = {"adapters": ["lcm-lora-mini", *refs]} if refs else {}
    return Recipe.from_dict({**SMALL, "prompt": prompt, **adapters, **fields})


def words(job: Resolved) -> list[str]:
    return [ref.name for ref in job.recipe.adapters or () if ref.name != "lcm-lora-mini"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's adapters: two words, one that is called otherwise than its file, and one for SD 1.x."""
    monkeypatch.setenv("LAUR_HOME", str(tmp_path))
    own = tmp_path / "adapters"
    own.mkdir()
    save_file({"emb_params": vectors(3)}, own / "glimmer.safetensors")
    save_file({"emb_params": vectors(2, seed=2)}, own / "bad-hands.safetensors")
    save_file({"<cat-toy>": vectors(1, seed=3)}, own / "cat-toy.safetensors")
    save_file({"emb_params": vectors(2, 768)}, own / "lantern.safetensors")
    return own


def test_a_word_in_either_prompt_is_found_in_the_folder(engine32: Engine, folder: Path) -> None:
    job = engine32.resolve(wish("a (Glimmer:1.2) fox", negative_prompt="bad-hands, blur", guidance=1.5))
    assert sorted(words(job)) == ["bad-hands", "glimmer"]
    assert all(ref.sha256 for ref in job.recipe.adapters or ())
    assert job.recipe.prompt == "a (Glimmer:1.2) fox"
    assert words(engine32.resolve(wish("a fox, glimmering"))) == []
    assert words(engine32.resolve(wish("a cat-toy"))) == []
    assert words(engine32.resolve(wish("a <cat-toy>"))) == ["cat-toy"]
    assert words(engine32.resolve(wish("a glimmer", adapters=()))) == []


def test_a_word_is_found_whatever_its_file_is_called(engine32: Engine, folder: Path) -> None:
    save_file({"<red-toy>": vectors(1, seed=4)}, folder / "learned_embeds.safetensors")
    save_file({"a.weight": vectors(1)}, folder / "no-word.safetensors")
    (folder / "damaged.safetensors").write_bytes(b"x" * 40)
    assert sorted(words(engine32.resolve(wish("a <red-toy>, a <cat-toy>")))) == ["cat-toy", "learned_embeds"]
    assert words(engine32.resolve(wish("learned_embeds"))) == []  # not its word
    (folder / "learned_embeds.safetensors").rename(folder / "toy.safetensors")
    assert words(engine32.resolve(wish("a <red-toy>"))) == ["toy"]


def test_the_states_are_those_with_the_words_vectors(engine32: Engine, folder: Path) -> None:
    library = engine32.library

    def states(recipe: Recipe) -> torch.Tensor:
        stage = engine32.resolve(recipe).plan.stages[0]
        return library.encode(stage.checkpoint, stage.adapters, stage.rows[-1].text).context

    known, plain = states(wish("a glimmer fox")), states(wish("a glimmer fox", adapters=["lcm-lora-mini:1"], steps=1))
    assert torch.equal(known, plain), "the name is enough"
    save_file({"emb_params": vectors(3, seed=9)}, folder.parent / "glimmer.safetensors")
    other = states(wish("a glimmer fox", str(folder.parent / "glimmer.safetensors")))
    assert not torch.equal(other, known)
    part = library.encoder(library.checkpoint("mini").key, ()).parts[0]
    ids = part.tokenizer("a", add_special_tokens=False).input_ids
    table = part.model.get_input_embeddings().weight
    seen: list[torch.Tensor] = []
    hook = part.model.embeddings.word_embeddings.register_forward_hook(
        lambda module, inputs, output: seen.append(output.clone()), prepend=False
    )
    stage = engine32.resolve(wish("a glimmer fox")).plan.stages[0]
    try:
        encoder = library.encoder(stage.checkpoint, stage.adapters)
        assert encoder.parts[0].model is part.model, "words need no copy of the network"
        encoder.encode(stage.rows[-1].text)
    finally:
        hook.remove()
    assert torch.equal(seen[0][0, 1], table[ids[0]])
    assert encoder.tokens("a glimmer fox")[1] == ("glimmer", [2, 3, 4])


def test_it_is_recorded_and_reproduced(engine32: Engine, folder: Path, tmp_path: Path) -> None:
    picture = engine32.pictures([wish("a glimmer fox")])[0]
    path = tmp_path / "fox.png"
    path.write_bytes(picture.encode("png"))
    found = read(path)
    assert found.recipe is not None
    assert found.recipe == picture.recipe
    assert found.parameters is not None
    sha256 = next(ref.sha256 for ref in picture.recipe.adapters or () if ref.name == "glimmer") or ""
    assert f'TI hashes: "glimmer: {sha256[:12]}"' in found.parameters
    assert "<lora:glimmer" not in found.parameters
    assert found.provenance is not None
    assert [(a.name, a.word, a.sha256) for a in found.provenance.adapters if a.word] == [("glimmer", "glimmer", sha256)]
    assert engine32.resolve(found.recipe).recipe == found.recipe
    assert np.array_equal(engine32.pictures([found.recipe])[0].pixels, picture.pixels)
    plain = engine32.pictures([wish("a glimmer fox", adapters=["lcm-lora-mini", AdapterRef(name="glimmer", weight=0)])])
    assert not np.array_equal(plain[0].pixels, picture.pixels)
    (folder / "glimmer.safetensors").rename(folder / "gone.safetensors")
    fresh = Engine("mini", device="cpu", dtype="float32")
    with pytest.raises(NotFoundError, match="no adapter is called 'glimmer'"):
        fresh.resolve(found.recipe)
    save_file({"emb_params": vectors(3, seed=8)}, folder / "glimmer.safetensors")
    with pytest.raises(RecipeError, match=r"the adapter glimmer is .* here, but the recipe was made with"):
        fresh.resolve(found.recipe)


def test_a_long_word_counts_in_the_windows_and_is_not_parted(engine32: Engine, folder: Path) -> None:
    save_file({"emb_params": vectors(10, seed=4)}, folder / "long.safetensors")
    prompt = " ".join(["red"] * 25) + " long fox"
    stage = engine32.resolve(wish(prompt)).plan.stages[0]
    assert stage.rows[0].text.windows == 2
    encoder = engine32.library.encoder(stage.checkpoint, stage.adapters)
    (positions,) = [where for word, where in encoder.tokens(prompt) if word == "long"]
    assert positions == list(range(encoder.window + 1, encoder.window + 11)), "all of it in the second window"
    assert encoder.encode(stage.rows[0].text).context.shape[0] == 2 * encoder.window
    save_file({"emb_params": vectors(70, seed=5)}, folder / "endless.safetensors")
    # one that no window holds begins its own and is parted: an | 30 | 30 | 10 fox
    assert engine32.resolve(wish("an endless fox")).plan.stages[0].rows[0].text.windows == 4


def test_words_for_other_models_stay_plain_text_unless_they_are_named(engine32: Engine, folder: Path) -> None:
    job = engine32.resolve(wish("a lantern"))
    assert words(job) == []
    (note,) = [note for note in job.warnings if "lantern" in note]
    assert "read as plain text" in note and "\n" not in note
    with pytest.raises(MismatchError, match=r"made for SD 1\.x"):
        engine32.resolve(wish("a lantern", "lantern"))


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("glimmer:0.5", r"has no weight 0.5; weigh it in the prompt: \(glimmer:0.8\)"),
        ("glimmer:mid=0", "has no by block"),
        ("glimmer@left", "has no region"),
        ("glimmer:1,2@0.5", "has no phases"),
    ],
)
def test_a_word_is_weighed_in_the_prompt(engine32: Engine, folder: Path, ref: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        engine32.resolve(wish("a glimmer", ref))
    assert "\n" not in str(caught.value)


def test_a_word_that_nobody_says_is_told(engine32: Engine, folder: Path) -> None:
    notes = engine32.resolve(wish("a fox", "glimmer")).warnings
    assert any("glimmer has no effect: neither prompt says its word, glimmer" in note for note in notes)
    assert not any("no effect" in note for note in engine32.resolve(wish("a glimmer", "glimmer")).warnings)


def test_sdxl_takes_vectors_for_both_encoders_and_its_refiner_for_the_second(folder: Path, tmp_path: Path) -> None:
    base, refiner = tiny_folder("sdxl", tmp_path / "xl"), tiny_folder("sdxl-refiner", tmp_path / "fine")
    save_file({"clip_l": vectors(2, 64), "clip_g": vectors(2, 128)}, folder / "neon.safetensors")
    save_file({"emb_params": vectors(2, 64)}, folder / "lonely.safetensors")
    engine = Engine(str(base), device="cpu", dtype="float32")
    asked = wish("a neon lonely fox", steps=4, refiner=str(refiner), sampler="euler", guidance=1.0)
    job = engine.resolve(asked)
    assert words(job) == ["neon"]
    assert any("'lonely' is read as plain text" in note for note in job.warnings)
    first, second = job.plan.stages
    assert [len(stage.adapters) for stage in (first, second)] == [1, 1]
    text = first.rows[0].text
    encode = engine.library.encode
    assert not torch.equal(
        encode(first.checkpoint, first.adapters, text).context, encode(first.checkpoint, (), text).context
    )
    assert not torch.equal(
        encode(second.checkpoint, second.adapters, text).context, encode(second.checkpoint, (), text).context
    )


def test_served_recipes_name_words_by_name_only(folder: Path) -> None:
    library = NamedLibrary(Names(), choose("cpu", "float32"))
    engine = Engine("mini", library=library)
    assert words(engine.resolve(wish("a glimmer"))) == ["glimmer"]
    with pytest.raises(NotFoundError, match="no adapter is called"):
        engine.resolve(wish("a glimmer", str(folder / "glimmer.safetensors")))


def test_a_word_that_is_moved_or_learned_anew_is_found_again(folder: Path) -> None:
    engine = Engine("mini", device="cpu", dtype="float32")

    def context(prompt: str) -> torch.Tensor:
        stage = engine.resolve(wish(prompt)).plan.stages[0]
        return engine.library.encode(stage.checkpoint, stage.adapters, stage.rows[-1].text).context

    engine.resolve(wish("a glimmer fox"))  # its vectors are not read yet
    (folder / "glimmer.safetensors").rename(folder / "shimmer.safetensors")
    first = context("a shimmer fox")
    save_file({"emb_params": vectors(3, seed=9)}, folder / "shimmer.safetensors")
    engine.library.states.clear()
    assert not torch.equal(context("a shimmer fox"), first)
    (folder / "shimmer.safetensors").unlink()
    assert words(engine.resolve(wish("a shimmer fox"))) == []


def test_a_damaged_word_fails_its_own_request(engine32: Engine, folder: Path) -> None:
    save_file({"emb_params": torch.full((2, WIDTH), float("nan"))}, folder / "nan.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "glimmer.safetensors").read_bytes()[:-9])
    going = engine32.resolve(wish("a fox", steps=2))
    ticket = engine32.submit(going.plan, going.recipe)
    engine32.step()
    for prompt, name in (("a nan", "nan"), ("a cut", "cut"), ("a cat", "gone.safetensors")):
        with pytest.raises(LaurError) as caught:
            engine32.resolve(wish(prompt, name))
        assert "\n" not in str(caught.value)
    late = engine32.resolve(wish("a glimmer fox here"))
    save_file({"emb_params": vectors(3, seed=6)}, folder / "glimmer.safetensors")  # after it was planned
    engine32.library.states.clear()
    other = engine32.submit(late.plan, late.recipe)
    ends = [event for event in _until_idle(engine32) if isinstance(event, Done | Failed)]
    assert {type(end): end.ticket for end in ends}[Done] in {ticket, other}
    assert any(isinstance(end, Done) and end.ticket is ticket for end in ends)
    for end in ends:
        if isinstance(end, Failed):
            assert isinstance(end.error, AdapterError)


def _until_idle(engine: Engine) -> list[object]:
    events: list[object] = []
    while engine.busy:
        events += engine.step()
    return events
