"""The closing tables, as cells for terminal and page, and the page: HTML with the figures in it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from integration_tests.demo.answering import Answer

COLUMNS = (
    "prompt",
    "verdict",
    "answer",
    "LLM alone",
    "SLM alone",
    "mean expert weight",
    "tokens fused",
    "deadline misses",
    "bytes that left",
)

CLUSTER_COLUMNS = ("cluster", "devices", "before", "after", "each device alone")

#: What the last of these columns is, and the dotted lines of the figure.
ALONE = (
    "Each device alone, dotted in the figure: the loss that the same devices reach on the same "
    "held-out texts if each trains for itself for as long, on its own clock, as the rounds took. "
    "Model, rank, learning rate and batch size are the same; nothing is sent, so all of that time "
    "is training."
)

#: Columns that hold text and need the room.
WIDE = frozenset({"prompt", "answer", "LLM alone", "SLM alone"})

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid #ccc; padding: .4rem; text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; white-space: pre-wrap; font-size: .9rem; }
img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
"""


def row(answer: Answer) -> list[str]:
    """Return the cells of one answer, in the order of `COLUMNS`."""
    verdict = answer.verdict
    if answer.labels:
        verdict += f" ({', '.join(answer.labels)})"
    asked = answer.host_text is not None
    return [
        answer.prompt.text.strip(),
        verdict,
        f"{answer.text.strip()}{'' if answer.ended else ' …'}\n[{answer.adapter}]",
        (answer.host_text or "").strip() if asked else "not asked",
        (answer.slm_text or "").strip() if asked else "as the answer",
        f"{answer.mean_weight:.2f}" if asked else "-",
        f"{answer.fused_share:.0%}" if asked else "-",
        str(answer.deadline_misses) if asked else "-",
        f"{answer.bytes_left:,}",
    ]


def gained(answers: Sequence[Answer]) -> str:
    """Say how many clear prompts each model answers alone, and how many both do together."""
    clear = [answer for answer in answers if answer.host_text is not None]
    right = {
        who: sum(answer.prompt.is_right(getattr(answer, text) or "") for answer in clear)
        for who, text in (
            ("the LLM alone", "host_text"),
            ("the SLM alone", "slm_text"),
            ("both together", "text"),
        )
    }
    counts = ", ".join(f"{who} {count}" for who, count in right.items())
    kept = len(answers) - len(clear)
    return (
        f"Right answers to the {len(clear)} prompts that may leave: {counts}. The SLM answers the "
        f"other {kept} on the device, and nothing of them leaves it."
    )


def cluster_rows(clusters: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the cells of the clusters, in the order of `CLUSTER_COLUMNS`."""
    return [
        [
            str(cluster["name"]),
            ", ".join(str(device) for device in cluster["devices"]),
            f"{cluster['loss_before']:.3f}",
            f"{cluster['loss_after']:.3f}",
            f"{alone[-1]:.3f}" if (alone := cluster["alone"]) else "-",
        ]
        for cluster in clusters
    ]


def write_page(
    path: Path,
    *,
    clusters: Sequence[Mapping[str, Any]],
    answers: Sequence[Answer],
    figures: Mapping[str, Path],
) -> None:
    """Write the page; figures are embedded, so that the file can be moved alone."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<link rel='icon' href='data:,'><title>Floe: demonstration</title><style>{_STYLE}</style>",
        "</head><body><h1>Floe: demonstration</h1>",
        "<h2>Held-out loss per cluster</h2>",
        _table(CLUSTER_COLUMNS, cluster_rows(clusters)),
        f"<p>{escape(ALONE)}</p>" if any(cluster["alone"] for cluster in clusters) else "",
        "<h2>Answers</h2>",
        f"<p>{escape(gained(answers))}</p>",
        _table(COLUMNS, [row(answer) for answer in answers]),
    ]
    for title, file in figures.items():
        data = base64.b64encode(file.read_bytes()).decode()
        text = escape(title)
        parts.append(f"<h2>{text}</h2><img alt='{text}' src='data:image/png;base64,{data}'>")
    path.write_text("\n".join([*parts, "</body></html>"]), encoding="utf-8")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='wide'>{table}</div>"
