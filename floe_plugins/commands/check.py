"""`floe-llm check`: shows the gate's verdict on a text."""

import argparse
import sys
from pathlib import Path

from floe_plugins.commands.output import add_json_option, print_json
from floe_plugins.errors import ConfigError, FloeError
from floe_plugins.gate import Action, Decision, Gate, Policy, Profile, Verdict
from floe_plugins.gate.gate import VARIABLE
from floe_plugins.gate.profiles import PROFILE_HELP
from floe_plugins.gate.verdict import ACTIONS_HELP, POLICY_HELP

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
        "--profile",
        choices=[str(profile) for profile in Profile],
        help=f"{PROFILE_HELP} (default: {Profile.PERSONAL})",
    )
    parser.add_argument(
        "--policy",
        choices=[str(policy) for policy in Policy],
        help=f"{POLICY_HELP} (default: {Policy.STRICT})",
    )
    parser.add_argument(
        "--action",
        metavar=f"LABEL={'|'.join(Action)}",
        action="append",
        default=[],
        help=f"{ACTIONS_HELP}; may be repeated",
    )
    parser.add_argument(
        "--detector",
        metavar="NAME",
        action="append",
        help="ask this detector only; may be repeated (default: all that need not be named)",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"a JSON file with the gate's configuration (default: ${VARIABLE}, if set)",
    )
    add_json_option(parser)
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    gate = _gate(arguments)
    text = _read(arguments.file)
    verdict = gate.decide(text)
    if arguments.json:
        print_json({**verdict.as_dict(), "redacted_text": verdict.redacted_text})
    else:
        _print(verdict, text)
    return 0 if verdict.decision is Decision.CLEAR else _NOT_CLEAR


def _gate(arguments: argparse.Namespace) -> Gate:
    # Its models take longer to import than most commands take to run, and every command builds the
    # parser.
    from floe_plugins.gate.settings import GateSettings

    given = (
        GateSettings.from_file(arguments.config)
        if arguments.config
        else GateSettings.from_environment()
    )
    options = {
        "profile": arguments.profile,
        "policy": arguments.policy,
        "actions": dict(map(_action, arguments.action)),
        "detectors": arguments.detector,
    }
    return given.changed(**{name: value for name, value in options.items() if value}).gate()


def _action(argument: str) -> tuple[str, str]:
    label, equals, action = argument.partition("=")
    if not label or not equals:
        raise ConfigError(
            f"--action is {argument!r}; accepted is LABEL=ACTION, such as EMAIL=redact."
        )
    return label, action


def _read(file: str | None) -> str:
    try:
        content = sys.stdin.buffer.read() if file is None else Path(file).read_bytes()
    except OSError as error:
        hint = "" if file is None else " It is taken for a file; a text comes on standard input."
        raise FloeError(
            f"{file or 'Standard input'} cannot be read: {error.strerror}.{hint}"
        ) from error
    # Bytes that are not UTF-8 become lone surrogates, which the gate refuses.
    return content.decode("utf-8", errors="surrogateescape")


def _print(verdict: Verdict, text: str) -> None:
    print(verdict.decision)
    for span in verdict.spans:
        line = text.count("\n", 0, span.start) + 1
        column = span.start - text.rfind("\n", 0, span.start)
        print(f"  line {line}, column {column}, {span.end - span.start} characters: {span.label}")
    print(f"  why: {verdict.why}")
    for failure in verdict.failures:
        print(f"  not scanned: {failure.detector} (plugin {failure.plugin}): {failure.reason}")
    if verdict.redacted_text is not None:
        print(verdict.redacted_text, end="" if verdict.redacted_text.endswith("\n") else "\n")
