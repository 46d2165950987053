"""One picture on its way through an Engine."""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import TYPE_CHECKING

from laur.core.denoiser import Row
from laur.core.errors import AdapterError
from laur.core.noise import Noise
from laur.core.plan import Stage
from laur.core.sampler.table import StepCoefficients
from laur.pipeline.regions import shares

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from laur.core.pytorch.rows.factors import RowSet
    from laur.input.vectorize import States
    from laur.optimize import BaseAdapter
    from laur.pipeline.begun import Begun
    from laur.pipeline.events import Ticket
    from laur.pipeline.library import Library

Lane = tuple[Hashable, ...]
"""Checkpoint and merged adapters (which make the denoiser), then latent shape and context length."""


class Running:
    """State of a ticket between steps. Owned by one Engine; nothing of it is shared with another ticket."""

    def __init__(self, ticket: Ticket, library: Library) -> None:
        self.ticket = ticket
        self.steps_done = 0
        self._library = library
        self._noise = Noise(ticket.plan.seed, ticket.plan.latent_shape)
        self._stage = 0
        self._step = 0
        self._draws = 1
        self.x0: Tensor | None = None
        self.text_seconds = 0.0
        """That encoding texts took so far."""
        self._enter(0)
        self._begun = self._begin()
        self.latent: Tensor = (
            self._draw(0) * self.stage.table.initial_scale if self._begun is None else self._begun.latent
        )

    @property
    def stage(self) -> Stage:
        """The stage that runs now."""
        return self.ticket.plan.stages[self._stage]

    @property
    def step(self) -> StepCoefficients:
        """The step to do next."""
        return self.stage.table.steps[self._step]

    @property
    def finished(self) -> bool:
        """Whether every stage is through."""
        return self._stage >= len(self.ticket.plan.stages)

    @property
    def lane(self) -> Lane:
        """What this ticket's next step may share a batch with: denoiser, latent shape, context length."""
        stage = self.stage
        return stage.checkpoint, self._pinned, tuple(self.latent.shape), self._states[0].context.shape[0]

    def rows(self) -> list[Row]:
        """The rows of the next step."""
        from laur.optimize.hooks import hooked_rows

        for rows in dict.fromkeys(self._sets):
            if rows is not None:
                self._library.rows.store.used(rows)
        rows = [
            Row(
                latent=self.latent,
                timestep=self.step.timestep,
                context=states.context,
                pooled=states.pooled,
                size_ids=spec.size_ids,
                guidance_embedding=spec.guidance_embedding,
                adapters=rows,
            )
            for spec, states, rows in zip(self.stage.rows, self._states, self._sets, strict=True)
        ]
        hooked = hooked_rows(self._adapters, rows)
        shapes = [tuple(row.context.shape) for row in rows]
        if [tuple(row.context.shape) for row in hooked] != shapes:
            raise AdapterError("an adapter's rows changed their number or the length of their context; keep both")
        return hooked

    def noise(self) -> Tensor | None:
        """The draw of the next step, (C, h, w), or None where it takes none."""
        if not self.step.draws:
            return None
        return self._draw(self._draws)

    def hooked(self, x0: Tensor) -> Tensor:
        """x0 after the adapters' own changes."""
        from laur.optimize.hooks import hooked_x0

        return hooked_x0(self._adapters, self.steps_done + 1, self.ticket.plan.steps, x0)

    @property
    def has_hooks(self) -> bool:
        """Whether any adapter may change x0 between steps."""
        from laur.optimize.hooks import overrides

        return any(weight and overrides(adapter, "on_x0") for adapter, weight in self._adapters)

    @property
    def changes_rows(self) -> bool:
        """Whether any adapter may change the rows that the network sees."""
        from laur.optimize.hooks import overrides

        hooks = ("rows", "tokens", "residuals")
        return any(weight and overrides(adapter, hook) for adapter, weight in self._adapters for hook in hooks)

    def advance(self, latent: Tensor, x0: Tensor) -> None:
        """Take the outcome of the step and move on to the next, or into the next stage."""
        self._draws += self.step.draws
        self.latent, self.x0 = latent, x0
        self.steps_done += 1
        self._step += 1
        if self._step == len(self.stage.table.steps):
            self._stage, self._step, self._draws = self._stage + 1, 0, 1
            if not self.finished:
                self.x0 = None
                self._enter(self._stage)
        if self._begun is not None:
            self.latent = self._begun.blend(latent, None if self.finished else self.step)

    def seen(self, x0: Tensor) -> Tensor:
        """The predicted x0 as it is shown: with the kept part of a masked picture in its place."""
        return x0 if self._begun is None else self._begun.blend(x0, None)

    def finish(self, pixels: np.ndarray) -> np.ndarray:
        """What becomes the picture, from the decoded pixels (H, W, 3) uint8 of the plan's size."""
        return pixels if self._begun is None else self._begun.finish(pixels)

    def _begin(self) -> Begun | None:
        """What the plan's picture says; it comes before the draws of the steps."""
        plan = self.ticket.plan
        if plan.begin is None:
            return None
        from laur.pipeline.begun import Begun

        begun = Begun(plan, self.stage.table, self._library, self._draw)
        self._draws = begun.draws
        return begun

    def _draw(self, index: int) -> Tensor:
        return self._noise.draw(self._stage, index).to(self._library.placement.device)

    def _enter(self, index: int) -> None:
        """Fetch what a stage needs from the library, so that a fault shows before its first step."""
        stage = self.ticket.plan.stages[index]
        adapters = self._library.rows
        self._pinned = adapters.pinned(stage.checkpoint, stage.adapters)
        self._sets: list[RowSet | None] = [
            adapters.row_set(stage.checkpoint, (*stage.adapters, *spec.adapters)) for spec in stage.rows
        ]
        self._adapters: list[tuple[BaseAdapter, float]] = [
            (self._library.by_content(use.sha256), use.weight) for use in stage.adapters
        ]
        began = time.perf_counter()
        self._states: list[States] = [
            self._library.encode(stage.checkpoint, (*stage.adapters, *spec.adapters), spec.text) for spec in stage.rows
        ]
        self.text_seconds += time.perf_counter() - began
        self.shares = shares(stage.combine.regions, self.ticket.plan, self._library)
