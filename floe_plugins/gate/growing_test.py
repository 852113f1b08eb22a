"""What is new in a growing text is decided as the whole text is."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from floe_plugins.gate import Decision, Gate, Span
from floe_plugins.gate.growing import (
    BESIDE,
    Cues,
    Growing,
    Words,
    beginning,
    finder,
    new_findings,
    reads_new,
)
from floe_plugins.testing.detectors import ODD, PASSAGES, random_texts

PROSE = (
    "The committee met twice that year, and what it wrote about the river was read by few. Some of"
    " the older boats were kept in a shed, which nobody had painted for a long time, and so the"
    " wood was soft. Others lay in the open. It rained often, and it was a good year for apples. "
) * 3
CODE = "def total(items):\n    return sum(item.price for item in items)  # of all\n\n" * 10
GERMAN = (
    "Der Ausschuss tagte zweimal in diesem Jahr, und was er über den Fluss schrieb, lasen wenige. "
    "Einige der älteren Boote standen in einem Schuppen – niemand hatte ihn gestrichen. "
) * 4

VALUES = (
    *PASSAGES,
    *(text for text in ODD if text.strip()),
    "Reach me at joe.bloggs@example.org, or under +44 20 7946 0018 (office).",
    "It is four one one one, one one one one, one one one one, one one one one.",
    "joe dot bloggs at example dot org is mine",
    "The code says j o e . b l o g g s @ e x a m p l e . o r g here",
    base64.b64encode(b"the address is joe.bloggs@example.org").decode() + " is all",
    "".join(f"%{byte:02x}" for byte in b"joe.bloggs@example.org") + " is all",
    "j\u043ee.bl\u043eggs@ex\u0430mple.org \u2014 and so on",
    "\uff14\uff11\uff11\uff11 1111 1111 1111 is a card",
    "My wife Anna Miller came. Emma Johnson, my sister, did not.",
    "Dear Mr Smith,\nthank you for the letter.\n\nBest regards,\nAnna Miller\n",
    "Yesterday Emma Johnson wrote about London, and Paris in 2019.",
    "They moved to 12 Orchard Lane, Cambridge CB2 1TN, in May.",
    "I was diagnosed with diabetes. My son has asthma and takes insulin, and I am 47 years old.",
    "She was born on the twenty-first of May, nineteen eighty-four. My dob is 3/4/1984.",
    "He saw 1/2/1984, 3/4/1985 and 5/6/1986-",
    "My passport number is 536904399 and my PAN is ABCPD1234E.",
    "password: Tr0ub4dor&3, token = 9f86d081884c7d659a2feaa0c55ad015",
    "mysql -u root -pS3cretPass9 and\n-p S3cretPass9 too",
    "<password>correct horse battery staple</password>",
    "https://www.linkedin.com/in/joe-bloggs and my blog http://bloggs.example.net/a",
    "4111 1111 1111 1111 or 12 34 56 78 90 12 34 56 78 90 12 34 56 78",
    *random_texts(10, seed=3),
)
_PIECE = re.compile(r"\s?[^\W\d_]{1,5}|\d{1,3}|\s+|.", re.DOTALL)


def steps(before: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield the text as it grows by pieces like tokens, with the length that it had."""
    whole, known = before + text, len(before)
    for piece in _PIECE.finditer(whole, known):
        yield known, whole[: piece.end()]
        known = piece.end()


def private_of(gate: Gate, before: str, values: Sequence[str]) -> int:
    """Let each value grow until it is private, decided as the whole is; return how many are."""
    private = 0
    for value in values:
        for known, text in steps(before, value):
            whole = gate.decide(text).decision
            assert gate.decide(text, new_from=known).decision is whole, text[-120:]
            if whole is not Decision.CLEAR:
                private += 1
                break
    return private


@pytest.mark.parametrize(
    ("profile", "before"), [("personal", PROSE), ("personal", GERMAN), ("strict", CODE)]
)
def test_a_growing_text_is_decided_as_the_whole_at_every_piece(profile: str, before: str) -> None:
    gate = Gate(profile=profile, timeout_s=30)
    assert gate.decide(before).decision is Decision.CLEAR
    assert private_of(gate, before, VALUES) >= 20


