from __future__ import annotations

import pytest

from vllm_logits_processor.testing.fake_expert import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))
