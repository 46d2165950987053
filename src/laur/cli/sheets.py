"""Further pictures beside the finished ones: a grid, the strip of steps, where each word looked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from laur.cli.display import Display
    from laur.cli.draw import Order, Report, Saved
    from laur.pipeline.engine import Engine
    from laur.render.registry import Renderer


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheets:
    """Which of them are wanted."""

    grid: bool = False
    strip: bool = False
    attention: bool = False


def make_sheets(wanted: Sheets, order: Order, report: Report, engine: Engine, display: Display) -> None:
    """Write the sheets that are wanted. Raises OutputError."""
    for what, beside, image in _sheets(wanted, order, report.saved, engine):
        path = _write(image, beside, what, order.destination.renderer)
        report.sheets.append({"kind": what, "path": str(path)})
        display.path(str(path))


def _sheets(wanted: Sheets, order: Order, saved: list[Saved], engine: Engine) -> Iterator[tuple[str, Path, Image]]:
    """What each is, the file beside which it goes, and the sheet, made when it is asked for."""
    for entry in saved:
        if wanted.strip and entry.x0:
            yield "strip", entry.path, _strip(entry, engine)
        if wanted.attention:
            yield "attention", entry.path, _attention(entry, engine)
    if wanted.grid and saved:
        # a file's own name for a run of several, the first picture's otherwise
        yield "grid", saved[0].path if order.destination.is_folder else order.destination.path, _grid(saved)


def _write(image: Image, beside: Path, what: str, renderer: Renderer) -> Path:
    from laur.render.output import write_file

    path = beside.with_name(f"{beside.stem}-{what}{renderer.suffixes[0]}")
    return write_file(path, renderer.render(image))


def _grid(saved: list[Saved]) -> Image:
    from laur.utils.sheet import contact_sheet

    columns = max(1, round(len(saved) ** 0.5 + 0.49))
    rows = [saved[start : start + columns] for start in range(0, len(saved), columns)]
    captions = [[f"seed {entry.picture.recipe.seed}" for entry in row] for row in rows]
    title = saved[0].picture.recipe.prompt
    return contact_sheet([[entry.picture.image for entry in row] for row in rows], captions=captions, title=title)


def _strip(saved: Saved, engine: Engine) -> Image:
    """Decoded in full: a strip is looked at closely, and costs nobody time who did not ask for it."""
    from laur.utils.strip import step_strip

    recipe = saved.picture.recipe
    checkpoint = engine.library.checkpoint(recipe.checkpoint or engine.checkpoint, prediction=recipe.prediction)
    decoder = engine.library.decoder(checkpoint.key)
    frames = [decoder.decode(x0[None])[0].cpu().numpy() for x0 in saved.x0]
    return step_strip(frames, final=saved.picture.image, title=recipe.prompt)


def _attention(saved: Saved, engine: Engine) -> Image:
    """The picture drawn once more, alone and over diffusers' own modules, with its cross-attention recorded."""
    from laur.core.pytorch.cpu.interface import PlainUNet
    from laur.pipeline.engine import Engine
    from laur.pipeline.library import Library
    from laur.utils.attention import attention_sheet, record_attention

    recipe = saved.picture.recipe
    library = Library(engine.library.placement, plain=True, inputs=engine.library.inputs)
    watched = Engine(recipe.checkpoint or engine.checkpoint, prediction=recipe.prediction, library=library)
    job = watched.resolve(recipe)
    stage = job.plan.stages[0]
    network = library.denoiser(stage.checkpoint, stage.adapters).network
    assert isinstance(network, PlainUNet)
    with record_attention(network.module) as maps:
        watched.pictures([job])
    words = library.encoder(stage.checkpoint, stage.adapters).tokens(recipe.prompt)
    heats = [(word, maps.for_positions(positions)) for word, positions in words]
    return attention_sheet(saved.picture.image, heats, title=recipe.prompt)
