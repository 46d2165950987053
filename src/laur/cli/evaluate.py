"""`laur evaluate`: how near few steps come to the teacher, in numbers, plots and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from laur.cli.console import console, say, stderr_is_terminal
from laur.cli.options import MODEL, SAMPLING, AsJson, Device, Dtype, between, number, parse_size, whole
from laur.core.errors import DataError, RecipeError

if TYPE_CHECKING:
    from laur.core.recipe import AdapterRef
    from laur.pipeline.engine import Engine
    from laur.pipeline.scoring import Scorer
    from laur.train.data.reader import TrainingSet
    from laur.train.evaluate.prompts import Prompt
    from laur.train.evaluate.run import Wish

EXAMPLES = """[bold]Examples[/]

laur evaluate mini --prompts prompts.txt --pictures 100 --out runs/mini-eval

laur evaluate mini --adapter new.safetensors --data sets/emoji --steps 1,2,4,8 --out runs/new-eval

laur evaluate runs/lcm/result --teacher sd15.safetensors --prompts prompts.jsonl --scorer clip/ --out runs/lcm-eval"""

NO_SCORER = "none"
FOLD = "a fold of its concepts (held out only if training left it out: data.hold_out)"
"""What is known of a set's prompts: the set does not say who learned from it."""


def evaluate(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="mini, a folder, a .safetensors file, a hub id.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="Pictures, result.json, report.html.")],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="SET", help="A prepared set: the fold of concepts is drawn that data.hold_out leaves out."
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Prompts: .txt, a line each, or .jsonl with `prompt`.")
    ] = None,
    steps: Annotated[str, typer.Option(metavar="N,N,…", help="Numbers of steps.")] = "1,2,4,8",
    pictures: Annotated[int, typer.Option(parser=between(8, 99_999), metavar="N", help="Prompts at most.")] = 200,
    seeds: Annotated[
        int, typer.Option(parser=between(1, 64), metavar="N", help="Pictures of each prompt; pass@k up to N.")
    ] = 1,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "-a",
            "--adapter",
            metavar="NAME:WEIGHT",
            help="The student's, repeatable: an LCM-LoRA's name or file. The model's own by default.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Another model as teacher; MODEL itself by default.", rich_help_panel=MODEL),
    ] = None,
    teacher_adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:WEIGHT", help="What the teacher keeps: a style, say.", rich_help_panel=MODEL),
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="mini (for mini by default), the folder of a CLIP model, a registered name, or [bold]none[/].",
            rich_help_panel=MODEL,
        ),
    ] = None,
    sampler: Annotated[str, typer.Option(metavar="NAME", help="lcm or tcd.", rich_help_panel=SAMPLING)] = "lcm",
    eta: Annotated[
        list[float] | None,
        typer.Option(
            parser=number,
            metavar="0..1",
            help="The sampler's, repeatable: rows of their own beside its usual one.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(parser=number, metavar="G", help="The student's.", rich_help_panel=SAMPLING)
    ] = None,
    teacher_steps: Annotated[
        int | None, typer.Option(parser=whole, metavar="N", help="DDIM steps.", rich_help_panel=SAMPLING)
    ] = None,
    teacher_guidance: Annotated[
        float | None, typer.Option(parser=number, metavar="G", help="Of DDIM.", rich_help_panel=SAMPLING)
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels.", rich_help_panel=SAMPLING)] = None,
    as_json: AsJson = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Measure few-step pictures against the teacher's (DDIM, with guidance), beside the teacher against itself.

    Draws the teacher twice, DDIM in four steps, and the student in 1, 2, 4, 8; compares their features (FD, KID, MMD,
    precision, recall, density, coverage), whether captions are found again, and each picture with the teacher's from
    the same noise. An interrupted evaluation goes on where it was when the same command is given again.
    """
    from laur.cli.wish import parse_adapters
    from laur.train.evaluate.prompts import chosen
    from laur.train.evaluate.run import Wish
    from laur.train.evaluate.subjects import Plan

    plan = Plan(
        model=model,
        steps=_steps(steps),
        adapters=parse_adapters(adapter) if adapter else None,
        sampler=sampler,
        etas=tuple(dict.fromkeys(eta or ())),
        guidance=guidance,
        teacher=teacher,
        teacher_adapters=_kept(teacher_adapter),
        teacher_steps=teacher_steps,
        teacher_guidance=teacher_guidance,
    )
    found, source, opened = _prompts(data, prompts)
    wish = Wish(
        plan=plan,
        prompts=chosen(found, pictures),
        tries=seeds,
        size=parse_size(size) if size is not None else None,
    )
    result = _run(wish, out, scorer, source, opened, device=device, dtype=dtype)
    _report(result, out, as_json=as_json)


def _run(
    wish: Wish,
    out: Path,
    scorer: str | None,
    source: str,
    data: TrainingSet | None,
    *,
    device: str | None,
    dtype: str | None,
) -> dict[str, Any]:
    from laur.cli.evaluate_display import shown
    from laur.pipeline.device import choose
    from laur.pipeline.engine import Engine
    from laur.pipeline.library import Library
    from laur.train.evaluate.features import feature_network
    from laur.train.evaluate.report import sheet, write
    from laur.train.evaluate.result import to_dict
    from laur.train.evaluate.run import evaluate as go

    place = choose(device, dtype)
    network = feature_network(place.device)  # first: without it all drawing is for nothing
    engine = Engine(wish.plan.model, library=Library(place))
    judge = _scorer(scorer, engine, wish.plan.model)
    with shown() as listener:
        study = go(wish, out, engine, network, scorer=judge, data=data, listener=listener)
    result = to_dict(study, source=source)
    write(out, result, sheet(study))
    return result


def _steps(text: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise RecipeError(f"--steps {text!r} are not whole numbers with commas, as in 1,2,4,8") from None
    if not all(1 <= count <= 1000 for count in found):
        raise RecipeError(f"--steps {text!r} holds a number that is not from 1 to 1000")
    return tuple(sorted(found))


def _kept(names: list[str] | None) -> tuple[AdapterRef, ...]:
    from laur.cli.wish import parse_adapters

    return parse_adapters(names) if names else ()


def _prompts(data: Path | None, file: Path | None) -> tuple[list[Prompt], str, TrainingSet | None]:
    """The prompts, where they come from, and the set whose pictures they describe."""
    from laur.train.evaluate.prompts import from_file, held_out

    if (data is None) == (file is None):
        raise DataError("say what to draw: --data SET or --prompts FILE, one of the two")
    if file is not None:
        return from_file(file), file.name, None
    assert data is not None
    from laur.train.data.reader import TrainingSet

    opened = TrainingSet.open(data)
    return held_out(opened), f"{data.name}, {FOLD}", opened


def _scorer(name: str | None, engine: Engine, model: str) -> Scorer | None:
    """By name; without one mini's own for mini, and none for the others."""
    from laur.pipeline.scoring import default_scorer, find_scorer

    if name == NO_SCORER:
        return None
    name = name or default_scorer(engine.library.checkpoint(model).family)
    if name is None:
        say("captions are not judged: name a scorer that knows such pictures, as in --scorer CLIP_FOLDER")
        return None
    return find_scorer(name, engine.library.placement.device)


def _report(result: dict[str, Any], out: Path, *, as_json: bool) -> None:
    from laur.train.evaluate.report import HTML, JSON

    if as_json:
        typer.echo(json.dumps({"path": str(out / JSON), "report": str(out / HTML), **result}, ensure_ascii=False))
        return
    from laur.cli.evaluate_display import summary

    console(err=not stderr_is_terminal()).print(summary(result))
    typer.echo(str(out / HTML))
