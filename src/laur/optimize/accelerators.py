"""Cards of published accelerators: how each was distilled, so how it must be sampled, known by its files' names.

All are LoRAs that cut a model's steps to between 1 and 12. Each was trained for its own timesteps and guidance; with
others it draws blurred or burnt pictures. "Trailing" timesteps are T, T - T/n, … less 1 (arXiv 2305.08891, table 2):
999, 749, 499, 249 for 4 steps of 1000.

    LCM-LoRA        arXiv 2311.05556, section 3; lcm, 4 steps, no guidance
    TCD             arXiv 2402.19159; model cards of h1t/TCD-SDXL-LoRA and TCD-SD15-LoRA: tcd, 4 steps, eta 0.3
    Hyper-SD        arXiv 2404.13686; model card of ByteDance/Hyper-SD: N-step files DDIM with trailing timesteps, the
                    1-step file TCD with eta 1, CFG-preserving files (8 and 12 steps) guidance 5 to 8
    SDXL-Lightning  arXiv 2402.13929; model card of ByteDance/SDXL-Lightning: Euler with trailing timesteps
    DMD2            arXiv 2405.14867; model card of tianweiy/DMD2: LCM's sampler at 999, 749, 499, 249
    PCM             arXiv 2405.18407; model card of wangfuyun/PCM_Weights: DDIM or Euler with trailing timesteps;
                    smallcfg files guidance 1 to 2, normalcfg 2.5 to 3.5 in 4 steps and 3 to 6 in 8; lcmlike as LCM

diffusers' guidance 0 and Laur's 1 are the same: no second prediction. Where a card says DDIM, `euler` is taken: without
fresh noise both take the same steps, and Euler allows timesteps to be given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from laur.optimize.base import Recommendation

LCM_LORA = Recommendation(sampler="lcm", steps=4, guidance=1.0, accelerates=True)
"""As its authors use it: 4 steps, no guidance on top of what is distilled in (section 3)."""

TRAINED_ON = 1000
"""Timesteps of the models that all of them were made for."""
_STEPS = re.compile(r"(?<![0-9])(\d{1,2})[-_ ]?steps?(?![a-z])", re.IGNORECASE)

_BESIDE = re.compile(
    r"(?<![a-z])(?:for|with|without|supports?|no|not)[-_ ]+[^-_ ]+"
    r"|[^-_ ]+[-_ ](?:compatible|friendly|ready|supported)(?![a-z])",
    re.IGNORECASE,
)
"""What a title says that a file goes with: "for LCM", "works with TCD", "LCM compatible"."""


@dataclass(frozen=True, slots=True)
class Card:
    """One family of published files."""

    name: str
    source: str
    """Where its files and their settings were published."""
    pattern: re.Pattern[str]
    """Found in the name of every one of its files."""
    recommend: Callable[[str, int | None], Recommendation | None]
    """From a title and the steps that it names; None where the title is not of this family after all."""


def recognise(titles: Iterable[str]) -> tuple[Card, Recommendation] | None:
    """The accelerator that one of these titles (file names, metadata) names, and how it is to be sampled.

    A title that names it as what something else is for, or goes with, is no accelerator's.
    """
    titles = [_BESIDE.sub(" ", title) for title in titles]
    for card in CARDS:
        for title in titles:
            if card.pattern.search(title):
                steps = _STEPS.search(title)
                found = card.recommend(title, int(steps[1]) if steps else None)
                if found is not None:
                    return card, found
    return None


def trailing(steps: int, T: int = TRAINED_ON) -> tuple[int, ...]:
    """The timesteps of `steps` steps with trailing spacing."""
    return tuple(round(T - number * T / steps) - 1 for number in range(steps))


def _deterministic(steps: int, guidance: float = 1.0) -> Recommendation:
    return Recommendation(
        sampler="euler", steps=steps, guidance=guidance, timesteps=trailing(steps), trailing=True, accelerates=True
    )


def _hyper_sd(title: str, steps: int | None) -> Recommendation:
    if re.search(r"(?<![a-z])cfg(?![a-z])", title, re.IGNORECASE):
        return _deterministic(steps or 8, guidance=5.0)
    if steps == 1:
        return Recommendation(sampler="tcd", steps=1, guidance=1.0, eta=1.0, accelerates=True)
    return _deterministic(steps or 4)


def _lightning(title: str, steps: int | None) -> Recommendation | None:
    """Only with its steps: "lightning" alone is a word that styles are called too."""
    del title
    return None if steps is None else _deterministic(steps)


def _dmd2(title: str, steps: int | None) -> Recommendation:
    del title
    count = steps or 4
    return Recommendation(
        sampler="lcm", steps=count, guidance=1.0, timesteps=trailing(count), trailing=True, accelerates=True
    )


def _pcm(title: str, steps: int | None) -> Recommendation:
    plain = title.lower()
    if "lcmlike" in plain:
        return LCM_LORA
    count = steps or 4
    normal = {2: 2.5, 4: 3.0, 8: 4.5}.get(count, 6.0)
    return _deterministic(count, guidance=normal if "normalcfg" in plain else 1.0)


def _tcd(title: str, steps: int | None) -> Recommendation:
    del title
    return Recommendation(sampler="tcd", steps=steps or 4, guidance=1.0, eta=0.3, accelerates=True)


def _lcm(title: str, steps: int | None) -> Recommendation:
    del title, steps
    return LCM_LORA


def _word(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z])({pattern})", re.IGNORECASE)


CARDS: tuple[Card, ...] = (
    Card("Hyper-SD", "hub: ByteDance/Hyper-SD", _word(r"hyper[-_ ]?sd(?=xl|15|1\.5|[-_ 0-9]|$)"), _hyper_sd),
    Card("SDXL-Lightning", "hub: ByteDance/SDXL-Lightning", _word(r"sdxl[-_ ]?lightning(?![a-z])"), _lightning),
    Card("DMD2", "hub: tianweiy/DMD2", _word(r"dmd2(?![a-z0-9])"), _dmd2),
    Card("PCM", "hub: wangfuyun/PCM_Weights", _word(r"pcm(?![a-z])"), _pcm),
    Card("TCD", "hub: h1t/TCD-SDXL-LoRA, h1t/TCD-SD15-LoRA", _word(r"tcd(?![a-z])"), _tcd),
    Card("LCM-LoRA", "hub: latent-consistency", _word(r"(lcm|latent.?consistency)(?![a-z])"), _lcm),
)
"""The most telling names first."""
