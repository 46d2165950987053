"""What a Recipe says of a given picture, filled in and planned (image to image, inpainting)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from laur.core.plan import Beginning
from laur.core.sampler.build import last_steps
from laur.core.sampler.timesteps import ORIGINAL_STEPS
from laur.input.fit import check_mask, natural_size, other_side

if TYPE_CHECKING:
    from laur.core.checkpoint import Checkpoint
    from laur.core.recipe import Recipe
    from laur.core.sampler.table import SamplerTable
    from laur.input.image import InputPicture
    from laur.input.store import PictureStore

STRENGTH = 0.8
MASKED_STRENGTH = 1.0
"""Both as in diffusers."""
MASK_BLUR = 4.0


def fill(recipe: Recipe, checkpoint: Checkpoint, store: PictureStore) -> tuple[Recipe, tuple[InputPicture, ...]]:
    """The recipe with what its picture decides, and the pictures themselves.

    Errors: NotFoundError where a picture is not at hand, RecipeError where mask and picture do not belong together.
    """
    if recipe.image is None:
        return recipe, ()
    picture = store.get(recipe.image)
    changes: dict[str, Any] = {}
    if recipe.strength is None:
        changes["strength"] = STRENGTH if recipe.mask is None else MASKED_STRENGTH
    changes |= dict(zip(("width", "height"), _size(recipe, picture, checkpoint), strict=True))
    if recipe.mask is None:
        return recipe.replace(**changes), (picture,)
    mask = store.get(recipe.mask, "mask")
    check_mask(mask, picture)
    if recipe.mask_blur is None:
        changes["mask_blur"] = MASK_BLUR
    if recipe.paste_back is None:
        changes["paste_back"] = True
    return recipe.replace(**changes), (picture, mask)


def _size(recipe: Recipe, picture: InputPicture, checkpoint: Checkpoint) -> tuple[int, int]:
    """As asked for; one side alone keeps the picture's proportions."""
    step = checkpoint.downscale
    if recipe.width and recipe.height:
        return recipe.width, recipe.height
    if recipe.width or recipe.height:
        return other_side(picture.size, recipe.width, recipe.height, step)
    return natural_size(picture, checkpoint.native_size, step)


def steps_for(recipe: Recipe, steps: int) -> int:
    """How many steps to ask of a distilled model, so that `steps` of them are drawn over the picture."""
    if recipe.image is None or not recipe.strength:
        return steps
    most = recipe.original_inference_steps or ORIGINAL_STEPS
    asked = math.ceil(steps / recipe.strength)
    if int(asked * recipe.strength) < steps:  # by rounding
        asked += 1
    return max(steps, min(asked, most))


def picks_by_strength(recipe: Recipe, checkpoint: Checkpoint) -> bool:
    """Whether all steps are taken, picked from the lower part of the teacher's schedule that the strength leaves.

    Full LCMs are drawn so in diffusers; with LCM-LoRA as with any other sampler the last steps are taken.
    """
    lcm = checkpoint.guidance_embedding and recipe.sampler == "lcm" and recipe.timesteps is None
    return recipe.image is not None and lcm


def cut(table: SamplerTable, recipe: Recipe, checkpoint: Checkpoint) -> SamplerTable:
    """The steps that are drawn over the recipe's picture. Raises RecipeError where none is left."""
    if recipe.image is None or recipe.strength is None or picks_by_strength(recipe, checkpoint):
        return table
    return last_steps(table, recipe.strength)


def beginning(recipe: Recipe) -> Beginning | None:
    """The Plan's part of a filled recipe."""
    if recipe.image is None:
        return None
    if recipe.mask is None:
        return Beginning(image=recipe.image)
    return Beginning(
        image=recipe.image,
        mask=recipe.mask,
        from_noise=recipe.strength == 1.0,
        mask_blur=recipe.mask_blur or 0.0,
        paste_back=bool(recipe.paste_back),
    )


def without_effect(recipe: Recipe) -> list[str]:
    """Wishes that change nothing, which the user had rather know."""
    notes: list[str] = []
    if recipe.image is None and recipe.strength is not None:
        notes.append("strength has no effect without an image")
    if recipe.mask is None and recipe.mask_blur is not None:
        notes.append("mask blur has no effect without a mask")
    if recipe.mask is None and recipe.paste_back is not None:
        notes.append("paste back has no effect without a mask")
    return notes
