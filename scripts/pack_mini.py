"""Pack a folder of `mini`'s format into the form that ships in the wheel.

    python scripts/pack_mini.py FOLDER [--out src/laur/models/mini]

FOLDER is a diffusers folder in half precision, adapters in FOLDER/adapters. Then compare pictures from both with
`python benchmarks/pack_quality.py FOLDER`. If the network is said to be rounded, the adapters should be distilled on
what the pack expands to (`laur models path mini`), then packed again: that time it is exact.
"""

import argparse
import json
from pathlib import Path

from laur.core.checkpoint import Defaults
from laur.models.pack import LEVELS, Settings, pack

ROOT = Path(__file__).resolve().parents[1]
LICENCE = "Apache-2.0; credits for the pictures it was trained on are in ATTRIBUTION.md"


def main() -> None:
    """Pack, and print each file's size and whether it is exact."""
    arguments = _arguments()
    settings = Settings(
        name=arguments.name,
        licence=arguments.licence,
        native_size=_native_size(arguments.folder),
        defaults=Defaults(steps=arguments.steps, guidance=arguments.guidance),
        levels={**LEVELS, **dict(arguments.levels)},
    )
    out = arguments.out or ROOT / "src" / "laur" / "models" / arguments.name
    try:
        files = pack(arguments.folder, out, settings)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    for path, entry in files.items():
        size = (out / entry.packed).stat().st_size
        print(f"{size / 1e6:8.3f} MB of {entry.size / 1e6:8.3f}  {'exact  ' if entry.exact else 'rounded'}  {path}")
    print(f"{sum(file.stat().st_size for file in out.rglob('*') if file.is_file()) / 1e6:8.3f} MB in {out}")


def _native_size(folder: Path) -> int:
    """Pixels a side: the network's own size times what the autoencoder shrinks by."""
    unet, vae = (json.loads((folder / part / "config.json").read_text()) for part in ("unet", "vae"))
    return unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)


def _levels(text: str) -> tuple[str, int]:
    part, _, levels = text.partition("=")
    return part, int(levels)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--name", default="mini")
    parser.add_argument("--licence", default=LICENCE)
    parser.add_argument("--steps", type=int, default=30, help="recommended without a distilled adapter")
    parser.add_argument("--guidance", type=float, default=4.0, help="the same")
    parser.add_argument(
        "--levels", type=_levels, action="append", default=[], metavar="PART=N", help="of unet, vae, adapters …"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
