"""The protocol of privacy detectors, and the classes of private text that labels stand for."""

import functools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, order=True)
class Span:
    """A private stretch of a text.

    Attributes
    ----------
    start, end : int
        The stretch is ``text[start:end]``; offsets count characters.
    label : str
        The kind of private text, in capitals, e.g. ``EMAIL``. Redaction replaces it by ``<EMAIL>``.
    score : float
        How sure the detector is, from 0 to 1; thresholds of a configuration read it. Spans that
        differ only in it are equal.
    """

    start: int
    end: int
    label: str
    score: float = field(default=1.0, compare=False)


@runtime_checkable
class Detector(Protocol):
    """A privacy detector, registered with the hook `floe_register_detectors`.

    A gate calls it from a thread of its own, one text at a time. Its time must grow at most
    linearly with the text, because a late answer makes the text private. The gate can abandon only
    code that runs in Python or releases the interpreter's lock; a pattern of `re` that backtracks
    endlessly stops the whole process.

    A detector may have more than this: `longest`, `default`, `load`, and `reach` or `detect_new`,
    by which a growing text is read; see `floe_plugins.gate.growing`.
    """

    @property
    def name(self) -> str:
        """The name by which configurations choose this detector; unique."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """Every label that `detect` may give."""
        ...

    def detect(self, text: str) -> Sequence[Span]:
        """Return the private spans of a text, in any order; they may overlap.

        Parameters
        ----------
        text : str
            The text, or a form of it in which disguises are undone. The gate passes each of them.

        Returns
        -------
        sequence of Span
            Non-empty spans within the text, with labels out of `labels`. Anything else, or an
            exception, is a failure and makes the text private.
        """
        ...


logger = logging.getLogger(__name__)

# Class of private text to the labels that stand for it, Floe's own and those of common engines.
CLASSES: dict[str, frozenset[str]] = {
    name: frozenset(labels.split())
    for name, labels in {
        "names of persons": "PERSON NAME PER",
        "organisations": "ORGANIZATION ORGANISATION ORG",
        "places": "LOCATION PLACE GPE LOC COORDINATES",
        "postal addresses": "ADDRESS STREET_ADDRESS POSTAL_ADDRESS",
        "dates of birth, ages": "DATE_OF_BIRTH BIRTH_DATE DATE_TIME DATE AGE",
        "health": "HEALTH MEDICAL MEDICAL_CONDITION MEDICAL_RECORD",
        "religion": "RELIGION NRP",
        "politics": "POLITICS",
        "trade unions": "UNION",
        "sexuality": "SEXUALITY",
        "ethnicity": "ETHNICITY NRP",
        "crime": "CRIME",
        "private life": "PRIVATE_LIFE",
        "e-mail addresses": "EMAIL EMAIL_ADDRESS",
        "telephone numbers": "PHONE PHONE_NUMBER",
        "payment cards": "CARD CREDIT_CARD",
        "bank accounts": "IBAN IBAN_CODE BANK_ACCOUNT ACCOUNT_NUMBER",
        "national identity numbers": "US_SSN NATIONAL_ID SSN TAX_ID ID_NUMBER",
        "driving licences": "DRIVER_LICENSE US_DRIVER_LICENSE",
        "passports": "PASSPORT US_PASSPORT",
        "vehicles": "LICENSE_PLATE VEHICLE_ID",
        "VAT numbers": "VAT VAT_ID VAT_NUMBER",
        "network addresses": "IP_ADDRESS IP MAC_ADDRESS",
        "personal pages": "URL",
        "crypto addresses": "CRYPTO CRYPTO_ADDRESS",
        "passwords, keys": "API_KEY PRIVATE_KEY PASSWORD PIN SECRET",
    }.items()
}
"""Class of private text to the labels that stand for it."""

PROSE = frozenset().union(
    *(
        CLASSES[name]
        for name in (
            *("names of persons", "organisations", "places", "postal addresses"),
            *("dates of birth, ages", "health", "religion", "politics", "trade unions"),
            *("sexuality", "ethnicity", "crime", "private life"),
        )
    )
)
"""Labels of findings that follow from the context, not from a form of their own."""


@dataclass(frozen=True)
class Coverage:
    """Which classes some labels cover.

    Attributes
    ----------
    covered, uncovered : tuple of str
        Names of classes, in the order of `CLASSES`.
    """

    covered: tuple[str, ...]
    uncovered: tuple[str, ...]


def coverage(labels: Iterable[str]) -> Coverage:
    """Return which classes of private text the labels of some detectors cover.

    Parameters
    ----------
    labels : iterable of str
        Such as `Gate.labels`.
    """
    given = frozenset(labels)
    covered = tuple(name for name, own in CLASSES.items() if own & given)
    return Coverage(covered, tuple(name for name in CLASSES if name not in covered))


@functools.cache
def log_coverage(labels: frozenset[str]) -> None:
    """Log what is covered and what is not; once per process and set of labels."""
    known = coverage(labels)
    logger.info(
        "The gate covers: %s. Not covered: %s.",
        "; ".join(known.covered) or "none of the known classes",
        "; ".join(known.uncovered) or "none",
    )
