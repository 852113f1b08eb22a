"""An expert in a process of its own that answers when it is told to: how far away it is is exact.

By default its answers are canned, the same valid top K for every request, since a real model's
latency cannot be chosen. With ``--model`` a real model computes them, and an answer leaves after
the latency or when it is computed, whichever is later.

Plain HTTP on one event loop, which leaves most of the machine to the host: completions at
``/v1/completions``; ``/latency`` takes ``{"ms": number or null, "sigma": number, "seed": number}``,
null for one that never answers. With a sigma latencies are log-normal around the median ``ms``.
``/asked`` says how many calls have come.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from subprocess import Popen
from typing import Any

import httpx
import numpy as np
import torch

from integration_tests.harness.processes import end, free_port, spawn, tail
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.expert.local import InProcessExpert
from vllm_logits_processor.expert.local_model import load_model
from vllm_logits_processor.expert.protocol import Continuation
from vllm_logits_processor.testing.fake_expert import completion

NAME = "expert"

#: Where canned answers take their tokens from: early ids are special or single bytes.
_FIRST_CANNED = 300
_START_TIMEOUT_S = 180.0
#: What hosts ask for when they start: it is asked as vLLM is.
_MODELS = json.dumps({"data": [{"id": NAME, "owned_by": "vllm"}]}).encode()


@dataclass(frozen=True)
class LatencyExpert:
    """The running process."""

    url: str
    process: Popen[bytes]

    def set_latency(self, seconds: float | None, *, sigma: float = 0.0, seed: int = 0) -> None:
        """Set the seconds from a request to its answer; None for no answer.

        With a `sigma` they are the median of varying latencies, drawn again from the seed.
        """
        body = {"ms": None if seconds is None else seconds * 1000, "sigma": sigma, "seed": seed}
        self._post("latency", body)

    def asked(self) -> int:
        """Return how many calls for tokens have come so far."""
        return int(self._post("asked", {}).json())

    def _post(self, route: str, body: dict[str, Any]) -> httpx.Response:
        root = self.url.removesuffix("/v1")
        reply = httpx.post(f"{root}/{route}", json=body, trust_env=False)
        return reply.raise_for_status()


@contextmanager
def latency_expert(
    *, logs: Path, core: int, top_k: int = 20, model: str | None = None
) -> Iterator[LatencyExpert]:
    """Start the process on one core, wait until it listens, and end it on the way out."""
    port, log = free_port(), logs / "expert.log"
    command = [sys.executable, "-m", "integration_tests.benchmarks.decode.canned_expert"]
    command += ["--port", str(port), "--core", str(core), "--top-k", str(top_k)]
    command += ["--model", model] if model else []
    process = spawn(command, log=log, env={"OMP_NUM_THREADS": "1"})
    expert = LatencyExpert(f"http://127.0.0.1:{port}/v1", process)
    try:
        give_up = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                expert.set_latency(0.0)
                break
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"The expert did not start:\n{tail(log)}") from None
                time.sleep(0.2)
        yield expert
    finally:
        end(process)


class _Answers:
    """The answers, and their times."""

    def __init__(self, *, top_k: int, model: str | None) -> None:
        self.set_latency({"ms": 0.0, "sigma": 0.0, "seed": 0})
        self.asked = 0
        self._top_k = top_k
        self._expert = None if model is None else _real(model, top_k=top_k)
        self._canned = lru_cache(maxsize=64)(self._canned_for)

    def set_latency(self, told: dict[str, Any]) -> None:
        self._median_s: float | None = None if told["ms"] is None else told["ms"] / 1000
        self._sigma, self._random = told["sigma"], Random(told["seed"])

    async def answer(self, body: dict[str, Any]) -> bytes | None:
        """Return the body of the reply when its time has come; None for never."""
        self.asked += 1
        if self._median_s is None:
            return None
        due = time.monotonic() + self._median_s * self._random.lognormvariate(0.0, self._sigma)
        reply = await self._reply(body)
        # Timers of the event loop are late by up to a millisecond: sleep most, then look.
        while (left := due - time.monotonic()) > 0:
            await asyncio.sleep(max(0.0, left - 0.001))
        return reply

    async def _reply(self, body: dict[str, Any]) -> bytes:
        prompts, steps = body["prompt"], int(body["max_tokens"])
        if self._expert is None:
            return self._canned(len(prompts), steps)
        future = self._expert.start(prompts, model=NAME, steps=steps)
        said = (await asyncio.wrap_future(future)).continuations
        return completion(*(_rows(each) for each in said))

    def _canned_for(self, prompts: int, steps: int) -> bytes:
        ids = range(_FIRST_CANNED, _FIRST_CANNED + self._top_k)
        shares = 0.5 ** np.arange(1, self._top_k + 1)
        row = dict(zip(ids, np.log(np.maximum(shares, 1e-12)).tolist(), strict=True))
        return completion(*([row] * steps for _ in range(prompts)))


def _real(folder: str, *, top_k: int) -> InProcessExpert:
    vocabulary = ByteVocabulary.from_pretrained(folder)
    return InProcessExpert(
        load_model(folder, dtype="float32"),
        name=NAME,
        top_k=top_k,
        vocabulary=len(vocabulary),
        end_ids=np.array(sorted(vocabulary.end_ids), dtype=np.int32),
    )


def _rows(said: Continuation) -> list[dict[int, float]]:
    """Return a continuation as (token: logprob) rows, the expert's own token first in each."""
    rows = []
    for token, ids, logprobs in zip(
        said.tokens.tolist(), said.top.token_ids.tolist(), said.top.logprobs.tolist(), strict=True
    ):
        row = {each: logprob for each, logprob in zip(ids, logprobs, strict=True) if each >= 0}
        own = {token: row.pop(token)} if token in row else {}
        rows.append(own | row)
    return rows


async def _serve(answers: _Answers, port: int) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *headers = head.decode("latin-1").split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in headers if line)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                route = request.split()[1]
                reply: bytes | None = b"{}"
                if route == "/latency":
                    answers.set_latency(json.loads(body))
                elif route == "/asked":
                    reply = str(answers.asked).encode()
                elif route == "/v1/models":
                    reply = _MODELS
                else:
                    reply = await answers.answer(json.loads(body))
                if reply is None:
                    # Silent until the other side gives up.
                    await reader.read()
                    return
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(reply)}\r\n\r\n".encode()
                writer.write(head + reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the other side has closed the connection
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--core", type=int, required=True, help="the CPU core to stay on")
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--model", help="folder of a checkpoint; canned answers without it")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {options.core})
    torch.set_num_threads(1)
    asyncio.run(_serve(_Answers(top_k=options.top_k, model=options.model), options.port))


if __name__ == "__main__":
    main()
