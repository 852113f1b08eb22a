from typing import Any

import pytest

from floe_plugins.errors import ConfigError
from floe_plugins.gate import Decision
from vllm_logits_processor.build import gate_of
from vllm_logits_processor.config import ExpertConfig, FloeConfig

NAMES = "Yesterday Emma Johnson wrote about London."
MAIL = "Write to emma@example.com about it."
TOKENIZER = "embedded:smollm2-135m-instruct"
KEY = "password: Tr0ub4dor&3"


def config(*, trusted: bool = False, **keys: Any) -> FloeConfig:
    expert: dict[str, Any] = {
        "url": "http://127.0.0.1:1/v1",
        "model": "slm",
        "tokenizer": TOKENIZER,
    }
    expert["trusted"] = trusted
    return FloeConfig(expert=ExpertConfig(**expert), gate_timeout_s=30, **keys)


@pytest.mark.parametrize(
    ("keys", "cleared"),
    [
        ({}, [NAMES]),
        ({"gate_profile": "secrets"}, [NAMES, MAIL]),
        ({"gate_profile": "strict"}, []),
    ],
)
def test_the_profile_says_what_the_expert_may_see(keys: dict[str, Any], cleared: list[str]) -> None:
    gate = gate_of(config(**keys))
    assert gate is not None
    found = [each for each in (NAMES, MAIL, KEY) if gate.decide(each).decision is Decision.CLEAR]
    assert found == cleared


def test_an_expert_that_may_see_everything_needs_no_gate() -> None:
    assert gate_of(config(trusted=True)) is None


def test_another_profile_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gate_profile is 'lax'; accepted is .*personal"):
        config(gate_profile="lax")
