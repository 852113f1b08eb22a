from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from vllm_logits_processor.expert.dialects import vllm
from vllm_logits_processor.expert.http import request_body
from vllm_logits_processor.expert.protocol import Continuation, ExpertError

VOCABULARY, ENDS = 100, np.array([7, 8], dtype=np.int32)


def read(data: bytes, *, count: int, steps: int) -> tuple[Continuation, ...]:
    return vllm.read_continuations(
        data, count=count, steps=steps, vocabulary=VOCABULARY, end_ids=ENDS
    )


def outcome(data: bytes, *, count: int, steps: int) -> Any:
    """Return what a reply says, or why it is refused."""
    try:
        said = read(data, count=count, steps=steps)
    except ExpertError as error:
        return str(error)
    return [
        (each.tokens.tolist(), each.top.token_ids.tolist(), each.top.logprobs.tolist())
        for each in said
    ]


def reply(random: np.random.Generator) -> tuple[dict[str, Any], int, int]:
    """Return a reply, the prompts that it answers, and the steps that were asked for."""
    count, steps, k = (int(each) for each in random.integers(1, 5, 3))
    choices = []
    for place in range(count):
        rows = []
        for _ in range(steps if random.random() < 0.8 else max(1, steps - 1)):
            width = k + int(random.random() < 0.05)
            ids = random.choice(VOCABULARY, size=width, replace=False)
            logs = np.log(random.dirichlet(np.ones(width + 1))[:width])
            rows.append(dict(zip((f"token_id:{token}" for token in ids), logs, strict=True)))
        own = [next(iter(row)) for row in rows]
        choices.append({"index": place, "logprobs": {"tokens": own, "top_logprobs": rows}})
    random.shuffle(choices)
    return {"choices": choices, "usage": None}, count, steps


def broken(values: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    """Break a reply in one of many ways."""
    first = values["choices"][0]
    logs = first["logprobs"]
    row = logs["top_logprobs"][0]
    token = next(iter(row))
    way = int(random.integers(14))
    if way == 0:
        first["index"] += 1
    elif way == 1:
        first["logprobs"] = None
    elif way == 2:
        row["the"] = row.pop(token)
    elif way == 3:
        row[token] = 0.5
    elif way == 4:
        row[token] = float("nan")
    elif way == 5:
        row[f"token_id:{VOCABULARY}"] = row.pop(token)
    elif way == 6:
        row["token_id:-1"] = row.pop(token)
    elif way == 7:
        row["token_id:" + "9" * 30] = row.pop(token)
    elif way == 8:
        logs["tokens"].append("token_id:3")
    elif way == 9:
        logs["top_logprobs"].append(dict(row))
    elif way == 10:
        logs["top_logprobs"] = [{}]
    elif way == 11:
        row["token_id:x"] = row.pop(token)
    elif way == 12:
        row[token] = None
    else:
        values.pop("choices")
    return values


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("whole", [True, False])
def test_the_usual_way_reads_what_the_other_reads(seed: int, *, whole: bool) -> None:
    random = np.random.default_rng(seed)
    values, count, steps = reply(random)
    data = json.dumps(values if whole else broken(values, random)).encode()
    found = outcome(data, count=count, steps=steps)
    with patch.object(vllm, "_read_usual", lambda *_, **__: None):
        assert outcome(data, count=count, steps=steps) == found
    assert isinstance(found, list) or not whole


def test_most_replies_are_read_in_the_usual_way() -> None:
    read_so = 0
    for seed in range(100):
        values, count, steps = reply(np.random.default_rng(seed))
        data = json.dumps(values).encode()
        usual = vllm._read_usual(data, count=count, steps=steps, vocabulary=VOCABULARY)
        read_so += usual is not None
    assert read_so > 50


def test_a_body_is_the_json_of_its_fields() -> None:
    fields = {"model": "slm é", "prompt": [[1, 2], [3]], "temperature": 0.0}
    assert json.loads(request_body(fields, {"a": True})) == {**fields, "a": True}
    assert json.loads(request_body({"model": "\ud800"}, {})) == {"model": "\ud800"}
