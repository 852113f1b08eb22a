"""Where the members of a group are, in the maps: all that writing a step's gains needs of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.arrays import IntArray, TokenArray


class GroupMaps(Protocol):
    """The part of `AlignmentMaps` that groups are found with."""

    @property
    def offsets(self) -> IntArray:
        """Begin of each expert token's group in `members`, shape (expert tokens + 1,)."""

    @property
    def members(self) -> TokenArray:
        """Host tokens by group."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReceivedMaps:
    """That part, on a rank that another rank has sent it to."""

    offsets: IntArray
    members: TokenArray


def runs_of(experts: IntArray, maps: GroupMaps) -> tuple[IntArray, IntArray]:
    """Return begin and size of each expert token's run in `members`; 0 and 0 for `NOTHING`."""
    known = experts != NOTHING
    at = np.where(known, experts, 0)
    begins = np.where(known, maps.offsets[at], 0)
    return begins, np.where(known, maps.offsets[at + 1], 0) - begins
