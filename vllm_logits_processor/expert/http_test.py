from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from floe_plugins.config import ApiKey
from vllm_logits_processor.expert.dialects.vllm import VllmDialect
from vllm_logits_processor.expert.http import CompletionsExpert
from vllm_logits_processor.expert.protocol import ExpertError, ExpertReply
from vllm_logits_processor.testing.fake_expert import FakeExpert, completion, fake_expert

HALF = math.log(0.5)


def well(body: dict[str, Any]) -> bytes:
    """Reply with the length of the text, which grows with every step."""
    return completion(
        *(
            [{len(prompt) + step: HALF, 1000 + place: -3.0} for step in range(body["max_tokens"])]
            for place, prompt in enumerate(body["prompt"])
        )
    )


def first_tokens(reply: ExpertReply) -> list[int]:
    return [int(each.tokens[0]) for each in reply.continuations]


@pytest.fixture
def server() -> Iterator[FakeExpert]:
    with fake_expert(well) as state:
        yield state


def scored(rows: list[dict[int, float] | None]) -> bytes:
    """Return the body of a reply with vLLM's ``prompt_logprobs``."""
    said = [
        None
        if row is None
        else {str(token): {"logprob": logprob, "rank": 1} for token, logprob in row.items()}
        for row in rows
    ]
    return json.dumps({"choices": [{"index": 0, "text": "", "prompt_logprobs": said}]}).encode()


def client_of(server: FakeExpert, **values: Any) -> CompletionsExpert:
    return CompletionsExpert(
        url=server.url,
        top_k=2,
        vocabulary=2000,
        end_ids=np.empty(0, dtype=np.int32),
        **{"timeout_s": 2.0, **values},
    )


@pytest.fixture
def expert(server: FakeExpert) -> Iterator[CompletionsExpert]:
    client = client_of(server, api_key=ApiKey("open-sesame"))
    yield client
    client.close()


def test_one_request_asks_for_all_prompts(server: FakeExpert, expert: CompletionsExpert) -> None:
    reply = expert.start([[1, 2, 3], [4]], model="slm").result(timeout=5)
    assert [each.tokens.tolist() for each in reply.continuations] == [[3], [1]]
    assert [each.top.token_ids.tolist() for each in reply.continuations] == [
        [[3, 1000]],
        [[1, 1001]],
    ]
    assert [each.top.logprobs.tolist() for each in reply.continuations] == [[[HALF, -3.0]]] * 2
    (request,) = server.requests
    assert request["prompt"] == [[1, 2, 3], [4]]
    assert request["model"] == "slm"
    assert (request["logprobs"], request["max_tokens"]) == (2, 1)
    assert request["return_tokens_as_token_ids"] is True
    assert server.headers[0]["Authorization"] == "Bearer open-sesame"
    assert reply.sent_bytes == len(json.dumps(request, separators=(",", ":")))
    assert reply.received_bytes == len(well(request))


def test_several_steps_come_in_one_reply(server: FakeExpert, expert: CompletionsExpert) -> None:
    reply = expert.start([[1, 2, 3], [4]], model="slm", steps=3).result(timeout=5)
    assert server.requests[0]["max_tokens"] == 3
    assert [each.tokens.tolist() for each in reply.continuations] == [[3, 4, 5], [1, 2, 3]]
    for place, each in enumerate(reply.continuations):
        assert each.top.token_ids.tolist() == [[token, 1000 + place] for token in each.tokens]


def test_a_continuation_may_be_shorter_where_the_expert_ends(
    server: FakeExpert, expert: CompletionsExpert
) -> None:
    server.answer = lambda _: completion([{5: HALF}], [{6: HALF}, {7: HALF}])
    reply = expert.start([[1], [2]], model="slm", steps=3).result(timeout=5)
    assert [each.tokens.tolist() for each in reply.continuations] == [[5], [6, 7]]


