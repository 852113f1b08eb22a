from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from vllm_logits_processor.expert.dialects.dialect import Expected
from vllm_logits_processor.expert.dialects.llama_cpp import LlamaCppDialect, adapter_ids
from vllm_logits_processor.expert.protocol import ExpertError, NoSuchModelError
from vllm_logits_processor.testing.tokenizers import trained_vocabulary

VOCABULARY = trained_vocabulary("byte-level")
EXPECTED = Expected(
    top_k=2,
    vocabulary=50_000,
    end_ids=np.array([2, 4], dtype=np.int32),
    tokenizer=VOCABULARY,
)


def step(token: int, row: dict[int, float]) -> dict[str, Any]:
    """Return one entry as llama.cpp's server writes it."""
    top = [{"id": each, "token": "x", "bytes": [120], "logprob": p} for each, p in row.items()]
    return {"id": token, "token": "x", "bytes": [120], "logprob": -1.0, "top_logprobs": top}


def answer(index: int, tokens: list[int], steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {"index": index, "tokens": tokens, "completion_probabilities": steps}


def test_a_forced_token_is_not_the_models_own() -> None:
    """As recorded for "The capital of France is", with the comma forced (b11549)."""
    recorded = (
        b'{"index":0,"tokens":[28],"completion_probabilities":[{"id":28,"token":",","bytes":[44],'
        b'"logprob":-7.684575080871582,"top_logprobs":[{"id":7042,"token":" Paris","bytes":[32,80,'
        b'97,114,105,115],"logprob":-0.25889989733695984},{"id":260,"token":" the","bytes":[32,116,'
        b'104,101],"logprob":-2.764557123184204}]}]}'
    )
    (said,) = LlamaCppDialect(EXPECTED).read(recorded, count=1, steps=1)
    assert said is not None
    assert said.tokens.tolist() == [7042]
    assert said.top.token_ids.tolist() == [[7042, 260]]
    assert said.top.logprobs[0] == pytest.approx([-0.2589, -2.76456], abs=1e-4)


def test_rows_may_come_in_any_order_and_so_may_prompts() -> None:
    body = json.dumps(
        [
            answer(1, [9], [step(9, {7: -3.0, 8: -0.2})]),
            answer(0, [9], [step(9, {5: -0.1, 6: -4.0})]),
        ]
    ).encode()
    first, second = LlamaCppDialect(EXPECTED).read(body, count=2, steps=1)
    assert first is not None
    assert second is not None
    assert (first.tokens.tolist(), second.tokens.tolist()) == ([5], [8])


def test_steps_end_before_a_token_whose_row_is_left_out() -> None:
    whole, half = step(5, {5: -0.1, 6: -4.0}), step(8, {8: -0.1})
    body = json.dumps([answer(0, [5, 7, 8], [whole, half]), answer(1, [7, 8, 9], [half])]).encode()
    first, second = LlamaCppDialect(EXPECTED).read(body, count=2, steps=3)
    assert first is not None
    assert first.tokens.tolist() == [5]
    assert second is None


def test_ends_of_turn_are_one_event() -> None:
    body = json.dumps(answer(0, [2], [step(2, {2: math.log(0.25), 4: math.log(0.5)})])).encode()
    (said,) = LlamaCppDialect(EXPECTED).read(body, count=1, steps=1)
    assert said is not None
    assert math.exp(float(said.top.logprobs.max())) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "not a completion"),
        (b"[" * 60_000, "not a completion"),
        (b"{}", "no distribution"),
        (b"[]", "not one choice for each"),
        (json.dumps([answer(0, [1], []), answer(1, [1], [])]).encode(), "not one choice for each"),
        (json.dumps(answer(0, [1], [])).encode(), "no distribution"),
        (json.dumps(answer(0, [1], [step(1, {})])).encode(), "no logprobs"),
        (json.dumps(answer(0, [1], [step(1, {50_000: -1.0})])).encode(), "outside"),
        (json.dumps(answer(0, [1], [step(1, {5: math.nan})])).encode(), "NaN or above zero"),
        (json.dumps(answer(0, [1], [step(1, {5: -0.1, 6: -0.1})])).encode(), "more than one"),
        (json.dumps(answer(0, [1], [{"id": 1, "probs": []}])).encode(), "not a completion"),
        (json.dumps(answer(0, [1], [step(1, {5: -1.0})] * 2)).encode(), "2 tokens"),
    ],
)
def test_a_broken_reply_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(ExpertError, match=reason):
        LlamaCppDialect(EXPECTED).read(body, count=1, steps=1)


def test_a_request_evaluates_one_pass_a_token_and_hides_no_half_character() -> None:
    dialect = LlamaCppDialect(EXPECTED, base="slm")
    body = dialect.body([[1, 2]], model="slm", steps=1)
    ((forced, bias),) = body["logit_bias"]
    assert VOCABULARY.token_bytes[forced]
    assert bias > 1000
    assert (body["n_probs"], body["n_predict"], body["cache_prompt"]) == (2, 1, True)
    assert "lora" not in body
    assert "logit_bias" not in dialect.body([[1, 2]], model="slm", steps=2)


def test_prompts_of_one_text_are_asked_about_in_turn() -> None:
    first, second = list(range(100)), list(range(500, 600))
    prompts = [first, first[:-1], second, first[:-2], [7, 8]]
    rounds = LlamaCppDialect(EXPECTED).rounds(prompts)
    assert [sorted(places) for places in rounds] == [[2, 3, 4], [1], [0]]
    assert LlamaCppDialect(EXPECTED).rounds([first]) == ((0,),)


def test_an_adapter_is_chosen_by_its_name_and_others_are_off() -> None:
    adapters = adapter_ids(
        [
            {"id": 0, "path": "/run/gguf/cluster-0.gguf", "scale": 1.0},
            {"id": 1, "path": "/run/cluster-1/adapter.gguf", "scale": 1.0},
        ]
    )
    dialect = LlamaCppDialect(EXPECTED, base="slm", adapters=adapters)

    def scales(model: str) -> list[float]:
        return [each["scale"] for each in dialect.body([[1]], model=model, steps=1)["lora"]]

    assert scales("slm") == [0.0, 0.0]
    assert scales("cluster-0") == [1.0, 0.0]
    assert scales("cluster-1") == [0.0, 1.0]
    with pytest.raises(NoSuchModelError, match="cluster-0, cluster-1"):
        scales("cluster-2")
    with pytest.raises(NoSuchModelError, match="none"):
        LlamaCppDialect(EXPECTED, base="slm").body([[1]], model="cluster-0", steps=1)


@pytest.mark.parametrize("listed", [None, {}, [1], [{"id": "x", "path": "a"}], [{"id": 1}]])
def test_a_list_of_adapters_of_another_shape_is_refused(listed: object) -> None:
    with pytest.raises(ExpertError, match="adapters cannot be read"):
        adapter_ids(listed)
