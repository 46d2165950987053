"""Networks are built without memory for their weights, in one thread, while others build and run theirs.

accelerate's `init_empty_weights` patches torch's Module for the whole process: what another thread builds meanwhile is
empty too, and two that overlap leave the patch behind. Modes of torch belong to their thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class EmptyWeights(TorchFunctionMode):
    """Within it `torch.empty`, which all layers make their parameters with, gives tensors on the meta device.

    Buffers are made of values (arange, zeros) and stay as they are.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """See TorchFunctionMode."""
        given = dict(kwargs or {})
        if func is torch.empty:
            given["device"] = "meta"
        return func(*args, **given)
