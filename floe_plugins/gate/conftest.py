"""What the tests of the gate share."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def others_frozen() -> Iterator[None]:
    """Keep the garbage collector from walking over what other tests hold while time is measured."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
