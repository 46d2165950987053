"""Styles by name, and several in one picture: by weight, over the run, in places."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from laur.cli.adapter_work import merge
from laur.cli.app import run
from laur.core.errors import AdapterError, NotFoundError, RecipeError
from laur.core.recipe import AdapterRef, Recipe
from laur.optimize import BaseAdapter, register
from laur.pipeline import creative
from laur.pipeline.creative import CreativePipeline, Explored, Use, explore
from laur.pipeline.engine import Engine
from laur.pipeline.gallery import write_gallery
from laur.style import cards

SMALL = {"width": 64, "height": 64, "steps": 2, "seed": 3}
CARD = """words = "{name} in all things"

[mini]
file = "{name}.safetensors"
trigger_words = ["{name} painting"]
weight = 0.5

[sd1]
trigger_words = ["{name}"]

[sdxl]
file = "{name}-xl.safetensors"
hub = "someone/{name}"
"""


@pytest.fixture(scope="module")
def folder(engine32: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """$LAUR_HOME/styles with two styles, which change every layer's queries a good deal."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("LAUR_HOME", str(home))
        styles = home / "styles" / "artistic"
        styles.mkdir(parents=True)
        key = engine32.library.checkpoint("mini").key
        layers = {n: s.weight for n, s in engine32.library.layers(key).items() if n.endswith("to_q")}
        for number, name in enumerate(("crimson", "azure")):
            noise = torch.Generator().manual_seed(number)
            tensors: dict[str, torch.Tensor] = {}
            for layer, (out, inner) in layers.items():
                tensors[f"{layer}.lora_A.weight"] = torch.randn(2, inner, generator=noise) / inner**0.5
                tensors[f"{layer}.lora_B.weight"] = torch.randn(out, 2, generator=noise)
            save_file(tensors, styles / f"{name}.safetensors", {"format": "pt"})
            (styles / f"{name}.toml").write_text(CARD.format(name=name))
        yield styles


def _pixels(engine: Engine, **fields: object) -> np.ndarray:
    image = engine.run([Recipe(**{"prompt": "a fox", **SMALL, **fields})])[0]  # pyright: ignore[reportArgumentType]
    return np.asarray(image).astype(int)


def test_a_style_is_its_card(engine32: Engine, folder: Path) -> None:
    filled = engine32.resolve(Recipe(prompt="a fox", style="crimson")).recipe
    assert filled.adapters is not None
    assert [(ref.name, ref.weight) for ref in filled.adapters] == [("crimson", 0.5), ("lcm-lora-mini", 1.0)][::-1]
    assert filled.prompt == "a fox, crimson painting"
    again = engine32.resolve(Recipe.from_json(filled.to_json()))
    assert again.recipe == filled
    said = engine32.resolve(Recipe(prompt="a Crimson Painting of a fox", style="crimson")).recipe
    assert said.prompt == "a Crimson Painting of a fox"


def test_a_file_of_style_and_accelerator_needs_no_other_accelerator(
    engine32: Engine, folder: Path, tmp_path: Path
) -> None:
    merged = tmp_path / "both.safetensors"
    refs = [AdapterRef(name=str(folder / "crimson.safetensors"), weight=0.7), AdapterRef(name="lcm-lora-mini")]
    merge(refs, merged, format="diffusers", model="mini", rank=None, precision=None)
    job = engine32.resolve(Recipe(prompt="a fox", adapters=(str(merged),)))
    assert [ref.name for ref in job.recipe.adapters or ()] == [str(merged)]
    assert (job.recipe.sampler, job.recipe.steps, job.recipe.guidance, job.warnings) == ("lcm", 4, 1.0, ())
    apart = engine32.pictures([Recipe(prompt="a fox", adapters=tuple(refs), **SMALL)])[0]
    both = engine32.pictures([Recipe(prompt="a fox", adapters=(str(merged),), **SMALL)])[0]
    assert np.abs(apart.pixels.astype(int) - both.pixels.astype(int)).max() <= 8


