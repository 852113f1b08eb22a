"""Measures the gate, and other tools that find private data where they are installed."""

import importlib
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from random import Random
from typing import Any

import numpy as np

from floe_plugins.gate import Decision, Gate, Policy, Profile
from floe_plugins.gate.detector import CLASSES, Detector
from floe_plugins.gate.detectors.third_party import DetectSecretsDetector, PresidioDetector
from flower_strategy.data.embedded import make_examples
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.gate.data import Prompt, read_benign, read_prompts
from integration_tests.benchmarks.privacy.data import generated

#: Gives the private spans of a text, or None where it is private without any.
Finder = Callable[[str], Sequence[tuple[int, int]] | None]

CHARS = 500
_PIECES, _WARM = 400, 40
_GENERATED = 600  # prompts of either kind where there is no file


def measure(options: cli.Namespace) -> dict[str, Any]:
    """Measure the gate with its default detectors, and the other tools."""
    prompts = read_prompts(options.data) if options.data else generated_prompts(options.seed)
    benign = read_benign(options.benign) if options.benign else {}
    # The other tools know no profiles, so the gate stands beside them with all that it finds.
    gate = _gate(Profile.STRICT)
    tools = {} if options.no_peers else peers(options.spacy)
    return {
        **figures_of(gate, prompts),
        "seconds_per_mb": seconds_per_mb(gate, prompts),
        "profiles": {
            str(profile): profile_figures(profile, prompts, benign) for profile in Profile
        },
        "benign": options.benign.name if options.benign else None,
        "data": options.data.name if options.data else "generated",
        "prompts": len(prompts),
        "seed": options.seed,
        "peers": {name: figures_of(start(), prompts, name=name) for name, start in tools.items()},
    }


def generated_prompts(seed: int) -> list[Prompt]:
    """Make private prompts and, of functions of Python's library, as many clean ones."""
    # The other embedded tasks speak of people with names.
    code = make_examples("code", count=_GENERATED, seed=seed)
    return generated(_GENERATED, Random(seed)) + [Prompt(each.prompt, ()) for each in code]


def _unlimited(profile: Profile, policy: Policy = Policy.STRICT) -> Gate:
    """Return a gate with its default detectors, without limits that a slow machine may hit."""
    return Gate(timeout_s=60.0, max_chars=1_100_000, profile=profile, policy=policy)


