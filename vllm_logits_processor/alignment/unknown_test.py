"""Alignment on the bytes of spellings alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vllm_logits_processor.alignment.align import align
from vllm_logits_processor.alignment.covers import Covered, covered, wanted_offsets
from vllm_logits_processor.alignment.groups import ExpertTopK, Remainder
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.alignment.prefix import ExpertPrefix
from vllm_logits_processor.alignment.remainders import with_remainders
from vllm_logits_processor.alignment.unknown import (
    by_spelling,
    bytes_alone,
    is_text,
    is_unknown,
    maps_of_none,
    top_of,
)
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.step_factors import StepFactors
from vllm_logits_processor.testing.alignment import factors_of
from vllm_logits_processor.testing.tokenizers import trained_vocabulary

HOST = trained_vocabulary("byte-level")
BYTES = bytes_alone()
TEXT = "Zürich's  cats,\n\n\tsat 🙂 on\r\nthe 12 mats".encode()


def grouped(host: ByteVocabulary, **spellings: float) -> ExpertTopK:
    """Return spellings and their probabilities, as groups; ``_`` stands for a space."""
    said = {name.replace("_", " ").encode(): math.log(p) for name, p in spellings.items()}
    return with_remainders(Covered(top=top_of(said)), host)


def test_a_token_is_a_byte() -> None:
    for end in range(len(TEXT) + 1):
        assert bytes(BYTES.encode(TEXT[:end])) == TEXT[:end]
    assert BYTES.token_bytes == tuple(bytes([byte]) for byte in range(256))
    assert is_unknown(BYTES)
    assert not is_unknown(HOST)


def test_a_text_is_its_own_tokens_and_has_no_covers() -> None:
    prefix = ExpertPrefix(BYTES)
    end = top_of({b" a": -0.5})
    for byte in TEXT * 20:
        prefix.extend(bytes([byte]))
        assert wanted_offsets(prefix, {}, most=3) == [prefix.length]
        assert covered(prefix, {prefix.length: end}).top is end
    assert bytes(prefix.token_ids()) == TEXT * 20


def spellings_of(host: ByteVocabulary, group: Remainder) -> list[bytes]:
    assert len(set(group.tokens.tolist())) == len(group.tokens)
    return [host.token_bytes[token] or b"" for token in group.tokens.tolist()]


def test_a_group_is_the_host_tokens_that_begin_with_the_bytes(gemma: ByteVocabulary) -> None:
    (group,) = grouped(gemma, _water=0.5).remainders
    spelled = spellings_of(gemma, group)
    assert set(spelled[: group.known]) == {b" water"}
    wanted = {data for data in gemma.token_bytes if data and data.startswith(b" water")}
    assert {b" water", b" waters", b" watering"} <= wanted
    assert set(spelled) == wanted


def test_what_the_host_cannot_write_at_once_is_begun_with_a_prefix(
    smollm2: ByteVocabulary,
) -> None:
    long = b" ingly strange"
    first = smollm2.decode(smollm2.encode(long)[:1])
    (group,) = with_remainders(Covered(top=top_of({long: -0.5})), smollm2).remainders
    assert spellings_of(smollm2, group) == [first]
    assert long.startswith(first)
    # It may be another token's beginning as well.
    assert group.known == 0


def test_a_longer_spelling_of_the_row_keeps_its_own(gemma: ByteVocabulary) -> None:
    groups = {
        data: set(spellings_of(gemma, rest))
        for data, rest in zip(
            (b" wa", b" water", b" watering"),
            grouped(gemma, _wa=0.1, _water=0.5, _watering=0.2).remainders,
            strict=True,
        )
    }
    assert groups[b" watering"] == {b" watering"}
    assert b" waters" in groups[b" water"]
    assert b" wall" in groups[b" wa"]
    assert not groups[b" water"] & groups[b" watering"]
    assert not groups[b" wa"] & (groups[b" water"] | groups[b" watering"])


def test_the_experts_mass_goes_to_its_groups_in_the_hosts_proportions() -> None:
    logits = torch.randn(1, len(HOST), generator=torch.Generator().manual_seed(0))
    top = grouped(HOST, _the=0.6, _c=0.3)
    aligned = align(logits, np.arange(1), top, maps_of_none(HOST))
    host = torch.softmax(logits[0], dim=0).numpy().astype(np.float64)
    expected = np.zeros(len(HOST))
    for rest, mass in zip(top.remainders, (0.6, 0.3), strict=True):
        expected[rest.tokens] += mass * host[rest.tokens] / host[rest.tokens].sum()
    # The rest may be anything but what is spelled as a named token is.
    tail = np.ones(len(HOST), dtype=bool)
    for rest in top.remainders:
        tail[rest.tokens[: rest.known]] = False
    expected[tail] += 0.1 * host[tail] / host[tail].sum()
    factors = factors_of(aligned, len(HOST))[0]
    assert factors * host == pytest.approx(expected, rel=1e-4)
    assert expected.sum() == pytest.approx(1.0)
    assert StepFactors(aligned).of(0, HOST.encode(b" the")[0]) == pytest.approx(
        factors[HOST.encode(b" the")[0]]
    )


def test_an_end_of_text_is_the_hosts_affair() -> None:
    logits = torch.zeros(1, len(HOST))
    (end,) = HOST.end_ids
    logits[0, end] = 5.0
    aligned = align(logits, np.arange(1), grouped(HOST, _the=0.1), maps_of_none(HOST))
    host = float(torch.softmax(logits[0], dim=0)[end])
    # Nine tenths are not known: they go to what the host would write, above all the end.
    assert StepFactors(aligned).of(0, end) * host == pytest.approx(
        0.9 * host / (1 - 1 / len(HOST)), 0.05
    )


def test_spellings_that_say_nothing_are_left_out_and_equal_ones_add_up() -> None:
    said = [
        (b" the", math.log(0.25)),
        (None, math.log(0.2)),
        (b"", math.log(0.1)),
        (b"<|im_end|>", math.log(0.1)),
        (b"</s>", math.log(0.05)),
        (b" the", math.log(0.25)),
        (b"<b>", math.log(0.01)),
    ]
    found = by_spelling(said)
    assert list(found) == [b" the", b"<b>"]
    assert found[b" the"] == pytest.approx(math.log(0.5))


def test_without_spellings_nothing_is_said() -> None:
    top = top_of({})
    assert top.token_ids.tolist() == [[NOTHING]]
    assert with_remainders(Covered(top=top), HOST) is top
    logits = torch.randn(1, len(HOST), generator=torch.Generator().manual_seed(0))
    aligned = align(logits, np.arange(1), top, maps_of_none(HOST))
    assert factors_of(aligned, len(HOST)) == pytest.approx(1.0)


def test_what_begins_very_many_tokens_stands_for_itself(gemma: ByteVocabulary) -> None:
    (space, letter) = grouped(gemma, _=0.5, _a=0.2).remainders
    assert set(spellings_of(gemma, space)) == {b" "}
    assert {b" a", b" an", b" and"} <= set(spellings_of(gemma, letter))


def test_unlikely_spellings_with_large_groups_go_to_the_tail(gemma: ByteVocabulary) -> None:
    top = grouped(gemma, _water=0.5, _b=1e-4, _waterfalls=1e-4)
    spelled = [gemma.token_bytes[rest.tokens[0]] for rest in top.remainders]
    assert spelled == [b" water", b" waterfalls"]
    assert np.exp(top.logprobs).sum() == pytest.approx(0.5001)


def test_half_a_character_is_no_text() -> None:
    assert is_text(b"")
    assert is_text("🙂".encode())
    assert not is_text("🙂".encode()[:3])
