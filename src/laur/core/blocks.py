"""Blocks of a model by short names, and weights for them.

    unet, text              the denoiser, all text encoders; text1, text2: one of them
    down, mid, up           the three parts of the denoiser
    down0 … , up0 …         their blocks, as diffusers counts them
    in0 …  , out0 …         the same as Stability's code and A1111's extensions count them: in4 is IN04
    unet.up_blocks.1.…      the beginning of any layer's name, up to a dot

Where several fit a layer the longest, that is the most particular, counts. What a name means in one model is told by
`laur.optimize.blocks`.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from laur.core.checks import number
from laur.core.errors import RecipeError

LOWEST, HIGHEST = -100.0, 100.0
_SHORT = re.compile(r"unet|text[12]?|down|mid|up|(?:down|up|in|out)[0-9]{1,2}")
_LONG = re.compile(r"(?:unet|text_encoder(?:_2)?)(?:\.[A-Za-z0-9_]+)*")
_OTHERS = {"base": "text", "m00": "mid", "middle": "mid"}
"""What A1111's extensions call them."""
_LBW = {
    12: (9, (4, 5, 7, 8), (0, 1, 2, 3, 4, 5)),
    17: (12, (1, 2, 4, 5, 7, 8), (3, 4, 5, 6, 7, 8, 9, 10, 11)),
    20: (9, tuple(range(9)), tuple(range(9))),
    26: (12, tuple(range(12)), tuple(range(12))),
}
"""By how many numbers there are: blocks of the model on either side, those that are named, in and out."""


class BlockWeights(Mapping[str, float]):
    """Factors by block: a mapping that does not change, can be hashed, and is sorted by name."""

    __slots__ = ("_items",)

    def __init__(self, weights: Mapping[str, float]) -> None:
        """Raises RecipeError for what is no block's name and for what is no weight."""
        found: dict[str, float] = {}
        for name, weight in weights.items():
            known = block_name(name)
            number(f"the weight of block {known}", weight, LOWEST, HIGHEST)
            if known in found:
                raise RecipeError(f"block {known} has two weights; give one")
            found[known] = float(weight)
        if not found:
            raise RecipeError("there are no weights of blocks; write them as in mid=0.5,up1=0, or leave them out")
        self._items = tuple(sorted(found.items()))

    @classmethod
    def of(cls, value: Any) -> BlockWeights:
        """From a mapping, else RecipeError."""
        if isinstance(value, BlockWeights):
            return value
        if not isinstance(value, Mapping):
            raise RecipeError(f"weights by block are a table such as {{mid: 0.5}}, not {reprlib.repr(value)}")
        return cls(value)  # pyright: ignore[reportUnknownArgumentType] - names and weights are checked there

    @classmethod
    def parse(cls, text: str) -> BlockWeights:
        """From `mid=0,up1=0.5`, or from `lbw=1,0,0,…` with the 12, 17, 20 or 26 numbers of A1111's extension."""
        pairs: list[list[str]] = []
        for part in text.split(","):  # lbw's numbers stand without names
            if "=" in part or not pairs:
                pairs.append([part])
            else:
                pairs[-1].append(part)
        found: dict[str, float] = {}
        for first, *more in pairs:
            name, _, value = first.partition("=")
            values = [_factor(text, part) for part in (value, *more)]
            if name.strip().lower() == "lbw":
                found |= _by_count(values)
            elif more:
                raise RecipeError(f"{text} has a weight without a block; write it as in mid=0,up1=0.5")
            elif (known := block_name(name)) in found:
                raise RecipeError(f"block {known} has two weights; give one")
            else:
                found[known] = values[0]
        return cls(found)

    def __getitem__(self, name: str) -> float:
        return dict(self._items)[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(self._items)

    def __reduce__(self) -> tuple[type[BlockWeights], tuple[dict[str, float]]]:
        return BlockWeights, (dict(self._items),)

    def __str__(self) -> str:
        return ",".join(f"{name}={repr(weight).removesuffix('.0')}" for name, weight in self._items)

    def __repr__(self) -> str:
        return f"BlockWeights({dict(self._items)!r})"


def block_name(name: Any) -> str:
    """A block's name as it is recorded: IN04 is in4. Raises RecipeError for what can be none."""
    if isinstance(name, str):
        short = name.strip().lower()
        short = re.sub(r"(?<=[a-z])0+(?=[0-9])", "", _OTHERS.get(short, short))
        if _SHORT.fullmatch(short):
            return short
        if _LONG.fullmatch(name.strip()):
            return name.strip()
    raise RecipeError(
        f"block {reprlib.repr(name)} is unknown; known are unet, text, down, mid, up, down0, up0, in0, out0 and so on"
    )


def _factor(text: str, part: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise RecipeError(
            f"{reprlib.repr(text)} has {reprlib.repr(part.strip())} where a block's weight should be; "
            "write it as in mid=0,up1=0.5"
        ) from None


def _by_count(values: list[float]) -> dict[str, float]:
    """lbw's numbers: the text encoder's, then those of some blocks; blocks without a number get 0, as there."""
    if len(values) not in _LBW:
        counts = ", ".join(map(str, _LBW))
        raise RecipeError(
            f"lbw has {len(values)} numbers; it must have one of {counts}, and presets are not known here"
        )
    blocks, ins, outs = _LBW[len(values)]
    found = {f"{side}{place}": 0.0 for side in ("in", "out") for place in range(blocks)}
    found |= zip(["text", *(f"in{place}" for place in ins), "mid", *(f"out{place}" for place in outs)], values)  # noqa: B905
    return found
