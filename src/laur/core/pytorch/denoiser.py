"""The PyTorch denoiser: rows in, predictions out."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from laur.core.denoiser import Row
from laur.core.errors import AdapterError
from laur.core.pytorch.cpu.interface import Network
from laur.core.pytorch.rows.batch import order


class TorchDenoiser:
    """A Denoiser over a `Network`, on one device and in one precision."""

    def __init__(
        self,
        network: Network,
        *,
        device: torch.device,
        dtype: torch.dtype,
        channels_last: bool = False,
        guidance_width: int | None = None,
    ) -> None:
        self.network = network
        self.device = device
        self.dtype = dtype
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._guidance_width = guidance_width

    def over(self, network: Network) -> TorchDenoiser:
        """The same placement over another network."""
        other = copy.copy(self)
        other.network = network
        return other

    @torch.inference_mode()
    def predict(self, rows: Sequence[Row]) -> Tensor:
        """See `laur.core.denoiser.Denoiser.predict`."""
        if all(row.adapters is None for row in rows):
            return self._predict(rows)
        places = order([row.adapters for row in rows])
        predictions = self._predict([rows[place] for place in places])
        return predictions[torch.tensor(places, device=predictions.device).argsort()]

    def _predict(self, rows: Sequence[Row]) -> Tensor:
        first = rows[0]
        if any(row.image_tokens is not None for row in rows):
            raise AdapterError("an adapter gives image tokens, which this network has no attention for; leave it out")
        sample = torch.stack([row.latent for row in rows])
        prediction = self.network(
            sample.to(self.device, self.dtype, memory_format=self._format),
            torch.tensor([row.timestep for row in rows], device=self.device),
            [row.context for row in rows],
            context_mask=None if first.context_mask is None else self._stack([row.context_mask for row in rows]),
            added_cond=self._added(rows),
            timestep_cond=self._guidance(rows),
            residuals=self._residuals(rows),
            **({} if all(row.adapters is None for row in rows) else {"adapters": [row.adapters for row in rows]}),
        )
        return prediction.float().contiguous().to(sample.device)

    def _stack(self, parts: Sequence[Tensor | None]) -> Tensor:
        return torch.stack([part for part in parts if part is not None]).to(self.device)

    def _added(self, rows: Sequence[Row]) -> dict[str, Tensor] | None:
        if rows[0].size_ids is None:
            return None
        return {
            "text_embeds": self._stack([row.pooled for row in rows]).to(self.dtype),
            "time_ids": torch.tensor([row.size_ids for row in rows], device=self.device, dtype=self.dtype),
        }

    def _guidance(self, rows: Sequence[Row]) -> Tensor | None:
        if self._guidance_width is None:
            return None
        scales = torch.tensor([row.guidance_embedding or 0.0 for row in rows], dtype=torch.float32)
        return guidance_embedding(scales, self._guidance_width).to(self.device, self.dtype)

    def _residuals(self, rows: Sequence[Row]) -> tuple[Tensor, ...] | None:
        given = next((row.residuals for row in rows if row.residuals is not None), None)
        if given is None:
            return None
        none = tuple(torch.zeros_like(part) for part in given)  # of rows that an adapter leaves alone
        per_row = [none if row.residuals is None else row.residuals for row in rows]
        return tuple(torch.stack(parts).to(self.device, self.dtype) for parts in zip(*per_row, strict=True))


def guidance_embedding(scales: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding (N, width) of guidance-distillation scales w (N,).

    As LCM was trained (arXiv 2310.04378, section 4.2, after arXiv 2210.03142): w · 1000, half sine, half cosine.
    """
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10_000.0) / (half - 1)))
    angles = scales.float()[:, None] * 1000.0 * rates[None]
    embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.nn.functional.pad(embedding, (0, width % 2))
