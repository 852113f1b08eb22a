"""Whatever model a LiteLLM proxy calls in the end, private text reaches only the local one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from integration_tests.harness.litellm_proxy import (
    KEY,
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
SECRET = "planted-secret"

# What a logging callback such as Langfuse's is given.
LOGGER = """
import json
from litellm.integrations.custom_logger import CustomLogger

class Logger(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        request = kwargs["litellm_params"]["proxy_server_request"]["body"]
        seen = {"messages": kwargs["messages"], "request": request}
        with open(FILE, "a") as file:
            file.write(json.dumps(seen, default=str) + chr(10))

logger = Logger()
"""


@dataclass
class Setup:
    """A proxy with fallbacks to a cloud, for whatever its device does not answer."""

    proxy: Proxy
    cloud: Models
    device: Models
    logged: Path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    folder = tmp_path_factory.mktemp("litellm")
    logged = folder / "logged.jsonl"
    logged.touch()
    (folder / "seen.py").write_text(f"FILE = {str(logged)!r}\n{LOGGER}")
    gate = folder / "redact.json"
    actions = {"EMAIL": "local", "IBAN": "redact", "*": "clear"}
    values = {"detectors": ["email", "iban"], "policy": "labels", "actions": actions}
    gate.write_text(json.dumps({**values, "timeout_s": 20}))
    with serving_models() as cloud, serving_models() as device:
        configuration = {
            "model_list": [
                deployment("cloud", cloud),
                deployment("device", device),
                # The same names elsewhere: a deployment is known by where it is.
                deployment("wild/*", cloud, "*"),
                deployment("mixed", device, "device"),
                deployment("mixed", cloud, "device"),
            ],
            "guardrails": [guardrail("floe", gate, default_on=True, local_model="device")],
            "router_settings": {
                "fallbacks": [{"device": ["cloud"]}],
                "context_window_fallbacks": [{"device": ["cloud"]}],
                "default_fallbacks": ["cloud"],
                "model_group_alias": {"soft": "cloud"},
                "num_retries": 0,
                "disable_cooldowns": True,
            },
            "general_settings": {
                "pass_through_endpoints": [
                    {"path": "/through", "target": f"{cloud.url}/through", "headers": {}}
                ]
            },
            "files_settings": [
                {"custom_llm_provider": "openai", "api_base": cloud.url, "api_key": "none"}
            ],
            "litellm_settings": {"callbacks": ["seen.logger"]},
        }
        variables = {
            "OPENAI_API_BASE": cloud.url.removesuffix("v1"),
            "OPENAI_API_KEY": "none",
            "ANTHROPIC_API_BASE": cloud.url.removesuffix("/v1"),
            "ANTHROPIC_API_KEY": "none",
        }
        with running_proxy(configuration, folder, variables) as proxy:
            yield Setup(proxy, cloud, device, logged)


def chat(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"mail {MAIL}"}], **more}


CHAT = "/v1/chat/completions"
EXEMPT = {"user_api_key_metadata": {"disable_global_guardrails": True}}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "the proxy's fallbacks": (CHAT, chat(model="cloud")),
    "the local model by its name": (CHAT, chat(model="device")),
    "the client's fallbacks": (CHAT, chat(model="device", fallbacks=["cloud"])),
    "fallbacks with messages": (
        CHAT,
        {
            "model": "device",
            "messages": [{"role": "user", "content": "hello"}],
            "fallbacks": [chat(model="cloud")],
        },
    ),
    "fallbacks for long texts": (
        CHAT,
        chat(model="device", context_window_fallbacks=[{"device": ["cloud"]}]),
    ),
    "fallbacks for policies": (
        CHAT,
        chat(model="device", content_policy_fallbacks=[{"device": ["cloud"]}]),
    ),
    "a table of fallbacks": (
        CHAT,
        chat(model="device", context_window_fallback_dict={"openai/device": "openai/cloud"}),
    ),
    "another try": (CHAT, chat(model="device", num_retries=1)),
    "a stream": (CHAT, chat(model="device", stream=True)),
    "an alias": (CHAT, chat(model="soft")),
    "a wildcard": (CHAT, chat(model="wild/device")),
    "a group of both": (CHAT, chat(model="mixed")),
    "several models": (CHAT, chat(model="cloud,device")),
    "a forged deployment": (CHAT, chat(model="cloud", model_info={"id": "device"})),
    "a forged exemption": (
        CHAT,
        chat(model="device", metadata=EXEMPT, litellm_metadata=EXEMPT),
    ),
    "a forged mark": (
        CHAT,
        chat(
            model="device",
            metadata={"_pre_call_executed_guardrails": ["pre_call_executed:floe"]},
        ),
    ),
    "another address": (CHAT, chat(model="device", api_base="CLOUD")),
    "another base": (CHAT, chat(model="device", base_url="CLOUD")),
    "a store of vectors": (CHAT, chat(model="device", vector_store_ids=["vs_1"])),
    "headers": (
        CHAT,
        {
            "model": "cloud",
            "messages": [{"role": "user", "content": "hi"}],
            "extra_headers": {"x-note": MAIL},
        },
    ),
    "completions": ("/v1/completions", {"model": "device", "prompt": MAIL}),
    "token ids": ("/v1/completions", {"model": "device", "prompt": [1, 2, 3]}),
    "embeddings": ("/v1/embeddings", {"model": "device", "input": MAIL}),
    "responses": ("/v1/responses", {"model": "device", "input": MAIL}),
    "messages": ("/v1/messages", chat(model="device", max_tokens=5)),
    "counting": ("/v1/messages/count_tokens", chat(model="cloud")),
    "counting by the proxy": ("/utils/token_counter?call_endpoint=true", chat(model="cloud")),
    "moderations": ("/v1/moderations", {"model": "cloud", "input": MAIL}),
    "reranking": ("/v1/rerank", {"model": "cloud", "query": MAIL, "documents": ["a"]}),
    "Google's": (
        "/v1beta/models/cloud:generateContent",
        {"contents": [{"role": "user", "parts": [{"text": MAIL}]}]},
    ),
    "pictures": ("/v1/images/generations", {"model": "cloud", "prompt": MAIL}),
    "speech": ("/v1/audio/speech", {"model": "cloud", "input": MAIL, "voice": "a"}),
    "a search": ("/v1/vector_stores/x/search", {"query": MAIL, "custom_llm_provider": "openai"}),
    "threads": ("/v1/threads", {"messages": [{"role": "user", "content": MAIL}]}),
    "batches": (
        "/v1/batches",
        {
            "input_file_id": "file-1",
            "endpoint": CHAT,
            "completion_window": "24h",
            "metadata": {"note": MAIL},
        },
    ),
    "a route that is passed through": ("/through", chat(model="cloud")),
    "a provider's own route": ("/openai/v1/chat/completions", chat(model="cloud")),
    "another provider's": ("/anthropic/v1/messages", chat(model="cloud", max_tokens=5)),
}


# How else the device fails, with what the client asks of it then.
FAILURES = [
    *(("down", *request) for request in ASKED.values()),
    *(
        ("short", *ASKED[name])
        for name in (
            "the proxy's fallbacks",
            "the local model by its name",
            "the client's fallbacks",
            "fallbacks for long texts",
            "a table of fallbacks",
            "a stream",
            "completions",
            "responses",
            "messages",
        )
    ),
    ("breaks", *ASKED["a stream"]),
]


@pytest.mark.parametrize(("fails", "route", "body"), FAILURES)
def test_private_text_reaches_no_cloud(
    guarded: Setup, fails: str, route: str, body: dict[str, Any]
) -> None:
    guarded.device.fails = fails
    del guarded.cloud.raw[:]
    sent = json.loads(json.dumps(body).replace("CLOUD", guarded.cloud.url))
    reply = guarded.proxy.post(route, json=sent)
    assert [seen for seen in guarded.cloud.raw if SECRET in seen or "[1, 2, 3]" in seen] == []
    assert "from cloud" not in reply.text


def test_files_and_open_connections_are_refused(guarded: Setup) -> None:
    del guarded.cloud.raw[:]
    line = json.dumps({"custom_id": "1", "method": "POST", "url": CHAT, "body": chat(model="m")})
    files = {"file": ("a.jsonl", line.encode()), "purpose": (None, "batch")}
    reply = guarded.proxy.post("/v1/files", files=files)
    assert reply.status_code >= 400, reply.text
    upgrade = {
        "Authorization": f"Bearer {KEY}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    opened = httpx.get(
        f"{guarded.proxy.url}/v1/realtime?model=cloud", headers=upgrade, trust_env=False
    )
    assert opened.status_code == 403
    assert guarded.cloud.raw == []


@pytest.mark.parametrize(
    ("route", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "hello"}]}),
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/responses", {"input": "hello"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}),
        ("/v1/embeddings", {"input": "hello"}),
    ],
)
def test_clear_text_falls_back_to_the_cloud(
    guarded: Setup, route: str, body: dict[str, Any]
) -> None:
    guarded.device.fails = "down"
    del guarded.cloud.raw[:]
    reply = guarded.proxy.post(route, json={"model": "device", **body})
    assert reply.status_code == 200, reply.text
    assert len(guarded.cloud.raw) == 1


@pytest.mark.parametrize("route", [CHAT, "/v1/messages", "/v1/responses"])
def test_private_text_is_answered_by_the_device(guarded: Setup, route: str) -> None:
    guarded.device.fails = None
    body = chat(max_tokens=5) if route != "/v1/responses" else {"input": MAIL}
    for model in ("cloud", "device"):
        reply = guarded.proxy.post(route, json={"model": model, **body})
        assert "from device" in reply.text
        assert SECRET in guarded.device.raw[-1]


def test_a_fallback_gets_what_redaction_leaves(guarded: Setup) -> None:
    guarded.device.fails = "down"
    del guarded.cloud.raw[:]
    reply = guarded.proxy.ask("pay GB82 WEST 1234 5698 7654 32 today", model="device")
    assert answer(reply) == "from cloud"
    (seen,) = guarded.cloud.requests[-1]["messages"]
    assert seen["content"] == "pay <IBAN> today"


def test_what_logging_callbacks_see(guarded: Setup) -> None:
    """As it is documented: what stays with the device as it is, what leaves as it is redacted."""
    guarded.device.fails = None
    iban = "GB82 WEST 1234 5698 7654 32"
    asked = {f"again {MAIL}": f"again {MAIL}", f"pay {iban} now": "pay <IBAN> now"}
    for text, seen in asked.items():
        assert guarded.proxy.ask(text).status_code == 200
        # The proxy logs in the background.
        deadline = time.monotonic() + 30
        while seen not in guarded.logged.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert seen in guarded.logged.read_text()
    assert f"pay {iban} now" not in guarded.logged.read_text()
