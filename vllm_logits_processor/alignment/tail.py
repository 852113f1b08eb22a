"""The cap of the tail: no unlisted token is likelier than the least likely listed one.

The tail's tokens share the expert's missing mass in the host's shape. A token of which the host is
sure would get nearly all of it; but had the expert meant that token, it would have listed it. Such
a token gets the least listed probability, like a listed token that nothing else belongs to, and the
others share what is left, again in the host's shape, until none is above.

A row with remainders or with spellings has no cap: what is listed there is a mixture, or names no
tokens of the expert. Nor has one in which the unlisted tokens of the expert's vocabulary, each with
the least listed probability, would not make up the missing mass: its list is not of the likeliest;
nor one that misses less than `LEAST_MISSING`, where the search would cost more than it can change.
"""

from __future__ import annotations

import numpy as np

from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import AlignmentMaps
from vllm_logits_processor.arrays import Float64Array

#: Missing mass of the expert below which there is no cap.
LEAST_MISSING = 0.02


def tail_caps(top: ExpertTopK, maps: AlignmentMaps) -> Float64Array:
    """Return the most that one tail token may get, as a share of the tail's mass; shape (rows,).

    It is +inf where there is no cap.
    """
    from vllm_logits_processor.alignment.group_search import cap_tails

    caps = np.empty(len(top.token_ids))
    cap_tails(
        np.ascontiguousarray(top.token_ids),
        np.ascontiguousarray(top.logprobs),
        top.masses,
        top.known,
        np.array([rest.row for rest in top.remainders], dtype=np.int64),
        len(maps.first_host),
        LEAST_MISSING,
        caps,
    )
    return caps
