"""`laur generate`: a prompt becomes files."""

from __future__ import annotations

import json
import time
from typing import Any

import typer

from laur.cli import generate_options as o
from laur.cli.console import complain, stderr_is_terminal, stdout_is_terminal, warn
from laur.cli.display import Preview, display
from laur.cli.draw import Drawing, Order, Report, Saved
from laur.cli.inputs import keep_inputs, read_inputs
from laur.cli.options import Device, Dtype, parse_size, parse_timesteps
from laur.cli.sheets import Sheets, make_sheets
from laur.cli.wish import check_seeds, make_recipe, read_recipe
from laur.core.errors import LaurError, RecipeError
from laur.render.output import Destination

EXAMPLES = """[bold]Examples[/]

laur generate "a red apple, fluent 3d" --seed 7 --out apple.png

laur generate "fox, noto" -n 8 --grid --out pictures/

laur generate "(misty:1.2) forest" --size 300x200 --steps 8 --format webp

laur generate "a lighthouse" --model sd15.safetensors -a lcm-lora.safetensors -a ink.safetensors:0.7

laur generate "a lighthouse" -a none --sampler dpm++2m --steps 25 --guidance 4 --negative blurry

laur generate "a red fox, noto" --best-of 8

laur generate "a red fox" --style watercolour --balance style

laur generate "a cat in oil" --image cat.png --strength 0.6

laur generate "a top hat" --image cat.png --mask hat.png

laur generate --recipe apple.png --seed 8 --attention --strip"""


def generate(
    *,
    context: typer.Context,
    prompt: o.Prompt = None,
    count: o.Count = 1,
    best_of: o.BestOf = 1,
    scorer: o.Scorer = None,
    seed: o.Seed = None,
    steps: o.Steps = None,
    size: o.Size = None,
    negative: o.Negative = None,
    guidance: o.Guidance = None,
    recipe: o.Recipe = None,
    image: o.Image = None,
    strength: o.Strength = None,
    mask: o.Mask = None,
    mask_blur: o.MaskBlur = None,
    paste_back: o.PasteBack = None,
    model: o.Model = None,
    adapter: o.Adapter = None,
    style: o.Style = None,
    balance: o.Balance = None,
    variant: o.Variant = None,
    prediction: o.Prediction = None,
    refiner: o.Refiner = None,
    refiner_start: o.RefinerStart = None,
    sampler: o.Sampler = None,
    clip_skip: o.ClipSkip = None,
    timesteps: o.Timesteps = None,
    original_steps: o.OriginalSteps = None,
    eta: o.Eta = None,
    guidance_rescale: o.GuidanceRescale = None,
    out: o.Out = None,
    format: o.Format = None,
    grid: o.Grid = False,
    no_metadata: o.NoMetadata = False,
    as_json: o.AsJson = False,
    show: o.Show = True,
    preview: o.Preview = False,
    strip: o.Strip = False,
    attention: o.Attention = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Draw pictures from a prompt.

    Prints the path of each picture on standard output as soon as it is saved; everything else goes to standard error.
    Every file says how it was made: `laur reproduce FILE` makes it again.
    """
    width, height = parse_size(size) if size is not None else (None, None)
    fields = {
        "prompt": prompt,
        "negative_prompt": negative,
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "width": width,
        "height": height,
        "sampler": sampler,
        "checkpoint": model,
        "style": style,
        "balance": balance,
        "clip_skip": clip_skip,
        "guidance_rescale": guidance_rescale,
        "timesteps": parse_timesteps(timesteps) if timesteps is not None else None,
        "original_inference_steps": original_steps,
        "eta": eta,
        "prediction": prediction,
        "refiner": refiner,
        "refiner_start": refiner_start,
        "strength": strength,
        "mask_blur": mask_blur,
        "paste_back": paste_back,
    }
    pictures = read_inputs(image, mask)
    fields |= {name: picture.ref for name, picture in pictures.items()}
    wish = make_recipe(fields, adapter or [], read_recipe(recipe) if recipe is not None else None)
    check_seeds(wish, count * best_of)
    if scorer is not None and best_of == 1:
        raise RecipeError("--scorer judges among several seeds; say how many with --best-of")
    destination = Destination.parse(out, format=format, count=count)
    destination.check()
    if not no_metadata:
        keep_inputs(pictures.values())
    order = Order(
        recipe=wish,
        count=count,
        destination=destination,
        metadata=not no_metadata,
        device=device,
        dtype=dtype,
        variant=variant,
        previews=preview,
        keep_steps=strip,
        best_of=best_of,
        scorer=scorer,
        inputs=tuple(pictures.values()),
    )
    sheets = Sheets(grid=grid, strip=strip, attention=attention)
    begun = context.obj if isinstance(context.obj, float) else time.perf_counter()
    _draw(order, sheets, begun, as_json=as_json, show=show, preview=preview)


def _draw(order: Order, sheets: Sheets, begun: float, *, as_json: bool, show: bool, preview: bool) -> None:
    report = Report()
    show = show and not as_json and stdout_is_terminal()
    try:
        with display(
            paths=not as_json,
            inline=_inline if show and order.count == 1 else None,
            preview=_preview() if preview else None,
        ) as screen:
            engine = Drawing(order, screen, report, begun).run()
            make_sheets(sheets, order, report, engine, screen)
    except (KeyboardInterrupt, LaurError) as stop:
        if isinstance(stop, KeyboardInterrupt):
            complain(f"stopped; {len(report.saved)} of {order.count} pictures finished")
        if as_json and report.saved:
            typer.echo(_json(report, begun, interrupted=True))
        raise
    if as_json and report.saved:
        typer.echo(_json(report, begun))
    if show and order.count > 1:
        _inline(*report.saved)
    _raise_failures(report, order.count * order.best_of)


def _raise_failures(report: Report, count: int) -> None:
    """What went wrong with single pictures ends the command only now, after the others."""
    if not report.failures:
        return
    if count == 1:
        raise report.failures[0]
    complain(f"{len(report.failures)} of {count} pictures failed")
    raise typer.Exit(report.failures[0].exit_code)


def _inline(*saved: Saved) -> None:
    from laur.cli.look import show_inline

    show_inline(list(saved))


def _preview() -> Preview | None:
    """What shows the pictures while they are drawn, where that can be shown."""
    if stderr_is_terminal():
        from laur.cli.look import block_preview

        shows = block_preview()
        if shows is not None:
            return shows
    warn("--preview needs a terminal that shows colours; nothing is shown while drawing")
    return None


def _json(report: Report, begun: float, *, interrupted: bool = False) -> str:
    values: dict[str, Any] = {
        "images": [saved.to_json() for saved in report.saved],
        "seconds": round(time.perf_counter() - begun, 3),
        "warnings": report.warnings,
    }
    if report.sheets:
        values["sheets"] = report.sheets
    if interrupted:
        values["interrupted"] = True
    return json.dumps(values, ensure_ascii=False)
