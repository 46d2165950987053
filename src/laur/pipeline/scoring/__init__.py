"""How well a picture fits its prompt, as a number: for `laur generate --best-of` and `laur evaluate`.

    base         Scorer: what one is, and the registry
    mini         the one that ships: a small contrastive encoder for icons and emoji, mini's kind of picture
    clip         a CLIP model's folder
    network      mini's two towers
    compact      their weights in 8 bits

A scorer of one's own:

    @register("mine")
    class Mine(Scorer):
        name = key = "mine-1"
        def __init__(self, device): ...
        def scores(self, pixels, prompts): return (n, m) array

Then `--scorer mine`, where it is imported; a package names it under the entry point group `laur.scorers`.
"""

from laur.pipeline.scoring.base import Scorer, default_scorer, find_scorer, register

__all__ = ["Scorer", "default_scorer", "find_scorer", "register"]
