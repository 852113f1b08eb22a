from __future__ import annotations

import numpy as np
import pytest

from vllm_logits_processor.alignment.covers import Covered
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.alignment.rests import with_rests
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

END = ExpertTopK(token_ids=np.array([[7, 9]]), logprobs=np.log([[0.4, 0.1]]))


def test_a_rest_is_all_host_tokens_that_begin_with_it(gemma: ByteVocabulary) -> None:
    top = with_rests(Covered(top=END, rests={b"er": 0.3}), gemma)
    assert top.token_ids.tolist() == [[7, 9, NOTHING]]
    assert np.exp(top.logprobs[0]) == pytest.approx([0.4, 0.1, 0.3])
    (rest,) = top.rests
    assert (rest.row, rest.place) == (0, 2)
    spelled = {gemma.token_bytes[token] for token in rest.tokens.tolist()}
    assert {b"er", b"ers", b"ert"} <= spelled
    assert all(data is not None and data.startswith(b"er") for data in spelled)
    assert len(set(rest.tokens.tolist())) == len(rest.tokens)


def test_what_the_host_writes_in_several_tokens_begins_with_its_first(
    smollm2: ByteVocabulary,
) -> None:
    long = b"ingly strange"
    first, *others = smollm2.encode(long)
    assert others
    (rest,) = with_rests(Covered(top=END, rests={long: 0.2}), smollm2).rests
    assert rest.tokens.tolist() == [first]


def test_unlikely_rests_are_left_to_the_tail(smollm2: ByteVocabulary) -> None:
    word = Covered(top=END, rests={b"er": 0.3, b"ed": 1e-5})
    assert len(with_rests(word, smollm2).rests) == 1
    assert with_rests(Covered(top=END), smollm2) is END
