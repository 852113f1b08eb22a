"""The logits of a step that change, and by how much: written alike on every rank and device.

A step adds one number to all members of a group. So a rank that has the maps needs the expert's top
K with a gain for each, and the few tokens that have a gain of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
import torch

from vllm_logits_processor.alignment.group_runs import GroupMaps, runs_of
from vllm_logits_processor.alignment.groups import runs
from vllm_logits_processor.alignment.packed import Packed
from vllm_logits_processor.arrays import IntArray

if TYPE_CHECKING:
    from vllm_logits_processor.leading_groups import LeadingGroups

#: The parts of packed gains.
PARTS = (
    "rows",
    "token_ids",
    "gains",
    "single_row",
    "single_token",
    "single_gains",
    "single_logits",
    "leader_places",
    "leader_experts",
    "link_begins",
    "link_tokens",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Gains:
    """What a step adds to the logits of its rows.

    Attributes
    ----------
    rows : int64 array, shape (rows,)
        The rows of the logits that change.
    token_ids : int64 array, shape (rows, K)
        The expert's top K; `NOTHING` where a group has no members by f.
    begins, sizes : int64 arrays, shape (rows, K + 1)
        The run of each group in the maps' `members`; the last column is not used.
    gains : float32 array, shape (rows * (K + 1) + singles,)
        Those of the groups and, last in each row, of the tail, which is not added; then of the
        tokens with a gain of their own.
    single_row, single_token : int64 arrays, shape (singles,)
        These tokens, sorted, none twice; `single_row` are places in `rows`.
    leaders : LeadingGroups, optional
        Groups whose likeliest token gets the whole group's logit, after all that.
    """

    rows: IntArray
    token_ids: IntArray
    begins: IntArray
    sizes: IntArray
    gains: npt.NDArray[np.float32]
    single_row: IntArray
    single_token: IntArray
    leaders: LeadingGroups | None = None

    def write(self, logits: torch.Tensor, maps: GroupMaps) -> None:
        """Add the gains to logits, shape (batch, vocabulary), on their device."""
        if logits.device.type != "cpu":
            SentGains.to(logits.device, self.packed()).write(logits, maps)
            return
        from vllm_logits_processor.alignment.cpu_pass import add_to_members

        add_to_members(
            logits.numpy(),
            self.rows,
            np.asarray(maps.members),
            self.begins,
            self.sizes,
            self.single_row,
            self.single_token,
            self.gains,
        )
        if self.leaders is not None:
            self.leaders.lift(logits, self.rows, maps)

    def index(self, columns: int, maps: GroupMaps) -> IntArray:
        """Return the places in ``logits.view(-1)`` that change, ascending."""
        sizes = self.sizes[:, :-1]
        of_runs = np.asarray(maps.members)[runs(self.begins[:, :-1].reshape(-1), sizes.reshape(-1))]
        row_begins = self.rows * columns
        by_f = np.repeat(row_begins, sizes.sum(axis=1)) + of_runs
        return np.unique(np.append(by_f, row_begins[self.single_row] + self.single_token))

    def packed(self) -> Packed:
        """Return all of it but the runs, which the maps have, as numbers of 4 bytes."""
        count, width = self.token_ids.shape
        of_groups = self.gains[: count * (width + 1)].reshape(count, width + 1)
        none = np.empty(0, dtype=np.int64)
        led = self.leaders
        parts: tuple[npt.NDArray[np.int64] | npt.NDArray[np.float32], ...] = (
            self.rows,
            self.token_ids,
            of_groups[:, :width],
            self.single_row,
            self.single_token,
            self.gains[count * (width + 1) :],
            # Room for what these tokens have before, so that to write takes no more memory.
            np.zeros(len(self.single_row), dtype=np.float32),
            *(
                (none, none, none, none)
                if led is None
                else (led.places, led.experts, led.link_begins, led.link_tokens)
            ),
        )
        return Packed.of(dict(zip(PARTS, parts, strict=True)))

    @classmethod
    def unpacked(cls, packed: Packed, maps: GroupMaps) -> Self:
        """Return what was packed; the gains of the tails are 0."""
        from vllm_logits_processor.leading_groups import LeadingGroups

        rows, token_ids = packed.integers("rows"), packed.integers("token_ids")
        token_ids = token_ids.reshape(len(rows), -1)
        tables = runs_of(token_ids, maps)
        begins, sizes = (np.pad(table, ((0, 0), (0, 1))) for table in tables)
        of_groups = np.pad(packed.floats("gains").reshape(token_ids.shape), ((0, 0), (0, 1)))
        leaders = None
        if packed.size("leader_places"):
            leaders = LeadingGroups(
                places=packed.integers("leader_places"),
                experts=packed.integers("leader_experts"),
                link_begins=packed.integers("link_begins"),
                link_tokens=packed.integers("link_tokens"),
            )
        return cls(
            rows=rows,
            token_ids=token_ids,
            begins=begins,
            sizes=sizes,
            gains=np.append(of_groups.reshape(-1), packed.floats("single_gains")),
            single_row=packed.integers("single_row"),
            single_token=packed.integers("single_token"),
            leaders=leaders,
        )


@dataclass(frozen=True, eq=False)
class SentGains:
    """Gains that came from another rank, or are on this one's device already.

    Attributes
    ----------
    sent : Packed
    on_device : int32 tensor, optional
        The same on the logits' device, if that is not the CPU.
    """

    sent: Packed
    on_device: torch.Tensor | None

    @classmethod
    def to(cls, device: torch.device, packed: Packed) -> Self:
        """Copy packed gains to a device that is not the CPU."""
        from vllm_logits_processor.alignment.device_pass import sent

        return cls(packed, sent(device, packed.data))

    def packed(self) -> Packed:
        """Return the gains as they were sent."""
        return self.sent

    def write(self, logits: torch.Tensor, maps: GroupMaps) -> None:
        """See `Gains.write`."""
        if self.on_device is None:
            Gains.unpacked(self.sent, maps).write(logits, maps)
            return
        from vllm_logits_processor.alignment.device_pass import write_gains

        write_gains(logits, self.on_device, self.sent, maps)

    def index(self, columns: int, maps: GroupMaps) -> IntArray:
        """See `Gains.index`."""
        return Gains.unpacked(self.sent, maps).index(columns, maps)


class FusedCells:
    """The logits of a step that change.

    Parameters
    ----------
    gains : Gains or SentGains or None
        None where nothing changes.
    maps : GroupMaps, optional
        The maps that the gains' groups are of.
    logits : torch.Tensor, optional
        The logits of the step, for `index` and `values`.
    """

    def __init__(
        self,
        gains: Gains | SentGains | None,
        maps: GroupMaps | None = None,
        *,
        logits: torch.Tensor | None = None,
    ) -> None:
        self.gains, self.maps, self._logits = gains, maps, logits
        self._written: torch.Tensor | None = None

    @classmethod
    def none(cls) -> FusedCells:
        """Return the cells of a step in which nothing changes."""
        return FusedCells(None)

    @cached_property
    def index(self) -> torch.Tensor:
        """Places in ``logits.view(-1)``, ascending, int64, shape (cells,)."""
        if self.gains is None or self.maps is None or self._logits is None:
            return torch.empty(0, dtype=torch.int64)
        return torch.from_numpy(self.gains.index(self._logits.shape[1], self.maps))

    @property
    def values(self) -> torch.Tensor:
        """The logits at these places after fusion, shape (cells,)."""
        if self.gains is None or self.maps is None or self._logits is None:
            return torch.empty(0)
        written = self._logits
        if self._written is not written:
            written = written.clone()
            self.gains.write(written, self.maps)
        return written.view(-1)[self.index.to(written.device)]

    def write(self, logits: torch.Tensor) -> None:
        """Write the cells into `logits`, shape (batch, vocabulary), in place.

        A further call with the same tensor changes nothing more.
        """
        if self.gains is None or self.maps is None or self._written is logits:
            return
        self._written = logits
        self.gains.write(logits, self.maps)
