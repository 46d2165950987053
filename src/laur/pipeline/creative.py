"""CreativePipeline: several styles in one picture, and sheets that show what they do.

Styles are mixed by weight, follow each other over the steps of the run, or share the picture between them:

    create = CreativePipeline()
    create("a red fox", styles=["fauvism:0.7", "ink:0.5"])             # both everywhere
    create("a red fox", styles=["pencil@..0.5", "watercolour@0.5.."])  # one after the other
    create("a red fox", styles=["oil@left", "ukiyo-e@right"])          # each in its part
    create("a red fox", styles=["oil:0.9:mid=0.5,down=0"])             # by block
    explore(create.engine, "a red fox", ["fauvism", "ink"], [0, 0.5, 1]).save("sheet.png")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laur.core.errors import RecipeError
from laur.core.recipe import AdapterRef, Recipe
from laur.pipeline.chosen import spoken
from laur.pipeline.standard import Result, StandardPipeline

if TYPE_CHECKING:
    from PIL.Image import Image

    from laur.pipeline.engine import Engine
    from laur.pipeline.resolve import Resolved

STYLES_LIMIT = 64
"""Pictures on a side of an explorer's sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A style in a picture: how much of it, in which steps and where."""

    style: str
    weight: float = 1.0
    steps: tuple[float, float] | None = None
    """The part of the run, 0 … 1; None is all of it."""
    region: str | Path | None = None
    """left, right, top, bottom, centre, a box "x0,y0,x1,y1" in parts of the picture, or a mask: its file, white where
    the style is. None is everywhere. Later ones lie over earlier ones."""
    by_block: Mapping[str, float] | None = None
    """Factors of the weight by block, such as {"mid": 0.5}."""
    phases: tuple[tuple[float, float], ...] | None = None
    """Factors of the weight over the run: ((0, 0.2), (0.5, 1)) is a fifth of it at first and all from half on."""


@dataclass(frozen=True, slots=True, eq=False)
class Explored:
    """An explorer's sheet, and what to know of its pictures."""

    image: Image
    warnings: tuple[str, ...] = ()

    def save(self, path: str | Path) -> None:
        """Write the sheet, in the format that the file's name ends in."""
        self.image.save(path)


class CreativePipeline(StandardPipeline):
    """StandardPipeline with as many styles as you like."""

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        styles: Sequence[str | Use] = (),
        n: int = 1,
        seed: int | None = None,
        **fields: Any,
    ) -> Result:
        """Draw `n` pictures of each prompt in `styles`, each a `Use` or text as `NAME:WEIGHT@WHERE`.

        `fields` are those of a Recipe; `adapters` among them come before the styles.
        Errors: RecipeError and the other LaurErrors.
        """
        refs = (*(fields.pop("adapters", None) or ()), *(self.ref(style) for style in styles))
        if refs:
            fields["adapters"] = refs
        return super().__call__(prompt, n=n, seed=seed, **fields)

    def ref(self, style: str | Use) -> AdapterRef:
        """What a recipe says of it; a mask's file is read into the engine's picture store."""
        if isinstance(style, str):
            return AdapterRef.parse(style)
        region = style.region
        if isinstance(region, Path):
            region = self.engine.library.inputs.add_mask(region).ref
        return AdapterRef(
            name=style.style,
            weight=style.weight,
            steps=style.steps,
            region=region,
            by_block=style.by_block,
            phases=style.phases,
        )


def explore(
    engine: Engine,
    prompt: str,
    styles: Sequence[str],
    weights: Sequence[float],
    *,
    seed: int | None = None,
    **fields: Any,
) -> Explored:
    """One sheet: a row for each style, a column for each weight, all from one seed.

    `fields` are those of a Recipe; they and <lora:…> tags of the prompt hold for every picture. Errors: RecipeError and
    the other LaurErrors.
    """
    from laur.utils.sheet import contact_sheet

    if not styles or not weights:
        raise RecipeError("there is nothing to explore; name styles and weights, as in --styles oil,ink --weights 0,1")
    for what, values in (("styles", styles), ("weights", weights)):
        if len(values) > STYLES_LIMIT:
            raise RecipeError(f"{len(values)} {what} are too many for one sheet; at most {STYLES_LIMIT}")
    said, tagged = spoken(Recipe(prompt=prompt, seed=seed, **fields))  # the same words and seed in every picture
    own = (*(said.adapters or ()), *tagged)
    jobs = [
        [engine.resolve(said.replace(adapters=(*own, AdapterRef(name=style, weight=weight)))) for weight in weights]
        for style in styles
    ]
    images = engine.run([job for row in jobs for job in row])
    rows = [images[start : start + len(weights)] for start in range(0, len(images), len(weights))]
    title = f"{said.prompt} · seed {said.seed} · {jobs[0][0].recipe.steps} steps"
    columns = [f"{weight:g}" for weight in weights]
    sheet = contact_sheet(rows, row_labels=list(styles), column_labels=columns, title=title)
    told = [note for row in jobs for job in row for note in job.warnings]
    told += [note for style, row in zip(styles, jobs, strict=True) for note in _mix(engine, style, weights, row)]
    return Explored(sheet, tuple(dict.fromkeys(told)))


def _mix(engine: Engine, style: str, weights: Sequence[float], row: Sequence[Resolved]) -> Iterator[str]:
    """What to know of a style's mixes; once for it, at the weight nearest to none."""
    for weight, job in sorted(zip(weights, row, strict=True), key=lambda pair: abs(pair[0])):
        if notes := engine.notes(job.plan):
            yield f"{style}:{weight:g}: {notes[0]}"
            return
