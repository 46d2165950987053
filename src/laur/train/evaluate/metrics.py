"""What is measured: names, units, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One column of the table."""

    key: str
    title: str
    better: Literal["lower", "higher"]
    says: str
    """What it says, in a sentence."""
    digits: int = 2
    percent: bool = False


DISTRIBUTION: Final = (
    Metric(
        key="kid",
        title="KID x1000",
        better="lower",
        says="Distance between the two sets of pictures (polynomial kernel); without bias, so 0 means alike.",
    ),
    Metric(
        key="fd",
        title="FD",
        better="lower",
        says="Fréchet distance between the sets, each as a Gaussian. It has a bias that falls with more pictures.",
        digits=1,
    ),
    Metric(
        key="mmd",
        title="MMD x1000",
        better="lower",
        says="As KID under CMMD's Gaussian kernel, sigma 10: it sees every difference, not the first moments alone.",
    ),
    Metric(
        key="precision",
        title="precision",
        better="higher",
        says="Part of the pictures that lie among the teacher's: fidelity.",
        percent=True,
    ),
    Metric(
        key="recall",
        title="recall",
        better="higher",
        says="Part of the teacher's pictures that lie among these: variety.",
        percent=True,
    ),
    Metric(
        key="density",
        title="density",
        better="higher",
        says="How thickly the teacher's pictures lie around these; 1 is as thickly as around the teacher's own.",
    ),
    Metric(
        key="coverage",
        title="coverage",
        better="higher",
        says="Part of the teacher's pictures that have one of these as near as its fifth neighbour.",
        percent=True,
    ),
)
AGREEMENT: Final = Metric(
    key="caption",
    title="caption found",
    better="higher",
    says="Part of the pictures for which the scorer picks the right caption among several.",
    percent=True,
)
LIKENESS: Final = (
    Metric(
        key="psnr",
        title="PSNR to teacher, dB",
        better="higher",
        says="Consistency: pixels against the teacher's picture from the same noise.",
        digits=1,
    ),
    Metric(
        key="distance",
        title="distance to teacher",
        better="lower",
        says="Consistency: features against the teacher's picture from the same noise.",
    ),
)
SCALED: Final = frozenset({"kid", "mmd"})
"""Shown times 1000."""
ALL: Final = {metric.key: metric for metric in (*DISTRIBUTION, AGREEMENT, *LIKENESS)}
