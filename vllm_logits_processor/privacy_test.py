from __future__ import annotations

import base64
from typing import Any

import pytest

from floe_plugins.errors import ConfigError
from floe_plugins.gate import Decision, Gate, Span
from floe_plugins.testing.detectors import ODD, PASSAGES, random_texts
from floe_plugins.testing.gates import STRUCTURED
from vllm_logits_processor.config import ExpertConfig, FloeConfig
from vllm_logits_processor.privacy import (
    _BEGUN,
    _BEGUN_CHARS,
    WINDOW,
    StreamPrivacy,
    _begins_a_value,
    gate_of,
)

NAMES = "Yesterday Emma Johnson wrote about London."
MAIL = "Write to emma@example.com about it."
TOKENIZER = "embedded:smollm2-135m-instruct"
KEY = "password: Tr0ub4dor&3"


class Broken:
    """A detector that fails."""

    name = "broken"
    labels = ("X",)

    def detect(self, text: str) -> list[Span]:
        raise RuntimeError("no")


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate(detectors=STRUCTURED, timeout_s=30)


def test_a_trusted_expert_gets_everything() -> None:
    assert StreamPrivacy(None).clears(b"mail joe@example.org \xff")


def test_a_private_prompt_is_never_cleared_again(gate: Gate) -> None:
    privacy = StreamPrivacy(gate)
    assert not privacy.clears(b"mail joe@example.org please")
    assert not privacy.clears(b"mail joe@example.org please" + b"x" * 5000)


def test_text_that_turns_private_latches(gate: Gate) -> None:
    privacy, text = StreamPrivacy(gate), bytearray(b"My mail address is ")
    assert privacy.clears(text)
    text += b"joe@exam"
    privacy.clears(text)
    text += b"ple.org and"
    assert not privacy.clears(text)
    text += b" so on " * 1000
    assert not privacy.clears(text)


def test_a_pattern_across_prompt_and_answer_is_seen(gate: Gate) -> None:
    text = bytearray(b"The card is 4111 1111")
    privacy = StreamPrivacy(gate, prompt_bytes=len(text))
    assert privacy.clears(text)
    for piece in (b" 11", b"11 1", b"111"):
        text += piece
        cleared = privacy.clears(text)
    assert not cleared


def test_the_window_reaches_back_over_long_answers(gate: Gate) -> None:
    privacy, text = StreamPrivacy(gate), bytearray("é".encode() * 3000)
    assert privacy.clears(text)
    for letter in b" write to joe@example.org ":
        text.append(letter)
        cleared = privacy.clears(text)
    assert not cleared
    assert WINDOW < 3000


def test_half_a_character_at_the_end_is_awaited(gate: Gate) -> None:
    privacy, text = StreamPrivacy(gate), bytearray(b"caf\xc3")
    assert privacy.clears(text)
    text += b"\xa9"
    assert privacy.clears(text)


def test_broken_bytes_inside_are_private(gate: Gate) -> None:
    assert not StreamPrivacy(gate).clears(b"joe\xff@example.org is here")


def test_a_failing_detector_means_private() -> None:
    assert not StreamPrivacy(Gate(detectors=[Broken()])).clears(b"hello")


ENCODED = base64.b64encode(b"the address is joe.bloggs@example.org").decode()


@pytest.mark.parametrize(
    "value",
    [
        "joe.bloggs@example.org",
        "4111 1111 1111 1111",
        "four one one one one one one one one one one one one one one one",
        "joe dot bloggs at example dot org",
        ENCODED,
        "".join(f"%{byte:02x}" for byte in b"joe.bloggs@example.org"),
        " ".join("4111111111111111"),
        "j\u043ee.bl\u043eggs@ex\u0430mple.org",
        "\uff14\uff11\uff11\uff11 1111 1111 1111",
    ],
)
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_a_value_in_chunks_latches(gate: Gate, value: str, chunk: int) -> None:
    privacy, text = StreamPrivacy(gate), bytearray(b"A prompt that says nothing. " * 100)
    assert privacy.clears(text)
    data = f" Here you are: {value} ok. ".encode()
    for begin in range(0, len(data), chunk):
        text += data[begin : begin + chunk]
        cleared = privacy.clears(text)
    assert not cleared
    text += b"And now for something else. " * 100
    assert not privacy.clears(text)


