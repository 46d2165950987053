"""Laur: few-step image generation with latent consistency models and LCM-LoRA.

    import laur
    laur.generate("a red fox", seed=7).images[0]

Names are imported when they are first used, so that `import laur` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from laur.core.errors import LaurError
    from laur.core.recipe import AdapterRef, Recipe
    from laur.optimize import BaseAdapter, register
    from laur.pipeline.engine import Engine
    from laur.pipeline.standard import Result, StandardPipeline, generate

__version__ = "0.1.0"

_HOMES = {
    "AdapterRef": "laur.core.recipe",
    "BaseAdapter": "laur.optimize",
    "Engine": "laur.pipeline.engine",
    "LaurError": "laur.core.errors",
    "Recipe": "laur.core.recipe",
    "Result": "laur.pipeline.standard",
    "StandardPipeline": "laur.pipeline.standard",
    "generate": "laur.pipeline.standard",
    "register": "laur.optimize",
}

__all__ = [
    "AdapterRef",
    "BaseAdapter",
    "Engine",
    "LaurError",
    "Recipe",
    "Result",
    "StandardPipeline",
    "__version__",
    "generate",
    "register",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'laur' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
