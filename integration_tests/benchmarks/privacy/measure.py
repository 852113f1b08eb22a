"""The five ways to answer, over the same two servers, and what left of the prompts in each."""

import json
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from floe_plugins.errors import FloeError
from floe_plugins.gate import Decision, Gate
from floe_plugins.models import resolve
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.decode import servers
from integration_tests.benchmarks.gate.data import Prompt
from integration_tests.benchmarks.privacy.data import Prompts, load_prompts
from integration_tests.benchmarks.privacy.relay import Relay, Request, relay
from integration_tests.harness.processes import free_port
from integration_tests.harness.tiny_models import make_models
from integration_tests.harness.vllm_servers import FORGETS, Server, running
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.expert.same_tokenizer import probes_of

Decode = Callable[[Sequence[int]], bytes]

SYSTEMS = ("llm-only", "router", "router+gate", "floe", "slm-only")

#: Requests that are under way at a time.
_AT_ONCE = 8


@dataclass(frozen=True)
class Run:
    """One system's answers."""

    requests: list[Request]  # what the relay saw
    answers: list[str]  # in the order of the prompts
    seconds: float  # for all of them, `_AT_ONCE` at a time


def measure(options: cli.Namespace) -> dict[str, Any]:
    """Answer all prompts with each system; return what the relay saw of it."""
    sizes = {key: getattr(options, key) for key in ("private", "public", "seed")}
    prompts = load_prompts(options.data, **sizes)
    with tempfile.TemporaryDirectory() as place:
        folder, logs = Path(place), Path(place) / "logs"
        if options.tiny:
            slm = llm = make_models(folder).host
        else:
            slm, llm = resolve(options.slm), resolve(options.llm)
        port = free_port()
        with relay(f"http://127.0.0.1:{port}/v1") as wire:
            expert = {"url": wire.url, "model": "llm", "tokenizer": llm, "trusted": False}
            floe: dict[str, Any] = {"expert": expert, **servers.PATIENT}
            floe["gate_profile"] = options.profile
            how: dict[str, Any] = {"streams": _AT_ONCE, "variables": FORGETS}
            own = servers.host(slm, "slm", floe=floe, **how)
            far = replace(servers.host(llm, "llm", core=servers.EXPERT_CORE, **how), port=port)
            with running(own, far, logs=logs, waiting=servers.starting) as (device, cloud):
                reached = replace(cloud, url=wire.url)
                systems = Systems(
                    device,
                    reached,
                    wire,
                    gate=Gate(profile=options.profile),
                    tokens=options.tokens,
                )
                runs = {name: systems.run(name, prompts.all) for name in SYSTEMS}
        vocabulary = ByteVocabulary.from_pretrained(llm)
    classes = Counter(label for prompt in prompts.private for _, _, label in prompt.spans)
    return {
        **{key: getattr(options, key) for key in ("seed", "tokens", "slm", "llm", "profile")},
        **({"slm": "tiny", "llm": "tiny"} if options.tiny else {}),
        "sources": list(prompts.sources),
        "private_prompts": len(prompts.private),
        "public_prompts": len(prompts.public),
        "spans": classes.total(),
        "spans_by_class": dict(sorted(classes.items())),
        "systems": _systems(runs, prompts, vocabulary),
    }


def _systems(
    runs: Mapping[str, Run], prompts: Prompts, vocabulary: ByteVocabulary
) -> dict[str, dict[str, Any]]:
    texts, found, decode = prompts.all, {}, vocabulary.decode
    fixed = set(probes_of(vocabulary))
    everything = what_left(runs["llm-only"].requests, texts, decode=decode).spans.total()
    for name, run in runs.items():
        # Once for each server Floe compares tokenizers by texts that are always the same.
        asked = [each for each in run.requests if not fixed & {*texts_of(each, decode=decode)}]
        left = what_left(asked, texts, decode=decode)
        helped = len(left.prompts)
        public = sum(1 for at in left.prompts if not texts[at].spans)
        repeated = map(spans_in, run.answers, texts)
        found[name] = {
            "requests": left.requests,
            "bytes": left.sent_bytes,
            "helped_prompts": helped,
            "bytes_per_helped_answer": left.sent_bytes / helped if helped else None,
            "spans_left": left.spans.total(),
            "spans_left_by_class": dict(sorted(left.spans.items())),
            "retention": 1 - left.spans.total() / everything,
            "leaking_share": len(left.leaking) / len(prompts.private),
            "public_helped_share": public / len(prompts.public),
            "spans_repeated": sum(each.total() for each in repeated),
            "seconds_per_answer": run.seconds / len(texts),
        }
    return found


