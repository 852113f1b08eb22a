import time

import pytest

from floe_plugins.gate import Decision, Gate
from floe_plugins.gate.detectors.accounts import AccountDetector

GATE = Gate(detectors=("account",), timeout_s=30)

HEALTH = [
    "my left knee clicks and swells after each run, its been three weeks now. the cream the"
    " pharmacist gave me does nothing",
    "Hello doctor, my son has had red bumps on his back and tummy since Monday and he scratches"
    " them at night. Is it an allergy?",
    "I take 50 mg in the morning and feel dizzy an hour later. Should I lower the dose?",
    "29f, spotting between periods for two months, ultrasound clear. do i need more tests",
]
PRIVATE_LIFE = [
    "I lie awake and go over every word she said. I cry in the car so the kids won't see. My"
    " husband thinks I am just tired.",
    "My boyfriend reads my messages and yells at me when I see friends, then he cries and says he"
    " will leave.",
    "since the funeral i feel numb. i go to work, i come home, i stare at his chair",
    "We argue every night. I found out that he lied about the money and I don't trust him, but I"
    " am afraid of a divorce.",
]
ORDINARY = [
    "Write a story about a woman who cries over a letter from her husband at the hospital.",
    "What are the symptoms of flu, and which medicine helps against fever and cough?",
    "Do statins reduce pain after surgery in patients with diabetes?",
    "I want to learn to bake bread. Which flour should I buy for my first loaf?",
    "My printer is dead again and I hate it. How do I clear the queue?",
    "My sister and I are planning a week in Rome with the kids. Suggest museums for us.",
    "I broke the build. The test hangs for hours since yesterday; how do I bisect it?",
    "Im Herbst die Blätter: Schreibe mir ein Gedicht über den Wald.",
]


@pytest.mark.parametrize("text", HEALTH)
def test_accounts_of_health(text: str) -> None:
    (span,) = AccountDetector().detect(text)
    assert span.label == "HEALTH"
    assert GATE.decide(text).decision is Decision.LOCAL


@pytest.mark.parametrize("text", PRIVATE_LIFE)
def test_accounts_of_private_life(text: str) -> None:
    (span,) = AccountDetector().detect(text)
    assert span.label == "PRIVATE_LIFE"
    assert GATE.decide(text).why == "PRIVATE_LIFE sensitive statement; profile personal"


@pytest.mark.parametrize("text", ORDINARY)
def test_what_gives_account_of_nobody(text: str) -> None:
    assert not AccountDetector().detect(text)


def test_the_span_is_of_whole_sentences_with_evidence() -> None:
    before, after = "Please translate what follows. ", " Thanks in advance, and greetings."
    text = f"The weather is fine today. {PRIVATE_LIFE[0]} See you on the bus."
    (span,) = AccountDetector().detect(text)
    assert text[span.start : span.end] == PRIVATE_LIFE[0]
    # Letters that become two in lower case move nothing.
    (span,) = AccountDetector().detect(f"İ {before}{HEALTH[1]}{after}")
    assert HEALTH[1][:30] in f"İ {before}{HEALTH[1]}{after}"[span.start : span.end]


def test_an_account_within_a_long_text_is_found() -> None:
    filler = "The committee met at noon and looked at the new bridge. " * 60
    text = f"{filler}{PRIVATE_LIFE[0]} {filler}"
    (span,) = AccountDetector().detect(text)
    assert PRIVATE_LIFE[0][40:100] in text[span.start : span.end]
    assert span.end - span.start < 1500


def test_the_time_grows_with_the_length() -> None:
    def seconds(text: str) -> float:
        begun = time.process_time()
        AccountDetector().detect(text)
        return time.process_time() - begun

    text = " ".join(PRIVATE_LIFE + ORDINARY) + " "
    once = min(seconds(text * 40) for _ in range(3))
    assert min(seconds(text * 160) for _ in range(3)) < 8 * once
