"""A growing text, of which covers remember some, against texts of which they remember nothing."""

from __future__ import annotations

import numpy as np
import pytest

from vllm_logits_processor.alignment.covers import Covered, covered, wanted_offsets
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.prefix import ExpertPrefix
from vllm_logits_processor.testing.tokenizers import CORPUS, trained_vocabulary


def distribution(random: np.random.Generator, size: int, k: int = 40) -> ExpertTopK:
    """Return a random row with something left for the tokens that it does not list."""
    ids = random.choice(size, size=k, replace=False)
    masses = random.dirichlet(np.full(k + 1, 0.1))[:k]
    return ExpertTopK(token_ids=ids[None], logprobs=np.log(np.maximum(masses, 1e-12))[None])


def plain(found: Covered) -> tuple[object, ...]:
    """Return a distribution in values that can be compared."""
    return (
        found.top.token_ids.tolist(),
        found.logprobs.tolist(),
        dict(found.remainders),
        found.unexpanded,
    )


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "wordpiece"])
@pytest.mark.parametrize("seed", range(6))
def test_what_is_remembered_of_a_growing_text_changes_nothing(kind: str, seed: int) -> None:
    vocabulary, random = trained_vocabulary(kind), np.random.default_rng(seed)
    text = (" ".join(CORPUS) + " ").encode()
    prefix, at = ExpertPrefix(vocabulary), 0
    received: dict[int, ExpertTopK] = {}
    while at < len(text):
        size = int(random.integers(1, 5))
        prefix.extend(text[at : at + size])
        at += size
        received = {offset: top for offset, top in received.items() if offset >= prefix.boundary()}
        # A branch is the same text anew. Nothing changes by asking twice, nor by receiving more.
        for _ in range(2):
            wanted = wanted_offsets(prefix, received, most=2)
            assert wanted == wanted_offsets(prefix.branch(b""), received, most=2)
            for offset in wanted:
                received[offset] = distribution(random, len(vocabulary))
        if prefix.length in received:
            found = plain(covered(prefix, received))
            assert found == plain(covered(prefix.branch(b""), received))
            assert found == plain(covered(prefix, received))
            # A distribution that comes in place of another counts from then on.
            for offset in received:
                received[offset] = distribution(random, len(vocabulary))
            assert plain(covered(prefix, received)) == plain(covered(prefix.branch(b""), received))
