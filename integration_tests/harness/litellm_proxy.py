"""A LiteLLM proxy in its own process and environment, and model servers for it."""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from integration_tests.harness.environments import base_requirements, environment
from integration_tests.harness.processes import end, free_port, spawn, tail

#: The release whose calls and hooks the guardrail was written for.
LITELLM = "litellm[proxy]==1.108.7"

KEY = f"sk-{secrets.token_hex(32)}"
ROOT = Path(__file__).parents[2]


def python() -> str:
    """Return an interpreter that has LiteLLM's proxy; create its environment if absent.

    The proxy requires other releases of FastAPI than vLLM.
    """
    named = os.environ.get("FLOE_LITELLM_PYTHON")
    return named or str(environment("litellm", [LITELLM, *base_requirements()]).python)


@dataclass
class Models:
    """A server of models that answers with their names, and records its requests.

    Attributes
    ----------
    fails : str or None
        ``"down"`` for HTTP 500, ``"short"`` for a text that is too long for the model, ``"breaks"``
        for a stream that breaks off.
    """

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    fails: str | None = None

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.fails == "down":
            return 500, {"error": {"message": "The model is down."}}
        if self.fails == "short":
            message = "This model's maximum context length is 4 tokens. Please reduce the length."
            return 400, {"error": {"message": message, "code": "context_length_exceeded"}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        model = str(body.get("model"))
        text = f"from {model}"
        head = {"id": "1", "created": 1, "model": model, "usage": usage}
        if path.endswith("/embeddings"):
            data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
            return 200, {**head, "object": "list", "data": data}
        if path.endswith("/responses"):
            part = {"type": "output_text", "text": text, "annotations": []}
            turn: dict[str, Any] = {
                "type": "message",
                "id": "m",
                "role": "assistant",
                "status": "completed",
            }
            tokens = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
            output = [{**turn, "content": [part]}]
            answer = {**head, "object": "response", "created_at": 1, "status": "completed"}
            return 200, {**answer, "output": output, "usage": tokens}
        said = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": said, "text": text, "finish_reason": "stop"}
        return 200, {**head, "object": "chat.completion", "choices": [choice]}


@contextmanager
def serving_models() -> Iterator[Models]:
    state = Models()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.raw.append(f"{self.path} {raw.decode(errors='replace')}")
            try:
                body = json.loads(raw)
            except ValueError:
                body = {}
            state.requests.append(body)
            if body.get("stream") and state.fails == "breaks":
                self._break()
                return
            status, reply = state.reply(self.path, body)
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _break(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", "100000")
            self.end_headers()
            delta = {"index": 0, "delta": {"role": "assistant", "content": "Dear"}}
            head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "device"}
            self.wfile.write(f"data: {json.dumps({**head, 'choices': [delta]})}\n\n".encode())
            self.wfile.flush()
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def guardrail(name: str, gate: Path, **more: Any) -> dict[str, Any]:
    params = {
        "guardrail": "floe_plugins.litellm_guardrail.FloeGuardrail",
        "mode": "pre_call",
        "gate_config": str(gate),
    }
    return {"guardrail_name": name, "litellm_params": {**params, **more}}


def deployment(name: str, models: Models, model: str | None = None) -> dict[str, Any]:
    params = {"model": f"openai/{model or name}", "api_base": models.url, "api_key": "none"}
    return {"model_name": name, "litellm_params": params}


@dataclass
class Proxy:
    """The running proxy."""

    url: str
    log: Path

    def post(self, route: str, **options: Any) -> httpx.Response:
        return httpx.post(
            f"{self.url}{route}",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=60,
            trust_env=False,
            **options,
        )

    def ask(self, content: object, model: str = "cloud", **more: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
        return self.post("/v1/chat/completions", json=body)


@contextmanager
def running_proxy(
    values: Mapping[str, Any], folder: Path, variables: Mapping[str, str]
) -> Iterator[Proxy]:
    path, log, port = folder / "proxy.yaml", folder / "proxy.log", free_port()
    path.write_text(json.dumps(values))  # JSON is YAML
    start = "import sys; from litellm import run_server; sys.exit(run_server())"
    command = [python(), "-c", start, "--config", str(path), "--host", "127.0.0.1"]
    own = {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": KEY,
        **variables,
    }
    process = spawn([*command, "--port", str(port)], log=log, env=own)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
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
