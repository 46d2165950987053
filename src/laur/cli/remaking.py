"""From what a file says to the picture, made again; or to the list of what is missing for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from laur.core.errors import AdapterError, LaurError, NotFoundError, PictureError
from laur.core.recipe import DEFAULT_CHECKPOINT, AdapterRef, Recipe

if TYPE_CHECKING:
    from laur.input.image import InputPicture
    from laur.pipeline.device import Placement
    from laur.pipeline.library import Library
    from laur.render.embedded import Provenance
    from laur.render.metadata import Found
    from laur.render.picture import Picture

NEEDED = {"Seed": "seed", "Steps": "steps", "CFG scale": "guidance", "Size-1": "size", "Sampler": "sampler"}
"""The fields without which parameters of A1111 say too little."""


@dataclass(slots=True)
class Remaking:
    """A picture made again, and what the user should know of how."""

    picture: Picture
    notes: list[str] = field(default_factory=list)


def remake(
    found: Found,
    *,
    model: str | None,
    adapters: Sequence[str],
    pictures: Mapping[str, InputPicture],
    variant: str | None,
    device: str | None,
    dtype: str | None,
    anyway: bool,
) -> Remaking:
    """Draw what the file says. Raises PictureError where it says too little, NotFoundError with all that is missing."""
    from laur.pipeline.engine import Engine
    from laur.pipeline.library import Library

    recipe, notes = _wish(found)
    checkpoint = model or recipe.checkpoint or DEFAULT_CHECKPOINT
    recipe = recipe.replace(checkpoint=checkpoint)
    placement, said = _placement(found.provenance, device, dtype)
    library = Library(placement)
    if variant is not None:
        library.checkpoint(checkpoint, prediction=recipe.prediction, variant=variant)
    recipe = _at_hand(recipe, library, adapters, pictures, anyway=anyway)
    engine = Engine(checkpoint, prediction=recipe.prediction, library=library)
    job = engine.resolve(recipe)
    picture = engine.pictures([job])[0]
    made_by = picture.provenance
    if found.recipe is None:
        notes += _other_model(found.parsed, made_by)
    return Remaking(picture, [*notes, *said, *job.warnings, *_versions(found.provenance, made_by)])


def _wish(found: Found) -> tuple[Recipe, list[str]]:
    """The recipe in the file, and what had to be assumed."""
    from laur.render.a1111 import recipe_from_parameters

    if found.recipe is not None:
        return found.recipe, []
    name = found.path or "the picture"
    if found.problem is not None:
        raise PictureError(f"{name}: {found.problem}")
    if not found.parsed:
        raise PictureError(f"{name} does not say how it was made: it holds neither a recipe of Laur nor parameters")
    recipe = recipe_from_parameters(found.parsed)
    if recipe is None:
        raise PictureError(f"{name} says too little of how it was made: {_lacking(found.parsed)}")
    return recipe, _assumed(found.parsed, recipe)


def _lacking(parsed: dict[str, str]) -> str:
    from laur.render.a1111 import SAMPLER_NAMES

    lacking = [word for key, word in NEEDED.items() if key not in parsed]
    if lacking:
        return f"its parameters give no {', no '.join(lacking)}"
    if parsed["Sampler"].lower() not in {name.lower() for name in SAMPLER_NAMES.values()}:
        return f"sampler {parsed['Sampler']!r} is none of {', '.join(SAMPLER_NAMES.values())}"
    return "a value of its parameters is outside what can be drawn"


def _assumed(parsed: dict[str, str], recipe: Recipe) -> list[str]:
    notes = ["it holds A1111's parameters alone, which leave details open; equal pixels are not to be expected"]
    if "Model" not in parsed:
        notes.append(f"assumed: model {recipe.checkpoint or DEFAULT_CHECKPOINT}")
    if parsed.get("RNG", "GPU").upper() != "CPU":
        notes.append("assumed: noise from torch's CPU generator; this picture's was probably drawn on a GPU")
    if "Schedule type" in parsed and parsed["Schedule type"].lower() not in {"automatic", "normal", "uniform"}:
        notes.append(f"assumed: the sampler's usual timesteps, not schedule {parsed['Schedule type']!r}")
    return notes


def _placement(made_on: Provenance | None, device: str | None, dtype: str | None) -> tuple[Placement, list[str]]:
    """The file's own device and precision unless the user says otherwise or this machine cannot."""
    from laur.pipeline.device import choose

    if made_on is None:
        return choose(device, dtype), []
    try:
        placement = choose(device or made_on.device, dtype or made_on.dtype)
    except LaurError:
        placement = choose(device, dtype)
    if made_on.threads and placement.device.type == "cpu":
        import torch

        torch.set_num_threads(made_on.threads)  # another number would add up in another order
    now = (str(placement.device), placement.dtype_name)
    if now == (made_on.device, made_on.dtype):
        return placement, []
    return placement, [f"made on {made_on.device} in {made_on.dtype}, drawn again on {now[0]} in {now[1]}"]


