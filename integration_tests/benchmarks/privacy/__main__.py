"""Options of the benchmark; see the package for what it measures."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from floe_plugins.errors import FloeError
from floe_plugins.models import resolve
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.models import GEMMA, SMOLLM2
from integration_tests.benchmarks.privacy.data import Prompts, default_data, load_prompts
from integration_tests.benchmarks.privacy.leaving import Decode, spans_in, what_left
from integration_tests.benchmarks.privacy.measure import SYSTEMS, Run, device_and_cloud
from integration_tests.harness.tiny_models import make_models
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

_HEADER = (
    "",
    "requests",
    "bytes left",
    "bytes an answer with the LLM's help",
    "private spans left",
    "retention",
    "private prompts with a span that left",
    "public prompts with the LLM's help",
    "spans that answers repeat",
    "seconds an answer",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = cli.parser("Bytes and private spans that leave the device, by who answers.")
    parser.prog = parser.prog.removesuffix(".__main__")
    add = parser.add_argument
    add(
        "--data",
        default=default_data(),
        metavar="FILE[,FILE]",
        help="JSONL of text and spans, and of public tasks (default: those beside the project, "
        "where they are; a kind without a file is made at run time)",
    )
    add("--slm", default=SMOLLM2, help=f"on the device (default: {SMOLLM2})")
    add("--llm", default=GEMMA, help=f"in the cloud (default: {GEMMA})")
    add("--tiny", action="store_true", help="random models of a few hundred kilobytes instead")
    add("--private", type=int, default=48, help="private prompts (default: 48)")
    add("--public", type=int, default=16, help="public prompts (default: 16)")
    add("--tokens", type=int, default=8, help="most of an answer (default: 8)")
    add("--seed", type=int, default=0, help="of the choice of prompts (default: 0)")
    options = parser.parse_args(arguments)
    if min(options.private, options.public) < 1 or not 1 <= options.tokens <= 64:
        parser.error("--private and --public are at least 1, and --tokens from 1 to 64")
    try:
        prompts = load_prompts(
            options.data, private=options.private, public=options.public, seed=options.seed
        )
        with tempfile.TemporaryDirectory() as folder:
            values = _measure(options, prompts, Path(folder))
    except FloeError as error:
        return cli.failed(error)
    cli.show(
        options,
        values,
        header=_HEADER,
        rows=[_row(name, system) for name, system in values["systems"].items()],
        remarks=_remarks(values),
    )
    return 0


def _measure(options: Any, prompts: Prompts, folder: Path) -> dict[str, Any]:
    if options.tiny:
        slm = llm = make_models(folder).host
    else:
        slm, llm = resolve(options.slm), resolve(options.llm)
    with device_and_cloud(slm, llm, logs=folder / "logs", tokens=options.tokens) as systems:
        runs = {name: systems.run(name, prompts.all) for name in SYSTEMS}
    decode = ByteVocabulary.from_pretrained(llm).decode
    classes = Counter(label for prompt in prompts.private for _, _, label in prompt.spans)
    return {
        "seed": options.seed,
        "tokens": options.tokens,
        "slm": "tiny" if options.tiny else options.slm,
        "llm": "tiny" if options.tiny else options.llm,
        "sources": list(prompts.sources),
        "private_prompts": len(prompts.private),
        "public_prompts": len(prompts.public),
        "spans": classes.total(),
        "spans_by_class": dict(sorted(classes.items())),
        "systems": _systems(runs, prompts, decode),
    }


def _systems(
    runs: Mapping[str, Run], prompts: Prompts, decode: Decode
) -> dict[str, dict[str, Any]]:
    texts, found = prompts.all, {}
    everything = what_left(runs["llm-only"].requests, texts, decode=decode).spans.total()
    for name, run in runs.items():
        left = what_left(run.requests, texts, decode=decode)
        public = sum(1 for at in left.prompts if not texts[at].spans)
        repeated = sum(
            spans_in(answer, prompt).total()
            for answer, prompt in zip(run.answers, texts, strict=True)
        )
        found[name] = {
            "requests": left.requests,
            "bytes": left.sent_bytes,
            "helped_prompts": len(left.prompts),
            "bytes_per_helped_answer": (
                left.sent_bytes / len(left.prompts) if left.prompts else None
            ),
            "spans_left": left.spans.total(),
            "spans_left_by_class": dict(sorted(left.spans.items())),
            "retention": 1 - left.spans.total() / everything,
            "leaking_share": len(left.leaking) / len(prompts.private),
            "public_helped_share": public / len(prompts.public),
            "spans_repeated": repeated,
            "seconds_per_answer": run.seconds / len(texts),
        }
    return found


def _row(name: str, system: Mapping[str, Any]) -> list[Any]:
    helped = system["bytes_per_helped_answer"]
    return [
        name,
        system["requests"],
        system["bytes"],
        "-" if helped is None else round(helped),
        system["spans_left"],
        f"{system['retention']:.1%}",
        f"{system['leaking_share']:.1%}",
        f"{system['public_helped_share']:.1%}",
        system["spans_repeated"],
        system["seconds_per_answer"],
    ]


def _remarks(values: Mapping[str, Any]) -> list[str]:
    systems, classes = values["systems"], values["spans_by_class"]
    floe, llm = systems["floe"], systems["llm-only"]
    kept = ", ".join(f"{name} {each['retention']:.1%}" for name, each in systems.items())
    missed = [
        f"{label} {count} of {classes[label]}"
        for label, count in floe["spans_left_by_class"].items()
    ]
    helped = ", ".join(
        f"{name} {each['public_helped_share']:.1%}" for name, each in systems.items()
    )
    remarks = [
        f"Retention, 1 - spans that left over those that left under llm-only "
        f"({llm['spans_left']} of {values['spans']}): {kept}.",
        "Spans that left under floe, by class: " + (", ".join(missed) if missed else "none") + ".",
        f"Public prompts with the LLM's help: {helped}.",
    ]
    if floe["helped_prompts"]:
        each, once = floe["bytes_per_helped_answer"], llm["bytes_per_helped_answer"]
        remarks.append(
            f"Floe sends the growing text at every token: {each:.0f} bytes per answer with the "
            f"LLM's help, {each / once:.1f} times llm-only's {once:.0f}; over all prompts "
            f"{floe['bytes'] / llm['bytes']:.1f} times its bytes."
        )
    return remarks


if __name__ == "__main__":
    sys.exit(cli.command(main))
