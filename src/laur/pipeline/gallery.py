"""A page of all styles, drawn by a checkpoint: plain HTML with its pictures beside it."""

from __future__ import annotations

import dataclasses
import html
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from laur.core.errors import LaurError, OutputError
from laur.core.recipe import Recipe
from laur.utils.files import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image

    from laur.pipeline.engine import Engine
    from laur.style.cards import Card, Form

PROMPTS = ("a red apple", "a fox", "a castle", "a sailboat")
PAGE = "index.html"
_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Laur: styles</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
h2 { margin: 2.5rem 0 0.5rem } h3 { margin: 1.5rem 0 0.2rem } p { margin: 0.2rem 0 0.6rem }
.row { display: flex; flex-wrap: wrap; gap: 8px } img { width: 200px; height: auto; border-radius: 6px }
code { background: #f2f2f2; padding: 0 0.3em } .note { color: #8a4b00 }
</style>
<h1>Styles</h1>
"""


def write_gallery(
    engine: Engine,
    cards: Iterable[Card],
    folder: Path,
    *,
    prompts: Sequence[str] = (),
    seed: int = 7,
    report: Callable[[str], None] = lambda _: None,
) -> Path:
    """Draw each style that the engine's family has a form of, and write the page; its path.

    Balanced weights are taken where they were measured for the very files that draw, and the page says so. A style
    that cannot be drawn is shown with its reason. Errors: OutputError.
    """
    family = engine.library.checkpoint(engine.checkpoint, prediction=engine.prediction).family.value
    parts = [_HEAD, f"<p>Drawn by {html.escape(engine.checkpoint)}, seed {seed}.</p>\n"]
    kind = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for card in cards:
            form = card.forms.get(family)
            if form is None:
                continue
            if card.kind != kind:
                kind = card.kind
                parts.append(f"<h2>{html.escape(kind)}</h2>\n")
            texts = prompts or PROMPTS
            try:
                balanced, pictures = _drawn(engine, card, texts, seed)
            except LaurError as error:
                parts.append(_about(card, form))
                parts.append(f'<p class="note">not drawn: {html.escape(str(error))}</p>\n')
                report(f"{card.name} is not drawn: {error}")
                continue
            parts.append(_about(card, form, " --balance style" if balanced else ""))
            parts.append(_row(card.name, texts, pictures, folder))
            report(f"{card.name} is drawn")
        return atomic_write(folder / PAGE, "".join(parts).encode())
    except OSError as error:
        raise OutputError(f"cannot write the gallery to {folder}: {error.strerror or error}") from None


def _drawn(engine: Engine, card: Card, prompts: Sequence[str], seed: int) -> tuple[bool, list[Image]]:
    """Whether by balanced weights, and the pictures."""
    recipes = [Recipe(prompt=prompt, style=card.name, seed=seed) for prompt in prompts]
    if balanced := bool(card.balances) and _was_measured(engine, card, recipes[0]):
        recipes = [dataclasses.replace(recipe, balance="style") for recipe in recipes]
    return balanced, engine.run(recipes)


def _was_measured(engine: Engine, card: Card, recipe: Recipe) -> bool:
    """Whether balancing takes one of the card's own measured weights; the rule for others need not suit this style."""
    found = engine.resolve(dataclasses.replace(recipe, balance="style")).recipe.adapters or ()
    measured = [(one.phases, one.by_block) for one in card.balances]
    return any(ref.name == card.name and (ref.phases, ref.by_block) in measured for ref in found)


def _about(card: Card, form: Form, options: str = "") -> str:
    told = [f"call it by <code>--style {html.escape(card.name)}{options}</code>"]
    told += [f"words: <code>{html.escape(', '.join(form.trigger_words))}</code>"] if form.trigger_words else []
    told += [f"weight {form.weight:g}"] if form.file else ["words alone"]
    told += [html.escape(form.licence)] if form.licence else []
    note = f'<p class="note">{html.escape(card.note)}</p>\n' if card.note else ""
    return f"<h3>{html.escape(card.name)}</h3>\n<p>{html.escape(card.words)} {'; '.join(told)}.</p>\n{note}"


def _row(style: str, prompts: Sequence[str], pictures: Sequence[Image], folder: Path) -> str:
    figures: list[str] = []
    for number, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
        name = f"{style}-{number}.jpg"
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=88)
        atomic_write(folder / name, buffer.getvalue())
        figures.append(f'<img src="{html.escape(name)}" alt="{html.escape(prompt)}" loading="lazy">')
    return f'<div class="row">{"".join(figures)}</div>\n'
