"""No match of a rule lacks the words without which the rule is not tried."""

from __future__ import annotations

import re

import pytest

from floe_plugins.gate.detectors import births, issued_keys, keywords, national_ids
from floe_plugins.gate.matching import in_lower, matches_at
from floe_plugins.gate.person_context import _LETTERS, _OF_LETTERS, _OF_PEOPLE, _PEOPLE, _Cue
from floe_plugins.testing.pattern_samples import samples

CUES = [*_OF_PEOPLE, *_OF_LETTERS]


@pytest.mark.parametrize("cue", CUES, ids=lambda cue: cue.core[:24])
def test_every_cue_begins_with_one_of_its_first_words(cue: _Cue) -> None:
    core = re.compile(cue.core.replace(r"\ ", "[ \n]"), re.IGNORECASE)
    found = list(samples(core, count=3000))
    assert len(found) > 500
    cues = _PEOPLE if cue in _OF_PEOPLE else _LETTERS
    for text in found:
        # "Anna" stands for the name that follows.
        assert cues.places(f"{text} Anna"), text
    if cue.first:
        begun = {match[0] for text in found if (match := re.match(r"\W*(\w+)", text.lower()))}
        assert begun <= set(cue.first.split()), begun - set(cue.first.split())


@pytest.mark.parametrize("entry", keywords._PATTERNS, ids=lambda entry: entry[2])
def test_every_announced_value_has_a_key_and_is_found_in_lower_case(
    entry: tuple[re.Pattern[str], re.Pattern[str], str, tuple[str, ...]],
) -> None:
    pattern, starts, _, keys = entry
    tried = 0
    for text in samples(pattern, count=1500):
        tried += 1
        assert any(key in f" {text.lower()}" for key in keys), text
        lower = in_lower(text)
        if lower is not None:
            by_starts = [each.span() for each in matches_at(starts, pattern, text, there=lower)]
            assert by_starts == [each.span() for each in pattern.finditer(text)], text
    assert tried > 100


@pytest.mark.parametrize("each", national_ids.ANNOUNCED, ids=lambda each: each.keys[0])
def test_every_name_of_a_number_has_a_key(each: national_ids.AnnouncedId) -> None:
    cue = re.compile(each.cue, re.IGNORECASE)
    for text in samples(cue, count=500):
        spaced = f" {text.lower()} 1"
        for sign in national_ids._SPACED:
            spaced = spaced.replace(sign, " ")
        assert any(key in spaced for key in each.keys), text


def test_every_issued_key_has_a_prefix_and_every_webhook_a_host() -> None:
    for text in samples(issued_keys._KEYS, count=4000):
        assert any(prefix in text for prefix in issued_keys.PREFIXES), text
    for text in samples(issued_keys._WEBHOOK, count=2000):
        assert any(host in text.lower() for host in issued_keys.HOSTS), text


def test_every_cue_of_a_birth_has_a_key() -> None:
    for text in samples(births._CUE, count=2000):
        assert any(key in f" {text.lower()} 1" for key in births.KEYS), text
