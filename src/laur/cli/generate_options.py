"""The options of `laur generate`, with the words that its help shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from laur.cli.options import FLAG, MODEL, OUTPUT, PICTURE, SAMPLING, between, number, whole
from laur.core.sampler import SAMPLERS
from laur.render.registry import formats

COUNT_LIMIT = 10_000
INSIDE = "Looking inside"

Prompt = Annotated[
    str | None,
    typer.Argument(
        metavar="PROMPT",
        help="What to draw. (word:1.3) weighs more, \\[word] less, BREAK starts anew.",
        show_default=False,
    ),
]
Count = Annotated[
    int,
    typer.Option("-n", "--count", parser=between(1, COUNT_LIMIT), metavar="N", help="Pictures; number i has seed + i."),
]
BestOf = Annotated[
    int,
    typer.Option(
        parser=between(1, 1000),
        metavar="N",
        help="Draw N seeds for each picture and keep the one that fits the prompt best.",
    ),
]
Scorer = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Who judges --best-of: mini, the folder of a CLIP model, a registered name."),
]
Seed = Annotated[
    int | None,
    typer.Option("-s", "--seed", parser=whole, metavar="N", help="Same seed, same picture; drawn if left out."),
]
Steps = Annotated[
    int | None, typer.Option(parser=whole, metavar="N", help="Denoising steps: 1 to 8 with LCM-LoRA, else 20 to 50.")
]
Size = Annotated[str | None, typer.Option(metavar="WxH", help="Pixels, from 16 up; the model's own size by default.")]
Negative = Annotated[str | None, typer.Option(metavar="TEXT", help="What to avoid; needs guidance above 1.")]
Guidance = Annotated[
    float | None,
    typer.Option(parser=number, metavar="G", help="How strongly to follow the prompt; 1 is plain, 1 to 2 for LCM."),
]
Recipe = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw a recipe: its JSON, or a picture made by Laur. Options change it."),
]
Image = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Begin from this picture instead of noise.", rich_help_panel=PICTURE),
]
Strength = Annotated[
    float | None,
    typer.Option(
        parser=number,
        metavar="0..1",
        help="How much of it is drawn anew: 0.3 stays close, 1 keeps little; 0.8, with a mask 1.",
        rich_help_panel=PICTURE,
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Draw only where this is white (or transparent), keep the rest.",
        rich_help_panel=PICTURE,
    ),
]
MaskBlur = Annotated[
    float | None,
    typer.Option(
        parser=number, metavar="PIXELS", help="How soft the seam is, inside the mask; 4.", rich_help_panel=PICTURE
    ),
]
PasteBack = Annotated[
    bool | None,
    typer.Option(
        "--paste-back/--no-paste-back",
        metavar=FLAG,
        help="Keep the picture's own pixels outside the mask, exactly.",
        rich_help_panel=PICTURE,
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "-m", "--model", metavar="NAME", help="mini, a folder, a .safetensors file, a hub id.", rich_help_panel=MODEL
    ),
]
Adapter = Annotated[
    list[str] | None,
    typer.Option(
        "-a",
        "--adapter",
        metavar="NAME:WEIGHT",
        help="LoRA or learned word by name or file, repeatable; NAME:0.8:mid=0 by block, NAME:0.2,0.8@0.5 over the "
        "run; [bold]none[/] also turns off the model's own.",
        rich_help_panel=MODEL,
    ),
]
Style = Annotated[str | None, typer.Option(metavar="NAME", help="A style, recorded as such.", rich_help_panel=MODEL)]
Balance = Annotated[
    str | None,
    typer.Option(
        metavar="style",
        help="[bold]style[/]: weigh styles so that few steps keep their look and the caption.",
        rich_help_panel=MODEL,
    ),
]
Variant = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Which files of a model folder: fp16, say.", rich_help_panel=MODEL),
]
Prediction = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE", help="epsilon, v_prediction or sample, where a file cannot tell.", rich_help_panel=MODEL
    ),
]
Refiner = Annotated[
    str | None, typer.Option(metavar="NAME", help="A second model that finishes (SDXL).", rich_help_panel=MODEL)
]
RefinerStart = Annotated[
    float | None,
    typer.Option(
        parser=number, metavar="0..1", help="Where in the schedule the refiner takes over.", rich_help_panel=MODEL
    ),
]
Sampler = Annotated[str | None, typer.Option(metavar="NAME", help=f"{', '.join(SAMPLERS)}.", rich_help_panel=SAMPLING)]
ClipSkip = Annotated[
    int | None,
    typer.Option(
        parser=whole, metavar="N", help="2 takes the text encoder's last layer but one.", rich_help_panel=SAMPLING
    ),
]
Timesteps = Annotated[
    str | None, typer.Option(metavar="T,T,…", help="Your own, as in 999,759,499,259.", rich_help_panel=SAMPLING)
]
OriginalSteps = Annotated[
    int | None,
    typer.Option(
        parser=whole, metavar="N", help="LCM, TCD: the teacher's steps, usually 50.", rich_help_panel=SAMPLING
    ),
]
Eta = Annotated[
    float | None,
    typer.Option(
        parser=number,
        metavar="0..1",
        help="Noise in DDIM; gamma of TCD; fresh noise that LCM ends with.",
        rich_help_panel=SAMPLING,
    ),
]
GuidanceRescale = Annotated[
    float | None,
    typer.Option(
        parser=number, metavar="0..1", help="Against burnt colours at high guidance.", rich_help_panel=SAMPLING
    ),
]
Out = Annotated[
    str | None,
    typer.Option("-o", "--out", metavar="PATH", help="File or folder; by default here.", rich_help_panel=OUTPUT),
]
Format = Annotated[
    str | None, typer.Option("-f", "--format", metavar="NAME", help=f"{', '.join(formats())}.", rich_help_panel=OUTPUT)
]
Grid = Annotated[
    bool, typer.Option("--grid", metavar=FLAG, help="Also a sheet of all pictures.", rich_help_panel=OUTPUT)
]
NoMetadata = Annotated[
    bool,
    typer.Option(
        "--no-metadata", metavar=FLAG, help="Do not write into the file how it was made.", rich_help_panel=OUTPUT
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", metavar=FLAG, help="One JSON object on standard output, all else apart.", rich_help_panel=OUTPUT
    ),
]
Show = Annotated[
    bool,
    typer.Option("--show/--no-show", metavar=FLAG, help="Show the picture in the terminal.", rich_help_panel=OUTPUT),
]
Preview = Annotated[
    bool,
    typer.Option(
        "--preview", metavar=FLAG, help="Show it emerging, step by step, in the terminal.", rich_help_panel=INSIDE
    ),
]
Strip = Annotated[
    bool,
    typer.Option(
        "--strip", metavar=FLAG, help="Also a strip: the picture as foreseen at each step.", rich_help_panel=INSIDE
    ),
]
Attention = Annotated[
    bool,
    typer.Option("--attention", metavar=FLAG, help="Also a sheet: where each word looked.", rich_help_panel=INSIDE),
]
