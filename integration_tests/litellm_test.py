"""A LiteLLM proxy with the gate as its guardrail, between a client and two models.

Runs where ``litellm[proxy]`` is installed, or where FLOE_LITELLM_PYTHON names an interpreter that
has it: the proxy is a process of its own, and need not share an environment with vLLM.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from integration_tests.processes import end, free_port, spawn, tail

PYTHON = os.environ.get("FLOE_LITELLM_PYTHON") or (
    sys.executable if importlib.util.find_spec("litellm") else None
)
pytestmark = [
    pytest.mark.skipif(
        PYTHON is None, reason="litellm is not installed, and FLOE_LITELLM_PYTHON is not set"
    ),
    pytest.mark.timeout(240),
]

MAIL = "joe.bloggs@planted-secret.example"
KEY = f"sk-{secrets.token_hex(32)}"
ROOT = Path(__file__).parents[1]


@dataclass
class Models:
    """Both models behind one address, told apart by their names, and what they were asked."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    state = Models()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append(body)
            message = {"role": "assistant", "content": f"from {body['model']}"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            reply = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
            content = json.dumps({**reply, "choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield state
    server.shutdown()
    server.server_close()


def configuration(models: Models, folder: Path) -> str:
    """Write the configuration of the proxy, with guardrails to choose from, and of their gates."""
    (folder / "strict.json").write_text(json.dumps({"detectors": ["email"], "timeout_s": 20}))
    # Of the texts below it lets all pass; what it cannot read it keeps.
    (folder / "always.json").write_text(json.dumps({"detectors": ["iban"], "timeout_s": 20}))
    redact = {"detectors": ["email"], "policy": "redact", "timeout_s": 20}
    (folder / "redact.json").write_text(json.dumps(redact))

    def guardrail(name: str, gate: str, **more: Any) -> dict[str, Any]:
        params = {
            "guardrail": "floe_plugins.litellm_guardrail.FloeGuardrail",
            "mode": "pre_call",
            "gate_config": str(folder / gate),
        }
        return {"guardrail_name": name, "litellm_params": {**params, **more}}

    def model(name: str) -> dict[str, Any]:
        params = {"model": f"openai/{name}", "api_base": models.url, "api_key": "none"}
        return {"model_name": name, "litellm_params": params}

    values = {
        "model_list": [model("cloud"), model("device")],
        "guardrails": [
            guardrail("block", "strict.json"),
            guardrail("reroute", "strict.json", local_model="device"),
            guardrail("redact", "redact.json"),
            guardrail("always", "always.json", default_on=True),
        ],
    }
    path = folder / "proxy.yaml"
    path.write_text(json.dumps(values))  # JSON is YAML
    return str(path)


@dataclass
class Proxy:
    """The running proxy."""

    url: str
    log: Path

    def ask(self, content: object, guardrail: str, model: str = "cloud") -> httpx.Response:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "guardrails": [guardrail],
        }
        url = f"{self.url}/v1/chat/completions"
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False)


@pytest.fixture(scope="module")
def proxy(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    assert PYTHON is not None
    folder = tmp_path_factory.mktemp("litellm")
    port = free_port()
    start = "import sys; from litellm import run_server; sys.exit(run_server())"
    command = [PYTHON, "-c", start, "--config", configuration(models, folder)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    variables = {
        "PYTHONPATH": str(ROOT),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": KEY,
    }
    log = folder / "proxy.log"
    process = spawn(command, log=log, env=variables)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not _alive(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The proxy did not start:\n{tail(log)}")
            time.sleep(0.5)
        yield Proxy(url, log)
    finally:
        end(process)


def _alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/liveliness", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def answer(reply: httpx.Response) -> str:
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize("guardrail", ["block", "reroute", "redact"])
def test_a_clear_request_goes_to_the_model_it_names(proxy: Proxy, guardrail: str) -> None:
    assert answer(proxy.ask("What is 2 + 2?", guardrail)) == "from cloud"


@pytest.mark.parametrize(
    "content", [f"mail {MAIL}", [{"type": "text", "text": MAIL}], "joe dot bloggs at x dot org"]
)
def test_a_private_request_is_refused_without_being_quoted(
    proxy: Proxy, models: Models, content: object
) -> None:
    before = len(models.requests)
    reply = proxy.ask(content, "block")
    assert reply.status_code == 400
    assert "The privacy gate keeps this request here (local)." in reply.text
    assert "bloggs" not in reply.text
    assert len(models.requests) == before


def test_a_private_request_goes_to_the_device(proxy: Proxy, models: Models) -> None:
    assert answer(proxy.ask(f"mail {MAIL}", "reroute")) == "from device"
    assert models.requests[-1]["messages"][0]["content"] == f"mail {MAIL}"
    assert answer(proxy.ask(f"mail {MAIL}", "reroute", model="device")) == "from device"


def test_of_a_redacted_request_goes_on_what_is_left(proxy: Proxy, models: Models) -> None:
    assert answer(proxy.ask(f"mail {MAIL}, please", "redact")) == "from cloud"
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
    reply = httpx.post(
        f"{proxy.url}/v1/{route}",
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=60,
        trust_env=False,
        **request_of,
    )
    assert reply.status_code == 400
    assert "The privacy gate keeps this request here (local)." in reply.text
    assert len(models.requests) == before


def test_nothing_private_reached_the_cloud_or_the_log(proxy: Proxy, models: Models) -> None:
    to_cloud = [request for request in models.requests if request["model"] == "cloud"]
    assert "planted-secret" not in json.dumps(to_cloud)
    assert "planted-secret" not in proxy.log.read_text(errors="replace")
