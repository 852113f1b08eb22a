"""The closing tables, as cells; the terminal and the page show the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from integration_tests.demo.answering import Answer

COLUMNS = (
    "prompt",
    "verdict",
    "answer",
    "host alone",
    "mean expert weight",
    "tokens fused",
    "deadline misses",
    "bytes that left",
)

#: Columns that hold text and need the room.
WIDE = frozenset({"prompt", "answer", "host alone"})


def row(answer: Answer) -> list[str]:
    """Return the cells of one answer, in the order of `COLUMNS`."""
    verdict = answer.verdict
    if answer.labels:
        verdict += f" ({', '.join(answer.labels)})"
    asked = answer.host_text is not None
    return [
        answer.prompt.text.strip(),
        verdict,
        f"{answer.text.strip()}\n[{answer.adapter}]",
        (answer.host_text or "").strip() if asked else "not asked",
        f"{answer.mean_weight:.2f}" if asked else "-",
        f"{answer.fused_share:.0%}" if asked else "-",
        str(answer.deadline_misses) if asked else "-",
        f"{answer.bytes_left:,}",
    ]


def cluster_rows(clusters: Sequence[Mapping[str, object]]) -> list[list[str]]:
    """Return the cells of the clusters: name, devices, held-out loss before and after."""
    return [
        [
            str(cluster["name"]),
            ", ".join(str(device) for device in cluster["devices"]),  # type: ignore[attr-defined]
            f"{cluster['loss_before']:.3f}",
            f"{cluster['loss_after']:.3f}",
        ]
        for cluster in clusters
    ]