class Systems:
    """The device, with Floe, and the cloud, which the device reaches through `wire`."""

    def __init__(self, slm: Server, llm: Server, wire: Relay, *, gate: Gate, tokens: int) -> None:
        self._slm, self._llm, self._wire, self._gate = slm, llm, wire, gate
        self._ways: dict[str, Callable[[str], list[str]]] = {
            "llm-only": partial(llm.complete, max_tokens=tokens),
            "floe": partial(slm.complete, max_tokens=tokens, vllm_xargs={"floe": "fused"}),
            "slm-only": partial(slm.complete, max_tokens=tokens, **servers.HOST_ALONE),
        }
        self._likelihoods: dict[str, float] = {}
        self._scoring_s = 0.0

    def run(self, name: str, prompts: Sequence[Prompt]) -> Run:
        """Answer all prompts with one system; no server remembers any from before."""
        if name.startswith("router") and not self._likelihoods:
            self._score(prompts)
        for server in (self._slm, self._llm):
            server.forget_prompts()
        # Resetting is none of the system's requests.
        self._wire.taken()
        begun = time.perf_counter()
        ways = [self._ways[way] for way in self._chosen(name, prompts)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = pool.map(lambda way, each: way(each.text)[0], ways, prompts)
            answers = list(cli.progress(found, name, total=len(prompts)))
        seconds = time.perf_counter() - begun
        # Both routers need the scores, which are the same.
        seconds += self._scoring_s if name.startswith("router") else 0.0
        return Run(self._wire.taken(), answers, seconds)

    def _chosen(self, name: str, prompts: Sequence[Prompt]) -> list[str]:
        """Return which of the ways answers each prompt."""
        if not name.startswith("router"):
            return [name] * len(prompts)
        likely = [self._likelihoods[prompt.text] for prompt in prompts]
        middle = statistics.median(likely)
        goes = [each < middle for each in likely]
        if name == "router+gate":
            goes = [
                each and self._gate.decide(prompt.text).decision is Decision.CLEAR
                for each, prompt in zip(goes, prompts, strict=True)
            ]
        return ["llm-only" if each else "slm-only" for each in goes]

    def _score(self, prompts: Sequence[Prompt]) -> None:
        begun = time.perf_counter()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(self._likelihood, prompts))
        self._likelihoods = {each.text: value for each, value in zip(prompts, found, strict=True)}
        self._scoring_s = time.perf_counter() - begun

    def _likelihood(self, prompt: Prompt) -> float:
        """Return the mean log-probability that the SLM gives to the prompt's tokens, nats."""
        (choice,) = self._slm.choices(
            prompt.text, max_tokens=1, prompt_logprobs=0, **servers.HOST_ALONE
        )
        # The first token has nothing before it.
        said = [next(iter(each.values()))["logprob"] for each in choice["prompt_logprobs"] if each]
        return statistics.fmean(said) if said else 0.0


class StrayTextError(FloeError):
    """A text left that is of none of the prompts: nothing could be said of what was in it."""


@dataclass(frozen=True)
class Left:
    """What left of some prompts."""

    requests: int
    sent_bytes: int  # heads included
    prompts: frozenset[int]  # indices of the prompts of which any text left
    spans: Counter[str]  # labelled ones whose text stands in what left of their prompt, by class
    leaking: frozenset[int]  # indices of the prompts with such spans


def what_left(requests: Sequence[Request], prompts: Sequence[Prompt], *, decode: Decode) -> Left:
    """Read the requests, calls of ``/v1/completions``, as the cloud's owner could.

    `decode` gives the bytes of the LLM's token ids. A text that begins like none of the prompts is
    a `StrayTextError`.
    """
    texts: dict[int, set[str]] = defaultdict(set)
    for request in requests:
        for text in texts_of(request, decode=decode):
            texts[_owner(text, prompts)].add(text)
    spans, leaking = Counter[str](), set()
    for at, seen in texts.items():
        found = spans_in("\0".join(seen), prompts[at])
        spans += found
        if found:
            leaking.add(at)
    size = sum(request.size for request in requests)
    return Left(len(requests), size, frozenset(texts), spans, frozenset(leaking))


def spans_in(text: str, prompt: Prompt) -> Counter[str]:
    """Count the prompt's spans whose text stands in `text`, by class."""
    return Counter(
        label for start, end, label in prompt.spans if prompt.text[start:end].strip() in text
    )


def texts_of(request: Request, *, decode: Decode) -> list[str]:
    """Return the prompts of a request as texts."""
    if not request.body:
        return []
    prompt = json.loads(request.body)["prompt"]
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        prompt = [prompt]
    return [
        each if isinstance(each, str) else decode(each).decode("utf-8", "replace")
        for each in prompt
    ]


def _owner(text: str, prompts: Sequence[Prompt]) -> int:
    """Return whose text it is: that of the prompt with the longest common beginning.

    Floe asks about text without its last word too, so the end of a prompt may be missing.
    """
    pairs = (zip(text.lstrip(), each.text.lstrip(), strict=False) for each in prompts)
    shared = [sum(1 for _ in takewhile(lambda each: each[0] == each[1], one)) for one in pairs]
    best = max(range(len(prompts)), key=shared.__getitem__)
    if 2 * shared[best] < min(len(text.lstrip()), len(prompts[best].text)):
        raise StrayTextError(
            f"A text of {len(text)} characters left that begins like none of the prompts."
        )
    return best
