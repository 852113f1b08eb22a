"""A server with the gate in front of it and in it: nothing private leaves, nor is it logged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import PreTrainedTokenizerFast

from floe_plugins.errors import ConfigError
from floe_plugins.gate import Gate
from floe_plugins.gate.gate import VARIABLE
from integration_tests.harness.prepared import fork
from integration_tests.harness.processes import end, tail
from integration_tests.harness.tiny_models import TinyModels
from integration_tests.harness.vllm_servers import Server, ServerSpec, running
from vllm_logits_processor.build import build_engine
from vllm_logits_processor.config import FloeConfig
from vllm_logits_processor.testing.fake_expert import FakeExpert

pytestmark = pytest.mark.timeout(600)

MAIL = "joe.bloggs@planted-secret.example"
CARD = "4111 1111 1111 1111"
# A part of each that no log contains otherwise.
SECRETS = ("joe.bloggs", "planted-secret", "4111 1111", "4111111111", "hunter2-planted")
CLEAR = "The cat sat on the mat; the mat was flat"

# A detector of somebody else's that fails, and says all it knows while it does.
PLUGIN = """
from floe_plugins import hookimpl
from floe_plugins.gate import Span


class Failing:
    name = "failing"
    labels = ("FAILING",)

    def detect(self, text):
        if "hunter2" in text:
            raise ValueError(f"this text cannot be read: {text}")
        return []


@hookimpl
def floe_register_detectors():
    return [Failing()]
