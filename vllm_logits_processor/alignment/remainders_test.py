from __future__ import annotations

from vllm_logits_processor.alignment.remainders import HostTail
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
