"""A server that tells the doctor of its model what a test says, and what the doctor finds."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tokenizers import Tokenizer

from floe_plugins.commands.doctor_lines import Line
from vllm_logits_processor.commands.doctor_serving import serving_lines
from vllm_logits_processor.testing.fake_expert import completion
from vllm_logits_processor.testing.threaded_server import serving_in_thread


@dataclass
class Served:
    """A server of one model, and its properties."""

    url: str = ""
    model: str = "slm"
    most: int = 20
    block_size: int | None = 32
    caching: bool = True
    status: int = 200
    #: Seconds until it answers, and those that each further token of a call takes.
    delay_s: float = 0.0
    further_s: float = 0.0
    #: The folder of its tokenizer, and the routes that reveal it.
    tokenizer: str = ""
    tokenizes: str = "/tokenize"
    root: str = ""  # the source of its model


@contextmanager
def serving(state: Served) -> Iterator[Served]:
    """Run a server, whose tokenizer may be wrong and which may lack routes.

    The real server in integration_tests has the right tokenizer.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/v1/models":
                model = {"id": state.model, "root": state.root, "owned_by": "vllm"}
                self.reply(state.status, json.dumps({"data": [model]}))
            elif state.block_size is None:
                self.reply(404, "")
            else:
                labels = f'block_size="{state.block_size}",enable_prefix_caching="{state.caching}"'
                self.reply(200, f"# HELP x\nvllm:cache_config_info{{{labels}}} 1.0\n")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize" or body.get("echo"):
                self.tokenize(body["prompt"])
                return
            count = int(body.get("logprobs", 1))
            if count > state.most:
                self.reply(400, "")
                return
            steps = int(body["max_tokens"])
            time.sleep(state.delay_s + state.further_s * (steps - 1))
            row = dict.fromkeys(range(5, 5 + count), -math.log(count))
            self.reply(200, completion([row] * steps).decode())

        def tokenize(self, text: str) -> None:
            if not state.tokenizer or self.path != state.tokenizes:
                self.reply(404, "")
                return
            backend = Tokenizer.from_file(f"{state.tokenizer}/tokenizer.json")
            ids = backend.encode(text, add_special_tokens=False).ids
            if self.path == "/tokenize":
                self.reply(200, json.dumps({"tokens": ids, "count": len(ids)}))
                return
            # With the token generated after the prompt.
            logprobs = {"tokens": [f"token_id:{token}" for token in [*ids, 7]]}
            usage = {"prompt_tokens": len(ids)}
            self.reply(200, json.dumps({"choices": [{"logprobs": logprobs}], "usage": usage}))

        def reply(self, status: int, body: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    with serving_in_thread(server):
        yield state


def section(served: Served, pair: tuple[str, str], **values: Any) -> dict[str, Any]:
    """Return a configuration of the pair with that server, and with further values."""
    expert = {"url": served.url, "model": "slm", "tokenizer": pair[1], **values.pop("expert", {})}
    return {"expert": expert, "deadline_ms": 5000, **values}


def lines_of(values: Any, *, host: str | None = None) -> dict[str, Line]:
    """Return the doctor's lines about serving, by what they are about."""
    return {line.check: line for line in serving_lines(values, host=host)}
