from __future__ import annotations

import numpy as np
import pytest

from vllm_logits_processor.alignment.covers import Covered
from vllm_logits_processor.alignment.groups import ExpertTopK, stacked
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.alignment.remainders import (
    HostTail,
    stacked_with_remainders,
    with_remainders,
)
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary


def tail_of(vocabulary: ByteVocabulary, text: bytes) -> HostTail:
    return HostTail(vocabulary, vocabulary.encode(text))


def test_what_the_host_would_have_written_as_one_token_is_not_admitted(
    gemma: ByteVocabulary,
) -> None:
    assert len(gemma.encode(b" an")) == len(gemma.encode(b" a")) == 1
    tail = tail_of(gemma, b"This is a")
    assert not tail.admits(b"n")
    assert tail.admits(b" cat")
    assert tail.admits(b".")


def test_a_word_that_takes_several_tokens_may_go_on(gemma: ByteVocabulary) -> None:
    first, *rest = gemma.encode(b" Kuwilowamu")
    assert rest
    tail = HostTail(gemma, [first])
    assert tail.admits(gemma.decode(rest))


def test_tokens_that_are_not_the_tokenizers_own_say_nothing(gemma: ByteVocabulary) -> None:
    spelled = [gemma.encode(bytes([byte]))[0] for byte in b"cat"]
    assert HostTail(gemma, spelled).admits(b"s")


def test_without_text_everything_is_admitted(gemma: ByteVocabulary) -> None:
    assert HostTail(gemma, []).admits(b"n")
    end = min(gemma.end_ids)
    assert HostTail(gemma, [*gemma.encode(b" a"), end]).admits(b"n")


def test_a_word_may_end_otherwise_than_the_expert_says(smollm2: ByteVocabulary) -> None:
    assert [smollm2.token_bytes[token] for token in smollm2.encode(b"installing")] == [
        b"inst",
        b"alling",
    ]
    assert HostTail(smollm2, smollm2.encode(b"inst")).admits(b"all")


END = ExpertTopK(token_ids=np.array([[7, 9]]), logprobs=np.log([[0.4, 0.1]]))


def test_a_rest_is_all_host_tokens_that_begin_with_it(gemma: ByteVocabulary) -> None:
    top = with_remainders(Covered(top=END, remainders={b"er": 0.3}), gemma)
    assert top.token_ids.tolist() == [[7, 9, NOTHING]]
    assert np.exp(top.logprobs[0]) == pytest.approx([0.4, 0.1, 0.3])
    (rest,) = top.remainders
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
    (rest,) = with_remainders(Covered(top=END, remainders={long: 0.2}), smollm2).remainders
    assert rest.tokens.tolist() == [first]


def test_unlikely_remainders_are_left_to_the_tail(smollm2: ByteVocabulary) -> None:
    covered = Covered(top=END, remainders={b"er": 0.3, b"ed": 1e-5})
    assert len(with_remainders(covered, smollm2).remainders) == 1
    assert with_remainders(Covered(top=END), smollm2) is END


def test_several_at_once_are_as_each_alone(smollm2: ByteVocabulary) -> None:
    plain = Covered(top=END)
    one = Covered(top=END, remainders={b"er": 0.3, b"ed": 1e-5})
    two = Covered(top=END, remainders={b"ing": 0.2, b"er": 0.1})
    wide = ExpertTopK(
        token_ids=np.array([[5, 6, 7, 8, 9, 10, 11]]), logprobs=np.log(np.full((1, 7), 0.1))
    )
    for several in ([plain, one, two], [plain, plain], [two, Covered(top=wide)]):
        found = stacked_with_remainders(several, smollm2)
        alone = stacked([with_remainders(each, smollm2) for each in several])
        assert found.token_ids.tolist() == alone.token_ids.tolist()
        assert found.logprobs.tolist() == alone.logprobs.tolist()
        for ours, theirs in zip(found.remainders, alone.remainders, strict=True):
            assert (ours.row, ours.place, ours.known) == (theirs.row, theirs.place, theirs.known)
            assert ours.tokens.tolist() == theirs.tokens.tolist()
