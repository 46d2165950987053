"""LoraFile: an adapter that is a .safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from laur.optimize import names
from laur.optimize.base import BaseAdapter, Recommendation
from laur.optimize.formats import Coverage, build, parts, place
from laur.optimize.kinds import SMALL
from laur.optimize.layers import FAMILIES, LayerShape
from laur.optimize.lcm_lora import recommendation
from laur.optimize.matching import made_for_width
from laur.optimize.safetensors_file import Written, file_sha256, read_header, read_tensors
from laur.optimize.scales import PEFT_CONFIG, dora_weighting, for_encoders, peft_settings, with_weighting
from laur.utils.hashes import tensors_sha256

if TYPE_CHECKING:
    from laur.optimize.deltas import Delta, Weighting


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraInfo:
    """What a LoRA file says of itself, for people."""

    path: Path
    sha256: str
    layout: str
    """kohya, PEFT or diffusers."""
    layers: Mapping[str, int]
    """Number of layers by component."""
    ranks: tuple[int, ...]
    dtypes: tuple[str, ...]
    made_for: str | None
    """Family of models, as far as the width of its cross-attention tells."""
    recommends: Recommendation
    metadata: Mapping[str, str]
    kinds: Mapping[str, int]
    """Number of layers by kind: LoRA, LoHa, LoKr, full, IA3, DoRA …"""
    left: Mapping[str, str]
    """Keys that belong to no layer, with the reason."""

    @property
    def autov2(self) -> str:
        """The ten-digit hash that A1111 and Civitai show."""
        return self.sha256[:10]


class LoraFile(BaseAdapter):
    """A LoRA, LoCon, LoHa, LoKr, DoRA, IA3 or difference file of diffusers, PEFT, kohya's scripts or LyCORIS.

    Making one reads the header alone; AdapterError says in one line what is wrong with a file.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = name or path.stem
        self.written = Written.of(path, path.with_name(PEFT_CONFIG))
        self._header = read_header(path)
        self._parts, self._left = parts(path.name, self._header)
        self._layout = names.layout(self._header.tensors)
        self._settings = peft_settings(path, self._header.metadata, self._layout)
        self._weighting: Weighting | None = dora_weighting(self._header.metadata, path.name)
        self.recommends = recommendation(self.name, path, self._header.metadata)

    @cached_property
    def _file_sha256(self) -> str:
        return file_sha256(self.path)

    @property
    def sha256(self) -> str:
        """The file's own sha256; for PEFT's layout of the file and the settings that were read beside it."""
        if self._layout != "PEFT":
            return self._file_sha256
        settings = json.dumps(self._settings, sort_keys=True)
        return hashlib.sha256((self._file_sha256 + settings).encode()).hexdigest()

    @cached_property
    def autov3(self) -> str | None:
        """sha256 without the header, so that edited metadata do not change it: what A1111 calls a LoRA's hash.

        None where the file can no longer be read.
        """
        try:
            return tensors_sha256(self.path)
        except (OSError, ValueError):
            return None

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's metadata, as its writer left it."""
        return self._header.metadata

    @property
    def text_width(self) -> int | None:
        """Width of the text states that the UNet it was made for reads; None where no layer tells."""
        return made_for_width((part.key, part.form) for part in self._parts)

    @property
    def info(self) -> LoraInfo:
        """For `laur inspect`."""
        width = self.text_width
        weights = [key for part in self._parts for role, key in part.files.items() if role not in SMALL]
        return LoraInfo(
            path=self.path,
            sha256=self.sha256,
            layout=self._layout,
            layers=dict(Counter(part.key.component for part in self._parts)),
            ranks=tuple(sorted({part.rank for part in self._parts if part.rank is not None})),
            dtypes=tuple(sorted({self._header.tensors[key].dtype for key in weights})),
            made_for=None if width is None else FAMILIES.get(width, f"cross-attention width {width}"),
            recommends=self.recommends,
            metadata=self.metadata,
            kinds=dict(Counter(part.kind for part in self._parts)),
            left=self._left,
        )

    def check(self, layers: Mapping[str, LayerShape]) -> None:
        """Raise MismatchError if it was made for another architecture."""
        self.coverage(layers)

    def coverage(self, layers: Mapping[str, LayerShape]) -> Coverage:
        """Where its keys go in a model of these layers, and what is left and why. Reads no weights."""
        return place(self.path.name, self._header, layers)[1]

    def deltas(self, layers: Mapping[str, LayerShape]) -> Mapping[str, Delta]:
        """Read from the file at each call, whole or not at all; keep the result where it is used."""
        placed, _ = place(self.path.name, self._header, layers)
        if not placed:
            return {}
        settings = for_encoders(self._settings) if self._layout == "PEFT" else self._settings
        found = build(self.path.name, placed, read_tensors(self.path, self._file_sha256), settings, layers)
        return with_weighting(found, self._weighting)
