"""The same picture, cheaper: adapters and their registry, LCM-LoRA, LoRA formats and merging.

An adapter of one's own:

    @register("my-adapter")
    class MyAdapter(BaseAdapter):
        def on_x0(self, step, total, x0):
            return x0.clamp(-2, 2)

and then `Recipe(prompt=…, adapters=(AdapterRef(name="my-adapter", weight=0.5),))`. Packages provide adapters through
the entry point group "laur.adapters".
"""

from __future__ import annotations

from laur.optimize.base import BaseAdapter, Recommendation
from laur.optimize.registry import Registry

ADAPTERS = Registry("laur.adapters")
"""The global registry."""

register = ADAPTERS.register
get_adapter = ADAPTERS.get
adapters = ADAPTERS.names

__all__ = ["ADAPTERS", "BaseAdapter", "Recommendation", "Registry", "adapters", "get_adapter", "register"]
