"""What is private: profiles that judge the findings of the detectors.

A detector says what a stretch of text is. A profile says whether that is private, by its label and,
for what is private only in some contexts, by the text around it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Literal

from floe_plugins.gate.detector import CLASSES, Span
from floe_plugins.gate.growing import Growing
from floe_plugins.gate.person_context import (
    TELLING_CHARS,
    births_of_life,
    may_tell_of_life,
    persons_of_letters,
    persons_of_life,
)
from floe_plugins.gate.street_addresses import leads_to_a_house, street_addresses


class Profile(StrEnum):
    """What counts as private."""

    SECRETS = "secrets"
    """Keys, passwords, cards, accounts and identity numbers."""

    PERSONAL = "personal"
    """What identifies or exposes a person."""

    STRICT = "strict"
    """Every finding of which a detector is sure."""


IGNORED = "ignored"
"""In a table of roles or fields: their texts are not judged."""

Judged = Literal["ignored", "secrets", "personal", "strict"]
"""A value of such a table."""

PROFILE_HELP = (
    "what is private. `secrets`: keys, passwords, cards, accounts, identity numbers. `personal`: "
    "also contact data, street addresses and sensitive statements, and names with any of these or "
    "with words that make them people of the user's life. `strict`: every finding of which its "
    "detector is sure"
)

#: The least score of a finding that is private by itself under ``strict``. Chosen on labelled and
#: ordinary prompts: below it are more ordinary words than names.
SURE = 0.8

#: From what covers least to what covers most.
ORDER: tuple[str, ...] = (IGNORED, *Profile)

_CONTACT = "contact data"
_POSTAL = "street address"
_PERSON = "person of the user's life"
_BIRTH = "date of birth, age"
_PLACE = "exact place"
_NETWORK = "public network address"
_SENSITIVE = "sensitive statement"
UNKNOWN = "label that the profile does not know"
ALONE = "alone"
BESIDE = "beside something private"
ANY = "any finding"
UNSURE = "unsure and alone"
NO_SECRET = "no secret"

# Class of private text -> kind of secret.
_SECRETS = {
    "passwords, keys": "secret",
    "payment cards": "card",
    "bank accounts": "account",
    "crypto addresses": "account",
    "national identity numbers": "identity number",
    "driving licences": "identity number",
    "passports": "identity number",
    "vehicles": "identity number",
    "VAT numbers": "identity number",
}
# Class of private text -> kind, for what is private wherever it stands.
_EXPOSING = {
    "e-mail addresses": _CONTACT,
    "telephone numbers": _CONTACT,
    "personal pages": _CONTACT,
    "health": _SENSITIVE,
    "religion": _SENSITIVE,
    "politics": _SENSITIVE,
    "trade unions": _SENSITIVE,
    "sexuality": _SENSITIVE,
    "ethnicity": _SENSITIVE,
    "crime": _SENSITIVE,
    "private life": _SENSITIVE,
}
# Labels that say more than their class.
_OF_LABELS = {
    "MEDICAL_RECORD": "identity number",
    "DATE_OF_BIRTH": _BIRTH,
    "BIRTH_DATE": _BIRTH,
    # Of the user or of somebody of the user's life: no detector reports other ages.
    "AGE": _BIRTH,
    "COORDINATES": _PLACE,
}


def _by_label(kinds: Mapping[str, str]) -> dict[str, str]:
    return {label: kind for name, kind in kinds.items() for label in CLASSES[name]}


_SECRET_LABELS = {**_by_label(_SECRETS), "MEDICAL_RECORD": _OF_LABELS["MEDICAL_RECORD"]}
_PRIVATE_LABELS = {**_by_label(_EXPOSING), **_SECRET_LABELS, **_OF_LABELS}


def _public_addresses(text: str, spans: Collection[Span]) -> set[Span]:
    """Return the network addresses that are not of a private network or of documentation."""
    return {span for span in spans if _is_public(text[span.start : span.end])}


def _is_public(written: str) -> bool:
    try:
        return ipaddress.ip_address(written.rstrip(".")).is_global
    except ValueError:
        # The address of a device.
        return True


_Contexts = Callable[[str, Collection[Span]], set[Span]]

# Classes whose members are private in some contexts: kind, and the function that finds them.
_IN_CONTEXT: dict[str, tuple[str, _Contexts]] = {
    "names of persons": (_PERSON, persons_of_letters),
    "postal addresses": (_POSTAL, street_addresses),
    "dates of birth, ages": (_BIRTH, births_of_life),
    "network addresses": (_NETWORK, _public_addresses),
}
#: Classes for one of which the name of a street, or of a person, may be taken.
_NAMES = ("names of persons", "organisations", "places")
_WEAK = {
    label: name
    for name in (*_IN_CONTEXT, *_NAMES)
    for label in CLASSES[name]
    if label not in _PRIVATE_LABELS
}


def kinds(text: str, spans: Collection[Span]) -> dict[Span, str]:
    """Return the kinds of the findings that are private by themselves under ``personal``.

    The others are private only beside one of these. A label that no profile knows is private: it
    may be a plugin's.

    Parameters
    ----------
    text : str
        The text in which the spans are.
    """
    found: dict[Span, str] = {}
    weak: dict[str, list[Span]] = {}
    for span in spans:
        if span.label in _WEAK:
            weak.setdefault(_WEAK[span.label], []).append(span)
        else:
            found[span] = _PRIVATE_LABELS.get(span.label, UNKNOWN)
    for name, (kind, private) in _IN_CONTEXT.items():
        if name in weak:
            found.update(dict.fromkeys(private(text, weak[name]), kind))
    names = [span for name in _NAMES for span in weak.get(name, ())]
    found.update(dict.fromkeys(persons_of_life(text, names), _PERSON))
    streets = (span for span in names if leads_to_a_house(text, span))
    found.update(dict.fromkeys(streets, _POSTAL))
    return found


def only_in_context(labels: Collection[str]) -> bool:
    """Return whether names and addresses are all that these labels stand for."""
    return all(_WEAK.get(label) in (*_NAMES, "postal addresses") for label in labels)


def is_of_an_address(label: str, rule: str) -> bool:
    """Return whether a finding, with the rule by which it is private, is a part of an address."""
    return rule == _POSTAL or _WEAK.get(label) == "postal addresses"


def may_be_in_context(grown: Growing) -> bool:
    """Return whether new words or numbers may make names or addresses beside them private."""
    return grown.since_digit <= TELLING_CHARS or may_tell_of_life(grown)


def secret_kind(label: str) -> str | None:
    """Return which kind of secret a label stands for, or None."""
    return _SECRET_LABELS.get(label)
