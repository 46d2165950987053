"""Train the judge of styles (laur.train.evaluate.style_classifier) on what the styles' teachers make of icons.

    python scripts/train_style_classifier.py --pack mini-train --out runs/style-classifier
    cp runs/style-classifier/result/style_classifier.safetensors src/laur/models/style_classifier/

Every class shows the same contents, so that nothing can be told from them: concepts that are neither among the
pictures which the styles' adapters learn from (scripts/make_styles.py) nor in the fold that prompts for measuring come
from. Every third picture is there a second time, as mini's autoencoder gives it back. "none" are the icons as they are,
and what mini draws of the same captions in four steps without a style. Other concepts again set the temperature and
test the result; what was measured is written into the file. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from make_styles import CONTENT
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from laur.core.pytorch.encoder import TorchEncoder
from laur.core.recipe import Recipe
from laur.pipeline.engine import Engine
from laur.pipeline.loading.load import load
from laur.pipeline.scoring.compact import restored, squeezed
from laur.style.cards import shipped
from laur.style.teachers import TEACHERS, teacher
from laur.train.conditions import plain_prompt
from laur.train.data.picture import unit
from laur.train.data.sources.icon import Icon
from laur.train.data.sources.pack import Pack
from laur.train.data.sources.restyled import SEEDS
from laur.train.evaluate.prompts import concept, fold
from laur.train.evaluate.style_classifier import FORMAT, NONE, together
from laur.train.evaluate.style_network import SIDE, StyleNetwork, prepared

LEARNED = 240
"""Pictures that the adapters learn from: `--pictures` of scripts/make_styles.py."""
PARTS = {"train": ((1, 2, 3, 4, 5, 6, 7), 64), "tune": ((8,), 16), "test": ((9,), 32)}
"""Folds of concepts, and how many pictures of each style come from them. Fold 0 is for measuring pictures."""
SIZE = 256
THROUGH = 3
"""Of so many pictures one goes through the autoencoder too."""


def contents(pack: Path) -> dict[str, list[Icon]]:
    """One picture of a concept, by part; the same for every style."""
    seen = {concept(record.name) for record in Pack(pack, styles=CONTENT, limit=LEARNED).records(0, LEARNED)}
    source = Pack(pack, styles=CONTENT)
    chosen: dict[str, Icon] = {}
    for record in source.records(0, len(source)):
        of = concept(record.name)
        better = of not in chosen or _order(record) < _order(chosen[of])
        if of not in seen and better:
            chosen[of] = record
    ordered = sorted(chosen.values(), key=_order)
    return {
        part: [record for record in ordered if fold(concept(record.name)) in folds][:count]
        for part, (folds, count) in PARTS.items()
    }


def _order(record: Icon) -> bytes:
    return hashlib.sha256(f"style classifier {record.name}".encode()).digest()


class Painter:
    """Pictures of a class, each as painted and as the autoencoder gives it back."""

    def __init__(self) -> None:
        self.engine = Engine("mini")
        library = self.engine.library
        info = library.checkpoint("mini")
        self._decoder = library.decoder(info.key)
        vae, place = self._decoder.vae, library.placement
        self._encode = TorchEncoder(vae, info.latent_scale, info.latent_shift, place.device, place.dtype).encode

    def __call__(self, name: str, records: list[Icon]) -> Tensor:
        """(n and a third of it, 128, 128, 3) uint8; of "none" n more."""
        painted = [self._painted(name, record) for record in records]
        found = [*painted, *(self._through(picture) for picture in painted[::THROUGH])]
        if name == NONE:
            prompts = [
                plain_prompt(record.draw(SIZE).captions[0].removesuffix(f", {record.style}")) for record in records
            ]
            recipes = [Recipe(prompt=text, seed=7_000_000 + number) for number, text in enumerate(prompts)]
            found += [np.asarray(image) for image in self.engine.run(recipes)]
        return torch.stack([_small(picture) for picture in found])

    def _painted(self, name: str, record: Icon) -> np.ndarray:
        image = record.draw(SIZE).image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        picture = np.asarray(image)
        if name == NONE:
            return picture
        return teacher(name)(picture, int(unit("style classifier", name, record.name) * SEEDS))

    def _through(self, picture: np.ndarray) -> np.ndarray:
        encoded = self._encode(picture)
        draw = None if encoded.deviation is None else torch.zeros_like(encoded.mean)
        return self._decoder.decode(encoded.latent(draw)[None])[0].cpu().numpy()


def _small(picture: np.ndarray) -> Tensor:
    x = prepared(torch.from_numpy(picture.copy())[None])
    return ((x[0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous()


@cache
def made_by(name: str) -> str:
    """What a class's pictures come from, in short: its teacher's code, or mini."""
    return TEACHERS[name].sha256[:8] if name != NONE else load("mini").info.sha256[:8]


def cached(out: Path, pack: Path, classes: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Pictures and labels by part; a class at a time is kept."""
    files = {name: out / f"{name}-{made_by(name)}.safetensors" for name in classes}
    records, painter = None, None
    for name, file in files.items():
        if file.exists():
            continue
        records, painter = records or contents(pack), painter or Painter()
        begun = time.perf_counter()
        save_file({part: painter(name, some) for part, some in records.items()}, file.with_suffix(".tmp"))
        file.with_suffix(".tmp").replace(file)
        print(f"{name} painted in {time.perf_counter() - begun:.0f} s", flush=True)
    held = {name: load_file(file) for name, file in files.items()}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for part in PARTS:
        pictures = torch.cat([held[name][part] for name in classes])
        labels = [torch.full((len(held[name][part]),), number) for number, name in enumerate(classes)]
        found[part] = pictures, torch.cat(labels)
    return found


