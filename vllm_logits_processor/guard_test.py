from __future__ import annotations

import pytest

from floe_plugins.gate import Gate, Span
from vllm_logits_processor.guard import WINDOW, StreamGuard


class Broken:
    """A detector that fails."""

    name = "broken"
    labels = ("X",)

    def detect(self, text: str) -> list[Span]:
        raise RuntimeError("no")


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


def test_a_trusted_expert_gets_everything() -> None:
    assert StreamGuard(None).clears(b"mail joe@example.org \xff")


def test_a_private_prompt_is_never_cleared_again(gate: Gate) -> None:
    guard = StreamGuard(gate)
    assert not guard.clears(b"mail joe@example.org please")
    assert not guard.clears(b"mail joe@example.org please" + b"x" * 5000)


def test_text_that_turns_private_latches(gate: Gate) -> None:
    guard, text = StreamGuard(gate), bytearray(b"My mail address is ")
    assert guard.clears(text)
    text += b"joe@exam"
    guard.clears(text)
    text += b"ple.org and"
    assert not guard.clears(text)
    text += b" so on " * 1000
    assert not guard.clears(text)


def test_a_pattern_across_prompt_and_answer_is_seen(gate: Gate) -> None:
    guard, text = StreamGuard(gate), bytearray(b"The card is 4111 1111")
    assert guard.clears(text)
    for piece in (b" 11", b"11 1", b"111"):
        text += piece
        cleared = guard.clears(text)
    assert not cleared


def test_the_window_reaches_back_over_long_answers(gate: Gate) -> None:
    guard, text = StreamGuard(gate), bytearray("é".encode() * 3000)
    assert guard.clears(text)
    for letter in b" write to joe@example.org ":
        text.append(letter)
        cleared = guard.clears(text)
    assert not cleared
    assert WINDOW < 3000


def test_half_a_character_at_the_end_is_awaited(gate: Gate) -> None:
    guard, text = StreamGuard(gate), bytearray(b"caf\xc3")
    assert guard.clears(text)
    text += b"\xa9"
    assert guard.clears(text)


def test_broken_bytes_inside_are_private(gate: Gate) -> None:
    assert not StreamGuard(gate).clears(b"joe\xff@example.org is here")


def test_a_failing_detector_means_private() -> None:
    assert not StreamGuard(Gate(detectors=[Broken()])).clears(b"hello")
