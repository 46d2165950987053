"""Image to image and inpainting against diffusers' own pipelines, same seed, float32; and what is ours alone."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    TCDScheduler,
)
from PIL import Image, ImageDraw

import laur.models
from laur.core.errors import NotFoundError, RecipeError
from laur.core.recipe import Recipe
from laur.input.inpaint import feathered
from laur.pipeline.engine import Engine
from laur.pipeline.events import Progress
from laur.pipeline.standard import StandardPipeline
from laur.render.compare import psnr

PROMPT = "red dragon, noto"


def apple(width: int = 128, height: int = 128) -> Image.Image:
    """A shaded red disc with a leaf, on white."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for ring in range(40):
        box = [width * (0.2 + ring / 200), height * (0.3 + ring / 200), width * 0.8, height * 0.9]
        draw.ellipse(box, fill=(180 + ring, 20 + ring, 30))
    draw.ellipse([width * 0.5, height * 0.12, width * 0.75, height * 0.3], fill=(40, 160, 60))
    return image


def left_half(width: int = 128, height: int = 128) -> Image.Image:
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (0, 0, width // 2, height))
    return mask


CASES = [
    ("lcm", LCMScheduler, {"steps": 4, "guidance": 1.0, "strength": 0.6}),
    ("lcm", LCMScheduler, {"steps": 4, "guidance": 1.6, "strength": 0.8, "negative_prompt": "blue"}),
    ("tcd", TCDScheduler, {"steps": 4, "guidance": 1.0, "strength": 0.8, "eta": 0.3}),
    ("ddim", DDIMScheduler, {"steps": 6, "guidance": 4.0, "strength": 0.7, "eta": 1.0}),
    ("euler", EulerDiscreteScheduler, {"steps": 6, "guidance": 4.0, "strength": 0.7}),
    ("dpm++2m", DPMSolverMultistepScheduler, {"steps": 8, "guidance": 4.0, "strength": 0.7}),
]


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    folder = laur.models.checkpoint_folder("mini")
    first = StableDiffusionImg2ImgPipeline.from_pretrained(folder, dtype=torch.float32)
    first.load_lora_weights(laur.models.adapter_file("lcm-lora-mini"), adapter_name="lcm")
    second = StableDiffusionInpaintPipeline(**first.components, requires_safety_checker=False)
    for pipe in (first, second):
        pipe.set_progress_bar_config(disable=True)
    return {"image": first, "mask": second}


def theirs(pipe: Any, sampler: str, scheduler: type, fields: dict[str, Any], **pictures: Any) -> np.ndarray:
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    (pipe.enable_lora if sampler in {"lcm", "tcd"} else pipe.disable_lora)()
    found = pipe(
        PROMPT,
        num_inference_steps=fields["steps"],
        guidance_scale=fields["guidance"],
        strength=fields["strength"],
        generator=torch.Generator().manual_seed(7),
        output_type="np",
        **{key: fields[key] for key in ("negative_prompt", "eta") if key in fields},
        **pictures,
    ).images[0]
    return (found * 255).round().astype(np.uint8)


def ours(engine: Engine, image: Image.Image, mask: Image.Image | None = None, **fields: Any) -> np.ndarray:
    return engine.pictures([recipe(engine, image, mask, **fields)])[0].pixels


def recipe(engine: Engine, image: Image.Image, mask: Image.Image | None = None, **fields: Any) -> Recipe:
    store = engine.library.inputs
    named = {"image": store.add(image).ref} | ({"mask": store.add_mask(mask).ref} if mask else {})
    return Recipe.from_dict({"prompt": PROMPT, "seed": 7, **named, **fields})


@pytest.mark.parametrize(("sampler", "scheduler", "fields"), CASES)
def test_image_to_image_equals_that_of_diffusers(
    pipes: dict[str, Any], engine32: Engine, sampler: str, scheduler: type, fields: dict[str, Any]
) -> None:
    reference = theirs(pipes["image"], sampler, scheduler, fields, image=apple())
    assert psnr(ours(engine32, apple(), sampler=sampler, **fields), reference) >= 45


@pytest.mark.parametrize(
    ("sampler", "scheduler", "fields"),
    [("lcm", LCMScheduler, {"steps": 4, "guidance": 1.0, "strength": 1.0}), *CASES[3:]],
)
def test_inpainting_equals_that_of_diffusers(
    pipes: dict[str, Any], engine32: Engine, sampler: str, scheduler: type, fields: dict[str, Any]
) -> None:
    reference = theirs(
        pipes["mask"], sampler, scheduler, fields, image=apple(), mask_image=left_half(), height=128, width=128
    )
    picture = ours(engine32, apple(), left_half(), sampler=sampler, paste_back=False, **fields)
    assert psnr(picture, reference) >= 45


def mixed(engine: Engine) -> list[Recipe]:
    small = {"steps": 3, "width": 128, "height": 128}
    return [
        Recipe.from_dict({"prompt": "a castle", "seed": 1, **small}),
        recipe(engine, apple(), strength=0.7, **small),
        recipe(engine, apple(), left_half(), **small),
        recipe(engine, apple(200, 150), left_half(100, 75), **small, seed=9, strength=0.7, guidance=1.5),
        recipe(engine, apple(), strength=0.4, sampler="ddim", **small | {"steps": 5, "width": 100}, guidance=1.0),
    ]


def test_a_picture_is_the_same_alone_or_beside_others(engine32: Engine) -> None:
    wishes = mixed(engine32)
    together = engine32.pictures(wishes)
    for wish, picture in zip(wishes, together, strict=True):
        alone = Engine("mini", library=engine32.library).pictures([wish])[0]
        assert psnr(alone.pixels, picture.pixels) >= 80


def test_what_the_mask_keeps_is_kept_exactly(engine32: Engine) -> None:
    done = engine32.pictures([recipe(engine32, apple(), left_half(), steps=2)])[0]
    given = np.asarray(apple())
    assert done.pixels.shape == given.shape
    assert np.array_equal(done.pixels[:, 64:], given[:, 64:])
    assert psnr(np.ascontiguousarray(done.pixels[:, :64]), np.ascontiguousarray(given[:, :64])) < 30


def test_the_seam_lies_inside_the_mask() -> None:
    mask = np.zeros((40, 40), dtype=bool)
    mask[:, :20] = True
    share = feathered(mask, 4.0)
    assert share[:, 20:].max() == 0
    assert share[20, 19] < 0.3
    assert share[:, :10].min() > 0.99
    assert np.array_equal(feathered(mask, 0.0), mask.astype(np.float32))


def test_strength_is_how_far_a_picture_is_left_behind(engine32: Engine) -> None:
    drawn = [ours(engine32, apple(), strength=strength, steps=8) for strength in (0.2, 0.5, 1.0)]
    likeness = [psnr(picture, np.asarray(apple())) for picture in drawn]
    assert likeness[0] > likeness[1] > likeness[2]


def test_open_fields_are_filled_and_recorded(engine32: Engine) -> None:
    job = engine32.resolve(recipe(engine32, apple(400, 300)))
    assert (job.recipe.strength, job.recipe.width, job.recipe.height) == (0.8, 296, 224)
    assert (job.recipe.steps, job.plan.steps) == (5, 4)  # so that LCM's four steps are drawn
    assert job.recipe.mask_blur is None
    again = engine32.resolve(job.recipe)
    assert (again.recipe, again.plan.key) == (job.recipe, job.plan.key)
    masked = engine32.resolve(recipe(engine32, apple(), left_half()))
    assert (masked.recipe.strength, masked.recipe.mask_blur, masked.recipe.paste_back) == (1.0, 4.0, True)
    assert engine32.resolve(recipe(engine32, apple(), width=64)).recipe.height == 64
    keys = {engine32.resolve(wish).plan.key for wish in mixed(engine32)}
    keys |= {engine32.resolve(wish.replace(image=None, mask=None)).plan.key for wish in mixed(engine32)[1:2]}
    assert len(keys) == 6


@pytest.mark.parametrize("strength", [0.01, 0.05, 0.1, 0.29, 0.3, 0.58, 0.7, 0.9, 1.0])
def test_a_distilled_model_draws_its_own_number_of_steps_if_it_can(engine32: Engine, strength: float) -> None:
    if strength < 0.02:
        with pytest.raises(RecipeError, match=r"strength 0.01 leaves none of 50 steps to draw; use at least 100 steps"):
            engine32.resolve(recipe(engine32, apple(), strength=strength))
        return
    job = engine32.resolve(recipe(engine32, apple(), strength=strength))
    assert job.plan.steps == min(4, int(50 * strength))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"steps": 3, "strength": 0.3}, "strength 0.3 leaves none of 3 steps to draw; use at least 4 steps"),
        ({"strength": 0.0, "steps": 4}, "strength 0 leaves none of 4 steps to draw; use more strength"),
        ({"timesteps": (999, 499), "strength": 0.4}, "strength 0.4 leaves none of 2 steps"),
    ],
)
def test_no_step_to_draw_is_refused(engine32: Engine, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        engine32.resolve(recipe(engine32, apple(), **fields))


def test_a_picture_that_nobody_has_is_one_line(engine32: Engine) -> None:
    with pytest.raises(NotFoundError, match=r"the recipe's image, sha256:abababab.*--image FILE"):
        engine32.resolve(Recipe(prompt="a", image="sha256:" + "ab" * 32))


def test_wishes_without_a_picture_are_said(engine32: Engine) -> None:
    job = engine32.resolve(Recipe(prompt="a", strength=0.5, mask_blur=2, paste_back=False))
    assert [note for note in job.warnings if "no effect" in note] == [
        "strength has no effect without an image",
        "mask blur has no effect without a mask",
        "paste back has no effect without a mask",
    ]


def test_the_pipeline_takes_pillow_images_and_files(engine32: Engine, tmp_path: Any) -> None:
    apple().save(tmp_path / "apple.png")
    pipe = StandardPipeline(engine=engine32)
    fields = {"steps": 2, "seed": 3, "strength": 0.5}
    one = pipe("a pear", image=apple(), **fields)
    two = pipe("a pear", image=str(tmp_path / "apple.png"), **fields, n=2)
    assert one.recipes[0] == two.recipes[0]
    assert np.array_equal(one[0].pixels, two[0].pixels)
    assert not np.array_equal(two[0].pixels, two[1].pixels)


def test_previews_show_the_picture_on_its_way(engine32: Engine) -> None:
    engine = Engine("mini", library=engine32.library, previews=True)
    events = list(engine.stream([recipe(engine, apple(), strength=0.5, steps=4)]))
    previews = [event.preview() for event in events if isinstance(event, Progress)]
    assert len(previews) == 2
    small = np.asarray(apple().resize((16, 16), Image.Resampling.BOX))
    assert previews[0] is not None
    assert psnr(previews[0], small) > 12


def test_previews_keep_what_the_mask_keeps(engine32: Engine) -> None:
    engine = Engine("mini", library=engine32.library)
    events = list(engine.stream([recipe(engine, apple(), left_half(), steps=2)]))
    first, last = [event.x0 for event in events if isinstance(event, Progress)]
    assert torch.equal(first[:, :, 8:], last[:, :, 8:])
    assert not torch.equal(first[:, :, :8], last[:, :, :8])
