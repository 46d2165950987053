"""Recipe to Plan: every open field is filled, every name becomes a content hash.

`resolve` is a pure function of the Recipe and of what the Library holds under its names; only an open seed is drawn.
Resolving a filled Recipe gives it back unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from laur.core.checkpoint import Checkpoint, Family
from laur.core.errors import RecipeError
from laur.core.guidance import classifier_free
from laur.core.plan import AdapterUse, Plan, RowSpec, Stage, TextSpec
from laur.core.recipe import DEFAULT_CHECKPOINT, AdapterRef, Recipe
from laur.core.sampler import DEFAULT_ETA, DISTILLED
from laur.core.sampler.build import build_table, split_at
from laur.core.sampler.table import SamplerTable
from laur.core.sampler.timesteps import ORIGINAL_STEPS
from laur.optimize.accelerators import trailing
from laur.optimize.blocks import by_prefix
from laur.pipeline import chosen, given, learned, stages
from laur.pipeline.chosen import same_content
from laur.pipeline.regions import check_local

if TYPE_CHECKING:
    from laur.input.image import InputPicture
    from laur.optimize import BaseAdapter, Recommendation
    from laur.pipeline.library import Library

AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5
"""What SDXL's refiner is told, as diffusers tells it."""
REFINER_START = 0.8
LCM_GUIDANCE_LIMIT = 2.0


@dataclass(frozen=True, slots=True)
class Resolved:
    """A Plan, the filled Recipe that it was made from, and what the user should know."""

    plan: Plan
    recipe: Recipe
    warnings: tuple[str, ...] = field(default=())
    pictures: tuple[InputPicture, ...] = field(default=(), repr=False)
    """Held here, so that the store finds them for as long as this plan waits."""


