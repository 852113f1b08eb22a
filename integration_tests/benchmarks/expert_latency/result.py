"""The table, and the servers compared."""

from __future__ import annotations

from collections.abc import Iterator

from integration_tests.benchmarks.cli import Namespace, Result, Values

_SIZE = ("context", "streams", "k")
_FIGURES = ("ms_per_step", "p90_ms", "bytes_up", "bytes_down")


def result(values: Values, _: Namespace) -> Result:
    """Return one row per case."""
    header = ["server", "context", "streams", "K", "ms a step", "p90, ms", "bytes up", "bytes down"]
    rows = [[each[key] for key in ("server", *_SIZE, *_FIGURES)] for each in values["cases"]]
    return Result(header=header, rows=rows, remarks=list(_remarks(values)))


def _remarks(values: Values) -> Iterator[str]:
    by_size: dict[tuple[int, ...], dict[str, Values]] = {}
    for case in values["cases"]:
        by_size.setdefault(tuple(case[key] for key in _SIZE), {})[case["server"]] = case
    yield (
        "Median of "
        f"{values['steps']} steps; a step is one call of Floe's client for the next token of every "
        "text, each text one token longer than before. Bytes are those of the connection, headers "
        "included, per step and all texts."
    )
    for (context, streams, k), found in by_size.items():
        first, *others = found.values()
        size = f"{context} tokens, {streams} stream{'s' * (streams > 1)}, K {k}"
        for other in others:
            time = other["ms_per_step"] / first["ms_per_step"]
            up = other["bytes_up"] / first["bytes_up"]
            yield (
                f"{size}: {other['server']} takes {time:.2f} times as long as {first['server']} "
                f"and is sent {up:.2f} times the bytes, {other['bytes_up'] / streams:.0f} up and "
                f"{other['bytes_down'] / streams:.0f} down a token and stream."
            )
