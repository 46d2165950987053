"""A network's parameters, replaceable, and what is derived from them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from laur.core.errors import MismatchError
from laur.core.pytorch.rows.batch import RowBatch


class Weights:
    """A module's parameters by canonical name, replaceable without touching the module they came from.

    `module` is a copy that shares every tensor with the original; `load` puts other tensors into the copy.
    """

    def __init__(self, module: nn.Module) -> None:
        tensors = [*module.parameters(), *module.buffers()]
        self.module = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
        self._base: dict[str, Tensor] = dict(self.module.named_parameters())
        self._now = dict(self._base)
        self._users: dict[str, list[Packed]] = {}
        self.per_row: set[str] = set()
        """Layers that can be different for each row of a call."""
        self.rows: RowBatch | None = None
        """The adapters of the call under way; its network sets it and takes it back."""

    def __getitem__(self, name: str) -> Tensor:
        return self._now[name]

    def get(self, name: str) -> Tensor | None:
        """The parameter of that name, or None (a layer without bias)."""
        return self._now.get(name)

    def watch(self, user: Packed, names: Iterable[str]) -> None:
        """Tell `user` to forget what it packed whenever one of these parameters changes."""
        for name in names:
            if name in self._now:
                self._users.setdefault(name, []).append(user)

    def load(self, changed: Mapping[str, Tensor]) -> bool:
        """Make the parameters equal the base with `changed` put in; whether anything differs from before."""
        for name, tensor in changed.items():
            if name not in self._base or self._base[name].shape != tensor.shape:
                known = tuple(self._base[name].shape) if name in self._base else "no such parameter"
                raise MismatchError(f"{name} has shape {tuple(tensor.shape)}, the network's is {known}")
        wanted = self._base | dict(changed)
        touched = [name for name, tensor in wanted.items() if tensor is not self._now[name]]
        for name in touched:
            path, _, leaf = name.rpartition(".")
            value = wanted[name]
            if value is not self._base[name]:
                value = nn.Parameter(value.detach().to(self._base[name].dtype), requires_grad=False)
            setattr(self.module.get_submodule(path), leaf, value)
            self._now[name] = wanted[name]
            for user in self._users.get(name, ()):
                user.forget()
        return bool(touched)


class Packed(ABC):
    """Something derived from parameters, made when first needed."""

    @abstractmethod
    def forget(self) -> None:
        """A parameter changed: derive again at the next use."""