@pytest.mark.parametrize(
    ("end", "cleared"),
    [
        (" in 2026", True),
        (" call 4111 1", False),
        (" joe@exam", False),
        (" my key is sk-ab", False),
        (" 41,111 apples", True),
    ],
)
def test_what_may_become_a_value_is_held_back_for_the_moment(
    gate: Gate, end: str, cleared: bool
) -> None:
    privacy, text = StreamPrivacy(gate), bytearray(b"A prompt")
    assert privacy.clears(text)
    text += end.encode()
    assert privacy.clears(text) is cleared
    assert privacy.clears(text) is cleared
    text += b" or so it is said"
    assert privacy.clears(text)


def test_nothing_of_a_prompt_is_held_back(gate: Gate) -> None:
    privacy = StreamPrivacy(gate, prompt_bytes=len(b"What is 123456"))
    assert privacy.clears(b"What is 123456")
    assert privacy.clears(b"What is 123456")


def test_an_answer_that_a_stream_opens_with_is_held_back_as_one_that_grew(gate: Gate) -> None:
    prompt, answer = b"The card is ", b"4111 1111 1"
    grown = StreamPrivacy(gate, prompt_bytes=len(prompt))
    assert grown.clears(prompt)
    opened = StreamPrivacy(gate, prompt_bytes=len(prompt))
    for privacy in (grown, opened):
        assert not privacy.clears(prompt + answer)
        assert privacy.clears(prompt + answer + b" or so it is said")


class Wide:
    """A detector of a pattern longer than the least window."""

    name = "wide"
    labels = ("WIDE",)
    longest = 3000

    def detect(self, text: str) -> list[Span]:
        begin, end = text.find("<<"), text.find(">>")
        return [Span(begin, end, "WIDE")] if 0 <= begin < end else []


def test_the_window_is_as_wide_as_the_longest_pattern() -> None:
    privacy, text = StreamPrivacy(Gate(detectors=[Wide()])), bytearray(b"A prompt.")
    for piece in (b" <<", b"x y " * 300, b"z " * 800):
        assert privacy.clears(text)
        text += piece
    assert privacy.clears(text)
    text += b">>"
    assert not privacy.clears(text)


def test_a_window_begins_with_a_word(gate: Gate) -> None:
    seen: list[str] = []

    class Noting(Wide):
        longest = 100

        def detect(self, text: str) -> list[Span]:
            seen.append(text)
            return []

    privacy, text = StreamPrivacy(Gate(detectors=[Noting()])), bytearray(b"wonderful " * 500)
    assert privacy.clears(text)
    text += b"new"
    assert privacy.clears(text)
    assert seen[-1].startswith("wonderful ")
    assert WINDOW <= len(seen[-1]) < WINDOW + 100


class Near(Wide):
    """A detector that says how little it reads of a growing text, and notes what it read."""

    reach = 20
    longest = 100

    def __init__(self) -> None:
        self.seen: list[str] = []

    def detect(self, text: str) -> list[Span]:
        self.seen.append(text)
        return super().detect(text)


