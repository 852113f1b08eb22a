from __future__ import annotations

import logging

import pytest

from floe_plugins.errors import ConfigError
from vllm_logits_processor.fallback import Fallback


def broken(secret: str) -> int:
    raise KeyError(secret)


def test_after_a_fault_nothing_is_run_again(caplog: pytest.LogCaptureFixture) -> None:
    fallback = Fallback()
    assert fallback.run(lambda: 1, otherwise=0) == 1
    with caplog.at_level(logging.ERROR):
        assert fallback.run(lambda: broken("4111 1111 1111 1111"), otherwise=0) == 0
        assert fallback.run(lambda: 1, otherwise=0) == 0
    (record,) = caplog.records
    said = record.getMessage()
    assert "KeyError in fallback_test.py" in said
    assert "the host answers alone" in said
    assert "4111" not in caplog.text


def test_what_is_meant_to_stop_the_server_stops_it() -> None:
    fallback = Fallback()

    def refused() -> int:
        raise ConfigError("floe: router is 'x'; accepted are a, b.")

    with pytest.raises(ConfigError, match="accepted"):
        fallback.run(refused, otherwise=0)
    assert fallback.run(lambda: 1, otherwise=0) == 1
