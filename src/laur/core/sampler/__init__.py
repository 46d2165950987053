"""Samplers as tables of coefficients."""

from __future__ import annotations

SAMPLERS: tuple[str, ...] = ("lcm", "tcd", "ddim", "euler", "dpm++2m")
"""The names that a Recipe's `sampler` takes. `lcm` and `tcd` are for distilled models and adapters."""

DISTILLED: frozenset[str] = frozenset({"lcm", "tcd"})
"""Samplers that need a consistency model: without one, or an adapter that makes one, they draw noise."""