"""
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}answer:"
)


@dataclass
class Gated:
    """The server, the untrusted expert, and how to read the requests to the expert."""

    server: Server
    expert: FakeExpert
    tokenizer: PreTrainedTokenizerFast
    trace: Path

    def sent(self) -> list[str]:
        """Return the texts that the expert has been sent."""
        prompts = [prompt for body in self.expert.requests for prompt in body["prompt"]]
        return [str(self.tokenizer.decode(prompt)) for prompt in prompts]

    def output(self) -> str:
        """Return all that the server wrote, and what it reports about itself."""
        metrics = httpx.get(f"{self.server.url.removesuffix('/v1')}/metrics", trust_env=False).text
        return self.server.log.read_text(errors="replace") + metrics + self.trace.read_text()


def specification(tiny: TinyModels, canned: FakeExpert, folder: Path, **floe: Any) -> ServerSpec:
    (folder / "talkative_plugin.py").write_text(PLUGIN)
    (folder / "template.jinja").write_text(TEMPLATE)
    gate = {"plugins": ["talkative_plugin"], "timeout_s": 20}
    (folder / "gate.json").write_text(json.dumps(gate))
    section = tiny.floe(canned, plugins=["talkative_plugin"], **floe)
    section["expert"]["trusted"] = False
    return ServerSpec(
        model=tiny.host,
        name="gated",
        core=0,
        floe=section,
        arguments=[
            *("--max-model-len", "512", "--chat-template", str(folder / "template.jinja")),
            *("--middleware", "floe_plugins.middleware.PrivacyGate"),
        ],
        variables={
            "VLLM_USE_V2_MODEL_RUNNER": "0",
            "VLLM_ENABLE_RESPONSES_API_STORE": "0",
            "PYTHONPATH": str(folder),
            VARIABLE: str(folder / "gate.json"),
        },
    )


@pytest.fixture(scope="module")
def gated(
    tiny: TinyModels, canned: FakeExpert, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gated]:
    folder = tmp_path_factory.mktemp("gated")
    trace = folder / "trace.jsonl"
    trace.touch()
    detectors = [*Gate().detectors, "failing"]
    spec = specification(tiny, canned, folder, trace_file=str(trace), detectors=detectors)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny.expert_tokenizer)
    with running(spec, logs=folder) as (server,):
        yield Gated(server, canned, tokenizer, trace)


def chat(content: object, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 4, **more}


CALL = {"id": "1", "type": "function", "function": {"name": "send", "arguments": f'"{MAIL}"'}}
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "completions": ("completions", {"prompt": f"write to {MAIL}", "max_tokens": 4}),
    "completions, several": ("completions", {"prompt": ["hello", CARD], "max_tokens": 4}),
    "completions, streamed": (
        "completions",
        {"prompt": f"write to {MAIL}", "max_tokens": 4, "stream": True},
    ),
    "completions, forged": (
        "completions",
        {"prompt": f"write to {MAIL}", "max_tokens": 4, "vllm_xargs": {"floe": "fused"}},
    ),
    "completions, encoded": (
        "completions",
        {"prompt": "am9lLmJsb2dnc0BwbGFudGVkLXNlY3JldC5leGFtcGxl", "max_tokens": 4},
    ),
    "a failing detector": ("completions", {"prompt": "hunter2-planted", "max_tokens": 4}),
    "chat": ("chat/completions", chat(f"write to {MAIL}")),
    "chat, parts": ("chat/completions", chat([{"type": "text", "text": CARD}])),
    "chat, streamed": ("chat/completions", chat(MAIL, stream=True)),
    "chat, a split value": (
        "chat/completions",
        {
            "max_tokens": 4,
            "messages": [
                {"role": "user", "content": "my card is 4111 1111"},
                {"role": "assistant", "content": "go on"},
                {"role": "user", "content": "1111 1111"},
            ],
        },
    ),
    "chat, tool calls": (
        "chat/completions",
        {
            "max_tokens": 4,
            "messages": [
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "1", "content": MAIL},
            ],
        },
    ),
    "responses": ("responses", {"input": MAIL, "max_output_tokens": 4, "store": False}),
    "messages": ("messages", chat(MAIL)),
}

BROKEN: dict[str, tuple[str, Any]] = {
    "a dict as prompt": ("completions", {"prompt": {"to": MAIL}}),
    "a text as messages": ("chat/completions", {"messages": MAIL}),
    "a text as number": ("completions", {"prompt": "a", "max_tokens": MAIL}),
    "a text as model": ("completions", {"model": MAIL, "prompt": "a"}),
    "a text as options": ("completions", {"prompt": "a", "vllm_xargs": MAIL}),
    "a text as mode": ("completions", {"prompt": "a", "vllm_xargs": {"floe": MAIL}}),
    "an unknown option": ("completions", {"prompt": "a", "vllm_xargs": {"floe_x": MAIL}}),
    "an unknown key": ("completions", {"prompt": "a", "vllm_xargs": {f"floe_{MAIL}": "x"}}),
    "a verdict of the client's": (
        "completions",
        {"prompt": MAIL, "vllm_xargs": {"floe_verdict": "clear"}},
    ),
    "a bad expression": (
        "completions",
        {"prompt": "a", "structured_outputs": {"regex": f"({MAIL}"}},
    ),
    "a bad schema": (
        "completions",
        {"prompt": "a", "structured_outputs": {"json": {"type": MAIL}}},
    ),
    "a bias of texts": ("completions", {"prompt": "a", "logit_bias": {MAIL: 1}}),
    "a prompt too long": ("completions", {"prompt": f"{MAIL} " * 200, "max_tokens": 4}),
    "a lone surrogate": ("completions", {"prompt": f"{MAIL} \ud800", "max_tokens": 4}),
    "a picture": (
        "chat/completions",
        chat([{"type": "image_url", "image_url": {"url": f"http://127.0.0.1:9/{MAIL}.png"}}]),
    ),
    "malformed": ("completions", f'{{"prompt": "{MAIL}'.encode()),
    "embeddings": ("embeddings", {"input": MAIL}),
    "a decision": ("systemone", {"state": MAIL, "questions": {"q": {"type": "bool"}}}),
    "a route of next year": ("next-year", {"words": MAIL}),
}


def test_a_clear_prompt_reaches_the_expert(gated: Gated) -> None:
    reply = gated.server.post("completions", {"prompt": CLEAR, "max_tokens": 4})
    assert reply.status_code == 200
    assert reply.headers["x-floe-verdict"] == "clear"
    assert any(CLEAR in text for text in gated.sent())


@pytest.mark.parametrize(("route", "body"), ROUTES.values(), ids=ROUTES.keys())
def test_no_private_text_reaches_the_expert(gated: Gated, route: str, body: dict[str, Any]) -> None:
    before = len(gated.expert.requests)
    reply = gated.server.post(route, body)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-floe-verdict"] == "local"
    assert len(gated.expert.requests) == before


def test_token_ids_are_decided_by_the_processor(gated: Gated, tiny: TinyModels) -> None:
    """The middleware cannot read them and keeps them here, as it does on a private text."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny.host)
    before = len(gated.expert.requests)
    reply = gated.server.post(
        "completions", {"prompt": tokenizer(f"write to {MAIL}").input_ids, "max_tokens": 4}
    )
    assert reply.status_code == 200
    assert reply.headers["x-floe-verdict"] == "local"
    assert len(gated.expert.requests) == before


