"""What each system answers: the writers themselves, and those that choose between two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from integration_tests.benchmarks.answers.marking import token_f1
from integration_tests.benchmarks.answers.servers import LLM, SLM, WRITERS, Item, Reply

ROUTER, CASCADE, HINDSIGHT = "router", "cascade", "hindsight"

#: In the order of the table; `HINDSIGHT` is no system that anybody could run.
SYSTEMS = (*WRITERS[:3], ROUTER, CASCADE, HINDSIGHT, WRITERS[3])

Replies = Mapping[str, Mapping[str, Reply]]
"""Writer -> item's key -> answer."""


@dataclass(frozen=True)
class Mark:
    """How an answer did: whether it is right, and its F1 with the reference."""

    right: bool
    f1: float


def mark(item: Item, reply: Reply) -> Mark:
    """Mark an answer."""
    return Mark(
        item.task.marking.right(reply.text, item.reference), token_f1(reply.text, item.reference)
    )


def routed(bits: Mapping[str, float]) -> str:
    """Return the writer that finds a prompt likelier, given bits per byte of both; parameter-free.

    Routing by the likelihood of the prompt is what is left of a router without training; it has
    the weakness that a fine-tuned model knows its prompts better than their answers.
    """
    return SLM if bits[SLM] < bits[LLM] else LLM


def escalates(reply: Reply, threshold: float) -> bool:
    """Tell whether the cascade asks the LLM after this answer of the SLM."""
    return reply.logprob < threshold


def fitted_threshold(items: Sequence[Item], replies: Replies) -> float:
    """Return the threshold of the cascade that would have been right most often.

    FrugalGPT (Chen et al., arXiv 2305.05176) asks the cheap model first and the dear one where a
    score of the first answer is low. The score here is the mean log-probability of the answer's
    tokens, and one threshold serves all tasks. Of thresholds that are as often right, the one
    with the higher mean F1 is taken, then the one that asks the LLM less often.

    Parameters
    ----------
    items : Sequence[Item]
        Items with references that are not among those that the systems are compared on.
    replies : Replies
        Answers of the SLM and of the LLM to them.
    """
    scores = sorted({replies[SLM][item.key].logprob for item in items})
    candidates = [-float("inf"), *scores, float("inf")]

    def worth(threshold: float) -> tuple[int, float]:
        marks = [mark(item, _cascaded(item, replies, threshold)) for item in items]
        return sum(each.right for each in marks), sum(each.f1 for each in marks)

    return max(candidates, key=lambda threshold: (*worth(threshold), -threshold))


def marks_of(
    items: Sequence[Item],
    replies: Replies,
    *,
    bits: Mapping[str, Mapping[str, float]],
    threshold: float,
) -> dict[str, dict[str, Mark]]:
    """Return system -> item's key -> mark.

    Parameters
    ----------
    items : Sequence[Item]
    replies : Replies
        Of all writers.
    bits : Mapping[str, Mapping[str, float]]
        Item's key -> bits per byte of its prompt, see `routed`.
    threshold : float
        Of the cascade, nats.
    """
    found: dict[str, dict[str, Mark]] = {system: {} for system in SYSTEMS}
    for item in items:
        for writer in WRITERS:
            found[writer][item.key] = mark(item, replies[writer][item.key])
        found[ROUTER][item.key] = found[routed(bits[item.key])][item.key]
        found[CASCADE][item.key] = mark(item, _cascaded(item, replies, threshold))
        both = (found[SLM][item.key], found[LLM][item.key])
        found[HINDSIGHT][item.key] = max(both, key=lambda each: (each.right, each.f1))
    return found


def _cascaded(item: Item, replies: Replies, threshold: float) -> Reply:
    first = replies[SLM][item.key]
    return replies[LLM][item.key] if escalates(first, threshold) else first
