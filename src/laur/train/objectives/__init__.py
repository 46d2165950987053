"""What each task of `laur train` minimises: its options, and how the objective is built from a checkpoint."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from laur.pipeline.loading.load import LoadedCheckpoint
    from laur.train.objective import Objective


@dataclass(frozen=True, slots=True)
class Task:
    """One task; its module is imported when it is first used."""

    module: str
    options_name: str
    build_name: str = "build"

    @property
    def options(self) -> type[Any]:
        """The dataclass of the configuration's [objective] table."""
        return getattr(self._module, self.options_name)

    def build(self, options: Any, loaded: LoadedCheckpoint, device: torch.device) -> Objective:
        """The objective. Errors: TrainingError, CheckpointError."""
        make: Callable[..., Objective] = getattr(self._module, self.build_name)
        return make(options, loaded, device)

    @property
    def _module(self) -> Any:
        return importlib.import_module(f"laur.train.objectives.{self.module}")


TASKS: dict[str, Task] = {
    "base": Task("base", "BaseOptions"),
    "vae": Task("vae", "VaeOptions"),
    "lcm": Task("lcm", "LcmOptions"),
    "lcm-lora": Task("lcm", "LcmLoraOptions", "build_lora"),
    "lcf": Task("lcf", "LcfOptions"),
    "style": Task("style", "StyleOptions"),
}
