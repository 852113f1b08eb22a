r"""The likeliest group first, then its likeliest token: greedy decoding of fused rows.

One token of the expert may stand for several of the host's. Where the expert means to close a
record with ``"}``, the host may write ``"}``, ``"}\n`` or ``"}\n\n``: their sum may be the
likeliest event of the row although another token is likelier than each of them alone. So the
likeliest token of the likeliest group gets the whole group's logit. Every other token keeps its
own, and a group of one token changes nothing: with equal vocabularies every group is one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vllm_logits_processor.alignment.align import Aligned
from vllm_logits_processor.alignment.groups import runs
from vllm_logits_processor.arrays import Float64Array, IntArray


@dataclass(frozen=True, kw_only=True, eq=False)
class LeadingGroups:
    """The likeliest group of each greedy row.

    Attributes
    ----------
    places : int64 array, shape (leaders,)
        Places of the rows among those of `aligned`, ascending.
    groups : int64 array, shape (leaders,)
        The numbers of the groups, see :class:`vllm_logits_processor.alignment.groups.StepGroups`.
    link_begins : int64 array, shape (leaders + 1,)
        Where each leader's members by g begin in `links`.
    links : int64 array
        Singles that g or a remainder puts into the leading groups.
    """

    aligned: Aligned
    places: IntArray
    groups: IntArray
    link_begins: IntArray
    links: IntArray

    def lift(self, logits: torch.Tensor, rows: IntArray) -> None:
        """Lift the leaders' likeliest tokens in place.

        Parameters
        ----------
        logits : torch.Tensor, shape (batch, vocabulary), float32, on a CPU
            After fusion.
        rows : int64 array, shape (rows,)
            The rows of `logits` that `aligned` is for.
        """
        from vllm_logits_processor.alignment.cpu_pass import lift_leaders

        groups = self.aligned.groups
        lift_leaders(
            logits.numpy(),
            rows[self.places],
            np.asarray(self.aligned.maps.members),
            groups.begins.reshape(-1)[self.groups],
            groups.sizes.reshape(-1)[self.groups],
            self.link_begins,
            groups.single_token[self.links],
        )

    def lifted(self, values: torch.Tensor) -> torch.Tensor:
        """Return the members' logits with the leaders' likeliest tokens lifted.

        Nothing waits for the device.

        Parameters
        ----------
        values : torch.Tensor, shape (members,), float32
            The members' logits after fusion.
        """
        sizes = self.aligned.groups.sizes.reshape(-1)
        starts = (np.cumsum(sizes) - sizes)[self.groups]
        sizes, linked = sizes[self.groups], np.diff(self.link_begins)
        leaders = np.arange(len(self.groups))
        members = np.concatenate([runs(starts, sizes), self.aligned.groups.single_at[self.links]])
        of = np.concatenate([np.repeat(leaders, sizes), np.repeat(leaders, linked)])
        index = torch.from_numpy(members).to(values.device)
        leader = torch.from_numpy(of).to(values.device)
        logits = values.index_select(0, index).double()
        count = len(leaders)
        most = logits.new_full((count,), -torch.inf).scatter_reduce_(0, leader, logits, "amax")
        terms = (logits - most[leader]).exp()
        whole = most + logits.new_zeros(count).scatter_add_(0, leader, terms).log()
        # The first of several equal ones, as an argmax takes it.
        places_of_most = torch.where(logits == most[leader], index, len(values))
        first = index.new_full((count,), len(values)).scatter_reduce_(
            0, leader, places_of_most, "amin"
        )
        chosen = index == first[leader]
        new = torch.where(chosen, whole[leader], logits).float()
        return values.index_copy(0, index, new)


def leading_groups(
    aligned: Aligned, changes: Float64Array, rows: npt.NDArray[np.bool_]
) -> LeadingGroups | None:
    """Return the likeliest groups of some rows, or None if there are none.

    The tail is no group here: each of its tokens stands for itself.

    Parameters
    ----------
    changes : float64 array, shape (parts,)
        By what fusion multiplies the host's probability of a part's tokens.
    rows : bool array, shape (rows,)
        The rows to look at.
    """
    groups = aligned.groups
    width = groups.sizes.shape[1]
    mass = groups.member_sums(aligned.mass * changes)[:, :-1]
    leader = mass.argmax(axis=1)
    places = np.flatnonzero(rows & (np.take_along_axis(mass, leader[:, None], 1)[:, 0] > 0))
    if not len(places):
        return None
    numbers = places * width + leader[places]
    leads = np.zeros(groups.sizes.size, dtype=np.bool_)
    leads[numbers] = True
    linked = np.flatnonzero(leads[groups.link_group])
    # Remainders follow all others.
    linked = linked[np.argsort(groups.link_group[linked], kind="stable")]
    return LeadingGroups(
        aligned=aligned,
        places=places,
        groups=numbers,
        link_begins=np.append(
            np.searchsorted(groups.link_group[linked], numbers), len(linked)
        ).astype(np.int64),
        links=groups.link_single[linked],
    )
