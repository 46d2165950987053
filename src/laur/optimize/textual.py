"""Textual inversions (arXiv 2208.01618): vectors that stand in a prompt where a word does.

Read are A1111's files (`emb_params`; for SDXL `clip_l` and `clip_g`) and diffusers' (one tensor under the word itself,
"<cat-toy>"). Pickled ones (.pt, .bin) are refused, as all pickles are.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from laur.core.errors import AdapterError, MismatchError
from laur.optimize.formats import is_finite, usable
from laur.optimize.safetensors_file import Header, file_sha256, read_header, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

COMPONENTS = {"emb_params": "text_encoder", "clip_l": "text_encoder", "clip_g": "text_encoder_2"}
"""Whose words a file's tensor adds to."""
WIDTHS = {768: "SD 1.x, or SDXL's first text encoder", 1024: "SD 2.x", 1280: "SDXL's second text encoder"}
MOST_VECTORS = 75
"""Positions of one window of the text encoder."""
_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


class TextualInversion:
    """One file's vectors. Making one reads the header alone; AdapterError says what is wrong with it, in one line."""

    def __init__(self, path: Path, token: str | None = None) -> None:
        """`token` is what prompts call it: else what the file does (diffusers), or its own name (A1111)."""
        self.path = path
        header = read_header(path)
        self._keys = _keys(path.name, header)
        own = next((key for key in self._keys if key not in COMPONENTS), None)
        self.token = token or own or path.stem
        self._shapes = {self._keys[key]: header.tensors[key].shape for key in self._keys}
        for key in self._keys:
            _check(path.name, key, header)

    @property
    def sizes(self) -> dict[str, str]:
        """Vectors by component, for people: "2 of width 768"."""
        return {name: f"{_vectors(shape)} of width {shape[-1]}" for name, shape in self._shapes.items()}

    @cached_property
    def sha256(self) -> str:
        """Of the file, as it was when this was first asked for: vectors of any other content are refused."""
        return file_sha256(self.path)

    def check(self, widths: dict[str, int]) -> None:
        """Raise MismatchError unless each of these text encoders, by component with its width, is given its vectors."""
        for component, width in widths.items():
            shape = self._shapes.get(component)
            if shape is None:
                raise MismatchError(
                    f"{self.path.name} has no vectors for {component}; choose one made for a model of two text encoders"
                )
            if shape[-1] != width:
                made_for = WIDTHS.get(shape[-1], "another model")
                raise MismatchError(
                    f"{self.path.name} is made for {made_for} (width {shape[-1]}); this checkpoint's {component} has "
                    f"width {width}"
                )

    def vectors(self) -> dict[str, Tensor]:
        """(n, width) for each text encoder, by component, in the file's precision; whole or not at all."""
        tensors = read_tensors(self.path, self.sha256)
        found: dict[str, Tensor] = {}
        for key, component in self._keys.items():
            tensor = usable(tensors[key])
            if not is_finite(tensor):
                raise AdapterError(f"{self.path.name} is damaged: {key} holds values that are not finite numbers")
            found[component] = tensor.reshape(-1, tensor.shape[-1])
        return found


def is_textual(path: Path) -> bool:
    """Whether a file is a textual inversion, by its header. Errors as of reading one."""
    try:
        _keys(path.name, read_header(path))
    except _NoInversionError:
        return False
    return True


class _NoInversionError(AdapterError):
    """A file of something else."""


def _keys(source: str, header: Header) -> dict[str, str]:
    """The file's keys with the text encoder that each is for."""
    keys = list(header.tensors)
    if keys and set(keys) <= set(COMPONENTS):
        return {key: COMPONENTS[key] for key in keys}
    if len(keys) == 1 and "." not in keys[0] and len(header.tensors[keys[0]].shape) in {1, 2}:
        return {keys[0]: "text_encoder"}
    raise _NoInversionError(
        f"{source} is no textual inversion: it holds {keys[0] if keys else 'nothing'}; give a file with emb_params, "
        "with clip_l and clip_g, or with one tensor under its word"
    )


def _check(source: str, key: str, header: Header) -> None:
    tensor = header.tensors[key]
    if tensor.dtype not in _FLOATS:
        raise AdapterError(f"{source} stores {key} as {tensor.dtype}; give a file in fp32, fp16, bf16 or fp8")
    if len(tensor.shape) not in {1, 2} or 0 in tensor.shape:
        raise AdapterError(f"{source} is damaged: {key} should be vectors, and has the shape {list(tensor.shape)}")
    if _vectors(tensor.shape) > MOST_VECTORS:
        raise AdapterError(
            f"{source} has {_vectors(tensor.shape)} vectors; a window of the text encoder takes {MOST_VECTORS}"
        )


def _vectors(shape: tuple[int, ...]) -> int:
    return 1 if len(shape) == 1 else shape[0]
