"""A key-value cache for transformers whose rows are gathered from places of a `PrefixTree`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

#: Name under which `attend` is known to transformers.
ATTENTION = "floe_gathered"


@dataclass
class Wiring:
    """Where the layers write and read in one forward pass.

    Attributes
    ----------
    write : int64 tensor, shape (rows * queries,)
        Places of the new tokens, row by row.
    read : int64 tensor, shape (rows, length)
        Places that the queries of each row see, by position; `NOWHERE` fills short rows.
    """

    write: torch.Tensor
    read: torch.Tensor


class GatheredLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, by place.

    Everything new is written before anything is read: a row may see what another one of the same
    forward pass brings.

    Parameters
    ----------
    capacity : int
        Number of places.
    """

    is_sliding = False

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self.wiring: Wiring | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the places; memory is taken as they are first written."""
        shape = [
            (self._capacity, each.shape[1], each.shape[3]) for each in (key_states, value_states)
        ]
        self.keys = torch.empty(shape[0], dtype=key_states.dtype)
        self.values = torch.empty(shape[1], dtype=value_states.dtype)
        # Filled-up rows read here, and hide it: it must be finite.
        self.keys[0].zero_()
        self.values[0].zero_()
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new states, shape (rows, heads, queries, width); return all of each row."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.wiring is not None
        return (
            _exchange(self.keys, key_states, self.wiring),
            _exchange(self.values, value_states, self.wiring),
        )

    def get_seq_length(self) -> int:
        """Return 0: positions are given to the model, never counted by the cache."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return length and offset for a mask; ours is given to the model."""
        return query_length, 0

    def get_max_length(self) -> int:
        """Return the number of places."""
        return self._capacity


def _exchange(stored: torch.Tensor, states: torch.Tensor, wiring: Wiring) -> torch.Tensor:
    rows, heads, queries, width = states.shape
    new = states.transpose(1, 2).reshape(rows * queries, heads, width)
    stored.index_copy_(0, wiring.write, new)
    seen = stored.index_select(0, wiring.read.reshape(-1))
    return seen.view(*wiring.read.shape, heads, width).transpose(1, 2)


class GatheredCache(Cache):  # type: ignore[misc]
    """The layers of one model, wired alike in each forward pass."""

    def __init__(self, *, layers: int, capacity: int) -> None:
        self._gathered = [GatheredLayer(capacity) for _ in range(layers)]
        super().__init__(layers=list(self._gathered))

    def wire(self, wiring: Wiring) -> None:
        """Set where the next forward pass writes and reads."""
        for layer in self._gathered:
            layer.wiring = wiring


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend with grouped queries without repeating keys and values for each query head.

    The query heads of one key head become queries of that head: the same sums, and a third (or an
    eighth) of the memory traffic.

    Parameters
    ----------
    module : torch.nn.Module
    query : tensor, shape (rows, query heads, queries, width)
    key, value : tensors, shape (rows, key heads, length, width)
    attention_mask : tensor, shape (rows, 1, queries, length)
        Added to the scores.
    scaling : float, optional

    Returns
    -------
    tuple of (tensor of shape (rows, queries, query heads, width), None)
    """
    del module, kwargs
    rows, heads, queries, width = query.shape
    groups = heads // key.shape[1]
    folded = query.reshape(rows, key.shape[1], groups * queries, width)
    mask = attention_mask.repeat(1, 1, groups, 1) if queries > 1 else attention_mask
    out = torch.nn.functional.scaled_dot_product_attention(
        folded, key, value, attn_mask=mask, scale=scaling
    )
    out = out.reshape(rows, heads, queries, value.shape[-1])
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attend)
