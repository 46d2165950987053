"""Random draws keyed by sample: the same for a sample whatever batch, process or device it is drawn in.

Counter-based (Philox 4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a number is a
function of (seed, purpose, sample key, index), so nothing has to be saved to go on after an interruption, and a batch
split over processes draws what the whole batch would.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
_ROUNDS = 10


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox 4x32-10 of four counter words and two key words; int64 tensors that hold 32 bits each."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _product(_MULTIPLIERS[0], c0)
        high1, low1 = _product(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


class Draws:
    """The draws of one batch. A `purpose` ("noise", "timestep", …) names a stream; the same purpose draws the same."""

    def __init__(self, seed: int, keys: Tensor, device: torch.device | str = "cpu") -> None:
        """`keys` (B,) int64 are the samples' draw numbers (`Batch.keys`)."""
        self.seed = seed
        self.device = torch.device(device)
        self.keys = keys.to(self.device)

    def bits(self, purpose: str, count: int) -> Tensor:
        """(B, count) int64, each 32 random bits."""
        blocks = -(-count // 4)
        digest = hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()
        key = (int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little"))
        index = torch.arange(blocks, device=self.device).expand(len(self.keys), blocks)
        low = (self.keys & _LOW)[:, None].expand_as(index)
        high = (self.keys >> 32)[:, None].expand_as(index)
        words = philox((index, torch.zeros_like(index), low, high), key)
        return torch.stack(words, dim=-1).reshape(len(self.keys), -1)[:, :count]

    def uniform(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """(B, *shape) float32 in [0, 1), multiples of 2^-24."""
        bits = self.bits(purpose, math.prod(shape))
        return ((bits >> 8).to(torch.float32) * 2.0**-24).reshape(-1, *shape)

    def normal(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """(B, *shape) float32, standard normal (Box and Muller, 1958)."""
        count = math.prod(shape)
        bits = self.bits(purpose, 2 * (-(-count // 2)))
        radius = (-2.0 * torch.log(((bits[:, 0::2] >> 8) + 1).to(torch.float32) * 2.0**-24)).sqrt()
        angle = (bits[:, 1::2] >> 8).to(torch.float32) * (2.0**-24 * 2.0 * math.pi)
        pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
        return pairs.reshape(len(self.keys), -1)[:, :count].reshape(-1, *shape)

    def integers(self, purpose: str, low: int, high: int) -> Tensor:
        """(B,) int64 in [low, high); ranges up to 2^31 without visible bias."""
        if high <= low:
            raise ValueError(f"no integer is in [{low}, {high})")
        first, second = self.bits(purpose, 2).unbind(1)
        # 62 random bits over the range: its bias is below 2^-31
        return low + (((first >> 1) << 31) | (second >> 1)) % (high - low)

    def __getitem__(self, rows: slice) -> Draws:
        """The draws of some of the samples."""
        return Draws(self.seed, self.keys[rows], self.device)


def _product(multiplier: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a product of two 32-bit words, without leaving int64's range."""
    low = word & 0xFFFF
    high = word >> 16
    first = low * multiplier
    second = high * multiplier + (first >> 16)
    return (second >> 16) & _LOW, ((second & 0xFFFF) << 16) | (first & 0xFFFF)