def test_keys_without_a_place_are_told_when_a_picture_is_planned(
    engine32: Engine, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "part.safetensors"
    state = load_file(folder / "crimson.safetensors")
    save_file(state | {"bundle_emb.word.x": torch.ones(1, 4), "lora_unet_conv_in.alpha": torch.ones(1)}, path)
    for _ in range(2):
        (note,) = engine32.resolve(Recipe(prompt="a fox", adapters=(f"{path}:0.5",))).warnings
        assert note.startswith(f"{path} is drawn with in part: 2 keys left (a textual inversion packed into the file; ")
        assert "an alpha without weights" in note
    assert engine32.resolve(Recipe(prompt="a fox", adapters=("crimson:0.5",))).warnings == ()


def test_a_weight_that_is_not_said_is_1_but_for_the_style_of_a_recipe(engine32: Engine, folder: Path) -> None:
    wishes: tuple[dict[str, Any], ...] = (
        {"adapters": ("crimson",)},
        {"prompt": "a fox <lora:crimson>"},
        {"adapters": (CreativePipeline(engine=engine32).ref("crimson"),)},
        {"style": "crimson", "adapters": ("crimson",)},
    )
    for wish in wishes:
        filled = engine32.resolve(Recipe(**{"prompt": "a fox", **wish})).recipe
        assert [ref.weight for ref in filled.adapters or () if ref.name == "crimson"] == [1.0], wish
    assert card_weight(engine32) == 0.5


def card_weight(engine: Engine) -> float:
    filled = engine.resolve(Recipe(prompt="a fox", style="crimson")).recipe
    return next(ref.weight for ref in filled.adapters or () if ref.name == "crimson")


def test_tags_and_wildcards_are_recorded_as_drawn(engine32: Engine, folder: Path) -> None:
    wish = Recipe(prompt="a {red|blue|green} fox <lora:crimson:0.8>", seed=5)
    filled = engine32.resolve(wish).recipe
    assert filled.prompt in {f"a {colour} fox, crimson painting" for colour in ("red", "blue", "green")}
    assert filled.adapters is not None
    assert {(ref.name, ref.weight) for ref in filled.adapters} == {("crimson", 0.8), ("lcm-lora-mini", 1.0)}
    assert engine32.resolve(wish).recipe == filled
    assert engine32.resolve(filled).recipe == filled


def test_each_picture_of_a_call_draws_its_own_wildcards(engine32: Engine) -> None:
    jobs = CreativePipeline(engine=engine32).plan("a {red|blue|green|white} fox", n=12, seed=1)
    assert len({job.recipe.prompt for job in jobs}) > 2
    assert [job.recipe.seed for job in jobs] == list(range(1, 13))


def test_a_style_without_an_adapter_is_words(engine32: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "plain.toml").write_text('words = "x"\n[mini]\ntrigger_words = ["in grey"]\n')
    filled = engine32.resolve(Recipe(prompt="a fox", style="plain")).recipe
    assert filled.prompt == "a fox, in grey"
    assert filled.adapters is not None and [ref.name for ref in filled.adapters] == ["lcm-lora-mini"]
    assert engine32.resolve(filled).recipe == filled
    with pytest.raises(RecipeError, match="--style plain"):
        engine32.resolve(Recipe(prompt="a fox", adapters=(AdapterRef(name="plain"),)))


def test_a_file_of_the_hub_is_used_once_it_is_there(engine32: Engine, folder: Path) -> None:
    card = '[mini]\nhub = "someone/red"\nhub_file = "a red.safetensors"\ntrigger_words = ["in red"]\nweight = 0.7\n'
    (folder / "reddish.toml").write_text(card)
    job = engine32.resolve(Recipe(prompt="a fox", style="reddish"))
    assert job.recipe.prompt == "a fox, in red"
    (note,) = [note for note in job.warnings if "reddish" in note]
    place = folder.parent / "reddish-mini"
    assert f"hf download someone/red 'a red.safetensors' --local-dir {place}" in note
    place.mkdir()
    (place / "a red.safetensors").write_bytes((folder / "crimson.safetensors").read_bytes())
    job = engine32.resolve(Recipe(prompt="a fox", style="reddish"))
    assert not any("reddish" in note for note in job.warnings)
    assert ("reddish", 0.7) in [(ref.name, ref.weight) for ref in job.recipe.adapters or ()]


def test_what_ships_names_no_hub_id_without_saying_where_it_was_found() -> None:
    forms = [(card, family, form) for card in cards.shipped() for family, form in card.forms.items()]
    named = [entry for entry in forms if entry[2].hub]
    assert {card.name for card, _, _ in named} >= {"watercolour", "pixel-art", "paper-cut", "ukiyo-e"}
    for card, family, form in named:
        assert form.found and form.licence and form.hub_file, (card.name, family)
        assert not form.verified
        assert form.hub in form.command
    assert any(not form.hub and not form.file for _, _, form in forms), "the others say words alone"


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("[mini]\nhub_file = 'x'", "goes with hub"),
        ("[mini]\nhub = 'a/b'\nhub_file = 'x'\nfile = 'y'", "without file"),
        ("[mini]\nverified = 1", "true or false"),
        ("words = 3", "must be text"),
        ("[mini]\nfiles = 'x'", "'files'"),
        ("colour = 'x'", "'colour'"),
        ("[mini]\nweight = 'x'", "must be a number"),
        ("[mini", "broken"),
        ("[mini]\ntrigger_words = 'x'", "list of texts"),
    ],
)
def test_a_broken_card_is_one_line(engine32: Engine, folder: Path, card: str, said: str) -> None:
    path = folder / "broken.toml"
    path.write_text(card)
    try:
        with pytest.raises(AdapterError, match=said) as caught:
            engine32.resolve(Recipe(prompt="a fox", style="broken"))
        assert "\n" not in str(caught.value)
    finally:
        path.unlink()


