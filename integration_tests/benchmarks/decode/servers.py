"""Hosts on one core, their ``floe`` section, and tokens per second."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import SMOLLM2
from integration_tests.benchmarks.decode import timed_processor
from integration_tests.harness.processes import tail
from integration_tests.harness.vllm_servers import Server, ServerSpec

HOST_CORE, EXPERT_CORE = 0, 1

#: Long enough never to be missed in benchmarks that are not about deadlines.
PATIENT = {"deadline_ms": 20_000.0, "first_deadline_ms": 60_000.0}
#: What a request says that Floe is to leave alone.
HOST_ALONE: dict[str, Any] = {"vllm_xargs": {"floe": "host"}}

PROMPTS = (
    "Question: A baker sells 14 loaves in the morning and twice as many in the afternoon, at 3 "
    "dollars each. How much does she take in a day?\nAnswer:",
    "The French Revolution began in 1789, when",
    "def fibonacci(n):\n    ",
    "Photosynthesis is the process by which plants",
)


def add_options(options: cli.Options, *, tokens: int, repeats: int) -> None:
    """Add the host and the size of its answers."""
    options.add("--host", SMOLLM2, "host's model")
    options.add("--tokens", tokens, "per answer", least=8)
    options.add("--repeats", repeats, "answers per figure", least=1)


def floe_section(url: str, *, tokenizer: str, lookahead: int = 1, **values: Any) -> dict[str, Any]:
    """Return a ``floe`` section with the expert at `url`."""
    expert = {"url": url, "model": "expert", "tokenizer": tokenizer, "trusted": True}
    return {"expert": {**expert, "lookahead": lookahead}, **PATIENT, **values}


def host(
    model: str,
    name: str,
    *,
    floe: Mapping[str, Any] | None = None,
    core: int = HOST_CORE,
    streams: int = 2,
    variables: Mapping[str, str] | None = None,
) -> ServerSpec:
    """Return a host; without a section, vLLM as it is."""
    return ServerSpec(
        model=model,
        name=name,
        core=core,
        floe=dict(floe) if floe is not None else None,
        arguments=["--max-model-len", "512", "--max-num-seqs", str(streams)],
        variables={"VLLM_USE_V2_MODEL_RUNNER": "0", **(variables or {})},
    )


def dialled_host(
    model: str, *, floe: Mapping[str, Any], deadline: Path, times: Path | None = None
) -> ServerSpec:
    """Return a host that reads its deadline from a file, and writes its steps' times to one."""
    variables = {timed_processor.DIAL: str(deadline)}
    processor = timed_processor.DIALLED
    if times is not None:
        variables[timed_processor.TIMES] = str(times)
        processor = timed_processor.TIMED
    spec = host(model, "floe", floe=floe, variables=variables)
    # The later option takes precedence.
    return replace(spec, arguments=[*spec.arguments, "--logits-processors", processor])


def tokens_per_second(server: Server, prompt: str, *, tokens: int, **options: Any) -> float:
    """Decode one greedy answer of exactly `tokens` tokens, and return their rate.

    The prompt is read once before, so that only decoding is timed; `options` are the request's.
    """
    read(server, prompt, **options)
    return timed_answer(server, prompt, tokens=tokens, **options)[0]


def read(server: Server, prompt: str, **options: Any) -> None:
    """Have a server, and its expert, read a prompt, so that they need not do it again."""
    _answer(server, prompt, tokens=1, **options)


def timed_answer(
    server: Server, prompt: str, *, tokens: int, **options: Any
) -> tuple[float, list[int]]:
    """Decode one greedy answer of exactly `tokens` tokens; return their rate, and the answer."""
    begun = time.perf_counter()
    answer = _answer(server, prompt, tokens=tokens, **options)
    return tokens / (time.perf_counter() - begun), answer


def _answer(server: Server, prompt: str, *, tokens: int, **options: Any) -> list[int]:
    try:
        (answer,) = server.tokens(prompt, max_tokens=tokens, ignore_eos=True, **options)
    except RuntimeError:
        cli.note(tail(server.log, lines=60))
        raise
    if len(answer) != tokens:
        raise RuntimeError(f"{server.name} gave {len(answer)} tokens instead of {tokens}.")
    return answer


def rates(
    servers: Sequence[Server], *, tokens: int, repeats: int, prompts: Sequence[str] = PROMPTS[1:2]
) -> list[float]:
    """Return the median tokens per second of each server; they take turns."""
    found: list[list[float]] = [[] for _ in servers]
    for _ in range(repeats):
        for prompt in prompts:
            for server, values in zip(servers, found, strict=True):
                values.append(tokens_per_second(server, prompt, tokens=tokens))
    return [statistics.median(values) for values in found]


def starting(name: str, seconds: float) -> None:
    """Report now and then that a server is still starting."""
    if round(seconds) % 20 == 0:
        cli.note(f"{name} has been starting for {seconds:.0f} s")
