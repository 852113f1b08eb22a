"""The federated run whose adapters are served, and the two servers, asked as the systems ask."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError
from floe_plugins.models import resolve
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.answers import random_router
from integration_tests.benchmarks.answers.tasks import Task, check_disjoint, write_training
from integration_tests.demo import federation as demo
from integration_tests.demo.federation import Federation
from integration_tests.demo.serving import cloud_spec, new_trace
from integration_tests.harness.vllm_servers import FORGETS, Server, ServerSpec, running
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

_DATA = "data"
LLM, SLM_BASE, SLM = ALONE = ("llm", "slm-base", "slm")
FLOE = "floe"
#: Other ways of fusion, whose answers are marked, and those of which only the cost is measured.
MEAN, RANDOM = MARKED = ("mean", "random")
ASKING, AHEAD = TIMED = ("floe-ask", "floe-ahead")

#: Fused system -> what the processor of the cloud's server is told beside what all are told.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    FLOE: {},
    MEAN: {"router": "mean"},
    RANDOM: {"router": random_router.NAME, "plugins": [random_router.__name__]},
    ASKING: {"ask": "margin"},
    AHEAD: {"expert": {"lookahead": 4}},
}

#: Requests on their way to one server: as many as it takes into a step.
_CONCURRENT = 8

_vocabulary = cache(ByteVocabulary.from_pretrained)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question."""

    key: str  # names it in the trace of the fusion; no other item has it
    task: Task
    question: str  # the prompt without what stands in front of it, the same for the whole task
    prompt: str
    reference: str
    adapter: str  # the cluster adapter whose task is closest to the prompt


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer."""

    text: str
    tokens: int
    logprob: float  # mean of its tokens, nats; -inf for an answer without any
    request_bytes: int  # body of the request
    seconds: float  # from the request to the whole answer


@dataclass(frozen=True)
class Servers:
    """The device's server and the cloud's, asked as the systems ask them.

    Both are vLLM's: what a prompt's tokens are worth is asked of both.

    Attributes
    ----------
    own, cloud : Server
    fused : str
        The fused system that the cloud's server is.
    trace : Path
        The cloud processor's record of every fused token.
    own_model, cloud_model : str
        Folders of their checkpoints.
    """

    own: Server
    cloud: Server
    fused: str
    trace: Path
    own_model: str
    cloud_model: str

    def of(self, system: str) -> tuple[Server, ...]:
        """Return the servers that work on a writer's answer."""
        if system == LLM:
            return (self.cloud,)
        return (self.own, self.cloud) if system == self.fused else (self.own,)

    def forget_prompts(self) -> None:
        for server in (self.own, self.cloud):
            server.forget_prompts()

    def answer(self, system: str, item: Item, *, label: str | None = None) -> Reply:
        """Let a writer answer; the trace calls a fused answer by the label, or the item's key."""
        body: dict[str, Any] = {
            "prompt": item.prompt,
            "max_tokens": item.task.max_tokens,
            "temperature": 0.0,
            "stop": list(item.task.stop),
            "logprobs": 0,
        }
        server = self.cloud if self.cloud in self.of(system) else self.own
        if system == SLM:
            body["model"] = item.adapter
        elif system == LLM:
            body["vllm_xargs"] = {"floe": "host"}
        elif system == self.fused:
            fused = {"floe": "fused", "floe_label": label or item.key}
            body["vllm_xargs"] = fused | {"floe_expert_model": item.adapter}
        begun = time.perf_counter()
        (choice,) = server.choices(**body)
        seconds = time.perf_counter() - begun
        logprobs = choice["logprobs"]["token_logprobs"]
        return Reply(
            text=str(choice["text"]),
            tokens=len(logprobs),
            logprob=sum(logprobs) / len(logprobs) if logprobs else -math.inf,
            request_bytes=len(json.dumps({"model": server.name, **body}).encode()),
            seconds=seconds,
        )

    def answers(self, system: str, items: Sequence[Item]) -> dict[str, Reply]:
        """Let a writer answer all items, several at a time; key -> answer."""
        pool = ThreadPoolExecutor(_CONCURRENT)
        try:
            found = pool.map(partial(self.answer, system), items)
            replies = list(cli.progress(found, system, total=len(items)))
        finally:
            # After an interruption nobody waits for what has not begun.
            pool.shutdown(cancel_futures=True)
        return {item.key: reply for item, reply in zip(items, replies, strict=True)}

    def prompt_bits(self, item: Item) -> dict[str, float]:
        """Return bits per byte that the LLM and the SLM with its adapter need for the question."""
        data = item.question.encode()
        asked = (
            (self.cloud, self.cloud_model, {"vllm_xargs": {"floe": "host"}}),
            (self.own, self.own_model, {"model": item.adapter}),
        )

        def score(each: tuple[Server, str, dict[str, Any]]) -> float:
            server, folder, options = each
            vocabulary = _vocabulary(folder)
            # An end token stands in front where there is no BOS, so that all bytes are scored.
            front = list(vocabulary.bos_ids) or [min(vocabulary.end_ids)]
            ids: Any = [*front, *vocabulary.encode(data)]
            (choice,) = server.choices(ids, max_tokens=1, prompt_logprobs=0, **options)
            scored = zip(ids[1:], choice["prompt_logprobs"][1:], strict=True)
            nats = -sum(row[str(token)]["logprob"] for token, row in scored)
            return float(nats) / math.log(2) / len(data)

        with ThreadPoolExecutor(len(asked)) as pool:
            return dict(zip((LLM, SLM), pool.map(score, asked), strict=True))

    def all_prompt_bits(self, items: Sequence[Item]) -> dict[str, dict[str, float]]:
        """Return `prompt_bits` of all items by key.

        One at a time: with LoRA, vLLM 0.32 on CPU fails for logprobs of a prompt while other
        requests are in the same step ("einsum(): subscript b has size ...").
        """
        return {item.key: self.prompt_bits(item) for item in cli.progress(items, "prompts")}


