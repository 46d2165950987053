"""StandardPipeline: a prompt and, if wanted, a style become pictures in a few steps."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from laur.core.errors import RecipeError
from laur.core.recipe import DEFAULT_CHECKPOINT, Recipe
from laur.input.store import PREFIX
from laur.pipeline.engine import Engine
from laur.pipeline.resolve import Resolved
from laur.pipeline.series import series

if TYPE_CHECKING:
    from PIL.Image import Image

    from laur.render.picture import Picture


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Finished pictures, in order. Shows itself in a notebook."""

    pictures: tuple[Picture, ...]
    warnings: tuple[str, ...] = ()

    @property
    def images(self) -> list[Image]:
        """PIL images."""
        return [picture.image for picture in self.pictures]

    @property
    def recipes(self) -> list[Recipe]:
        """What each picture was made from, every default filled in."""
        return [picture.recipe for picture in self.pictures]

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Picture]:
        return iter(self.pictures)

    def __getitem__(self, index: int) -> Picture:
        return self.pictures[index]

    def _repr_html_(self) -> str:
        cells = (_figure(picture) for picture in self.pictures)
        return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(cells)}</div>'


class StandardPipeline:
    """LCM-LoRA and optionally one style over one checkpoint.

    `style` names an adapter (embedded, registered, in the user's folder, or a file); it is recorded in every recipe.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        style: str | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        prediction: str | None = None,
        engine: Engine | None = None,
    ) -> None:
        """`checkpoint` is mini, or that of the `engine`, which is used as it is.

        Errors: NotFoundError, CheckpointError.
        """
        self.engine = engine or Engine(
            checkpoint or DEFAULT_CHECKPOINT, device=device, dtype=dtype, prediction=prediction
        )
        self.checkpoint = checkpoint or self.engine.checkpoint
        self.style = style

    def plan(
        self, prompt: str | Sequence[str], *, n: int = 1, seed: int | None = None, **fields: Any
    ) -> list[Resolved]:
        """The resolved recipes of a call: n for each prompt, picture i with seed + i."""
        if n < 1:
            raise RecipeError(f"n is {n}; it must be at least 1")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        fields = {"checkpoint": self.checkpoint, "style": self.style, **fields, **self._named(fields)}
        jobs: list[Resolved] = []
        for text in prompts:
            found = series(self.engine, Recipe(prompt=text, seed=seed, **fields), n)
            jobs += found
            seed = (found[0].recipe.seed or 0) + n
        return jobs

    def _named(self, fields: dict[str, Any]) -> dict[str, str]:
        """Pictures among the fields by their content; they are held by the pictures' plans."""
        store = self.engine.library.inputs
        found: dict[str, str] = {}
        for name, add in (("image", store.add), ("mask", store.add_mask)):
            value = fields.get(name)
            if value is not None and not (isinstance(value, str) and value.startswith(PREFIX)):
                found[name] = add(value).ref
        return found

    def __call__(self, prompt: str | Sequence[str], *, n: int = 1, seed: int | None = None, **fields: Any) -> Result:
        """Draw `n` pictures of each prompt.

        `fields` are those of a Recipe: steps, guidance, width, height, negative_prompt, adapters, sampler …; `image`
        and `mask` may also be Pillow images, files or their bytes.
        Errors: RecipeError and the other LaurErrors.
        """
        jobs = self.plan(prompt, n=n, seed=seed, **fields)
        told = (text for job in jobs for text in (*job.warnings, *self.engine.notes(job.plan)))
        warnings = tuple(dict.fromkeys(told))
        return Result(tuple(self.engine.pictures(jobs)), warnings)


def generate(
    prompt: str | Sequence[str],
    *,
    checkpoint: str = DEFAULT_CHECKPOINT,
    n: int = 1,
    seed: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    **fields: Any,
) -> Result:
    """Draw once and let go of the model. To draw again and again, keep a StandardPipeline or an Engine."""
    return StandardPipeline(checkpoint, device=device, dtype=dtype)(prompt, n=n, seed=seed, **fields)


def _figure(picture: Picture) -> str:
    buffer = io.BytesIO()
    picture.image.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    recipe = picture.recipe
    caption = html.escape(f"{recipe.prompt} · seed {recipe.seed} · {recipe.steps} steps")
    return (
        f'<figure style="margin:0;width:{recipe.width}px"><img src="data:image/png;base64,{data}" alt="{caption}">'
        f'<figcaption style="font-size:small">{caption}</figcaption></figure>'
    )