def test_a_prompt_is_scored(server: FakeExpert, expert: CompletionsExpert) -> None:
    server.answer = lambda body: scored([None, {7: -1.5, 3: -0.1}, {8: -9999.0}])
    assert expert.score([6, 7, 8], model="slm").result(timeout=5) == -10000.5
    (request,) = server.requests
    assert (request["prompt"], request["prompt_logprobs"]) == ([[6, 7, 8]], 0)
    assert request["max_tokens"] == 1


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([None], "not one logprob for each"),
        ([{6: -1.0}, {7: -1.0}, {8: -1.0}], "not one logprob for each"),
        ([None, {7: -1.0}, {9: -1.0}], "not a completion"),
        ([None, {7: -1.0}, None], "not a completion"),
        ([None, {7: -1.0}, {8: math.nan}], "NaN or above zero"),
        ([None, {7: -1.0}, {8: 0.5}], "NaN or above zero"),
    ],
)
def test_a_broken_score_is_refused(
    server: FakeExpert,
    expert: CompletionsExpert,
    rows: list[dict[int, float] | None],
    reason: str,
) -> None:
    server.answer = lambda _: scored(rows)
    with pytest.raises(ExpertError, match=reason):
        expert.score([6, 7, 8], model="slm").result(timeout=5)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60_000,
        scored([None, {7: -1.0}]).replace(b"-1.0", b"-1" + b"0" * 400),
        b'{"choices": [{"prompt_logprobs": [null, "7"]}]}',
    ],
)
def test_a_score_of_another_shape_is_refused(
    server: FakeExpert, expert: CompletionsExpert, body: bytes
) -> None:
    server.answer = lambda _: body
    with pytest.raises(ExpertError, match="not a completion"):
        expert.score([6, 7], model="slm").result(timeout=5)


def test_a_server_that_runs_floe_is_asked_for_its_models_own_distribution(
    server: FakeExpert, expert: CompletionsExpert
) -> None:
    expert.start([[1]], model="slm").result(timeout=5)
    server.answer = lambda _: scored([None, {7: -1.0}])
    expert.score([6, 7], model="slm").result(timeout=5)
    assert [each["vllm_xargs"] for each in server.requests] == [{"floe": "host"}] * 2


def test_a_server_that_refuses_unknown_fields_is_asked_without_the_mark_from_then_on(
    server: FakeExpert, expert: CompletionsExpert, caplog: pytest.LogCaptureFixture
) -> None:
    server.refuses = "vllm_xargs"
    for _ in range(3):
        assert first_tokens(expert.start([[1]], model="slm").result(timeout=5)) == [1]
    assert ["vllm_xargs" in each for each in server.requests] == [True, False, False, False]
    assert caplog.text.count("asked without it") == 1


def test_a_server_that_has_taken_the_mark_is_never_asked_without_it(
    server: FakeExpert, expert: CompletionsExpert
) -> None:
    expert.start([[1]], model="slm").result(timeout=5)
    server.status = 400
    with pytest.raises(ExpertError, match="HTTP 400"):
        expert.start([[1]], model="slm").result(timeout=5)
    assert all("vllm_xargs" in each for each in server.requests)


def test_a_call_does_not_queue_behind_calls_that_hang(
    server: FakeExpert, expert: CompletionsExpert
) -> None:
    server.delay_s = 1.5
    hanging = [expert.start([[1]], model="slm") for _ in range(30)]
    patient_until = time.monotonic() + 1.0
    while len(server.requests) < len(hanging) and time.monotonic() < patient_until:
        time.sleep(0.01)
    server.delay_s = 0.0
    begun = time.monotonic()
    assert first_tokens(expert.start([[1, 2]], model="slm").result(timeout=5)) == [2]
    assert time.monotonic() - begun < 0.4
    assert len(server.connections) == 31


def test_a_connection_that_the_server_has_closed_is_opened_again(
    server: FakeExpert, expert: CompletionsExpert
) -> None:
    server.closes = True
    for _ in range(3):
        assert first_tokens(expert.start([[1]], model="slm").result(timeout=5)) == [1]
        time.sleep(0.05)
    assert len(server.connections) == 3


def test_connections_are_reused(server: FakeExpert, expert: CompletionsExpert) -> None:
    for _ in range(5):
        expert.start([[1]], model="slm").result(timeout=5)
    assert len(server.requests) == 5
    assert len(server.connections) == 1


def test_starting_does_not_wait(server: FakeExpert, expert: CompletionsExpert) -> None:
    server.delay_s = 1.0
    begun = time.monotonic()
    future = expert.start([[1]], model="slm")
    assert time.monotonic() - begun < 0.5
    assert first_tokens(future.result(timeout=5)) == [1]