@contextmanager
def device_server(
    federation: Federation, folder: Path, *, waiting: Callable[[str, float], None]
) -> Iterator[Server]:
    """Start the server of the SLM with the run's adapters on the first core; stop it on exit."""
    modules = [f"{name}={path}" for name, path in federation.adapters.items()]
    rank = str(federation.manifest["rank"])
    lora = ["--enable-lora", "--max-lora-rank", rank, "--max-loras", str(len(modules))]
    device = ServerSpec(
        model=resolve(str(federation.manifest["model"])),
        name="slm",
        core=0,
        arguments=[*lora, "--lora-modules", *modules],
        variables=FORGETS,
    )
    with running(device, logs=folder / "logs", waiting=waiting) as (own,):
        yield own


@contextmanager
def both_servers(
    own: Server,
    federation: Federation,
    folder: Path,
    *,
    llm: str,
    fused: str,
    waiting: Callable[[str, float], None],
) -> Iterator[Servers]:
    """Start the cloud's server beside the device's, on the second core; stop it on exit.

    Parameters
    ----------
    own : Server
        See `device_server`.
    federation : Federation
        The run whose adapters `own` serves.
    folder : Path
        For logs and the trace of the fusion.
    llm : str
        The cloud's model.
    fused : str
        The fused system, of `SETTINGS`.
    waiting : Callable[[str, float], None]
        See `running`.
    """
    slm, trace = str(federation.manifest["model"]), new_trace(folder, name=fused)
    cloud = cloud_spec(
        own.url,
        slm=slm,
        trace=trace,
        # Eight streams at a time on two cores: a late call would measure the machine's speed, and
        # this benchmark is about what the two models say together.
        deadline_ms=10_000,
        first_deadline_ms=60_000,
        llm=llm,
        settings=SETTINGS[fused],
        variables=FORGETS,
    )
    with running(cloud, logs=folder / "logs", waiting=waiting) as (far,):
        yield Servers(own, far, fused, trace, resolve(slm), cloud.model)


def federation_in(folder: Path, tasks: Sequence[Task]) -> Federation:
    """Read the run that an earlier call left in its ``--output``, if it fits the tasks."""
    check_disjoint(tasks, folder / _DATA)
    run = folder / demo.RUN
    if not (run / "manifest.json").is_file():
        raise ConfigError(
            f"There is no finished run in {str(run)!r}; give --run the --output folder of an "
            "earlier call."
        )
    return Federation.read(run)


def federate(folder: Path, tasks: Sequence[Task], *, config: Mapping[str, Any]) -> Federation:
    """Train the SLM for the in-task tasks on six simulated devices; all files go to `folder`."""
    write_training(tasks, folder / _DATA)
    check_disjoint(tasks, folder / _DATA)
    cli.note(f"federated run: {demo.DEVICES} devices")
    wanted = {**config, "data": str(folder / _DATA)}
    return demo.federate(folder, config=wanted, on_line=_note)


def described(federation: Federation) -> list[dict[str, Any]]:
    """Return the clusters as JSON values: devices' tasks and ranks, held-out loss."""
    devices = {device["node"]: device for device in federation.manifest["devices"]}
    return [
        {
            "name": cluster["name"],
            "tasks": sorted({devices[node]["label"] for node in cluster["members"]}),
            "ranks": [devices[node]["rank"] for node in cluster["members"]],
            "loss_before": cluster["loss_before"],
            "loss_after": cluster["loss_after"],
        }
        for cluster in federation.manifest["clusters"]
    ]


def _note(line: str) -> None:
    if "[ROUND " in line:
        cli.note(f"federated run: round {line.rsplit('[ROUND ', 1)[1].rstrip(']')}")
