"""Texts that are built to be slow."""

import time

import pytest

from floe_plugins.gate.detectors import BUILT_IN_DETECTORS

DEFAULTS = [each for each in BUILT_IN_DETECTORS if getattr(each, "default", True)]
DETECTORS = {detector.name: detector for detector in DEFAULTS}

# A repeated unit, and the number of characters of it.
HOSTILE = {
    "digits": ("7", 1_000_000),
    "nested brackets": ("([{<", 1_000_000),
    "a run": ("a", 1_000_000),
    "spaced digits": ("1 2-3.", 120_000),
    "capitals and digits": ("AB12", 120_000),
    "names of streets": ("12 Aa ", 120_000),
    "cues": ("my password is token key ", 120_000),
    "statements": ("i have a ", 120_000),
    "slashes": ("://a:", 120_000),
    "keys": ("sk-eyJ.", 120_000),
    "hex": ("00:1b:", 120_000),
    "a long name": ("Ab-", 120_000),
    "births": ("born 3 May ", 120_000),
    "ages": ("my 5 years old ", 120_000),
    "coordinates": ("lat 5.12345, ", 120_000),
    "names of ids": ("pan npi 1234 dea ", 120_000),
    "at signs": ("a@b.c@", 120_000),
}


@pytest.mark.usefixtures("others_frozen")
@pytest.mark.parametrize(("unit", "size"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_long_text_takes_linear_time(unit: str, size: int) -> None:
    def seconds(size: int) -> dict[str, float]:
        text = (unit * (size // len(unit) + 1))[:size]
        taken = {}
        for name, detector in DETECTORS.items():
            # Only this thread's time: others may be busy.
            started = time.thread_time()
            detector.detect(text)
            taken[name] = time.thread_time() - started
        return taken

    small, large = seconds(size // 8), seconds(size)
    for name, taken in large.items():
        # Eight times the text; quadratic time would be a factor of 64. Caches are cold or warm.
        assert taken < 32 * max(small[name], 0.05), name