def test_of_new_text_only_the_reach_is_read_and_the_window_moves_on_in_steps() -> None:
    near = Near()
    privacy, text = StreamPrivacy(Gate(detectors=[near])), bytearray(b"wonderful " * 30)
    assert privacy.clears(text)
    for _ in range(1200):
        text += b"words "
        assert privacy.clears(text)
    lengths = sorted(map(len, near.seen))
    # A window each time that the text has grown by three of its size.
    assert 2 <= sum(length > WINDOW for length in lengths) <= 4
    assert lengths[len(lengths) // 2] < 50
    text += b"<< >>"
    assert not privacy.clears(text)


def test_tokens_that_were_taken_back_are_forgotten() -> None:
    near = Near()
    privacy, text = StreamPrivacy(Gate(detectors=[near])), bytearray(b"A prompt.")
    assert privacy.clears(text)
    text += b" and << more"
    assert privacy.clears(text)
    del text[-8:]
    assert privacy.clears(text)
    text += b" then more"
    assert privacy.clears(text)
    assert near.seen[-1].endswith(" then more")
    text += b" << of it >>"
    assert not privacy.clears(text)


def test_a_stream_is_decided_as_its_text_is() -> None:
    gate = Gate(timeout_s=30)
    prompt = "The committee met twice that year. Few read what it wrote about the river. " * 4
    for value in (NAMES, "My sister Emma Johnson has asthma.", MAIL, KEY, "Call +44 20 7946 0018."):
        privacy, text = StreamPrivacy(gate), bytearray(prompt.encode())
        assert privacy.clears(text)
        for letter in value:
            text += letter.encode()
            cleared = privacy.clears(text)
            decided = gate.decide(text.decode()).decision is Decision.CLEAR
            assert cleared <= decided
            assert decided or not cleared
            if not decided:
                break
        assert privacy._private is (gate.decide(text.decode()).decision is not Decision.CLEAR)


def config(*, trusted: bool = False, **keys: Any) -> FloeConfig:
    expert: dict[str, Any] = {
        "url": "http://127.0.0.1:1/v1",
        "model": "slm",
        "tokenizer": TOKENIZER,
    }
    expert["trusted"] = trusted
    return FloeConfig(expert=ExpertConfig(**expert), gate_timeout_s=30, **keys)


@pytest.mark.parametrize(
    ("keys", "cleared"),
    [
        ({}, [NAMES]),
        ({"gate_profile": "secrets"}, [NAMES, MAIL]),
        ({"gate_profile": "strict"}, []),
        ({"gate_actions": {"PERSON": "local"}}, []),
        ({"gate_actions": {"EMAIL": "clear"}}, [NAMES, MAIL]),
        ({"gate_allow": {"domains": ["example.com"]}}, [NAMES, MAIL]),
        ({"gate_thresholds": {"PASSWORD": 1.0, "EMAIL": 1.0}}, [NAMES]),
    ],
)
def test_the_profile_says_what_the_expert_may_see(keys: dict[str, Any], cleared: list[str]) -> None:
    gate = gate_of(config(**keys))
    assert gate is not None
    found = [each for each in (NAMES, MAIL, KEY) if gate.decide(each).decision is Decision.CLEAR]
    assert found == cleared


def test_an_expert_that_may_see_everything_needs_no_gate() -> None:
    assert gate_of(config(trusted=True)) is None


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"gate_profile": "lax"}, r"gate_profile is 'lax'; accepted is .*personal"),
        ({"gate_actions": {"EMAIL": "redact"}}, r"gate_actions.*redact.*`clear` or `local`"),
        ({"gate_actions": "local"}, r"gate_actions.*'local'.*a table from label"),
        ({"gate_allow": {"names": ["Acme"]}}, r"gate_allow.*names.*`values`, `domains`"),
        ({"gate_thresholds": {"EMAIL": 2}}, r"gate_thresholds.*2.*from 0 to 1"),
    ],
)
def test_other_settings_of_the_gate_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(**keys)


def test_a_label_that_no_detector_gives_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="actions name the label 'EMIAL'"):
        gate_of(config(gate_actions={"EMIAL": "clear"}))


def test_what_an_allow_list_names_may_leave_as_it_is_written() -> None:
    gate = gate_of(config(gate_allow={"values": ["support@example.com"]}))
    privacy, text = StreamPrivacy(gate, prompt_bytes=4), bytearray(b"Mail")
    assert privacy.clears(text)
    for piece in (" to", " support", "@example.com", " for", " help"):
        text += piece.encode()
        cleared = privacy.clears(text)
    assert cleared
    text += b", or joe@example.com, or"
    assert not privacy.clears(text)


def test_what_tells_sooner_that_no_value_begins_tells_the_same() -> None:
    texts = (
        *ODD,
        *PASSAGES,
        *random_texts(100),
        "an AKIA",
        "of 12345, ",
        "xoxb-1.a",
        "-----BEGIN RSA",
    )
    begun = 0
    for text in texts:
        for end in range(1, len(text) + 1):
            expected = _BEGUN.search(text[:end][-_BEGUN_CHARS:]) is not None
            assert _begins_a_value(text[:end].encode()) is expected, text[:end]
            begun += expected
    assert begun > 20
