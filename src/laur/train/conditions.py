"""From captions to what the network is told, by the checkpoint's own text encoder."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laur.core.errors import DataError
from laur.core.plan import TextSpec
from laur.train.batch import Conditions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from laur.pipeline.library import Library
    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.data.reader import TrainingSet
    from laur.train.draws import Draws

REFINER_SCORE = 6.0
"""The aesthetic score that SDXL's refiner is told of a picture to be learned."""


class Conditioner:
    """Picks captions, drops some, and encodes them."""

    def __init__(self, loaded: LoadedCheckpoint, data: TrainingSet, dropout: float, device: torch.device) -> None:
        """Errors: DataError where the set's latents are another autoencoder's."""
        if data.info.encoder != encoder_key(loaded):
            raise DataError(
                f"the latents of {data.folder} were made by {data.info.model}'s autoencoder, which is not that of "
                f"{loaded.info.name}; prepare the set with --model {loaded.info.name}"
            )
        self._data, self._dropout, self._device = data, dropout, device
        self._text = PlainText(loaded, device)
        self._stored = data.info.text == loaded.info.key
        self._info = loaded.info
        self.empty = self._text.unconditional()

    def conditions(self, indices: NDArray[np.int64], draws: Draws) -> Conditions:
        """Of these pictures (B,), one caption each by the keys of `draws`."""
        captions = self._data.captions(indices)
        picks = draws.uniform("caption").tolist()
        numbers = [int(pick * len(texts)) for pick, texts in zip(picks, captions, strict=True)]
        states = [
            self._states(int(index), texts, number)
            for index, texts, number in zip(indices, captions, numbers, strict=True)
        ]
        found = Conditions(
            torch.stack([context for context, _ in states]).to(self._device),
            pooled=_stacked([pooled for _, pooled in states], self._device),
            size_ids=self._size_ids(indices),
        )
        dropped = draws.uniform("caption dropout") < self._dropout
        return found.where(dropped.to(self._device), self.empty)

    def _states(self, index: int, captions: tuple[str, ...], number: int) -> tuple[Tensor, Tensor | None]:
        if self._stored:
            stored = self._data.states(index, number, int(self.empty.context.shape[-1]))
            if stored is not None:
                return stored
        return self._text(captions[number])

    def _size_ids(self, indices: NDArray[np.int64]) -> Tensor | None:
        if not self._info.family.is_xl:
            return None
        sizes = torch.from_numpy(self._data.sizes(indices)).to(self._device)
        if self._info.aesthetics_score:
            return torch.cat([sizes[:, :4], torch.full_like(sizes[:, :1], REFINER_SCORE)], 1)
        return sizes


class PlainText:
    """A checkpoint's text encoder for captions: no weights, no adapters, one window."""

    def __init__(self, loaded: LoadedCheckpoint, device: torch.device) -> None:
        from laur.pipeline.device import choose
        from laur.pipeline.library import Library

        self._library: Library = Library(choose(str(device), "float32"), plain=True)
        self._library.adopt(loaded)
        self._info = loaded.info

    def __call__(self, caption: str) -> tuple[Tensor, Tensor | None]:
        """States (L, D) and pooled (P,) in float32; what does not fit into the window is left out."""
        encoder = self._library.encoder(self._info.key, ())

        def fits(text: str) -> bool:
            return encoder.windows(plain_prompt(text)) <= 1

        return self._encode(TextSpec(prompt=plain_prompt(longest_that_fits(caption, fits))))

    def unconditional(self) -> Conditions:
        """One row: what classifier-free guidance sets the prompt against."""
        context, pooled = self._encode(TextSpec(prompt="", zeros=self._info.zeros_for_empty_prompt))
        return Conditions(context[None], pooled=None if pooled is None else pooled[None])

    def _encode(self, spec: TextSpec) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(self._library.placement.device.type, enabled=False):
            states = self._library.encode(self._info.key, (), spec)
        return states.context.float(), None if states.pooled is None else states.pooled.float()


def unconditional(loaded: LoadedCheckpoint, device: torch.device) -> Conditions:
    """One row: the unconditional input of a checkpoint."""
    return PlainText(loaded, device).unconditional()


def longest_that_fits(caption: str, fits: Callable[[str], bool]) -> str:
    """The caption, or as many of its first words as `fits` lets pass; of a single word, which may be a whole caption in
    a script without spaces, as many letters."""
    words = caption.split()
    if fits(" ".join(words)):
        return " ".join(words)
    count = bisect_left(range(1, len(words)), True, key=lambda n: not fits(" ".join(words[:n])))
    if count:
        return " ".join(words[:count])
    word = words[0]
    return word[: bisect_left(range(1, len(word)), True, key=lambda n: not fits(word[:n]))]


def plain_prompt(caption: str) -> str:
    """A caption as a prompt that means just its words: brackets and BREAK have a meaning in prompts."""
    escaped = re.sub(r"([\\()\[\]])", r"\\\1", caption)
    return re.sub(r"\bBREAK\b", "break", escaped)


def encoder_key(loaded: LoadedCheckpoint) -> str:
    """sha256 over the autoencoder's encoder and how its latents are scaled."""
    vae: Any = loaded.vae()
    digest = hashlib.sha256(f"{loaded.info.latent_scale!r} {loaded.info.latent_shift!r}".encode())
    for name, tensor in sorted(vae.state_dict().items()):
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(name.encode())
            digest.update(tensor.detach().half().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _stacked(parts: list[Tensor | None], device: torch.device) -> Tensor | None:
    whole = [part for part in parts if part is not None]
    return torch.stack(whole).to(device) if whole else None