def varied(x: Tensor, random: torch.Generator) -> Tensor:
    """Mirrored, moved, zoomed, softened, a little brighter or darker and noisy: none of it is a style."""
    n = len(x)
    if torch.rand((), generator=random) < 0.5:
        x = x.flip(3)
    zoom = 0.9 + 0.25 * torch.rand(n, generator=random)
    shift = 0.12 * (torch.rand(n, 2, generator=random) - 0.5)
    grid = functional.affine_grid(
        torch.cat([torch.diag_embed(zoom[:, None].expand(n, 2)), shift[:, :, None]], 2), list(x.shape), False
    )
    x = functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if torch.rand((), generator=random) < 0.4:
        side = int(torch.randint(72, 116, (), generator=random))
        small = functional.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=True)
        x = functional.interpolate(small, (SIDE, SIDE), mode="bilinear", align_corners=False)
    gain = 1 + 0.12 * (torch.rand(n, 1, 1, 1, generator=random) - 0.5)
    offset = 0.1 * (torch.rand(n, 1, 1, 1, generator=random) - 0.5)
    return x * gain + offset + 0.04 * torch.rand((), generator=random) * torch.randn(x.shape, generator=random)


def train(args: argparse.Namespace, number: int, learned: tuple[Tensor, Tensor], classes: int) -> StyleNetwork:
    """The network of that number, to `args.updates`, from the state in `args.out` if there is one."""
    pictures, labels = learned
    torch.manual_seed(number)
    network = StyleNetwork(classes).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=0.05)
    state, begun = args.out / f"state-{number}.pt", 0
    told = f"{args.updates} {args.batch} {args.lr} {sorted(file.name for file in args.out.glob('*.safetensors'))}"
    if state.exists():
        held = torch.load(state, weights_only=True)
        if held.get("of") != told:
            raise SystemExit(f"{state} is of other pictures or settings; remove it, or give another --out")
        network.load_state_dict(held["network"])
        optimiser.load_state_dict(held["optimiser"])
        begun = held["update"]
    balance = (1 / torch.bincount(labels).float())[labels]
    clock = time.perf_counter()
    for update in range(begun, args.updates):
        random = torch.Generator().manual_seed(update + 100_000 * number)
        torch.manual_seed(update + 100_000 * number)  # of dropout
        rate = min(1.0, (update + 1) / 50) * (0.02 + 0.98 * (1 + math.cos(math.pi * update / args.updates)) / 2)
        optimiser.param_groups[0]["lr"] = args.lr * rate
        picked = torch.multinomial(balance, args.batch, True, generator=random)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(varied(prepared(pictures[picked]), random).to(memory_format=torch.channels_last))
        loss = functional.cross_entropy(logits.float(), labels[picked], label_smoothing=0.02)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if update % 50 == 49 or update + 1 == args.updates:
            print(
                f"network {number}, {update + 1} loss {loss.item():.3f} {time.perf_counter() - clock:.0f} s", flush=True
            )
        if update % 200 == 199 or update + 1 == args.updates:
            held = {
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "update": update + 1,
                "of": told,
            }
            torch.save(held, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").replace(state)
    return network.eval()


@torch.no_grad()
def logits_of(networks: Sequence[StyleNetwork], pictures: Tensor) -> Tensor:
    """(networks, n, classes)"""
    parts = [prepared(part) for part in pictures.split(64)]
    return torch.stack([torch.cat([network(part) for part in parts]) for network in networks])


def temperature(logits: Tensor, labels: Tensor) -> float:
    """That of the mean probabilities' least cross entropy (Guo et al. 2017, arXiv 1706.04599), by steps of 2 %."""
    tries = [0.2 * 1.02**number for number in range(160)]
    return min(tries, key=lambda t: float(functional.nll_loss(chances(logits, t).log(), labels)))


def chances(logits: Tensor, over: float) -> Tensor:
    """(n, classes), as the classifier gives them."""
    return (logits / over).softmax(2).mean(0).clamp(min=1e-9)


def measured(probabilities: Tensor, labels: Tensor, classes: list[str]) -> dict[str, object]:
    """On concepts that were not trained on."""
    confidence, said = probabilities.max(1)
    right = (said == labels).float()
    bins = (confidence * 10).long().clamp(max=9)
    gaps = [
        (right[bins == b].mean() - confidence[bins == b].mean()).abs() * (bins == b).float().mean()
        for b in bins.unique()
    ]
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.long)
    confusion.index_put_((labels, said), torch.ones_like(labels), accumulate=True)
    wrong = [
        (int(confusion[i, j]), f"{classes[i]} taken for {classes[j]}")
        for i in range(len(classes))
        for j in range(len(classes))
        if i != j and confusion[i, j]
    ]
    return {
        "pictures": len(labels),
        "accuracy": round(float(right.mean()), 4),
        "by_class": {name: round(float(right[labels == i].mean()), 3) for i, name in enumerate(classes)},
        "mean_probability": {
            name: round(float(probabilities[labels == i, i].mean()), 3) for i, name in enumerate(classes)
        },
        "calibration_error": round(float(sum(gaps)), 4),
        "confusion": confusion.tolist(),
        "most_confused": [f"{words}: {count}" for count, words in sorted(wrong, reverse=True)[:8]],
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, required=True, help="pictures: a pack's folder")
    parser.add_argument("--out", type=Path, default=Path("runs/style-classifier"))
    parser.add_argument("--networks", type=int, default=3, help="whose probabilities are averaged")
    parser.add_argument("--updates", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    classes = [*sorted({card.teacher for card in shipped() if card.teacher}), NONE]
    parts = cached(args.out, args.pack, classes)
    networks, small = [], []
    for number in range(args.networks):
        network = train(args, number, parts["train"], len(classes))
        small.append({name: tensor.contiguous() for name, tensor in squeezed(network.state_dict()).items()})
        network.load_state_dict(restored(small[-1]))
        networks.append(network)
    scale = temperature(logits_of(networks, parts["tune"][0]), parts["tune"][1])
    logits, labels = logits_of(networks, parts["test"][0]), parts["test"][1]
    found = measured(chances(logits, scale), labels, classes)
    found["accuracy_of_each"] = [round(float((one.argmax(1) == labels).float().mean()), 4) for one in logits]
    said = {
        "format": FORMAT,
        "classes": json.dumps(classes),
        "temperature": f"{scale:.4f}",
        "held_out": json.dumps(found),
        "teachers": json.dumps({name: TEACHERS[name].sha256[:16] for name in classes if name != NONE}),
        "licence": "Apache-2.0; learned from the openly licensed icons that ATTRIBUTION.md names, rendered anew",
    }
    (args.out / "result").mkdir(exist_ok=True)
    save_file(together(small), args.out / "result" / "style_classifier.safetensors", metadata=said)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