def resolve(recipe: Recipe, library: Library) -> Resolved:
    """Fill `recipe` and plan it. Errors: RecipeError, NotFoundError, CheckpointError, AdapterError, ResourceError."""
    name = recipe.checkpoint or DEFAULT_CHECKPOINT
    checkpoint = library.checkpoint(name, prediction=recipe.prediction)
    same_content("checkpoint", name, recipe.checkpoint_sha256, checkpoint.sha256)
    asked, (recipe, tagged) = recipe, chosen.spoken(recipe)
    recipe, pictures = given.fill(recipe, checkpoint, library.inputs)
    found = chosen.choose(recipe, tagged, checkpoint, library)
    adapters = found.found
    if recipe.guidance is None:
        recipe = recipe.replace(guidance=found.guidance)
    filled = _fill(recipe.replace(prompt=found.prompt), checkpoint, adapters)
    warnings = [*found.notes, *_warnings(filled, checkpoint, adapters), *_without_effect(asked, filled, checkpoint)]
    warnings += learned.unsaid(filled, adapters)
    planned = _stages(filled, checkpoint, library)
    if filled.refiner is not None:
        refiner = library.checkpoint(filled.refiner)
        same_content("refiner", filled.refiner, recipe.refiner_sha256, refiner.sha256)
        filled = filled.replace(refiner_sha256=refiner.sha256)
    assert filled.width and filled.height and filled.seed is not None
    down = checkpoint.downscale
    shape = (checkpoint.latent_channels, -(-filled.height // down), -(-filled.width // down))
    plan = Plan(
        stages=planned,
        seed=filled.seed,
        latent_shape=shape,
        width=filled.width,
        height=filled.height,
        begin=given.beginning(filled),
    )
    library.require_memory(plan, checkpoint)
    return Resolved(plan, filled, tuple(warnings), pictures)


def _fill(recipe: Recipe, checkpoint: Checkpoint, adapters: list[tuple[AdapterRef, BaseAdapter]]) -> Recipe:
    defaults = checkpoint.defaults
    accelerators = [a.recommends for _, a in adapters if a.recommends.accelerates]
    fast = accelerators[0] if accelerators else None
    sampler = recipe.sampler
    if sampler is None:
        own = "lcm" if checkpoint.is_lcm else defaults.sampler
        sampler = (fast.sampler or own) if fast else own
    distilled = sampler in DISTILLED
    as_made = fast is not None and sampler == fast.sampler  # which need not be a consistency model's way
    if distilled or as_made:
        steps = given.steps_for(recipe, (fast.steps if fast else None) or defaults.distilled_steps)
        guidance = defaults.distilled_guidance if fast is None or fast.guidance is None else fast.guidance
        if checkpoint.guidance_embedding:
            guidance = defaults.guidance
    else:
        steps, guidance = defaults.steps, defaults.guidance
    timesteps = recipe.timesteps
    if timesteps is None and recipe.image is None and fast is not None and (distilled or as_made):
        if recipe.steps is None:
            timesteps = fast.timesteps
        elif fast.trailing:
            timesteps = trailing(recipe.steps, checkpoint.schedule.num_train_timesteps)
    steps = len(timesteps) if timesteps is not None else (recipe.steps or steps)
    native = checkpoint.native_size
    return recipe.replace(
        steps=steps,
        timesteps=timesteps,
        guidance=float(guidance if recipe.guidance is None else recipe.guidance),
        width=recipe.width or native,
        height=recipe.height or native,
        sampler=sampler,
        checkpoint=recipe.checkpoint or DEFAULT_CHECKPOINT,
        checkpoint_sha256=checkpoint.sha256,
        adapters=tuple(ref for ref, _ in adapters),
        eta=_eta(recipe, sampler, fast if as_made else None),
        original_inference_steps=_original_steps(recipe, sampler),
        prediction=checkpoint.prediction,
        refiner_start=(recipe.refiner_start or REFINER_START) if recipe.refiner else None,
    )


def _eta(recipe: Recipe, sampler: str, fast: Recommendation | None) -> float | None:
    """The wish, else the accelerator's, else the sampler's own; None for samplers that have none, and for LCM as the
    paper has it, which recipes have always called by its name alone."""
    if recipe.eta is not None:
        return recipe.eta
    if fast is not None and fast.eta is not None:
        return fast.eta
    return None if sampler == "lcm" else DEFAULT_ETA.get(sampler)


def _original_steps(recipe: Recipe, sampler: str) -> int | None:
    """The teacher's schedule; custom timesteps are given on the model's whole schedule instead."""
    if recipe.original_inference_steps is not None or recipe.timesteps is not None or sampler not in DISTILLED:
        return recipe.original_inference_steps
    return max(ORIGINAL_STEPS, recipe.steps or 0)


def _warnings(recipe: Recipe, checkpoint: Checkpoint, adapters: list[tuple[AdapterRef, BaseAdapter]]) -> list[str]:
    assert recipe.guidance is not None
    notes: list[str] = []
    accelerated = any(adapter.recommends.accelerates for _, adapter in adapters)
    one_row = recipe.guidance <= 1 or checkpoint.guidance_embedding
    if recipe.negative_prompt.strip() and one_row:
        notes.append(
            f"the negative prompt has no effect at guidance {recipe.guidance:g}"
            + ("; this checkpoint has its guidance distilled in" if checkpoint.guidance_embedding else "; use 1.1 to 2")
        )
    fast = next((a.recommends for _, a in adapters if a.recommends.accelerates), None)
    made_for = "lcm" if fast is None else fast.sampler or "lcm"
    most = max(LCM_GUIDANCE_LIMIT, (fast and fast.guidance) or 0.0)
    if recipe.sampler in DISTILLED and (accelerated or checkpoint.guidance_inside) and recipe.guidance > most:
        under = "under LCM-LoRA" if accelerated else "of an LCM that has its guidance in it"
        notes.append(f"guidance {recipe.guidance:g} burns pictures {under}; keep it from 1 to 2")
    if recipe.sampler in DISTILLED and not accelerated and not checkpoint.is_lcm:
        notes.append(f"sampler {recipe.sampler} without LCM-LoRA or an LCM checkpoint gives blurred pictures")
    if accelerated and made_for in DISTILLED and recipe.sampler not in DISTILLED:
        notes.append(f"LCM-LoRA with sampler {recipe.sampler}: it was distilled for lcm and tcd")
    if accelerated and made_for not in DISTILLED and recipe.sampler != made_for:
        notes.append(f"the accelerator with sampler {recipe.sampler}: it was distilled for {made_for}")
    return notes


def _without_effect(asked: Recipe, filled: Recipe, checkpoint: Checkpoint) -> list[str]:
    """Wishes that change nothing, which the user had rather know."""
    assert filled.guidance is not None
    notes: list[str] = []
    if filled.guidance_rescale and (filled.guidance <= 1 or checkpoint.guidance_embedding):
        notes.append(f"guidance rescale has no effect at guidance {filled.guidance:g} without a second prediction")
    if asked.refiner_start is not None and asked.refiner is None:
        notes.append("refiner start has no effect without a refiner")
    notes += given.without_effect(asked)
    if checkpoint.family is Family.SDXL_REFINER and asked.image is None:
        notes.append(f"{checkpoint.name} is a refiner, made to finish another model's pictures; give it as the refiner")
    return notes


def _stages(recipe: Recipe, checkpoint: Checkpoint, library: Library) -> tuple[Stage, ...]:
    table = _table(recipe, checkpoint)
    if recipe.refiner is None:
        return _split(recipe, checkpoint, table, recipe.adapters or (), library)
    refiner = library.checkpoint(recipe.refiner)
    if (refiner.latent_channels, refiner.latent_scale) != (checkpoint.latent_channels, checkpoint.latent_scale):
        raise RecipeError(
            f"{recipe.refiner} cannot refine {recipe.checkpoint}: their latents differ; use SDXL's refiner"
        )
    assert recipe.refiner_start is not None
    # each model reads its own predictions: the two tables share timesteps, not coefficients
    first, _ = split_at(table, checkpoint.schedule, recipe.refiner_start)
    _, second = split_at(_table(recipe, refiner), refiner.schedule, recipe.refiner_start)
    if not first.steps or not second.steps:
        raise RecipeError(
            f"{recipe.steps} steps split at {recipe.refiner_start:g} leave one model without a step; "
            "use more steps or another refiner start"
        )
    return (
        *_split(recipe, checkpoint, first, recipe.adapters or (), library),
        *_split(recipe, refiner, second, learned.of_refiner(recipe.adapters or (), refiner.key, library), library),
    )


def _split(
    recipe: Recipe, checkpoint: Checkpoint, table: SamplerTable, refs: tuple[AdapterRef, ...], library: Library
) -> tuple[Stage, ...]:
    """One checkpoint's stages: several where adapters act in a part of the run."""

    def make(table: SamplerTable, uses: tuple[AdapterUse, ...], prompt: str) -> Stage:
        return _stage(recipe.replace(prompt=prompt), checkpoint, table, uses, library)

    def use(ref: AdapterRef, weight: float) -> AdapterUse:
        assert ref.sha256 is not None
        by_block = None if ref.by_block is None else by_prefix(ref.by_block, library.layers(checkpoint.key))
        return AdapterUse(sha256=ref.sha256, weight=weight, by_block=by_block)

    found = stages.split(table, refs, recipe.prompt, make, use)
    check_local([use for stage in found for row in stage.rows for use in row.adapters], library)
    return found


def _table(recipe: Recipe, checkpoint: Checkpoint) -> SamplerTable:
    assert recipe.sampler is not None and recipe.steps is not None
    by_strength = given.picks_by_strength(recipe, checkpoint)
    table = build_table(
        recipe.sampler,
        checkpoint.schedule,
        prediction=checkpoint.prediction,
        steps=recipe.steps,
        spacing=checkpoint.spacing,
        steps_offset=checkpoint.steps_offset,
        set_alpha_to_one=checkpoint.set_alpha_to_one,
        timesteps=recipe.timesteps,
        original_inference_steps=recipe.original_inference_steps,
        eta=recipe.eta,
        strength=recipe.strength if by_strength and recipe.strength is not None else 1.0,
    )
    return given.cut(table, recipe, checkpoint)


def _stage(
    recipe: Recipe, checkpoint: Checkpoint, table: SamplerTable, uses: tuple[AdapterUse, ...], library: Library
) -> Stage:
    """One checkpoint's rows: the prompt alone, or with classifier-free guidance the negative prompt before it."""
    assert recipe.guidance is not None
    encoder = library.reader(checkpoint.key, uses)
    guided = recipe.guidance > 1 and not checkpoint.guidance_embedding
    windows = encoder.windows(recipe.prompt)
    if guided:
        windows = max(windows, encoder.windows(recipe.negative_prompt))
    positive = RowSpec(
        text=TextSpec(prompt=recipe.prompt, clip_skip=recipe.clip_skip, windows=windows),
        size_ids=_size_ids(recipe, checkpoint, negative=False),
        guidance_embedding=recipe.guidance - 1 if checkpoint.guidance_embedding else None,
    )
    encoder.check(positive.text)
    rows = (positive,)
    if guided:
        zeros = checkpoint.zeros_for_empty_prompt and not recipe.negative_prompt
        text = TextSpec(prompt=recipe.negative_prompt, clip_skip=recipe.clip_skip, windows=windows, zeros=zeros)
        rows = (RowSpec(text=text, size_ids=_size_ids(recipe, checkpoint, negative=True)), positive)
    combine = classifier_free(recipe.guidance if guided else 1.0, recipe.guidance_rescale)
    return Stage(checkpoint=checkpoint.key, table=table, rows=rows, combine=combine, adapters=uses)


def _size_ids(recipe: Recipe, checkpoint: Checkpoint, *, negative: bool) -> tuple[float, ...] | None:
    if not checkpoint.family.is_xl:
        return None
    assert recipe.height and recipe.width
    drawn = tuple(
        float(-(-side // checkpoint.downscale) * checkpoint.downscale) for side in (recipe.height, recipe.width)
    )
    if checkpoint.aesthetics_score:
        return (*drawn, 0.0, 0.0, NEGATIVE_AESTHETIC_SCORE if negative else AESTHETIC_SCORE)
    return (*drawn, 0.0, 0.0, *drawn)
