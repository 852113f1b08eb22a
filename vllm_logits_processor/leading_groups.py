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
from vllm_logits_processor.alignment.group_runs import GroupMaps, runs_of
from vllm_logits_processor.arrays import Float64Array, IntArray


@dataclass(frozen=True, kw_only=True, eq=False)
class LeadingGroups:
    """The likeliest group of each greedy row.

    Attributes
    ----------
    places : int64 array, shape (leaders,)
        Places of the rows among those of the step, ascending.
    experts : int64 array, shape (leaders,)
        The expert tokens that the groups belong to; `NOTHING` for one without members by f.
    link_begins : int64 array, shape (leaders + 1,)
        Where each leader's members by g begin in `link_tokens`.
    link_tokens : int64 array
        Host tokens that g or a remainder puts into the leading groups.
    """

    places: IntArray
    experts: IntArray
    link_begins: IntArray
    link_tokens: IntArray

    def lift(self, logits: torch.Tensor, rows: IntArray, maps: GroupMaps) -> None:
        """Lift the leaders' likeliest tokens in place.

        Parameters
        ----------
        logits : torch.Tensor, shape (batch, vocabulary), float32, on a CPU
            After fusion.
        rows : int64 array, shape (rows,)
            The rows of the step.
        """
        from vllm_logits_processor.alignment.cpu_pass import lift_leaders

        lift_leaders(
            logits.numpy(),
            rows[self.places],
            np.asarray(maps.members),
            *runs_of(self.experts, maps),
            self.link_begins,
            self.link_tokens,
        )


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
        places=places,
        experts=aligned.top.token_ids[places, leader[places]].astype(np.int64),
        link_begins=np.append(
            np.searchsorted(groups.link_group[linked], numbers), len(linked)
        ).astype(np.int64),
        link_tokens=groups.single_token[groups.link_single[linked]],
    )
