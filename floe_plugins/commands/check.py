"""`floe-llm check`: shows the gate's verdict on a text."""

import argparse
import sys
from pathlib import Path

from floe_plugins.commands.output import add_json_option, print_json
from floe_plugins.errors import FloeError
from floe_plugins.gate import Decision, Gate, Policy, Verdict

_NOT_CLEAR = 1


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "check",
        help="show the privacy gate's verdict on a text",
        description="Show the privacy gate's verdict on a text, with the spans that led to it.",
        epilog="Exit code: 0 if the text is clear, 1 if it is redacted or local, 2 after an error.",
    )
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="a text file in UTF-8; standard input by default"
    )
    parser.add_argument(
        "--policy",
        choices=[str(policy) for policy in Policy],
        default=str(Policy.STRICT),
        help="strict: any finding keeps the text local; redact: findings are replaced "
        "(default: %(default)s)",
    )
    add_json_option(parser)
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    text = _read(arguments.file)
    verdict = Gate(policy=arguments.policy).decide(text)
    if arguments.json:
        print_json({**verdict.as_dict(), "redacted_text": verdict.redacted_text})
    else:
        _print(verdict, text)
    return 0 if verdict.decision is Decision.CLEAR else _NOT_CLEAR


def _read(file: str | None) -> str:
    try:
        content = sys.stdin.buffer.read() if file is None else Path(file).read_bytes()
    except OSError as error:
        raise FloeError(f"{file or 'Standard input'} cannot be read: {error.strerror}.") from error
    # Bytes that are no UTF-8 become lone surrogates, which the gate does not let pass.
    return content.decode("utf-8", errors="surrogateescape")


def _print(verdict: Verdict, text: str) -> None:
    print(verdict.decision)
    for span in verdict.spans:
        line = text.count("\n", 0, span.start) + 1
        column = span.start - text.rfind("\n", 0, span.start)
        print(f"  line {line}, column {column}, {span.end - span.start} characters: {span.label}")
    for failure in verdict.failures:
        print(f"  not scanned: {failure.detector} (plugin {failure.plugin}): {failure.reason}")
    if verdict.redacted_text is not None:
        print(verdict.redacted_text, end="" if verdict.redacted_text.endswith("\n") else "\n")
