"""What is written into a file beside its pixels, as values; `encoders` puts them in place and `metadata` reads them.

Two texts say how a picture was made: A1111's `parameters`, which other programs read, and the record, our JSON, from
which the picture can be made again exactly.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from laur.core.recipe import Recipe
from laur.render.a1111 import write_parameters

if TYPE_CHECKING:
    import numpy as np

RECORD_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterHash:
    """An adapter that took part, by name and content."""

    name: str
    sha256: str
    """Of the file; AutoV2 is its first ten digits."""
    autov3: str | None = None
    """sha256 of a .safetensors file without its header, what A1111 calls a LoRA's hash; Civitai shows twelve digits."""
    word: str | None = None
    """Of a textual inversion: what prompts call it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        if self.word is None:
            del values["word"]
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Which programs, weights and arithmetic made a picture: what a Recipe does not say."""

    laur: str
    """Version of Laur."""
    torch: str
    device: str
    dtype: str
    backend: str
    """pytorch, tensorflow, openvino …"""
    checkpoint: str
    checkpoint_sha256: str
    adapters: tuple[AdapterHash, ...] = ()
    plan_key: str | None = None
    threads: int | None = None
    """Of torch, on a CPU: another number adds up in another order, which shows in bfloat16's last digits."""

    @property
    def autov2(self) -> str:
        """The checkpoint's ten-digit hash, as A1111 and Civitai show it."""
        return self.checkpoint_sha256[:10]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        adapters = tuple(adapter.to_dict() for adapter in self.adapters)
        return {**asdict(self), "adapters": adapters, "autov2": self.autov2}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Provenance:
        """From plain values. What a later version added is ignored; raises TypeError if something needed is missing."""
        texts = {f.name for f in fields(cls)} - {"adapters", "threads"}
        own = {name: str(values[name]) for name in texts if values.get(name) is not None}
        adapters = tuple(_adapter_hash(item) for item in values.get("adapters") or ())
        threads = values.get("threads")
        return cls(**own, adapters=adapters, threads=threads if isinstance(threads, int) else None)


def _adapter_hash(item: dict[str, Any]) -> AdapterHash:
    return AdapterHash(**{f.name: str(item[f.name]) for f in fields(AdapterHash) if item.get(f.name) is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The two texts, and the program's name and version for files that have a place for it."""

    parameters: str
    """A1111's, unicode."""
    record: str
    """Our JSON, ASCII: any prompt survives any container, control characters and lone surrogates included."""
    software: str


def make_embedded(recipe: Recipe, provenance: Provenance, pixels: np.ndarray) -> Embedded:
    """What goes into the file of `pixels`, (H, W, 3) uint8, that `recipe` (filled) made."""
    record = {
        "laur": RECORD_VERSION,
        "recipe": recipe.to_dict(),
        "recipe_hash": recipe.hash,
        "provenance": provenance.to_dict(),
        "pixels_sha256": pixels_sha256(pixels),
    }
    return Embedded(
        parameters=write_parameters(
            recipe,
            version=f"Laur {provenance.laur}",
            model=provenance.checkpoint,
            model_hash=provenance.autov2,
            adapter_hashes={a.name: a.autov3 or a.sha256 for a in provenance.adapters if a.word is None},
            words={a.name: (a.word, a.sha256) for a in provenance.adapters if a.word is not None},
        ),
        record=json.dumps(record, separators=(",", ":")),
        software=f"Laur {provenance.laur}",
    )


def pixels_sha256(pixels: np.ndarray) -> str:
    """sha256 over the RGB bytes of (H, W, 3) uint8, row by row, without any header."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()
