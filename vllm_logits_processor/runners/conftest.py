from __future__ import annotations

import pytest

from vllm_logits_processor.testing.engines import Scripted, engine
from vllm_logits_processor.testing.runners import Runner


@pytest.fixture
def runner(expert: Scripted) -> Runner:
    return Runner(engine(expert))
