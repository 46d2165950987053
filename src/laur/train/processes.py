"""The processes of one run, as accelerate or torchrun starts them: who is first, and what they agree on.

Gradients are averaged over processes once an update, by all-reduce of flat pieces, and not by a wrapper around the
network: an objective may then call its network as often and in whatever form it likes, and the parameters keep names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laur.core.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = 2**24
"""Elements of one all-reduce: 64 MiB of float32, large enough for the network and small beside the model."""


class Processes:
    """One process of `count`; alone, everything here does nothing."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank = rank
        self.count = count

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def rows(self, batch: int, accumulate: int) -> list[slice]:
        """This process's slices of the global batch, in order. Raises TrainingError where they would not be equal."""
        parts = self.count * accumulate
        if batch % parts:
            over = f"{self.count} processes x {accumulate} slices" if self.count > 1 else f"{accumulate} slices"
            raise TrainingError(f"a batch of {batch} cannot be split evenly over {over}; take a multiple of {parts}")
        size = batch // parts
        first = self.rank * accumulate
        return [slice(i * size, (i + 1) * size) for i in range(first, first + accumulate)]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Put into each tensor, in place, its mean over processes."""
        if self.count == 1:
            return

        def reduce(flat: Tensor) -> None:
            torch.distributed.all_reduce(flat)
            flat.div_(self.count)

        _in_pieces(list(tensors), reduce)

    def take_first(self, tensors: Iterable[Tensor]) -> None:
        """Put into each tensor, in place, what the first process has."""
        if self.count > 1:
            _in_pieces(list(tensors), lambda flat: torch.distributed.broadcast(flat, 0))

    def sum(self, values: Sequence[float], device: torch.device) -> list[float]:
        """The sum of each value over processes, the same bits in all of them."""
        if self.count == 1:
            return list(values)
        vector = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(vector)
        return vector.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in order of rank, on all of them."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return list(gather_object([value]))

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            torch.distributed.barrier()

    def close(self) -> None:
        """Leave the others in good order."""
        if self.count > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def start(device: str | None) -> tuple[Processes, str | None]:
    """The processes that the environment tells of, and the device of this one (`cuda:1` of the second on a machine).

    `accelerate launch` and `torchrun` set RANK, WORLD_SIZE and LOCAL_RANK.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes(), device
    from accelerate import PartialState

    on_cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
    state = PartialState(cpu=on_cpu)
    on_gpu = state.device is not None and state.device.type == "cuda"
    place = f"cuda:{state.local_process_index}" if on_gpu else device
    return Processes(state.process_index, state.num_processes), place


@torch.no_grad()
def _in_pieces(tensors: Sequence[Tensor], act: Callable[[Tensor], object]) -> None:
    """`act` on flat copies of about `PIECE` elements, then back into the tensors."""
    waiting: list[Tensor] = []
    for index, tensor in enumerate(tensors):
        waiting.append(tensor)
        if index + 1 == len(tensors) or sum(t.numel() for t in waiting) + tensors[index + 1].numel() > PIECE:
            flat = torch.cat([t.reshape(-1) for t in waiting])
            act(flat)
            for t, part in zip(waiting, flat.split([t.numel() for t in waiting]), strict=True):
                t.copy_(part.view(t.shape))
            waiting = []
