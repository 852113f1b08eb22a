"""Fixtures of the gate's tests."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def others_frozen() -> Iterator[None]:
    """Keep the garbage collector from traversing other tests' objects while time is measured."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
