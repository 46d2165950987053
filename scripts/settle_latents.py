"""Give an autoencoder's latents the means and deviations that another's have, channel by channel.

    python scripts/settle_latents.py runs/linear/result runs/settled --like mini --pack mini-train

An encoder that learned on (`objective.linear` of `laur train vae`) has latents of another scale, and a denoiser that is
moved upon it has that to learn as well. The encoder's last convolution and the decoder's first take the change. Between
the two an AutoencoderTiny bends large latents and pads with zeros, so it is not quite exact: train a little after it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laur.core.errors import LaurError
from laur.pipeline.loading.load import load
from laur.train.data.picture import Skip
from laur.train.data.sources.fold import Fold
from laur.train.data.sources.pack import Pack
from laur.utils.files import atomic_folder

STYLES = ("fluent 3d", "noto", "twemoji", "fluent flat", "emojione", "fluent gradient")
SIDE = 256
TOGETHER = 8
WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


def pictures(pack: Path, count: int) -> Tensor:
    """(n, 3, SIDE, SIDE) in -1..1."""
    found: list[Tensor] = []
    for record in (fold := Fold(Pack(pack, styles=STYLES), count, held_out=False)).records(0, len(fold)):
        try:
            image = record.draw(SIDE).image.resize((SIDE, SIDE))
        except Skip:
            continue
        raw = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        found.append(raw.view(SIDE, SIDE, 3).permute(2, 0, 1).float() / 127.5 - 1)
    return torch.stack(found)


@torch.inference_mode()
def moments(vae: Any, of: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel (C,)."""
    latents = torch.cat([vae.encode(some).latents for some in of.split(TOGETHER)])
    return latents.mean((0, 2, 3)), latents.std((0, 2, 3))


@torch.no_grad()
def settle(vae: Any, mean: Tensor, deviation: Tensor, like: tuple[Tensor, Tensor]) -> None:
    """Change an AutoencoderTiny's two convolutions next to the latents, so that z becomes (z - mean) gain + like's."""
    gain = like[1] / deviation
    last, first = vae.encoder.layers[-1], vae.decoder.layers[0]
    last.weight.mul_(gain[:, None, None, None])
    last.bias.sub_(mean).mul_(gain).add_(like[0])
    first.bias.add_(first.weight.sum((2, 3)) @ (mean - like[0] / gain))
    first.weight.div_(gain[None, :, None, None])


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint's folder, as `laur train vae` writes it")
    parser.add_argument("out", type=Path, help="where the changed one goes")
    parser.add_argument("--like", default="mini", help="whose means and deviations")
    parser.add_argument("--pack", type=Path, required=True, help="pictures to take them of")
    parser.add_argument("--pictures", type=int, default=96)
    args = parser.parse_args()
    try:
        loaded, like = load(args.model), load(args.like)
        vae = loaded.vae().float().eval()
        if type(vae).__name__ != "AutoencoderTiny" or not (folder := Path(args.model)).is_dir():
            raise LaurError(f"{args.model} is no folder with an AutoencoderTiny; only such latents can be settled")
        shown = pictures(args.pack, args.pictures)
        wanted, found = moments(like.vae().float().eval(), shown), moments(vae, shown)
        settle(vae, *found, wanted)
        with atomic_folder(args.out) as temporary:
            shutil.copytree(folder, temporary, dirs_exist_ok=True)
            shutil.rmtree(temporary / "vae")
            vae.half().save_pretrained(temporary / "vae")
    except (LaurError, OSError) as error:
        print(f"settle_latents: {error}", file=sys.stderr)
        return 2
    for name, (mean, deviation) in (("were", found), ("are", wanted)):
        rows = zip(mean.tolist(), deviation.tolist(), strict=True)
        print(f"latents {name}: " + ", ".join(f"{m:.2f} ± {d:.2f}" for m, d in rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