def test_choices_may_come_in_any_order(server: FakeExpert, expert: CompletionsExpert) -> None:
    def reversed_choices(body: dict[str, Any]) -> bytes:
        return json.dumps({"choices": json.loads(well(body))["choices"][::-1]}).encode()

    server.answer = reversed_choices
    reply = expert.start([[1, 2], [4]], model="slm").result(timeout=5)
    assert first_tokens(reply) == [2, 1]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not a completion"),
        (b"<html>", "not a completion"),
        (b"[]", "not a completion"),
        (b'{"choices": [{"index": 0, "logprobs": null}]}', "not a completion"),
        (b'{"choices": [{"index": 0, "logprobs": {"top_logprobs": []}}]}', "not a completion"),
        (b'{"choices": []}', "not one choice for each"),
        (completion([{1: -1.0}], [{1: -1.0}]), "not one choice for each"),
        (completion([{}]), "no logprobs"),
        (completion([]), "0 tokens and 0 distributions"),
        (completion([{1: -1.0}, {1: -1.0}]), "2 tokens and 2 distributions"),
        (completion([{1: -1.0}]).replace(b'["token_id:1"]', b"[]"), "0 tokens and 1"),
        (completion([{1: -1.0}]).replace(b'["token_id:1"]', b'["token_id:-1"]'), "outside"),
        (completion([{1: -1.0}]).replace(b"token_id:", b"the "), "by their spelling"),
        (completion([{5000: -1.0}]), "outside"),
        (completion([{1: math.nan}]), "NaN"),
        (b'{"choices": [], "x": "' + b"x" * 200_000 + b'"}', "larger than"),
        (b"[" * 60_000, r"not a completion .*\(RecursionError\)"),
        (completion([{1: -1.0}]).replace(b"-1.0", b"-1" + b"0" * 400), r"\(OverflowError\)"),
    ],
)
def test_a_broken_reply_is_refused(
    server: FakeExpert, expert: CompletionsExpert, body: bytes, reason: str
) -> None:
    server.answer = lambda _: body
    with pytest.raises(ExpertError, match=reason):
        expert.start([[1]], model="slm").result(timeout=5)
    server.answer = well
    assert expert.start([[1]], model="slm").result(timeout=5).continuations


def test_a_reply_that_memory_does_not_hold_is_refused(
    expert: CompletionsExpert, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*args: object, **values: object) -> None:
        raise MemoryError

    monkeypatch.setattr(VllmDialect, "read", read)
    monkeypatch.setattr(VllmDialect, "read_score", read)
    for call in (expert.start([[1]], model="slm"), expert.score([1, 2], model="slm")):
        with pytest.raises(ExpertError, match=r"cannot be read \(MemoryError\)"):
            call.result(timeout=5)


def test_http_errors_name_the_status(server: FakeExpert, expert: CompletionsExpert) -> None:
    server.status = 503
    with pytest.raises(ExpertError, match="HTTP 503"):
        expert.start([[1]], model="slm").result(timeout=5)


def test_what_may_be_behind_a_status_is_said_once_and_without_the_text(
    server: FakeExpert, expert: CompletionsExpert, caplog: pytest.LogCaptureFixture
) -> None:
    server.status = 400
    server.answer = lambda body: json.dumps(body).encode()
    for _ in range(3):
        with pytest.raises(ExpertError, match=r"^The expert answered HTTP 400\.$"):
            expert.start([[424242]], model="slm").result(timeout=5)
    assert caplog.text.count("--max-logprobs") == 1
    assert "424242" not in caplog.text


def test_a_cancelled_call_is_dropped(server: FakeExpert, expert: CompletionsExpert) -> None:
    server.delay_s = 1.0
    future = expert.start([[1]], model="slm")
    assert future.cancel()
    server.delay_s = 0.0
    assert first_tokens(expert.start([[1, 2]], model="slm").result(timeout=5)) == [2]


def test_an_expert_that_hangs_is_given_up(server: FakeExpert, expert: CompletionsExpert) -> None:
    server.delay_s = 3.0
    with pytest.raises(ExpertError, match="did not answer"):
        expert.start([[1]], model="slm").result(timeout=5)


def test_nobody_there_is_an_error_without_the_prompt() -> None:
    client = CompletionsExpert(
        url="http://127.0.0.1:9/v1", top_k=1, vocabulary=10, end_ids=np.empty(0, dtype=np.int32)
    )
    with pytest.raises(ExpertError, match="did not answer") as caught:
        client.start([[424242]], model="slm").result(timeout=5)
    assert "424242" not in str(caught.value)
    assert caught.value.__cause__ is None
    client.close()