def _at_hand(
    recipe: Recipe, library: Library, files: Sequence[str], pictures: Mapping[str, InputPicture], *, anyway: bool
) -> Recipe:
    """The recipe with names under which this machine finds the same content; NotFoundError lists all it lacks."""
    missing: list[str] = []
    recipe = _model_at_hand(recipe, library, missing, anyway=anyway)
    recipe = _pictures_at_hand(recipe, library, pictures, missing, anyway=anyway)
    given = {library.adapter(name).sha256: name for name in files}
    adapters: list[AdapterRef] = []
    style = recipe.style
    family = _family(recipe, library)
    for ref in recipe.adapters or ():
        names = _names(ref, given)
        name = next((n for n in names if _is_content(library, n, ref.sha256, family=family, anyway=anyway)), None)
        if name is None:
            missing.append(f"adapter {ref.name}{_hash(ref.sha256)}")
        else:
            adapters.append(replace(ref, name=name, sha256=None if anyway else ref.sha256))
            style = name if ref.name == recipe.style else style
    if missing:
        raise NotFoundError(
            f"cannot make it again; missing: {', '.join(missing)}; "
            "name the files with --model, --adapter, --image and --mask"
        )
    return recipe.replace(adapters=None if recipe.adapters is None else tuple(adapters), style=style)


def _model_at_hand(recipe: Recipe, library: Library, missing: list[str], *, anyway: bool) -> Recipe:
    changes: dict[str, None] = {}
    for what, name, wanted, prediction in (
        ("checkpoint", recipe.checkpoint, recipe.checkpoint_sha256, recipe.prediction),
        ("refiner", recipe.refiner, recipe.refiner_sha256, None),
    ):
        if name is None:
            continue
        try:
            here = library.checkpoint(name, prediction=prediction).sha256
        except NotFoundError:
            missing.append(f"model {name}{_hash(wanted)}")
            continue
        if wanted is None or wanted == here:
            continue
        if anyway:
            changes[f"{what}_sha256"] = None
        else:
            missing.append(f"model {name}{_hash(wanted)}, which here is {here[:10]} (--anyway takes that)")
    return recipe.replace(**changes)


def _pictures_at_hand(
    recipe: Recipe, library: Library, given: Mapping[str, InputPicture], missing: list[str], *, anyway: bool
) -> Recipe:
    """With `anyway` a picture that is given takes the place of the recorded one."""
    for picture in given.values():
        library.inputs.add(picture)
    changes: dict[str, str] = {}
    for what, ref in (("image", recipe.image), ("mask", recipe.mask)):
        if ref is None:
            continue
        if anyway and what in given:
            changes[what] = given[what].ref
        elif ref not in library.inputs:
            here = f", not {given[what].ref[:17]}, the one given (--anyway takes that)" if what in given else ""
            missing.append(f"{what} {ref[:17]}{here}")
    return recipe.replace(**changes)


def _names(ref: AdapterRef, given: Mapping[str, str]) -> Iterator[str]:
    """Where an adapter may be found, the likeliest first: the user's own word, its recorded name, its content."""
    if ref.sha256 is not None and ref.sha256 in given:
        yield given[ref.sha256]
    plain = Path(ref.name).stem
    yield from (name for name in given.values() if Path(name).stem == plain)
    yield from dict.fromkeys([ref.name, plain])
    if ref.sha256 is not None:
        from laur.optimize.catalogue import known

        yield from (entry.name for entry in known() if entry.path is not None)


def _is_content(library: Library, name: str, sha256: str | None, *, family: str, anyway: bool) -> bool:
    try:
        here = library.adapter(name, family).sha256
    except (NotFoundError, AdapterError):
        return False
    return anyway or sha256 is None or here == sha256


def _family(recipe: Recipe, library: Library) -> str:
    try:
        return library.checkpoint(recipe.checkpoint or DEFAULT_CHECKPOINT, prediction=recipe.prediction).family.value
    except NotFoundError:  # said with all else that is missing
        return "mini"


def _hash(sha256: str | None) -> str:
    """As Civitai's search takes it: the first ten digits."""
    return "" if sha256 is None else f" (AutoV2 {sha256[:10]})"


def _versions(then: Provenance | None, now: Provenance) -> list[str]:
    """Differences of the programs; they matter only where the pixels differ."""
    if then is None:
        return []
    pairs = (("Laur", then.laur, now.laur), ("torch", then.torch, now.torch), ("backend", then.backend, now.backend))
    changed = [f"{name} {old}, now {new}" for name, old, new in pairs if old != new]
    return [f"made with {'; '.join(changed)}"] if changed else []


def _other_model(parsed: Mapping[str, str], now: Provenance) -> list[str]:
    told = parsed.get("Model hash", "").lower()
    if not told or now.checkpoint_sha256.startswith(told):
        return []
    return [f"its model has the hash {told}; drawn again with {now.checkpoint}, {now.autov2}"]
