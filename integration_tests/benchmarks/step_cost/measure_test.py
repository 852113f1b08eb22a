from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from integration_tests.benchmarks.step_cost.__main__ import main
from integration_tests.benchmarks.step_cost.expert import TableExpert
from vllm_logits_processor.expert.dialects.vllm import read_continuations


def test_cases_are_measured(values_of: Callable[..., Any]) -> None:
    few = ["--rows", "1", "3", "--k", "5", "--seen", "0", "--context", "40"]
    values = values_of(main, *few, "--warm-up", "1", "--steps", "2")
    assert {"run", "table", "remarks", "machine"} <= set(values)
    assert [(case["rows"], case["gated"], case["k"]) for case in values["cases"]] == [
        (1, False, 5),
        (3, False, 5),
        (1, True, 5),
        (3, True, 5),
    ]
    # Where the text has covers, a stream asks for more than its end.
    assert 0 < values["wanted"] < 4
    for case in values["cases"]:
        assert min(case[name] for name in ("begin_ms", "decide_ms", "pass_ms")) > 0
        assert 0 < case["fused"] <= 1


def test_the_expert_says_what_the_body_of_its_reply_says() -> None:
    expert = TableExpert([1, 2, 3, 1, 2, 4, 1, 2, 3], k=3)
    prompts = [[7, 1, 2], [7, 9]]
    said = expert.start(prompts, model="slm").result().continuations
    assert said[0].top.token_ids[0, 0] == 3
    read = read_continuations(
        expert.reply(prompts), count=2, steps=1, vocabulary=10, end_ids=np.empty(0, dtype=np.int32)
    )
    for one, other in zip(said, read, strict=True):
        assert one.top.token_ids.tolist() == other.top.token_ids.tolist()
        assert one.top.logprobs[0].tolist() == pytest.approx(other.top.logprobs[0].tolist())
