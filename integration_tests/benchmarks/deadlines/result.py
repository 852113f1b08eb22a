"""The table, and the tokens compared with the promise."""

import statistics
from collections.abc import Sequence

from integration_tests.benchmarks.cli import Namespace, Result, Values

_HEADER = (
    *("latency, steps", "deadline, steps", "deadline, ms", "token p50, ms", "p99, ms"),
    *("slowest, ms", "over the promise, ms", "answer, ms", "fused", "late", "open", "other"),
)
_TIMES = ("token_p50_ms", "token_p99_ms", "slowest_token_ms")
_FIRST = ("latency_steps", "deadline_steps", "deadline_ms", *_TIMES, "over_promise_ms", "answer_ms")


def result(values: Values, _: Namespace) -> Result:
    """Return a row for the host alone, and one per latency and deadline."""
    alone = values["host_alone"]
    times = [alone[key] for key in _TIMES]
    rows = [["host alone", "-", "-", *times, "-", alone["answer_ms"], *("-" * 4)]]
    for cell in values["cells"]:
        shares = (f"{cell[key]:.0%}" for key in ("fused", "late", "open", "other"))
        rows.append([*(cell[key] for key in _FIRST), *shares])
    return Result(header=_HEADER, rows=rows, remarks=_remarks(values))


def _range(values: Sequence[float]) -> str:
    middle = statistics.median(values)
    return f"{min(values):.1f} to {max(values):.1f}, in the middle {middle:.1f}"


def _remarks(values: Values) -> list[str]:
    cells, alone = values["cells"], values["host_alone"]
    over = [cell for cell in cells if cell["over_promise_ms"] > 0]
    worst = max(cells, key=lambda cell: cell["over_promise_ms"])
    tokens = sum(cell["measured_tokens"] for cell in cells)
    by_itself = alone["slowest_token_ms"] - alone["token_p50_ms"]
    said = f"{abs(worst['over_promise_ms']):.1f} ms " + ("above" if over else "below")
    kept = len(cells) - len(over)
    remarks = [
        f"No token later than a step of the host plus the deadline: kept in {kept} "
        f"of {len(cells)} cells ({tokens} tokens); the worst token came {said} that "
        f"(latency {worst['latency_steps']:g}, deadline {worst['deadline_steps']:g} steps). The "
        f"host alone has tokens {by_itself:.1f} ms above its own median step of "
        f"{alone['token_p50_ms']:.1f} ms ({alone['measured_tokens']} tokens).",
        "Above the longer of step and deadline, the slowest token of a cell came "
        f"{_range([cell['over_longer_ms'] for cell in cells])} ms.",
    ]
    for latency in dict.fromkeys(cell["latency_steps"] for cell in cells):
        row = [cell for cell in cells if cell["latency_steps"] == latency]
        spent = ", ".join(
            f"{cell['deadline_steps']:g}: {cell['fused']:.0%} fused at "
            f"{cell['answer_ms'] / alone['answer_ms']:.2f} times"
            for cell in row
        )
        remarks.append(
            f"Expert {latency:g} steps away, by deadline in steps, tokens fused and the time of an "
            f"answer over the host's alone: {spent}."
        )
    return remarks
