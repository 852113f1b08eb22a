"""Who drafts beside an expert that is far away: the expert, or the host by vLLM's own drafting.

The hosts run on vLLM's V2 runner, which alone drafts beside logits processors. Without a GPU its
kernels run in an interpreter: the expert's latency is chosen in steps of such a host.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from floe_plugins.models import resolve
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.decode import servers
from integration_tests.benchmarks.decode.canned_expert import LatencyExpert, latency_expert
from integration_tests.harness import interpreted_triton
from integration_tests.harness.interpreted_servers import Interpreted, draft_model, ngrams
from integration_tests.harness.vllm_servers import Server, ServerSpec, running

#: Tokens that the expert writes ahead at most, and that the host drafts a step.
LOOKAHEAD, DRAFTED = 8, 4
#: The expert's latency, in steps of the host.
FAR = 3.0

#: A text whose continuation stands in it, and one whose continuation does not.
TEXTS = {
    "structured": "name,country,opens\n"
    "Louvre,France,09:00\nPrado,Spain,10:00\nUffizi,Italy,08:15\n"
    "Louvre,France,09:00\nPrado,Spain,10:00\nUffizi,Italy,08:15\n"
    "Louvre,",
    "free": "Photosynthesis is the process by which plants",
}


def measure_drafts(options: cli.Namespace, logs: Path) -> dict[str, Any]:
    """Measure each way on each text."""
    host, expert_model = resolve(options.drafting_host), resolve(options.drafting_expert)
    with latency_expert(logs=logs, core=servers.EXPERT_CORE, model=expert_model) as expert:
        specs = _specs(host, expert.url, tokenizer=expert_model, logs=logs)
        with running(*specs, logs=logs, waiting=servers.starting) as hosts:
            ways = {server.name: server for server in hosts}
            step_s = _step_s(ways["one"], options)
            expert.set_latency(FAR * step_s)
            cases: list[dict[str, Any]] = []
            for text, prompt in TEXTS.items():
                cases += _cases(text, prompt, ways, expert, tokens=options.drafting_tokens)
    found = {"latency_over_step": FAR, "step_ms": step_s * 1000, "cases": cases}
    return {"drafts": {**found, "most_steps": LOOKAHEAD, "drafted": DRAFTED}}


def _specs(host: str, url: str, *, tokenizer: str, logs: Path) -> list[ServerSpec]:
    """Return the hosts: one token a call, look-ahead, and the two that draft."""
    plain = servers.host(host, "one", floe=servers.floe_section(url, tokenizer=tokenizer))
    variables = {**plain.variables, **interpreted_triton.variables(logs)}
    one = Interpreted(
        model=host,
        name="one",
        core=plain.core,
        floe=plain.floe,
        # A small cache each: four hosts share the machine's memory.
        arguments=[*plain.arguments, "--num-gpu-blocks-override", "40"],
        variables=variables,
    )
    ahead = servers.floe_section(url, tokenizer=tokenizer, lookahead=LOOKAHEAD)
    drafters = {"n-grams": ngrams(DRAFTED), "model": draft_model(DRAFTED, model=host)}
    return [
        one,
        replace(one, name="look-ahead", floe=ahead),
        *(
            replace(one, name=name, arguments=[*one.arguments, *arguments])
            for name, arguments in drafters.items()
        ),
    ]


def _step_s(server: Server, options: cli.Namespace) -> float:
    """Return the seconds of the host's step by itself."""
    rate = servers.tokens_per_second(
        server, TEXTS["free"], tokens=options.drafting_tokens, **servers.HOST_ALONE
    )
    return 1 / rate


def _cases(
    text: str, prompt: str, ways: dict[str, Server], expert: LatencyExpert, *, tokens: int
) -> list[dict[str, Any]]:
    cases, answers, rates = [], {}, {}
    for way, server in cli.progress(ways.items(), f"{text} text"):
        servers.read(server, prompt)
        before = expert.asked()
        rates[way], answers[way] = servers.timed_answer(server, prompt, tokens=tokens)
        cases.append(
            {
                "text": text,
                "way": way,
                "tokens_per_s": rates[way],
                "calls_per_token": (expert.asked() - before) / tokens,
                "ratio": rates[way] / rates["one"],
                "texts_equal": answers[way] == answers["one"],
            }
        )
    return cases