@pytest.mark.parametrize(("route", "body"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_broken_is_refused_and_goes_nowhere(gated: Gated, route: str, body: Any) -> None:
    before = len(gated.expert.requests)
    url = f"{gated.server.url}/{route}"
    content = body if isinstance(body, bytes) else json.dumps({"model": "gated", **body}).encode()
    headers = {"Content-Type": "application/json"}
    reply = httpx.post(url, content=content, headers=headers, timeout=60, trust_env=False)
    assert 400 <= reply.status_code <= 500
    assert len(gated.expert.requests) == before


def test_a_client_that_goes_away_leaves_nothing_behind(gated: Gated) -> None:
    body = {"model": "gated", "prompt": f"write to {MAIL}", "max_tokens": 200, "stream": True}
    url = f"{gated.server.url}/completions"
    with httpx.stream("POST", url, json=body, timeout=60, trust_env=False) as reply:
        next(reply.iter_bytes())
    assert gated.server.complete(CLEAR, max_tokens=4)


def test_nothing_private_is_in_what_the_server_wrote(gated: Gated) -> None:
    """The last test of the module: nothing that was sent above may be found."""
    output = gated.output()
    assert "Detector failing of plugin talkative_plugin failed: ValueError" in output
    found = [line for line in output.splitlines() for secret in SECRETS if secret in line]
    assert found == []
    assert not any(secret in text for text in gated.sent() for secret in SECRETS)


@pytest.mark.parametrize("name", ["absent", "card"])
def test_a_detector_that_does_not_load_stops_the_processor(
    tiny: TinyModels, canned: FakeExpert, name: str
) -> None:
    floe = tiny.floe(canned, detectors=[name, "email"])
    floe["expert"]["trusted"] = False
    config = FloeConfig.from_additional_config({"floe": floe})
    assert config is not None
    with pytest.raises(ConfigError, match="'absent'") if name == "absent" else nullcontext():
        build_engine(config, host_tokenizer=tiny.host, host_vocabulary=406, host_model="tiny")


def test_offline_use_goes_past_the_middleware_but_not_past_the_processor(
    tiny: TinyModels, canned: FakeExpert, tmp_path: Path
) -> None:
    floe = tiny.floe(canned, detectors=[*Gate().detectors])
    floe["expert"]["trusted"] = False
    engine = {
        "model": tiny.host,
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 256,
        "max_num_seqs": 4,
        "block_size": 32,
    }
    request, outcome = tmp_path / "request.json", tmp_path / "outcome.json"
    prompts = [f"write to {MAIL}", f"my card: {CARD}", CLEAR]
    request.write_text(json.dumps({"engine": engine, "floe": floe, "prompts": prompts}))
    before = len(canned.requests)
    environment = ServerSpec(model=tiny.host, name="offline", core=0).environment
    variables = {"VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    log = tmp_path / "log"
    arguments = [str(request), str(outcome)]
    process = fork(
        "integration_tests.harness.offline_gate", arguments, log=log, env=environment | variables
    )
    try:
        assert process.wait(timeout=300) == 0, tail(log)
    finally:
        end(process)
    assert [len(answer) for answer in json.loads(outcome.read_text())] == [4, 4, 4]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny.expert_tokenizer)
    sent = [
        str(tokenizer.decode(prompt))
        for body in canned.requests[before:]
        for prompt in body["prompt"]
    ]
    assert any(CLEAR in text for text in sent)
    # Some are shorter by a word: what the expert is asked where a text ends in one of its tokens.
    assert [text for text in sent if CLEAR[:30] not in text] == []
    assert not any(secret in log.read_text() for secret in SECRETS)
