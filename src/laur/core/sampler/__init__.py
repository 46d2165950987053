"""Samplers as tables of coefficients.

`build.build_table` makes a table (data) from a schedule and a wish, `apply.advance` takes one step with it. The names
are here, so that a Recipe can be checked without either.
"""

from __future__ import annotations

SAMPLERS: tuple[str, ...] = ("lcm", "tcd", "ddim", "euler", "dpm++2m")
"""The names that a Recipe's `sampler` takes. `lcm` and `tcd` are for distilled models and adapters."""

DISTILLED: frozenset[str] = frozenset({"lcm", "tcd"})
"""Samplers that need a consistency model: without one, or an adapter that makes one, they draw noise."""

DEFAULT_ETA: dict[str, float] = {"lcm": 1.0, "tcd": 0.3, "ddim": 0.0}
"""The samplers that have an eta, and its value when a Recipe gives none."""
