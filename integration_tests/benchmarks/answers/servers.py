"""The federated run whose adapters are served, and the two servers, asked as the systems ask."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError
from floe_plugins.models import resolve
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.answers import random_router
from integration_tests.benchmarks.answers.device import Device, Scorer
from integration_tests.benchmarks.answers.journal import Journal
from integration_tests.benchmarks.answers.tasks import Task, check_disjoint, write_training
from integration_tests.demo import federation as demo
from integration_tests.demo.federation import Federation
from integration_tests.demo.serving import cloud_spec
from integration_tests.harness.vllm_servers import FORGETS, Server, running
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

_DATA = "data"
LLM, SLM = ALONE = ("llm", "slm")
FLOE = "floe"
#: Without its adapters.
SLM_BASE = "slm-base"
#: Other ways of fusion, whose answers are marked, and those of which only the cost is measured.
MEAN, RANDOM = MARKED = ("mean", "random")
ASKING, AHEAD = TIMED = ("floe-ask", "floe-ahead")
#: What may be compared beside LLM, SLM and Floe.
FURTHER = (SLM_BASE, *MARKED, *TIMED)

#: Fused system -> what the processor of the cloud's server is told beside what all are told.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    FLOE: {},
    MEAN: {"router": "mean"},
    RANDOM: {"router": random_router.NAME, "plugins": [random_router.__name__]},
    ASKING: {"ask": "margin"},
    AHEAD: {"expert": {"lookahead": 4}},
}

#: A server that is slow on a busy machine is asked again all the same.
_NO_BREAKER = 1_000_000

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
    #: The cluster adapter whose task is closest to the prompt; None where it fits none.
    adapter: str | None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer."""

    text: str
    tokens: int
    logprob: float  # mean of its tokens, nats; -inf for an answer without any
    request_bytes: int  # body of the request
    seconds: float  # from the request to the whole answer


@dataclass(frozen=True, kw_only=True)
class Servers:
    """The device's server and the cloud's, asked as the systems ask them.

    Attributes
    ----------
    device : Device
    scorer : Scorer
        Scores questions with the device's model.
    cloud : Server
    fused : str
        The fused system that the cloud's server is.
    trace : Path
        The cloud processor's record of every fused token.
    own_model, cloud_model : str
        Folders of their checkpoints.
    journal : Journal
        What they have answered already.
    """

    device: Device
    scorer: Scorer
    cloud: Server
    fused: str
    trace: Path
    own_model: str
    cloud_model: str
    journal: Journal

    def of(self, system: str) -> tuple[Server, ...]:
        """Return the servers that work on a writer's answer."""
        if system == LLM:
            return (self.cloud,)
        own = self.device.server
        return (own, self.cloud) if system == self.fused else (own,)

    def forget_prompts(self) -> None:
        self.device.forget_prompts()
        self.cloud.forget_prompts()

    def answer(self, system: str, item: Item, *, label: str | None = None) -> Reply:
        """Let a writer answer; the trace calls a fused answer by the label, or the item's key."""
        body: dict[str, Any] = {
            "prompt": item.prompt,
            "max_tokens": item.task.max_tokens,
            "temperature": 0.0,
            "stop": list(item.task.stop),
            "logprobs": 1,
        }
        server = self.cloud if self.cloud in self.of(system) else self.device.server
        if system in (SLM, SLM_BASE):
            body |= self.device.asked(item.adapter if system == SLM else None)
        elif system == LLM:
            body["vllm_xargs"] = {"floe": "host"}
        elif system == self.fused:
            fused = {"floe": "fused", "floe_label": label or item.key}
            if item.adapter is not None:
                fused["floe_expert_model"] = item.adapter
            body["vllm_xargs"] = fused
        begun = time.perf_counter()
        (choice,) = server.choices(**body)
        seconds = time.perf_counter() - begun
        logprobs = _logprobs(choice)
        return Reply(
            text=str(choice["text"]),
            tokens=len(logprobs),
            logprob=sum(logprobs) / len(logprobs) if logprobs else -math.inf,
            request_bytes=len(json.dumps({"model": server.name, **body}).encode()),
            seconds=seconds,
        )

    def answers(self, system: str, items: Sequence[Item]) -> dict[str, Reply]:
        """Let a writer answer all items, several at a time; key -> answer."""
        found = self._all(system, items, lambda item: asdict(self.answer(system, item)))
        return {key: Reply(**values) for key, values in found.items()}

    def prompt_bits(self, item: Item) -> dict[str, float]:
        """Return bits per byte that the LLM and the SLM with its adapter need for the question."""
        data = item.question.encode()
        with ThreadPoolExecutor(1) as beside:
            llm = beside.submit(self._cloud_nats, _ids(self.cloud_model, data))
            own = self.scorer.nats(_ids(self.own_model, data), adapter=item.adapter)
            nats = {LLM: llm.result(), SLM: own}
        return {writer: each / math.log(2) / len(data) for writer, each in nats.items()}

    def all_prompt_bits(self, items: Sequence[Item]) -> dict[str, dict[str, float]]:
        """Return `prompt_bits` of all items by key."""
        return self._all("prompts", items, self.prompt_bits, at_once=1)

    def _cloud_nats(self, ids: Sequence[int]) -> float:
        options = {"prompt_logprobs": 0, "vllm_xargs": {"floe": "host"}}
        asked: Any = list(ids)
        (choice,) = self.cloud.choices(asked, max_tokens=1, **options)
        scored = zip(ids[1:], choice["prompt_logprobs"][1:], strict=True)
        return -float(sum(row[str(token)]["logprob"] for token, row in scored))

    def _all(
        self,
        kind: str,
        items: Sequence[Item],
        work: Callable[[Item], Any],
        *,
        at_once: int = _CONCURRENT,
    ) -> dict[str, Any]:
        """Do some work for all items that are not in the journal; key -> what it gives."""

        def done(item: Item) -> Any:
            value = self.journal.known(kind, item.key)
            if value is None:
                value = work(item)
                self.journal.keep(kind, item.key, value)
            return value

        pool = ThreadPoolExecutor(at_once)
        groups = _by_adapter(items)
        try:
            found = (
                (item.key, value)
                for group in groups
                for item, value in zip(group, pool.map(done, group), strict=True)
            )
            return dict(cli.progress(found, kind, total=len(items)))
        finally:
            # After an interruption nobody waits for what has not begun.
            pool.shutdown(cancel_futures=True)


