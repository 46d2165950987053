"""BaseAdapter: what an extension of a model may do, and what it recommends.

Subclass it, override the hooks you need, `register` it and name it in a Recipe; every hook does nothing by default.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from laur.core.denoiser import Row
    from laur.optimize.deltas import Delta
    from laur.optimize.layers import LayerShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """How an adapter wants to be sampled. What a Recipe says itself always comes first; None leaves it open."""

    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    """The classifier-free scale; 1 is no guidance."""
    timesteps: tuple[int, ...] | None = None
    eta: float | None = None
    """DDIM's eta, TCD's gamma, or what LCM ends with."""
    trailing: bool = False
    """Whether its steps, however many, end each equal part of the schedule: 999, 749, 499, 249 for 4 of 1000."""
    trigger_words: tuple[str, ...] = ()
    accelerates: bool = False
    """Whether it makes a model a consistency model, to be sampled in 1 to 8 steps."""


class BaseAdapter(ABC):  # noqa: B024 - every hook has a default that does nothing: override only what you need
    """Something that changes how a model draws. One instance serves many pictures: keep no state between calls."""

    name: str = ""
    """Set when it is looked up in the registry."""
    recommends: Recommendation = Recommendation()

    @property
    def sha256(self) -> str:
        """Content hash; a Recipe records it. Here: of the class's code and the instance's attributes.

        Override it where the adapter's content lies elsewhere, such as in a file, or where an attribute is neither a
        plain value, a tensor, nor a container of these: for those AdapterError is raised.
        """
        from laur.optimize.content import content_sha256

        return content_sha256(self, base=BaseAdapter, leave_out="name")

    def check(self, layers: Mapping[str, LayerShape]) -> None:
        """Raise MismatchError if the adapter was made for another model. Quick: reads no weights."""
        del layers

    def deltas(self, layers: Mapping[str, LayerShape]) -> Mapping[str, Delta]:
        """What it adds to the weights of layers, by canonical name.

        A canonical name is the component's name in a diffusers pipeline, then the module's within it:
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", "text_encoder.…", "text_encoder_2.…".
        `layers` may hold one component or several; deltas for other components are left out.
        """
        del layers
        return {}

    def rows(self, rows: list[Row]) -> list[Row]:
        """The picture's own rows of a step, changed; as many as there were, in the same order."""
        return rows

    def tokens(self, row: Row) -> Tensor | None:
        """(M, D) image prompt states for this row, or None."""
        del row
        return None

    def residuals(self, row: Row) -> tuple[Tensor, ...] | None:
        """ControlNet or T2I residuals for this row, one per skip connection, then the middle block's; or None."""
        del row
        return None

    def on_x0(self, step: int, total: int, x0: Tensor) -> Tensor:
        """The finished picture as foreseen at step 1 … `total`, (C, h, w) float32, changed. Do not write into `x0`."""
        del step, total
        return x0
