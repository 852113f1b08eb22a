from __future__ import annotations

import pytest

from vllm_logits_processor.alignment import prefix as prefix_module
from vllm_logits_processor.alignment.prefix import ExpertPrefix
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

TEXT = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many in May. "
    "def add(first, second):\n    return first + second\n\n"
    "Le café coûtait 12,50 € — 你好，世界. The    end is near; so they say. "
) * 12


def test_a_growing_text_has_the_tokens_of_the_whole(vocabulary: ByteVocabulary) -> None:
    data = TEXT.encode()
    prefix = ExpertPrefix(vocabulary)
    for begin in range(0, len(data), 7):
        prefix.extend(data[begin : begin + 7])
        prefix.token_ids()
    assert prefix.token_ids() == [*vocabulary.bos_ids, *vocabulary.encode(data)]


def test_only_the_tail_is_tokenized_again(
    smollm2: ByteVocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = ByteVocabulary.encode

    def counting(self: ByteVocabulary, data: bytes) -> list[int]:
        encoded.append(len(data))
        return encode(self, data)

    monkeypatch.setattr(ByteVocabulary, "encode", counting)
    prefix = ExpertPrefix(smollm2)
    for char in TEXT:
        prefix.extend(char.encode())
        prefix.token_ids()
    assert len(TEXT) > 2000
    assert max(encoded) <= 2 * prefix_module._LONG


def test_nothing_but_bos_before_the_first_byte(gemma: ByteVocabulary) -> None:
    assert ExpertPrefix(gemma).token_ids() == list(gemma.bos_ids)