def profile_figures(
    profile: Profile, prompts: Sequence[Prompt], benign: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return what one profile of the gate finds, holds back of ordinary texts, and leaves.

    ``held_back`` is the share of ordinary texts that are not clear, per source and in all;
    ``kept_parts`` the share of the redacted prompts that keep a piece of a labelled value: a word
    of three letters or digits, or more, from where the value stood; ``exposing_recall`` the share
    held back of the prompts with contact data, ids, cards, secrets or the address of a house.
    """
    held_by = _held_by(profile)
    exposing = [prompt.text for prompt in prompts if _exposes(prompt)]
    held = {
        source: _share(sum(map(held_by, texts)), len(texts)) for source, texts in benign.items()
    }
    count = sum(map(len, benign.values()))
    total = sum((held[source] or 0.0) * len(texts) for source, texts in benign.items())
    return {
        **figures_of(_gate(profile), prompts, name=str(profile)),
        "held_back": {**held, "all": _share(total, count)} if benign else {},
        "exposing_recall": _share(sum(map(held_by, exposing)), len(exposing)),
        "exposing": len(exposing),
        "kept_parts": kept_parts(_unlimited(profile, Policy.REDACT), prompts),
    }


_EXPOSING = frozenset[str]().union(
    *(
        CLASSES[name]
        for name in (
            *("e-mail addresses", "telephone numbers", "payment cards", "bank accounts"),
            *("national identity numbers", "driving licences", "passports", "vehicles"),
            *("VAT numbers", "crypto addresses", "passwords, keys"),
        )
    )
)
#: A house has a number and a street's name; a town alone exposes nobody.
_HOUSE = re.compile(r"(?=.*\d)(?=.*[^\W\d_]{3})", re.DOTALL)


def _exposes(prompt: Prompt) -> bool:
    return any(
        label in _EXPOSING
        or (label in CLASSES["postal addresses"] and _HOUSE.match(prompt.text[start:end]))
        for start, end, label in prompt.spans
    )


def _held_by(profile: Profile) -> Callable[[str], bool]:
    gate = _unlimited(profile)
    return lambda text: gate.decide(text).decision is not Decision.CLEAR


_PIECE = re.compile(r"\w{3,}")


def kept_parts(gate: Gate, prompts: Sequence[Prompt]) -> float | None:
    """Return the share of redacted prompts that keep a piece of a labelled value."""
    redacted, kept = 0, 0
    for prompt in prompts:
        verdict = gate.decide(prompt.text)
        if verdict.decision is Decision.REDACTED:
            redacted += 1
            private = [
                span
                for span, reason in zip(verdict.spans, verdict.reasons, strict=True)
                if reason.private
            ]
            kept += any(
                not any(found.start < end and found.end > start for found in private)
                for start, end in _pieces(prompt)
            )
    return _share(kept, redacted)


def _pieces(prompt: Prompt) -> list[tuple[int, int]]:
    return [
        match.span()
        for start, end, _ in prompt.spans
        for match in _PIECE.finditer(prompt.text, start, end)
    ]


def _gate(profile: Profile) -> Finder:
    """Return the gate as a finder."""
    gate = _unlimited(profile)

    def find(text: str) -> list[tuple[int, int]] | None:
        verdict = gate.decide(text)
        if verdict.decision is Decision.CLEAR:
            return []
        return [(span.start, span.end) for span in verdict.spans] or None

    return find


def figures_of(find: Finder, prompts: Sequence[Prompt], *, name: str = "gate") -> dict[str, Any]:
    """Return what a finder finds and how long it takes, in milliseconds per 500 characters.

    ``prompt_recall`` is the share of the prompts with spans that are held back,
    ``false_alarm_rate`` that of those without; ``recall`` has for every class the share of its
    spans that a found span overlaps; ``f2`` is of prompts. A share of nothing is None.
    """
    held, total, found = Counter[bool](), Counter[bool](), Counter[str]()
    classes = Counter[str]()
    for prompt in cli.progress(prompts, name):
        spans = find(prompt.text)
        private = bool(prompt.spans)
        total[private] += 1
        held[private] += spans is None or bool(spans)
        for start, end, label in prompt.spans:
            classes[label] += 1
            found[label] += spans is None or any(a < end and b > start for a, b in spans)
    times = _times(find, prompts)
    # Recall counts four times as much as precision: 5 TP / (5 TP + 4 FN + FP).
    weighed = 5 * held[True] + 4 * (total[True] - held[True]) + held[False]
    return {
        "prompt_recall": _share(held[True], total[True]),
        "false_alarm_rate": _share(held[False], total[False]),
        "recall": {label: found[label] / classes[label] for label in sorted(classes)},
        "f2": _share(5 * held[True], weighed) if total[True] else None,
        "p50_ms": float(np.percentile(times, 50)),
        "p99_ms": float(np.percentile(times, 99)),
    }


def seconds_per_mb(find: Finder, prompts: Sequence[Prompt]) -> float:
    """Return the seconds for a million characters made of the prompts' texts."""
    text = "\n".join(prompt.text for prompt in prompts)
    text = (text * (1_000_000 // max(1, len(text)) + 1))[:1_000_000]
    started = time.perf_counter()
    find(text)
    return time.perf_counter() - started


def _times(find: Finder, prompts: Sequence[Prompt]) -> list[float]:
    """Return milliseconds for pieces of 500 characters, after some to warm up."""
    text = "\n".join(prompt.text for prompt in prompts)
    while len(text) < CHARS * (_WARM + 20):
        text += "\n" + text
    starts = range(0, len(text) - CHARS + 1, CHARS)
    times = []
    for start in list(starts)[: _PIECES + _WARM]:
        piece = text[start : start + CHARS]
        started = time.perf_counter()
        find(piece)
        times.append((time.perf_counter() - started) * 1e3)
    return times[_WARM:]


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def peers(spacy_model: str | None) -> dict[str, Callable[[], Finder]]:
    """Return how to start each other tool that is installed; Presidio with spaCy, given a model."""
    found: dict[str, Callable[[], Finder]] = {}
    if find_spec("presidio_analyzer"):
        found["presidio-patterns"] = lambda: finder_of(PresidioDetector())
        if spacy_model is not None and find_spec("spacy"):
            found["presidio-spacy"] = lambda: _presidio_spacy(spacy_model)
    if find_spec("detect_secrets"):
        found["detect-secrets"] = lambda: finder_of(DetectSecretsDetector())
    return found


def finder_of(detector: Detector) -> Finder:
    return lambda text: [(span.start, span.end) for span in detector.detect(text)]


def _presidio_spacy(model: str) -> Finder:
    """Start Presidio as its documentation has it, with a spaCy model and its own thresholds."""
    presidio = importlib.import_module("presidio_analyzer")
    engines = importlib.import_module("presidio_analyzer.nlp_engine")

    models = [{"lang_code": "en", "model_name": model}]
    configuration = {"nlp_engine_name": "spacy", "models": models}
    nlp = engines.NlpEngineProvider(nlp_configuration=configuration).create_engine()
    engine = presidio.AnalyzerEngine(nlp_engine=nlp, supported_languages=["en"])
    return lambda text: [(found.start, found.end) for found in engine.analyze(text, language="en")]