def test_a_missing_file_says_where_it_is_had(folder: Path) -> None:
    from laur.style.lookup import form_of

    with pytest.raises(NotFoundError, match="hf download someone/azure azure-xl"):
        form_of("azure", "sdxl")
    with pytest.raises(NotFoundError, match="no form for sd2"):
        form_of("azure", "sd2")
    with pytest.raises(NotFoundError, match="did you mean azure"):
        cards.card("azur")


def test_a_region_changes_its_own_part_most(engine32: Engine, folder: Path) -> None:
    """In one step, that is: in later ones each part answers to what the other has become."""
    plain = _pixels(engine32, steps=1)
    left = _pixels(engine32, steps=1, adapters=("crimson:1@left",))
    change = np.abs(left - plain).mean((0, 2))
    assert change[:32].mean() > 3 * change[44:].mean()
    assert change[:32].mean() > 3


def test_styles_of_regions_are_read_ahead_too(engine32: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead: list[str] = []
    monkeypatch.setattr(engine32.library.rows, "prefetch", lambda _, uses: ahead.extend(use.sha256 for use in uses))
    job = engine32.resolve(Recipe(prompt="a fox", guidance=2.0, adapters=("crimson@left", "azure"), **SMALL))
    engine32.cancel(engine32.submit(job.plan, job.recipe))
    engine32.step()
    refs = job.recipe.adapters or ()
    assert len(refs) == 3 and set(ahead) == {ref.sha256 for ref in refs}


def test_regions_that_cover_all_draw_nothing_about_them(engine32: Engine, folder: Path) -> None:
    stage = engine32.resolve(Recipe(prompt="a fox", adapters=("crimson@left", "azure@right"))).plan.stages[0]
    assert stage.combine.regions == ("left", "right")
    assert [row.text.prompt for row in stage.rows] == ["a fox, crimson painting", "a fox, azure painting"]
    some = engine32.resolve(Recipe(prompt="a fox", adapters=("crimson@top",), guidance=2.0)).plan.stages[0]
    assert some.combine.regions == (None, None, "top", "top")


def test_a_region_of_everything_is_the_style_everywhere(engine32: Engine, folder: Path) -> None:
    prompt = "a fox, crimson painting"
    everywhere = _pixels(engine32, prompt=prompt, adapters=("crimson:0.7",))
    boxed = _pixels(engine32, prompt=prompt, adapters=("crimson:0.7@0,0,1,1",))
    assert np.abs(everywhere - boxed).max() <= 3


def test_masks_are_regions_too(engine32: Engine, folder: Path, tmp_path: Path) -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    mask.save(tmp_path / "mask.png")
    create = CreativePipeline(engine=engine32)
    result = create("a fox", styles=[Use(style="crimson", region=tmp_path / "mask.png")], **SMALL)
    ref = next(ref for ref in result.recipes[0].adapters or () if ref.name == "crimson")
    assert ref.region is not None and ref.region.startswith("sha256:")
    boxed = _pixels(engine32, adapters=("crimson@left",))
    assert np.abs(np.asarray(result.images[0]).astype(int) - boxed).mean() < 2


def test_parts_of_the_run_become_stages(engine32: Engine, folder: Path) -> None:
    refs = ("crimson@..0.5", "azure@0.5..")
    found = engine32.resolve(Recipe(prompt="a fox", steps=4, adapters=refs))
    first, second = found.plan.stages
    assert len(first.table.steps) == len(second.table.steps) == 2
    assert first.adapters != second.adapters
    assert first.rows[0].text.prompt == "a fox, crimson painting"
    assert found.recipe.prompt == "a fox"
    assert engine32.resolve(Recipe.from_json(found.recipe.to_json())).plan == found.plan
    whole = engine32.resolve(Recipe(prompt="a fox", steps=4, adapters=("crimson@0..1",))).plan
    assert len(whole.stages) == 1


def test_a_part_of_the_run_is_drawn(engine32: Engine, folder: Path) -> None:
    plain, early = _pixels(engine32), _pixels(engine32, adapters=("crimson:1@..0.5",))
    assert np.abs(early - plain).mean() > 1


def test_hooks_cannot_be_kept_to_a_region(engine32: Engine) -> None:
    class Wash(BaseAdapter):
        def on_x0(self, step: int, total: int, x0: torch.Tensor) -> torch.Tensor:
            return x0 * 0.5

    register("creative-wash", Wash)
    with pytest.raises(AdapterError, match="leave its region out"):
        engine32.resolve(Recipe(prompt="a fox", adapters=("creative-wash@left",)))


@pytest.mark.parametrize(
    ("region", "said"), [("middle", "unknown"), ("0.5,0,0.2,1", "no box"), ("0,0,2,1", "no box"), ("1,2", "unknown")]
)
def test_broken_regions_are_refused(region: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        AdapterRef(name="a", region=region)


def test_refs_are_read_from_text() -> None:
    assert AdapterRef.parse("a:0.5@left") == AdapterRef(name="a", weight=0.5, region="left")
    assert AdapterRef.parse("a@..0.5") == AdapterRef(name="a", steps=(0.0, 0.5))
    assert AdapterRef.parse("a@0,0,.5,1@.5..") == AdapterRef(name="a", region="0,0,.5,1", steps=(0.5, 1.0))
    assert AdapterRef.parse("me@home/a.safetensors:0.4") == AdapterRef(name="me@home/a.safetensors", weight=0.4)
    with pytest.raises(RecipeError, match="first must be less"):
        AdapterRef(name="a", steps=(0.5, 0.5))


def test_the_explorer_has_a_picture_for_each_style_and_weight(engine32: Engine, folder: Path) -> None:
    sheet = explore(engine32, "a {red|blue} fox", ["crimson", "azure"], [0, 0.5, 1], **SMALL)
    assert sheet.image.width > 3 * 64 and sheet.image.height > 2 * 64
    assert sheet.warnings == ()
    for styles, weights in (([], [1]), (["crimson"], []), (["crimson"] * 65, [1])):
        with pytest.raises(RecipeError):
            explore(engine32, "a fox", styles, weights)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.jpeg", "JPEG"), ("a.webp", "WEBP")]
)
def test_a_sheet_is_what_its_name_says(name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creative, "explore", lambda *_, **__: Explored(Image.new("RGB", (8, 8), "red"), ()))
    out = tmp_path / "sheets" / name
    assert run(["explore", "a fox", "--styles", "ink", "-o", str(out)]) == 0
    with Image.open(out) as sheet:
        assert sheet.format == kind


@pytest.mark.parametrize(("name", "said"), [("a.tiff", "should end in"), ("folder.png", "is a folder")])
def test_where_a_sheet_cannot_go_is_told_before_it_is_drawn(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(creative, "explore", lambda *_, **__: pytest.fail("it was drawn"))
    (tmp_path / "folder.png").mkdir()
    assert run(["explore", "a fox", "--styles", "ink", "-o", str(tmp_path / name)]) != 0
    assert said in capsys.readouterr().err


def test_the_explorer_keeps_tags_and_tells_what_there_is_to_know(
    engine32: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Recipe] = []
    run = engine32.run
    monkeypatch.setattr(engine32, "run", lambda jobs: drawn.extend(job.recipe for job in jobs) or run(jobs))
    sheet = explore(
        engine32, "a {red|blue} fox <lora:azure:0.9>", ["crimson"], [0, 1.6, 2], negative_prompt="x", **SMALL
    )
    for recipe, weight in zip(drawn, (0, 1.6, 2), strict=True):
        refs = {ref.name: ref.weight for ref in recipe.adapters or ()}
        assert refs == {"azure": 0.9, "crimson": weight, "lcm-lora-mini": 1.0}
        assert recipe.prompt.startswith(("a red fox, azure painting", "a blue fox, azure painting"))
    assert len({recipe.prompt.split(",")[0] for recipe in drawn}) == 1
    unseen, mix = sheet.warnings
    assert "negative prompt has no effect" in unseen
    assert mix.startswith("crimson:1.6: ") and "lose what the prompt says" in mix


def test_the_command_that_explores_prints_what_there_is_to_know(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from laur.cli.app import run

    small = ["--steps", "1", "--size", "64x64", "--seed", "3", "-o", str(tmp_path / "sheet.png")]
    assert run(["explore", "a fox", "--styles", "crimson", "--weights", "3", *small]) == 0
    out, err = capfd.readouterr()
    assert "crimson:3: " in err and "lose what the prompt says" in err
    assert out.strip() == str(tmp_path / "sheet.png")


def test_the_gallery_shows_styles_and_says_what_cannot_be_drawn(engine32: Engine, folder: Path, tmp_path: Path) -> None:
    found = [cards.card("crimson"), cards.read(folder / "lost.toml", "own")] if _lost(folder) else []
    told: list[str] = []
    page = write_gallery(engine32, found, tmp_path / "gallery", prompts=["a <fox>"], seed=1, report=told.append)
    text = page.read_text()
    assert "crimson-0.jpg" in text and (page.parent / "crimson-0.jpg").stat().st_size > 1000
    assert "a &lt;fox&gt;" in text and "not drawn" in text and "make styles" in text
    assert told[0] == "crimson is drawn"
    assert told[1].startswith("lost is not drawn: style lost lacks its file")


def test_the_gallery_draws_with_measured_weights_and_with_no_others(
    engine32: Engine, folder: Path, tmp_path: Path
) -> None:
    plain = engine32.resolve(Recipe(prompt="a fox", style="azure"))
    hashes = {ref.name: engine32.library.adapter(ref.name).sha256 for ref in plain.recipe.adapters or ()}
    balance = "[[balance]]\nstyle = {style!r}\naccelerator = {accelerator!r}\nphases = [[0.0, 0.0], [0.5, 0.1]]\n"
    card, kept = folder / "azure.toml", (folder / "azure.toml").read_text()

    def pixels(style: str) -> tuple[str, bytes]:
        card.write_text(kept + balance.format(style=style, accelerator=hashes["lcm-lora-mini"]))
        page = write_gallery(engine32, [cards.card("azure")], tmp_path / style, prompts=["a fox"], seed=1)
        return page.read_text(), (page.parent / "azure-0.jpg").read_bytes()

    try:
        (text, drawn), (other_text, other) = pixels(hashes["azure"]), pixels("0" * 64)
    finally:
        card.write_text(kept)
    assert "--style azure --balance style" in text
    assert "--style azure<" in other_text
    assert drawn != other


def _lost(folder: Path) -> bool:
    (folder / "lost.toml").write_text('words = "x"\n[mini]\nfile = "lost.safetensors"\n')
    return True
