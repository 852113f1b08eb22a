"""Counts the memory of a training step beside the model's weights."""

from __future__ import annotations

import weakref
from collections.abc import Collection
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class SavedBytes(saved_tensors_hooks):
    """Counts what the forward pass saves for the backward pass, as a context.

    Parameters
    ----------
    own : Collection[int]
        Addresses of the weights' storages, which are not counted.
    """

    def __init__(self, own: Collection[int]) -> None:
        super().__init__(self._record, lambda tensor: tensor)
        self._own = own
        self._saved: dict[int, int] = {}

    @property
    def most(self) -> int:
        """Bytes so far."""
        return sum(self._saved.values())

    def _record(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._saved[storage.data_ptr()] = storage.nbytes()
        return tensor


class AliveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive at once, as a context.

    With gradient checkpointing a step keeps inputs of layers and, layer by layer, what it computes
    anew: neither is saved where `SavedBytes` looks. This looks at every operation, which takes
    several times as long.

    Parameters
    ----------
    own : Collection[int]
        Addresses of the weights' storages, which are not counted.

    Attributes
    ----------
    most : int
        Most bytes so far.
    """

    def __init__(self, own: Collection[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._now = 0
        self._own = own
        self._alive: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._alive or storage.data_ptr() in self._own:
            return
        size = storage.nbytes()
        self._alive[storage] = size
        self._now += size
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self._now -= size
