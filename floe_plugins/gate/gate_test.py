import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from floe_plugins.errors import ConfigError
from floe_plugins.gate import Decision, Gate, Span
from floe_plugins.testing.gates import STRUCTURED


class Detector:
    """A detector made from a function."""

    labels: Sequence[str] = ("THING",)

    def __init__(self, detect: Callable[[str], object], name: str = "thing") -> None:
        self.name = name
        self._detect = detect

    def detect(self, text: str) -> Sequence[Span]:
        return self._detect(text)  # type: ignore[return-value]


def raises(error: BaseException) -> Callable[[str], object]:
    def detect(text: str) -> object:
        raise error

    return detect


def nothing(text: str) -> list[Span]:
    return []


def test_ordinary_text_is_clear() -> None:
    gate = Gate(detectors=STRUCTURED)
    verdict = gate.decide("What is the capital of France, and who built its tower in 1889?")
    assert verdict.decision is Decision.CLEAR
    assert verdict.scanned_all
    assert verdict.spans == ()
    assert verdict.detectors == STRUCTURED


def test_a_finding_is_local_with_its_span() -> None:
    verdict = Gate(detectors=STRUCTURED).decide("Write to joe@example.org.")
    assert verdict.decision is Decision.LOCAL
    assert verdict.labels == ("EMAIL",)
    assert verdict.spans == (Span(9, 24, "EMAIL"),)


@pytest.mark.parametrize(
    "text",
    [
        "card ４１１１ １１１１ １１１１ １１１１",
        "card 4111\u200b1111\u200b1111\u200b1111",
        "joe\u200b@exam\u00adple.org",
        "joe＠example．org",
        "SSN 078\u201105\u20111120",
        # Text that normalising would turn into one long number is also scanned as written.
        "4111111111111111²",
    ],
)
def test_disguises_do_not_get_past(text: str) -> None:
    verdict = Gate().decide(text)
    assert verdict.decision is Decision.LOCAL
    assert verdict.scanned_all


def test_spans_of_a_disguise_point_into_the_original() -> None:
    text = "mail joe\u200b@exam\u00adple.org now"
    (span,) = Gate(detectors=STRUCTURED).decide(text).spans
    assert text[span.start : span.end] == "joe\u200b@exam\u00adple.org"


def test_the_most_restrictive_detector_wins() -> None:
    one = Detector(lambda text: [Span(0, 1, "THING")], "one")
    other = Detector(nothing, "other")
    for detectors in itertools.permutations((one, other)):
        assert Gate(detectors=detectors).decide("text").decision is Decision.LOCAL


@pytest.mark.parametrize(
    ("detect", "reason"),
    [
        (raises(ValueError("secret 4111")), "ValueError"),
        (raises(SystemExit()), "SystemExit"),
        (raises(KeyboardInterrupt()), "KeyboardInterrupt"),
        (raises(RecursionError()), "RecursionError"),
        (lambda text: None, "InvalidAnswerError"),
        (lambda text: "THING", "InvalidAnswerError"),
        (lambda text: [("a", 0, 1)], "InvalidAnswerError"),
        (lambda text: iter([]), "InvalidAnswerError"),
        (lambda text: [Span(0, 5, "THING")], "InvalidAnswerError"),
        (lambda text: [Span(-1, 1, "THING")], "InvalidAnswerError"),
        (lambda text: [Span(1, 1, "THING")], "InvalidAnswerError"),
        (lambda text: [Span(0, 1, "OTHER")], "InvalidAnswerError"),
        (lambda text: [Span(False, True, "THING")], "InvalidAnswerError"),
        (lambda text: [Span("0", 1, "THING")], "InvalidAnswerError"),  # type: ignore[arg-type]
    ],
)
@pytest.mark.parametrize("policy", ["strict", "redact"])
def test_a_failing_detector_means_local(
    detect: Callable[[str], object], reason: str, policy: str
) -> None:
    gate = Gate(detectors=[Detector(detect), Detector(nothing, "fine")], policy=policy)
    for _ in range(2):
        verdict = gate.decide("text")
        assert verdict.decision is Decision.LOCAL
        assert not verdict.scanned_all
        assert [(failure.detector, failure.reason) for failure in verdict.failures] == [
            ("thing", reason)
        ]


