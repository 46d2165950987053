"""What a service promises, and how much of what it may miss is left: the error budget."""

from __future__ import annotations

from dataclasses import dataclass

HOUR = 3600.0
WINDOW = 28 * 24 * HOUR
"""Seconds over which a promise holds: whole weeks, so that every window has as many weekends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Of the jobs that ended within `WINDOW`, done or failed by no fault of the wish, this share is to be done."""

    share: float = 0.99

    @staticmethod
    def success(good: int, bad: int) -> float:
        """Share of good ones; 1 where there were none."""
        return good / (good + bad) if good + bad else 1.0

    def budget_left(self, good: int, bad: int) -> float:
        """1 while nothing failed, 0 once as many failed as may, below 0 beyond."""
        allowed = (good + bad) * (1 - self.share)
        return 1.0 - bad / allowed if allowed > 0 else float(bad == 0)
