"""`floe-llm align`: builds the alignment maps of two tokenizers and describes them."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from floe_plugins.commands.output import add_json_option, print_json, print_table
from floe_plugins.models import resolve

if TYPE_CHECKING:
    from vllm_logits_processor.alignment.inspection import GroupReport, ShownToken, SideReport
    from vllm_logits_processor.alignment.maps import KeptMaps
    from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

_MODEL_HELP = "a checkpoint folder, the id of a model on the hub, or embedded:NAME"


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "align",
        help="build and show the alignment maps of two tokenizers",
        description="Build the maps between the tokenizers of two models, or load them if they are "
        "kept already, and show what they are like: how many tokens both have, how large the "
        "groups are, what could not be mapped. A server that fuses the two models loads the same "
        "file.",
    )
    parser.add_argument("host", metavar="HOST", help=f"the model that vLLM runs: {_MODEL_HELP}")
    parser.add_argument("expert", metavar="EXPERT", help="the other model, likewise")
    parser.add_argument(
        "--show", metavar="TEXT", help="also show how the tokens of a text are mapped"
    )
    add_json_option(parser)
    parser.set_defaults(run=_align, extras=("fusion", "embedded"))


def _align(arguments: argparse.Namespace) -> int:
    from vllm_logits_processor.alignment.inspection import group_report, shown, side_reports

    host, expert = _vocabulary(arguments.host), _vocabulary(arguments.expert)
    begun = time.monotonic()
    kept = _keep(host, expert)
    seconds = time.monotonic() - begun
    sides = side_reports(host, expert, kept.maps)
    groups = group_report(expert, kept.maps)
    # The bytes from the shell, even if they are not UTF-8.
    text = None if arguments.show is None else os.fsencode(arguments.show)
    tokens = None if text is None else shown(text, host, expert, kept.maps)
    if not arguments.json:
        _print(sides, groups, kept, seconds)
        if tokens is not None:
            _print_tokens(tokens)
        return 0
    values = {
        "host": asdict(sides[0]),
        "expert": asdict(sides[1]),
        "groups": asdict(groups),
        "built": kept.built,
        "seconds": round(seconds, 3),
        "file": str(kept.file),
        "file_bytes": kept.file.stat().st_size,
    }
    if tokens is not None:
        names = ("host_tokens", "expert_tokens")
        values["show"] = {
            name: [asdict(token) for token in side]
            for name, side in zip(names, tokens, strict=True)
        }
    print_json(values)
    return 0


def _vocabulary(name: str) -> ByteVocabulary:
    from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

    return ByteVocabulary.from_pretrained(resolve(name, tokenizer=True), name=name)


def _keep(host: ByteVocabulary, expert: ByteVocabulary) -> KeptMaps:
    from tqdm import tqdm

    from vllm_logits_processor.alignment.maps import keep

    with tqdm(
        total=len(host) + len(expert), desc="Mapping", unit=" tokens", leave=False, disable=None
    ) as bar:
        return keep(host, expert, progress=lambda done, _: bar.update(done - bar.n))


def _print(
    sides: tuple[SideReport, SideReport], groups: GroupReport, kept: KeptMaps, seconds: float
) -> None:
    header = (
        "",
        "TOKENS",
        "SAME BYTES",
        "MAPPED",
        "NO TEXT",
        "NOT SPELLED",
        "ENDS",
        "KIND",
        "NAME",
    )
    print_table(
        header,
        [
            (
                role,
                f"{side.tokens:,}",
                f"{side.shared:,}",
                f"{side.mapped:,}",
                f"{side.without_text:,}",
                f"{side.not_spelled:,}",
                ",".join(map(str, side.ends)) or "none",
                side.kind,
                side.name,
            )
            for role, side in zip(("host", "expert"), sides, strict=True)
        ],
    )
    for role, side in zip(("host", "expert"), sides, strict=True):
        if side.not_spelled:
            examples = ", ".join(side.not_spelled_examples)
            print(f"{role} tokens that the other cannot spell, such as {examples}")
    percentiles = ", ".join(f"{at} %: {size:,}" for at, size in groups.percentiles.items())
    print(f"host tokens per group of an expert token: {percentiles}")
    largest = ", ".join(f"{text} {size:,}" for text, size in groups.largest)
    print(f"largest groups: {largest}")
    megabytes = kept.file.stat().st_size / 1e6
    print(f"{'built' if kept.built else 'loaded'} in {seconds:.2f} s")
    print(f"{kept.file}  {megabytes:.1f} MB")


def _print_tokens(tokens: tuple[list[ShownToken], list[ShownToken]]) -> None:
    for roles, side in zip((("HOST", "EXPERT"), ("EXPERT", "HOST")), tokens, strict=True):
        print()
        print_table(
            (f"{roles[0]} TOKEN", "TEXT", f"FIRST {roles[1]} TOKEN", "TEXT", "GROUP"),
            [
                (
                    str(token.token),
                    token.text,
                    "-" if token.first is None else str(token.first),
                    token.first_text or "-",
                    f"{token.group:,}",
                )
                for token in side
            ],
        )
