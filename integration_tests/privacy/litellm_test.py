"""A LiteLLM proxy with the gate as its guardrail, between a client and two models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from integration_tests.harness.litellm_proxy import (
    Models,
    Proxy,
    answer,
    deployment,
    guardrail,
    running_proxy,
    serving_models,
)

# The first test waits for the environment of the proxy, where there is none yet.
pytestmark = pytest.mark.timeout(600)

MAIL = "joe.bloggs@planted-secret.example"


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with serving_models() as state:
        yield state


@pytest.fixture(scope="module")
def proxy(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("litellm")
    strict, always, redact = (folder / f"{name}.json" for name in ("strict", "always", "redact"))
    strict.write_text(json.dumps({"detectors": ["email"], "timeout_s": 20}))
    # Of the texts below it lets all pass; what it cannot read it keeps.
    always.write_text(json.dumps({"detectors": ["iban"], "timeout_s": 20}))
    values = {"detectors": ["email"], "policy": "redact", "timeout_s": 20}
    redact.write_text(json.dumps(values))
    configuration = {
        "model_list": [deployment("cloud", models), deployment("device", models)],
        "guardrails": [
            guardrail("block", strict),
            guardrail("reroute", strict, local_model="device"),
            guardrail("redact", redact),
            guardrail("always", always, default_on=True),
        ],
    }
    with running_proxy(configuration, folder, {}) as running:
        yield running


def ask(proxy: Proxy, content: object, guardrail: str, model: str = "cloud") -> httpx.Response:
    return proxy.ask(content, model, guardrails=[guardrail])


@pytest.mark.parametrize("guardrail", ["block", "reroute", "redact"])
def test_a_clear_request_goes_to_the_model_it_names(proxy: Proxy, guardrail: str) -> None:
    assert answer(ask(proxy, "What is 2 + 2?", guardrail)) == "from cloud"


@pytest.mark.parametrize(
    "content", [f"mail {MAIL}", [{"type": "text", "text": MAIL}], "joe dot bloggs at x dot org"]
)
def test_a_private_request_is_refused_without_being_quoted(
    proxy: Proxy, models: Models, content: object
) -> None:
    before = len(models.requests)
    reply = ask(proxy, content, "block")
    assert reply.status_code == 400
    assert "The privacy gate keeps this request here (local: " in reply.text
    assert "bloggs" not in reply.text
    assert len(models.requests) == before


def test_a_private_request_goes_to_the_device(proxy: Proxy, models: Models) -> None:
    assert answer(ask(proxy, f"mail {MAIL}", "reroute")) == "from device"
    assert models.requests[-1]["messages"][0]["content"] == f"mail {MAIL}"
    assert answer(ask(proxy, f"mail {MAIL}", "reroute", model="device")) == "from device"


def test_of_a_redacted_request_goes_on_what_is_left(proxy: Proxy, models: Models) -> None:
    assert answer(ask(proxy, f"mail {MAIL}, please", "redact")) == "from cloud"
    assert models.requests[-1]["messages"][0]["content"] == "mail <EMAIL>, please"


@pytest.mark.parametrize(
    ("route", "request_of"),
    [
        (
            "audio/transcriptions",
            {"data": {"model": "cloud"}, "files": {"file": ("voice.wav", b"RIFF0000WAVE")}},
        ),
        (
            "messages",
            {
                "json": {
                    "model": "cloud",
                    "max_tokens": 5,
                    "messages": [{"role": "user", "content": "hi"}],
                    # Where the proxy keeps its notes elsewhere, this goes to the provider.
                    "metadata": {"user_id": MAIL},
                    "guardrails": ["block"],
                }
            },
        ),
    ],
)
def test_neither_sound_nor_what_stands_beside_a_text_leaves_unread(
    proxy: Proxy, models: Models, route: str, request_of: dict[str, Any]
) -> None:
    before = len(models.requests)
    reply = proxy.post(f"/v1/{route}", **request_of)
    assert reply.status_code == 400
    assert "The privacy gate keeps this request here (local: " in reply.text
    assert len(models.requests) == before


def test_nothing_private_reached_the_cloud_or_the_log(proxy: Proxy, models: Models) -> None:
    to_cloud = [request for request in models.requests if request["model"] == "cloud"]
    assert "planted-secret" not in json.dumps(to_cloud)
    assert "planted-secret" not in proxy.log.read_text(errors="replace")
