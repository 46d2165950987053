"""Train the scorer that ships (laur.pipeline.scoring.mini) on a prepared set that keeps its pictures.

    laur data prepare pack mini-train --out sets/scorer --size 128 --pixels --limit 24000
    python scripts/train_scorer.py sets/scorer --out runs/scorer
    cp runs/scorer/scorer.safetensors src/laur/models/scorer/

Both towers from nothing, by the symmetric contrastive loss of CLIP (Radford et al. 2021, figure 3); the text encoder
below the text tower is MiniLM, frozen. The concepts of one fold of ten are never seen: on them the result is measured,
and what was measured is written into the file. Interrupted, the same command goes on.
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

from laur.pipeline.scoring.compact import restored, squeezed
from laur.pipeline.scoring.mini import text_of_mini
from laur.pipeline.scoring.network import SIDE, Towers, prepared
from laur.train.conditions import plain_prompt
from laur.train.data.reader import TrainingSet
from laur.train.evaluate.prompts import HELD_OUT, concept, fold
from laur.utils.metrics.agreement import retrieved

CHOICES = 32
EACH = 3
"""Captions of a picture that are learned from."""


def cached(out: Path, data: TrainingSet) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (n, 64, 64, 3) uint8, mean states (n, EACH, 384) half, and whether held out (n,)."""
    file = out / "cache.safetensors"
    if not file.exists():
        places = np.arange(len(data))
        pictures = [_small(data, part) for part in np.array_split(places, max(1, len(places) // 256))]
        texts = [
            plain_prompt(captions[place * (len(captions) - 1) // (EACH - 1)])
            for captions in data.captions(places)
            for place in range(EACH)
        ]
        kept = [fold(concept(name)) == HELD_OUT for name in data.names(places)]
        states = _states(texts).reshape(len(places), EACH, -1)
        save_file({"pictures": torch.cat(pictures), "states": states, "kept": torch.tensor(kept)}, file)
    found = load_file(file)
    return found["pictures"], found["states"], found["kept"]


def _small(data: TrainingSet, places: np.ndarray) -> Tensor:
    x = data.pixels(places)
    x = functional.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
    return ((x + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def _states(texts: list[str]) -> Tensor:
    encode = text_of_mini(torch.device("cpu"), "bfloat16")
    unique = list(dict.fromkeys(texts))
    found: dict[str, Tensor] = {}
    for start in range(0, len(unique), 256):
        part = unique[start : start + 256]
        found |= dict(zip(part, encode(part).half(), strict=True))
        if start % 5120 == 0:
            print(f"captions {start} of {len(unique)}", flush=True)
    return torch.stack([found[text] for text in texts])


def varied(x: Tensor, random: torch.Generator) -> Tensor:
    """Moved by some pixels, a little blurred and noisy: drawn pictures are not as clean as rendered ones."""
    moved = functional.pad(x, (4, 4, 4, 4), mode="replicate")
    top, left = torch.randint(0, 9, (2,), generator=random).tolist()
    x = moved[:, :, top : top + SIDE, left : left + SIDE]
    if torch.rand((), generator=random) < 0.3:
        small = functional.interpolate(x, (40, 40), mode="bilinear", align_corners=False, antialias=True)
        x = functional.interpolate(small, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return x + 0.05 * torch.rand((), generator=random) * torch.randn(x.shape, generator=random)


def train(out: Path, args: argparse.Namespace, pictures: Tensor, states: Tensor, kept: Tensor) -> Towers:
    """To `args.updates`, from the state in `out` if there is one."""
    torch.manual_seed(0)
    towers = Towers().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(towers.parameters(), lr=args.lr, weight_decay=0.05, betas=(0.9, 0.98))
    places = (~kept).nonzero()[:, 0]
    state, begun = out / "state.pt", 0
    if state.exists():
        held = torch.load(state, weights_only=True)
        towers.load_state_dict(held["towers"])
        optimiser.load_state_dict(held["optimiser"])
        begun = held["update"]
    clock = time.perf_counter()
    for update in range(begun, args.updates):
        random = torch.Generator().manual_seed(update)  # of the update alone, so that an interruption changes nothing
        rate = min(1.0, (update + 1) / 50) * (0.02 + 0.98 * (1 + math.cos(math.pi * update / args.updates)) / 2)
        optimiser.param_groups[0]["lr"] = args.lr * rate
        picked = places[torch.randint(len(places), (args.batch,), generator=random)]
        caption = torch.randint(EACH, (args.batch,), generator=random)
        with torch.autocast("cpu", torch.bfloat16):
            x = varied(prepared(pictures[picked]), random).to(memory_format=torch.channels_last)
            image, text = towers.image(x), towers.text(states[picked, caption].float())
        scores = towers.sharpness.exp().clamp(max=100) * image @ text.T
        own = torch.arange(args.batch)
        loss = (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(towers.parameters(), 1.0)
        optimiser.step()
        if update % 20 == 19 or update + 1 == args.updates:
            print(f"{update + 1} loss {loss.item():.3f} {time.perf_counter() - clock:.0f} s", flush=True)
        if update % 100 == 99 or update + 1 == args.updates:
            held = {"towers": towers.state_dict(), "optimiser": optimiser.state_dict(), "update": update + 1}
            torch.save(held, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").replace(state)
            print(json.dumps(measured(towers, pictures, states, kept)), flush=True)
    return towers


@torch.no_grad()
def measured(towers: Towers, pictures: Tensor, states: Tensor, kept: Tensor, limit: int = 2000) -> dict[str, float]:
    """On the held-out fold: its own caption found among CHOICES, and among all."""
    towers.eval()
    places = kept.nonzero()[:limit, 0]
    x = [towers.image(prepared(pictures[part])) for part in places.split(256)]
    scores = torch.cat(x) @ towers.text(states[places, EACH - 1].float()).T
    random = np.random.default_rng(0)
    n = len(places)
    others = np.stack([np.append(i, random.permutation(np.delete(np.arange(n), i))[: CHOICES - 1]) for i in range(n)])
    few = np.take_along_axis(scores.numpy(), others, 1)
    towers.train()
    return {
        f"among {CHOICES}": round(float(retrieved(few, np.zeros(n, np.int64)).mean()), 4),
        f"among {n}": round(float(retrieved(scores.numpy(), np.arange(n)).mean()), 4),
        f"top 5 among {n}": round(float(retrieved(scores.numpy(), np.arange(n), 5).mean()), 4),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = TrainingSet.open(args.set)
    pictures, states, kept = cached(args.out, data)
    towers = train(args.out, args, pictures, states, kept)
    small = {name: tensor.contiguous() for name, tensor in squeezed(towers.state_dict()).items()}
    towers.load_state_dict(restored(small))
    found = {
        "format": "laur-scorer/1",
        "pictures": str(int((~kept).sum())),
        "updates": str(args.updates),
        "held_out": json.dumps({"pictures": min(2000, int(kept.sum())), **measured(towers, pictures, states, kept)}),
        "licences": json.dumps(dict(data.info.licences)),
        "text": "MiniLM-L6 (all-MiniLM-L6-v2, Apache-2.0), frozen, not in this file",
    }
    save_file(small, args.out / "scorer.safetensors", metadata=found)
    print(found["held_out"])


if __name__ == "__main__":
    main()
