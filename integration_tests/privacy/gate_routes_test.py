"""The routes of the installed vLLM, and how its own requests carry the gate's verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from floe_plugins.middleware.routes import BODILESS, is_free_of_text, kept_here

pytestmark = pytest.mark.timeout(300)

# Routes with text that have no field for the word: what is not clear is refused there. A route that
# is new goes here, among those with a field, or among those without text.
REFUSED_UNLESS_CLEAR = {
    *("/v1/systemone", "/v1/decisions", "/generative_scoring", "/cohere/v2/chat"),
    *("/v1/audio/transcriptions", "/v1/audio/translations"),
}
TOLD = {
    *("/v1/completions", "/v1/chat/completions", "/v1/chat/completions/batch"),
    *("/v1/responses", "/v1/messages", "/invocations", "/inference/v1/generate"),
}

# Every route that vLLM has, whatever its model can do and with all that can be switched on; and
# what the logits processor is given of a request to each route with a field for the word.
PROGRAM = """
import json, sys
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.tasks import POOLING_TASKS
from vllm.utils.argparse_utils import FlexibleArgumentParser

args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
for switch in ("enable_scale_out", "tokens_only", "enable_fault_tolerance"):
    setattr(args, switch, True)
tasks = ("generate", "render", "transcription", "realtime", *POOLING_TASKS)

def flat(routes):
    for route in routes:
        yield route
        yield from flat(getattr(getattr(route, "original_router", None), "routes", ()))

app = build_app(args, tasks, None)
found = [
    (route.path, sorted(getattr(route, "methods", None) or ["WEBSOCKET"]))
    for route in flat(app.routes)
    if hasattr(route, "path") and hasattr(route, "endpoint")
]
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import (
    BatchChatCompletionRequest, ChatCompletionRequest
)
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.scale_out.token_in_token_out.protocol import GenerateRequest

def given(path, body):
    if path == "/v1/completions" or (path == "/invocations" and "prompt" in body):
        return CompletionRequest(**body).to_sampling_params(5, {})
    if path == "/v1/chat/completions/batch":
        batch = BatchChatCompletionRequest(**body)
        return batch.to_chat_completion_request(batch.messages[0]).to_sampling_params(5, {})
    if path == "/v1/responses":
        return ResponsesRequest(**body).to_sampling_params(5, {})
    if path == "/v1/messages":
        from vllm.entrypoints.anthropic.serving import AnthropicServingMessages as Serving
        request = AnthropicMessagesRequest(**body)
        return Serving._build_base_request(request, body["messages"]).to_sampling_params(5, {})
    if path == "/inference/v1/generate":
        return GenerateRequest(**body).sampling_params
    return ChatCompletionRequest(**body).to_sampling_params(5, {})

bodies = json.load(sys.stdin)
reached = [given(path, body).extra_args for path, body in bodies]
print(json.dumps({"routes": found, "reached": reached}))
"""


TURNS = [{"role": "user", "content": "a"}]
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "a"}),
    ("/v1/chat/completions", {"messages": TURNS}),
    ("/v1/chat/completions/batch", {"messages": [TURNS]}),
    ("/v1/responses", {"input": "a"}),
    ("/v1/messages", {"model": "m", "max_tokens": 5, "messages": TURNS}),
    ("/invocations", {"messages": TURNS}),
    ("/invocations", {"prompt": "a"}),
    ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {}}),
]


@pytest.fixture(scope="module")
def vllm() -> Any:
    """What vLLM says, in a process of its own: the variables count when it is imported."""
    variables = {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ENABLE_COHERE_API": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([(path, kept_here(path, body)) for path, body in BODIES]),
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_every_route_of_vllm_is_known(vllm: Any) -> None:
    found = vllm["routes"]
    taking = {path for path, methods in found if set(methods) - BODILESS - {"WEBSOCKET"}}
    assert len(taking) > 40
    assert taking >= {"/v1/completions", "/generative_scoring", "/tokenize", "/sleep"}
    free = {path for path in taking if is_free_of_text(path.replace("{", "").replace("}", ""))}
    assert taking - free - TOLD - REFUSED_UNLESS_CLEAR == set()
    assert free & (TOLD | REFUSED_UNLESS_CLEAR) == set()


def test_the_word_reaches_the_logits_processor(vllm: Any) -> None:
    assert {path for path, _ in BODIES} == TOLD
    assert vllm["reached"] == [{"floe": "host"}] * len(BODIES)
