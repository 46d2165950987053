r"""Train the scorer that reads captions off pictures in a style (laur.train.evaluate.retention).

    python scripts/train_scorer.py sets/scorer --out runs/scorer           (it makes the cache that this one reads)
    python scripts/train_style_scorer.py sets/scorer runs/scorer --pack mini-train \
        --rendered runs/style-classifier --out runs/style-scorer
    cp runs/style-scorer/style_scorer.safetensors src/laur/models/scorer/

The scorer that ships was trained on icons as they are, and tells them largely by their colours: of icons rendered by
the teachers it finds few. This one goes on from its weights, on pictures whose colours, ground, contours and surface
are changed at random, mixed with some that the teachers rendered (those of scripts/train_style_classifier.py), and on
captions without colours and styles. The held-out fold of concepts is left out here too. Interrupted, it goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from train_scorer import EACH, measured, varied
from train_style_classifier import contents, made_by

from laur.pipeline.scoring.compact import restored, squeezed
from laur.pipeline.scoring.mini import load_towers, shipped, text_of_mini
from laur.pipeline.scoring.network import SIDE, Towers, prepared
from laur.style import cards
from laur.train.conditions import plain_prompt
from laur.train.data.reader import TrainingSet
from laur.train.evaluate.style_scorer import plain


def restyled(x: Tensor, random: torch.Generator) -> Tensor:
    """(n, 3, 64, 64) with other colours, grounds, contours and surfaces; what is drawn stays."""
    n = len(x)

    def chance(p: float) -> Tensor:
        return (torch.rand(n, 1, 1, 1, generator=random) < p).float()

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    mixed = torch.einsum("nij,njhw->nihw", torch.softmax(3 * normal(n, 3, 3), 2), x)
    gray = x.mean(1, keepdim=True).expand_as(x)
    x = torch.lerp(x, mixed, chance(0.4))
    x = torch.lerp(x, gray, chance(0.25))
    levels = torch.round(2.5 * x) / 2.5
    x = torch.lerp(x, levels, chance(0.25))
    soft = functional.avg_pool2d(functional.pad(x, (2, 2, 2, 2), mode="replicate"), 5, 1)
    edges = (x - soft).abs().amax(1, keepdim=True)
    x = torch.lerp(x, soft, chance(0.25))
    lines = 1 - 6 * edges
    x = torch.lerp(x, lines.clamp(-1, 1).expand_as(x), chance(0.12))
    x = torch.minimum(x, torch.lerp(torch.ones_like(lines), lines, chance(0.25)))
    ground = (x.amin(1, keepdim=True) > 0.9).float()
    patches = functional.interpolate(normal(n, 3, 4, 4), (SIDE, SIDE), mode="bicubic", align_corners=False)
    colour = (normal(n, 3, 1, 1) * 0.6 + 0.5 * chance(0.6) * patches).clamp(-1, 1)
    x = torch.lerp(x, colour, ground * chance(0.5))
    surface = functional.interpolate(normal(n, 3, 16, 16), (SIDE, SIDE), mode="bilinear", align_corners=False)
    x = x + 0.25 * torch.rand(n, 1, 1, 1, generator=random) * surface * chance(0.5)
    dark = torch.where(chance(0.12) > 0, -x, x)
    return (dark * (1 + 0.3 * normal(n, 1, 1, 1)) + 0.15 * normal(n, 1, 1, 1)).clamp(-1, 1)


def texts(out: Path, data: TrainingSet) -> Tensor:
    """(n, 384) states of the longest captions, plain."""
    file = out / "texts.safetensors"
    if not file.exists():
        places = np.arange(len(data))
        pairs = zip(data.captions(places), data.styles(places), strict=True)
        said = [plain_prompt(plain(max(captions, key=len), style)) for captions, style in pairs]
        unique = list(dict.fromkeys(said))
        encode = text_of_mini(torch.device("cpu"), "bfloat16")
        parts = [encode(unique[start : start + 256]).half() for start in range(0, len(unique), 256)]
        known = dict(zip(unique, torch.cat(parts), strict=True))
        save_file({"states": torch.stack([known[text] for text in said])}, file)
        print(f"{len(unique)} captions, such as {unique[:8]}", flush=True)
    return load_file(file)["states"].float()


def rendered(folder: Path, pack: Path) -> tuple[Tensor, Tensor]:
    """What the teachers made for the style classifier: (styles, contents, 128, 128, 3), and (contents, 384)."""
    records = contents(pack)["train"]
    captions = [plain_prompt(plain(max(record.draw(64).captions, key=len), record.style)) for record in records]
    states = text_of_mini(torch.device("cpu"), "bfloat16")(captions).float()
    names = sorted({card.teacher for card in cards.shipped() if card.teacher})
    files = [folder / f"{name}-{made_by(name)}.safetensors" for name in names]
    return torch.stack([load_file(file)["train"][: len(records)] for file in files]), states


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("cache", type=Path, help="the folder of scripts/train_scorer.py")
    parser.add_argument("--rendered", type=Path, required=True, help="the folder of scripts/train_style_classifier.py")
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/style-scorer"))
    parser.add_argument("--updates", type=int, default=560)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    held = load_file(args.cache / "cache.safetensors")
    pictures, kept = held["pictures"], held["kept"]
    states = texts(args.out, TrainingSet.open(args.set))
    towers, _, said = load_towers(shipped())
    train(args, towers, (pictures[~kept], states[~kept]), rendered(args.rendered, args.pack))
    small = {name: tensor.contiguous() for name, tensor in squeezed(towers.state_dict()).items()}
    towers.load_state_dict(restored(small))
    found = measured(towers, pictures, states[:, None].expand(-1, EACH, -1), kept)
    metadata = {**said, "updates": f"{said['updates']} and {args.updates}", "held_out": json.dumps(found)}
    save_file(small, args.out / "style_scorer.safetensors", metadata=metadata)
    print(json.dumps(found))


def train(
    args: argparse.Namespace, towers: Towers, plain_ones: tuple[Tensor, Tensor], painted_ones: tuple[Tensor, Tensor]
) -> None:
    """To `args.updates`, from the state in `out` if there is one."""
    (pictures, states), (painted, called) = plain_ones, painted_ones
    towers.train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(towers.parameters(), lr=args.lr, weight_decay=0.05, betas=(0.9, 0.98))
    state, begun, clock = args.out / "state.pt", 0, time.perf_counter()
    if state.exists():
        held = torch.load(state, weights_only=True)
        towers.load_state_dict(held["towers"])
        optimiser.load_state_dict(held["optimiser"])
        begun = held["update"]
    for update in range(begun, args.updates):
        random = torch.Generator().manual_seed(1_000_000 + update)
        rate = min(1.0, (update + 1) / 30) * (0.02 + 0.98 * (1 + math.cos(math.pi * update / args.updates)) / 2)
        optimiser.param_groups[0]["lr"] = args.lr * rate
        picked = torch.randint(len(pictures), (args.batch * 7 // 8,), generator=random)
        few = torch.randperm(len(called), generator=random)[: args.batch - len(picked)]  # a content once
        style = torch.randint(len(painted), (len(few),), generator=random)
        x = torch.cat([restyled(prepared(pictures[picked]), random), prepared(painted[style, few])])
        x = varied(x, random).to(memory_format=torch.channels_last)
        words = torch.cat([states[picked], called[few]])
        with torch.autocast("cpu", torch.bfloat16):
            image, text = towers.image(x), towers.text(words)
        scores = towers.sharpness.exp().clamp(max=100) * image @ text.T
        own = torch.arange(len(scores))
        loss = (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(towers.parameters(), 1.0)
        optimiser.step()
        if update % 50 == 49:
            print(f"{update + 1} loss {loss.item():.3f} {time.perf_counter() - clock:.0f} s", flush=True)
        if update % 100 == 99 or update + 1 == args.updates:
            held = {"towers": towers.state_dict(), "optimiser": optimiser.state_dict(), "update": update + 1}
            torch.save(held, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").replace(state)


if __name__ == "__main__":
    main()