def test_what_an_allow_list_names_is_decided_as_the_whole_while_it_grows() -> None:
    allow = {
        "values": ["joe.bloggs@example.org", "Anna Miller", "4111 1111 1111 1111"],
        "domains": ["example.com"],
        "patterns": [r".*7946.*"],
    }
    gate = Gate(profile="strict", allow=allow, timeout_s=30)
    longer = (
        "Mail joe.bloggs@example.org, or joe.bloggs@example.organic",
        "Mail a@example.com, or also a@example.com.example.net",
        "My wife Anna Miller-Smith came. Anna Miller did. Anna Miller.Son and Anna Miller@home too",
        "It is 4111 1111 1111 1111 and 4111 1111 1111 1111-2, or 4111 1111 1111 1111.5",
    )
    assert private_of(gate, "The list: ", (*longer, *VALUES)) >= 10
    assert gate.decide("Mail joe.bloggs@example.org to Anna Miller.").decision is Decision.CLEAR


class Noting:
    """A detector that notes what it is asked."""

    name = "noting"
    labels = ("NOTED",)

    def __init__(self) -> None:
        self.asked: list[str] = []

    def detect(self, text: str) -> Sequence[Span]:
        self.asked.append(text)
        place = text.find("secret thing")
        return [Span(place, place + 12, "NOTED")] if place >= 0 else []


def test_a_detector_without_a_reach_reads_the_whole() -> None:
    noting = Noting()
    assert Gate(detectors=[noting]).decide(PROSE, new_from=500).decision is Decision.CLEAR
    assert noting.asked == [PROSE]
    assert not Gate(detectors=[noting]).reads_new


def test_a_detector_with_a_reach_reads_so_much_and_whole_words() -> None:
    class Near(Noting):
        reach = 12

    near = Near()
    gate = Gate(detectors=[near])
    assert gate.reads_new
    gate.decide(PROSE, new_from=len(PROSE) - 5)
    (asked,) = near.asked
    assert PROSE.endswith(asked)
    assert 17 <= len(asked) < 40
    assert PROSE[-len(asked) - 1].isspace()


def test_what_is_found_in_new_text_is_decided_by_the_whole() -> None:
    class Near(Noting):
        reach = 12

    near = Near()
    text = PROSE + "a secret thing"
    verdict = Gate(detectors=[near]).decide(text, new_from=len(text) - 1)
    assert verdict.decision is Decision.LOCAL
    assert [text[span.start : span.end] for span in verdict.spans] == ["secret thing"]
    assert near.asked[-1] == text


def test_a_detector_that_fails_for_new_text_makes_it_private() -> None:
    class Broken(Noting):
        def detect_new(self, text: str, new_from: int) -> Sequence[Span]:
            raise RuntimeError

        def detect(self, text: str) -> Sequence[Span]:
            raise RuntimeError

    verdict = Gate(detectors=[Broken()]).decide(PROSE, new_from=500)
    assert verdict.decision is Decision.LOCAL
    assert not verdict.scanned_all


def test_an_invalid_answer_for_new_text_is_decided_by_the_whole() -> None:
    class Wrong(Noting):
        def detect_new(self, text: str, new_from: int) -> Sequence[Span]:
            return [Span(0, len(text) + 1, "NOTED")]

    wrong = Wrong()
    assert Gate(detectors=[wrong]).decide(PROSE, new_from=500).decision is Decision.CLEAR
    assert wrong.asked == [PROSE]


@pytest.mark.parametrize("new_from", [-3, 0, len(PROSE) + 1])
def test_a_place_outside_of_the_text_means_the_whole(new_from: int) -> None:
    noting = Noting()
    Gate(detectors=[noting]).decide(PROSE, new_from=new_from)
    assert noting.asked == [PROSE]


def test_a_beginning_is_that_of_a_word_after_no_number() -> None:
    text = "some words 12 34 56 78 and then more of them"
    assert text[beginning(text, text.index("more")) :] == "more of them"
    assert text[beginning(text, text.index("56")) :].startswith("12")
    assert beginning(text, -5) == 0
    assert BESIDE >= 96


def test_all_of_floes_own_detectors_read_what_is_new() -> None:
    gate = Gate()
    assert gate.reads_new
    detectors = [each.detector for each in gate._runner._detectors]
    assert all(map(reads_new, detectors))
    text = PROSE + "write to joe@example.org"
    found = [span for each in detectors for span in new_findings(each, text, len(text) - 3)]
    assert {text[span.start : span.end] for span in found} == {"joe@example.org"}


def test_what_is_asked_of_the_end_of_a_growing_text() -> None:
    grown = Growing("In 1999 they came. And then ", 23)
    assert grown.old == "In 1999 they came. And "
    assert grown.since_digit == 17
    assert grown.text[grown.start :] == "And then "
    assert grown.text[grown.end :] == "then "
    assert Growing("It is 5", 6).since_digit < 1
    assert Growing("no digit at all", 5).since_digit > 10_000
    assert Growing(f"7{' ' * 999}x", 1000).since_digit > 10_000