def test_a_failure_is_logged_without_any_of_the_text(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(detectors=[Detector(raises(ValueError("card 4111111111111111")))])
    with caplog.at_level(logging.DEBUG):
        verdict = gate.decide("card 4111111111111111")
    assert "ValueError" in caplog.text
    assert "thing" in caplog.text
    assert "4111" not in caplog.text
    assert "4111" not in repr(verdict)


def test_a_late_detector_means_local_and_blocks_nobody() -> None:
    release = threading.Event()

    def hang(text: str) -> list[Span]:
        if text == "hang":
            release.wait(30)
        return []

    gate = Gate(detectors=[Detector(hang)], timeout_s=0.2)
    threads = threading.active_count()
    started = time.monotonic()
    verdict = gate.decide("hang")
    assert 0.2 <= time.monotonic() - started < 2
    assert verdict.decision is Decision.LOCAL
    assert verdict.failures[0].reason == "late"

    started = time.monotonic()
    for _ in range(50):
        verdict = gate.decide("text")
        assert verdict.decision is Decision.LOCAL
        assert verdict.failures[0].reason == "stuck"
    assert time.monotonic() - started < 1
    assert threading.active_count() <= threads + 1

    release.set()
    deadline = time.monotonic() + 10
    while gate.decide("text").decision is not Decision.CLEAR:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_detector_that_never_yields_is_given_up_on() -> None:
    stop = threading.Event()

    def spin(text: str) -> list[Span]:
        while not stop.is_set():
            pass
        return []

    verdict = Gate(detectors=[Detector(spin)], timeout_s=0.2).decide("text")
    stop.set()
    assert verdict.decision is Decision.LOCAL
    assert verdict.milliseconds < 5_000


def test_a_text_too_long_is_local_without_being_scanned() -> None:
    asked: list[str] = []

    def note(text: str) -> list[Span]:
        asked.append(text)
        return []

    gate = Gate(detectors=[Detector(note)], max_chars=10)
    assert gate.decide("x" * 10).decision is Decision.CLEAR
    verdict = gate.decide("x" * 11)
    assert verdict.decision is Decision.LOCAL
    assert not verdict.scanned_all
    assert asked == ["x" * 10]


@pytest.mark.parametrize("text", [b"bytes", None, 7, ["text"], "lone \ud800 surrogate"])
def test_what_is_no_valid_text_is_local(text: object) -> None:
    verdict = Gate().decide(text)  # type: ignore[arg-type]
    assert verdict.decision is Decision.LOCAL
    assert not verdict.scanned_all


def test_redaction_replaces_by_type() -> None:
    gate = Gate(policy="redact", detectors=STRUCTURED)
    verdict = gate.decide("Write to joe@example.org from 10.1.2.3, please.")
    assert verdict.decision is Decision.REDACTED
    assert verdict.redacted_text == "Write to <EMAIL> from <IP_ADDRESS>, please."
    assert "joe" not in repr(verdict)
    assert "redacted_text" not in verdict.as_dict()
    assert gate.decide("Nothing here.").decision is Decision.CLEAR


def test_overlapping_spans_become_one_placeholder() -> None:
    spans = [Span(2, 6, "THING"), Span(4, 8, "THING"), Span(8, 9, "THING")]
    gate = Gate(
        detectors=[Detector(lambda text: spans if text == "/;/;/;/;/;" else [])], policy="redact"
    )
    assert gate.decide("/;/;/;/;/;").redacted_text == "/;<THING><THING>;"


def test_what_redaction_leaves_behind_is_local() -> None:
    def outermost(text: str) -> list[Span]:
        """Find the first digit only, so that the next scan finds the rest."""
        return [Span(i, i + 1, "THING") for i, c in enumerate(text) if c.isdigit()][:1]

    gate = Gate(detectors=[Detector(outermost)], policy="redact")
    assert gate.decide("a1b2").decision is Decision.LOCAL
    assert gate.decide("a1b").decision is Decision.REDACTED


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"policy": "lenient"}, "strict, redact"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"max_chars": 0}, "max_chars"),
        ({"max_chars": 1.5}, "max_chars"),
        ({"detectors": []}, "at least one"),
        ({"detectors": ["absent"]}, "'absent'"),
        ({"detectors": ["email", "email"]}, "more than once"),
        ({"detectors": [object()]}, "no detector"),
    ],
)
def test_a_wrong_configuration_is_refused(options: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Gate(**options)  # type: ignore[arg-type]


def test_detectors_are_chosen_by_name() -> None:
    gate = Gate(detectors=["iban"])
    assert gate.detectors == ("iban",)
    assert gate.decide("joe@example.org").decision is Decision.CLEAR


def test_many_threads_get_their_own_verdicts() -> None:
    gate = Gate(detectors=STRUCTURED, timeout_s=30)
    wrong: list[int] = []

    def ask(number: int) -> None:
        for turn in range(20):
            private = (number + turn) % 2 == 0
            text = f"mail joe{number}@example.org" if private else f"text {number}"
            expected = Decision.LOCAL if private else Decision.CLEAR
            if gate.decide(text).decision is not expected:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_gate_that_is_gone_leaves_no_thread() -> None:
    before = threading.active_count()
    for _ in range(5):
        Gate().decide("text")
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


SHARED_GATE = Gate(detectors=STRUCTURED, timeout_s=60)


@settings(deadline=None)
@given(st.text(max_size=200), st.text(max_size=200))
def test_an_address_is_found_in_any_surroundings(before: str, after: str) -> None:
    text = f"{before} joe.bloggs@example.org {after}"
    verdict = SHARED_GATE.decide(text)
    assert verdict.decision is Decision.LOCAL
    assert all(0 <= span.start < span.end <= len(text) for span in verdict.spans)


HOSTILE = {
    "digits": "7",
    "groups of digits": "212-",
    "spaced digits": "4 ",
    "nested brackets": "([{<",
    "at signs": "a@",
    "dotted": "1.",
    "colons": "ab:",
    "slashes": "://a:",
    "key starts": "eyJ-sk-",
    "quotes": '"a',
    "block starts": "-----BEGIN RSA PRIVATE ",
    "full-width digits": "４",
    "zero width": "1\u200b",
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_texts_need_linear_time(unit: str) -> None:
    gate = Gate(detectors=STRUCTURED, max_chars=10_000_000, timeout_s=60)

    def seconds(size: int) -> float:
        text = (unit * (size // len(unit) + 1))[:size]
        started = time.process_time()
        assert not gate.decide(text).failures
        return time.process_time() - started

    seconds(1_000)
    # Quadratic time would be a factor of 256.
    assert seconds(80_000) < 64 * max(seconds(5_000), 5e-3)
