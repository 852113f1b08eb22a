"""The classes of private text, and which of them the detectors at hand cover."""

import functools
import logging
from collections.abc import Iterable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

# Class of private text to the labels that stand for it, Floe's own and those of common engines.
CLASSES: dict[str, frozenset[str]] = {
    "names of persons": frozenset({"PERSON", "NAME", "PER"}),
    "organisations": frozenset({"ORGANIZATION", "ORGANISATION", "ORG", "NRP"}),
    "places": frozenset({"LOCATION", "PLACE", "GPE", "LOC"}),
    "postal addresses": frozenset({"ADDRESS", "STREET_ADDRESS", "POSTAL_ADDRESS"}),
    "dates of birth": frozenset({"DATE_OF_BIRTH", "BIRTH_DATE", "DATE_TIME", "DATE"}),
    "health": frozenset({"HEALTH", "MEDICAL", "MEDICAL_CONDITION", "SPECIAL_CATEGORY"}),
    "religion, politics, union, sexuality": frozenset(
        {"SPECIAL_CATEGORY", "RELIGION", "POLITICS", "SEXUALITY", "SENSITIVE"}
    ),
    "e-mail addresses": frozenset({"EMAIL", "EMAIL_ADDRESS"}),
    "telephone numbers": frozenset({"PHONE", "PHONE_NUMBER"}),
    "payment cards": frozenset({"CARD", "CREDIT_CARD"}),
    "bank accounts": frozenset({"IBAN", "IBAN_CODE", "BANK_ACCOUNT"}),
    "national identity numbers": frozenset({"US_SSN", "NATIONAL_ID", "SSN", "TAX_ID"}),
    "driving licences, passports": frozenset(
        {"US_DRIVER_LICENSE", "DRIVER_LICENSE", "PASSPORT", "US_PASSPORT"}
    ),
    "VAT numbers": frozenset({"VAT", "VAT_ID", "VAT_NUMBER"}),
    "network addresses": frozenset({"IP_ADDRESS", "IP", "MAC_ADDRESS"}),
    "crypto addresses": frozenset({"CRYPTO", "CRYPTO_ADDRESS"}),
    "passwords, keys": frozenset({"API_KEY", "PRIVATE_KEY", "PASSWORD", "SECRET"}),
}
"""Class of private text to the labels that stand for it."""


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
    """Say what is covered and what is not; once per process and set of labels."""
    known = coverage(labels)
    logger.info(
        "The gate covers: %s. Not covered: %s.",
        "; ".join(known.covered) or "none of the known classes",
        "; ".join(known.uncovered) or "none",
    )
