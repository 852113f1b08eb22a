"""Asks every server for the next token of growing texts, in turn, and counts time and bytes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from floe_plugins.models import resolve
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.decode.servers import EXPERT_CORE, PROMPTS, starting
from integration_tests.harness.llama_servers import slm_server
from integration_tests.harness.slow_link import Traffic, slow_link
from integration_tests.harness.vllm_servers import ServerSpec, running
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.config import ExpertConfig
from vllm_logits_processor.expert.build import completions_expert
from vllm_logits_processor.expert.protocol import Expert

#: What is compared; the first is what the others are compared with.
WAYS = ("vllm", "vllm+sessions", "llama.cpp")

_NAME = "expert"
#: Seconds for a call: the first one of a case reads eight long texts on one core.
_READING_S = 900.0
#: How often a server has its turn, and seconds before it: vLLM's worker polls for its next step for
#: a second, and would take the core from the other server.
_TURNS, _REST_S = 2, 1.5


@dataclass
class _Way:
    """A server, and the client that asks it through a link that counts."""

    name: str
    expert: Expert
    traffic: Traffic
    texts: list[list[int]] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)

    def step(self) -> None:
        """Ask for the next token of every text, and let each grow by the expert's own choice."""
        begun = time.perf_counter()
        reply = self.expert.start(self.texts, model=_NAME).result()
        self.milliseconds.append(1000 * (time.perf_counter() - begun))
        self.texts = [
            [*text, int(each.tokens[0])]
            for text, each in zip(self.texts, reply.continuations, strict=True)
        ]


def measure(options: cli.Namespace) -> dict[str, Any]:
    """Measure every combination of context, streams and K; the servers take turns at a step."""
    model = resolve(options.model)
    vocabulary = ByteVocabulary.from_pretrained(model)
    words = vocabulary.encode(" ".join(PROMPTS).encode())
    sizes = list(product(options.contexts, options.streams, options.top_k))
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ports = stack.enter_context(_servers(options, model, Path(folder)))
        for number, (context, streams, top_k) in enumerate(cli.progress(sizes, "expert_latency")):
            with _clients(options, ports, vocabulary, top_k) as ways:
                # No text begins like one of another case: a server's cache would have it.
                texts = _texts(words, context=context, streams=streams, seed=number)
                cases += _measured(ways, texts, steps=options.steps, top_k=top_k)
    return {"model": options.model, "steps": options.steps, "cases": cases}


@contextmanager
def _servers(options: cli.Namespace, model: str, logs: Path) -> Iterator[dict[str, int]]:
    """Start what is compared on one core, and give the port of each way's server."""
    longest = max(options.contexts) + options.steps + 16
    most = max(options.streams)
    ports: dict[str, int] = {}
    with ExitStack() as stack:
        if "llama.cpp" in options.ways:
            llama = slm_server(
                options.model,
                name="llama.cpp",
                logs=logs,
                context=longest,
                slots=most,
                waiting=starting,
                core=EXPERT_CORE,
            )
            ports["llama.cpp"] = _port(stack.enter_context(llama).url)
        plain = [name for name in options.ways if name in WAYS[:2]]
        if plain:
            arguments = ["--max-model-len", str(longest), "--max-num-seqs", str(most)]
            arguments += ["--max-logprobs", str(max(options.top_k))]
            # It leaves requests without sessions as they are.
            arguments += ["--middleware", "floe_plugins.middleware.ExpertSessions"]
            spec = ServerSpec(model=model, name=_NAME, core=EXPERT_CORE, arguments=arguments)
            (vllm,) = stack.enter_context(running(spec, logs=logs, waiting=starting))
            ports |= dict.fromkeys(plain, _port(vllm.url))
        yield ports


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


@contextmanager
def _clients(
    options: cli.Namespace, ports: Mapping[str, int], vocabulary: ByteVocabulary, top_k: int
) -> Iterator[list[_Way]]:
    """Give a client for each way, behind a link of its own."""
    with ExitStack() as stack:
        ways = []
        for name in options.ways:
            traffic = Traffic()
            port = stack.enter_context(slow_link(ports[name], traffic=traffic))
            url = f"http://127.0.0.1:{port}/v1"
            config = ExpertConfig(
                model=_NAME,
                url=url,
                tokenizer=options.model,
                top_k=top_k,
                sessions=name.endswith("+sessions"),
            )
            expert = completions_expert(
                config,
                url,
                vocabulary=len(vocabulary),
                end_ids=np.array(sorted(vocabulary.end_ids), dtype=np.int32),
                timeout_s=_READING_S,
                tokenizer=vocabulary,
            )
            stack.callback(expert.close)
            ways.append(_Way(name, expert, traffic))
        yield ways


def _texts(words: Sequence[int], *, context: int, streams: int, seed: int) -> list[list[int]]:
    """Return texts of `context` tokens, in another order of words each."""
    generator = np.random.default_rng(seed)
    return [[int(each) for each in generator.choice(words, size=context)] for _ in range(streams)]


def _measured(
    ways: Sequence[_Way], texts: Sequence[Sequence[int]], *, steps: int, top_k: int
) -> Iterator[dict[str, Any]]:
    for way in ways:
        way.texts = [list(text) for text in texts]
        # The server reads the text, and both ends learn what they need to know of each other.
        for _ in range(3):
            way.step()
        way.milliseconds.clear()
        way.traffic.taken()
    for part in range(_TURNS):
        for way in ways:
            time.sleep(_REST_S)
            for _ in range(part, steps, _TURNS):
                way.step()
    for way in ways:
        up, down = way.traffic.taken()
        yield {
            "server": way.name,
            "k": top_k,
            "context": len(texts[0]),
            "streams": len(texts),
            "ms_per_step": statistics.median(way.milliseconds),
            "p90_ms": float(np.quantile(way.milliseconds, 0.9)),
            "bytes_up": up / steps,
            "bytes_down": down / steps,
        }