@pytest.mark.parametrize("step", [1, 3, 8])
def test_cues_and_words_are_seen_wherever_a_text_is_cut(step: int) -> None:
    read: list[str] = []

    def find(piece: str) -> object:
        read.append(piece)
        return re.search(r"mot de|secret", piece)

    cues = Cues(find, longest=6, within=20)
    words = Words(lambda lower: "secret" in lower.split(), within=20)
    seen = 0
    for text in (f"A Secret of {PROSE}", f"{PROSE} le mot de passe {PROSE}", *VALUES):
        for known in range(0, len(text) - step, step):
            grown = Growing(text[: known + step], known)
            near = grown.text[max(0, known - 20) :].lower()
            if re.search(r"mot de|secret", near):
                seen += 1
                assert cues.near(grown), near
            if "secret" in near.split():
                assert words.near(grown), near
    assert seen > 4
    # Each character is read once, and with those that are new so many before them.
    assert sum(map(len, read)) < sum(map(len, (PROSE, PROSE, *VALUES))) * (1.5 + 6 / step)


def test_cues_are_read_from_where_they_were_not_asked() -> None:
    cues = Cues(re.compile("secret").search, longest=6, within=40)
    text = "a calm beginning, a secret and more"
    assert not cues.near(Growing(text[:12], 8))
    # In between nobody asks, and then nothing new is said to be there.
    for known in range(12, 30):
        Growing(text[: known + 1], known)
    assert cues.near(Growing(text, 31), finds=False)


def test_a_word_that_grows_to_another_is_forgotten() -> None:
    words = Words(lambda lower: "so" in lower.split(), within=40)
    assert words.near(Growing("it was so", 7))
    assert not words.near(Growing("it was some", 9))


def test_of_ordinary_new_text_no_detector_but_the_learned_is_asked() -> None:
    gate = Gate()
    text = f"{PROSE}The older boats were kept in a shed"
    awake = [
        each.detector.name
        for each in gate._runner._detectors
        if (may_find := finder(each.detector)) is None or may_find(Growing(text, len(text) - 4))
    ]
    assert awake == ["learned"]
    assert gate._in_context.keys() == {"learned"}


def test_the_verdict_on_calm_new_text_is_that_on_the_whole() -> None:
    for gate in (Gate(), Gate(profile="strict"), Gate(policy="labels", actions={"EMAIL": "local"})):
        text = f"{PROSE}The older boats were kept in a shed"
        whole, new = gate.decide(text), gate.decide(text, new_from=len(text) - 4)
        assert new.milliseconds >= 0
        assert replace(new, milliseconds=0) == replace(whole, milliseconds=0)


CALM = "The committee met at noon and looked at the plans of the new bridge once more. "


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        (f"{CALM}host １９２.１６８.１.２０ ok.", "strict"),
        (
            f"{CALM}yesterday {chr(0x200B).join('Emma')} {chr(0x200B).join('Johnson')} wrote",
            "strict",
        ),
        ("It is on my blog under a heading with the date in it https://abcde.example.net/a/b", ""),
        (
            f"on 12 of 2019 34 men came. {CALM * 4}it is "
            "1.B.o.a.t.S.L.R.H.t.K.N.n.g.k.d.X.E.e.o.b.R.7.6.b.5.3.L.E.T.t.p.y.T ok",
            "",
        ),
        ("on 12 of 2019 34 men came. it is A_K_I_A_Q_W_E_R_T_Z_U_I_O_P_A_S_D_F_G_H ok", ""),
        (f"https://{'qwertzuiop' * 20}:{'asdfghjk12' * 25}@db.example.net ok", ""),
        (f"Bearer {'ab3Cd9' * 75} ok", ""),
        (f"joe @ {'xqvw' * 14}.{'xqvw' * 12}.com ok", ""),
        (f"my passport {chr(0x200B) * 600}A1234567 ok", ""),
    ],
    ids=["numbers", "letters", "page", "dots", "lines", "url", "bearer", "domain", "padding"],
)
def test_what_once_slipped_through_while_it_grew(text: str, profile: str) -> None:
    gate = Gate(timeout_s=30, profile=profile or "personal")
    assert gate.decide(text).decision is not Decision.CLEAR
    assert any(
        gate.decide(text[: end + 1], new_from=end).decision is not Decision.CLEAR
        for end in range(1, len(text))
    )