def _by_adapter(items: Sequence[Item]) -> list[list[Item]]:
    """Group items whose adapter is the same, in order.

    llama.cpp computes texts of one adapter at a time, those of its first busy slot; under a steady
    load, texts of another adapter wait for minutes.
    """
    groups: dict[str | None, list[Item]] = {}
    for item in items:
        groups.setdefault(item.adapter, []).append(item)
    return list(groups.values())


def _logprobs(choice: Mapping[str, Any]) -> list[float]:
    said = choice["logprobs"] or {}
    # llama.cpp lists a completion's tokens as those of a chat.
    if "content" in said:
        return [float(each["logprob"]) for each in said["content"]]
    return [float(each) for each in said.get("token_logprobs", ())]


def _ids(folder: str, data: bytes) -> list[int]:
    vocabulary = _vocabulary(folder)
    # An end token stands in front where there is no BOS, so that all bytes are scored.
    return [*(list(vocabulary.bos_ids) or [min(vocabulary.end_ids)]), *vocabulary.encode(data)]


@contextmanager
def both_servers(
    device: Device,
    scorer: Scorer,
    federation: Federation,
    folder: Path,
    *,
    llm: str,
    fused: str,
    journal: Journal,
    waiting: Callable[[str, float], None],
) -> Iterator[Servers]:
    """Start the cloud's server beside the device's, on the second core; stop it on exit.

    Parameters
    ----------
    device, scorer : Device, Scorer
        With the adapters of the run.
    federation : Federation
        The run.
    folder : Path
        For logs and the trace of the fusion.
    llm : str
        The cloud's model.
    fused : str
        The fused system, of `SETTINGS`.
    journal : Journal
        See `Servers`.
    waiting : Callable[[str, float], None]
        See `running`.
    """
    slm, trace = str(federation.manifest["model"]), folder / f"{fused}.jsonl"
    cloud = cloud_spec(
        device.server.url,
        slm=slm,
        trace=trace,
        # Eight streams at a time on two cores: a late call would measure the machine's speed, and
        # this benchmark is about what the two models say together.
        deadline_ms=10_000,
        first_deadline_ms=60_000,
        llm=llm,
        settings={**SETTINGS[fused], "breaker_failures": _NO_BREAKER},
        variables=FORGETS,
    )
    with running(cloud, logs=folder / "logs", waiting=waiting) as (far,):
        # An earlier call's lines belong to the answers in the journal.
        trace.touch()
        yield Servers(
            device=device,
            scorer=scorer,
            cloud=far,
            fused=fused,
            trace=trace,
            own_model=resolve(slm),
            cloud_model=cloud.model,
            journal=journal,
        )


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


def check_untrained(tasks: Sequence[Task], federation: Federation) -> None:
    """Refuse items that a device of this run could have trained on."""
    check_disjoint(tasks, federation.folder.parent / _DATA)


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
