"""Prints precision and recall per kind of text: ``python -m tools.learned_detector.measure``.

The texts of ``texts/measured.txt`` are written for this, and no part of what the model learns.
"""

import re
from collections import defaultdict
from dataclasses import dataclass

from floe_plugins.gate.detectors.learned import LearnedDetector
from tools.learned_detector.listed import lines_of

_MARKED = re.compile(r"\[([A-Z]{6,}) ([^\]]+)\]")


@dataclass
class Counts:
    """What was found in the texts of one kind.

    Attributes
    ----------
    texts, quiet : int
        Texts, and those without a wrong finding.
    wanted, met : int
        Marked stretches, and those that a finding touches.
    named : int
        Those that a finding of the same label touches.
    found, right : int
        Findings, and those that touch a marked stretch.
    """

    texts: int = 0
    quiet: int = 0
    wanted: int = 0
    met: int = 0
    named: int = 0
    found: int = 0
    right: int = 0


def marked(line: str) -> tuple[str, list[tuple[int, int, str]]]:
    """Return a text without its marks, and what they mark."""
    text, at = "", 0
    spans = []
    for mark in _MARKED.finditer(line):
        text += line[at : mark.start()]
        spans.append((len(text), len(text) + len(mark[2]), mark[1]))
        text += mark[2]
        at = mark.end()
    return text + line[at:], spans


def measure(detector: LearnedDetector) -> dict[str, Counts]:
    """Return the counts by kind of text."""
    counts: dict[str, Counts] = defaultdict(Counts)
    for line in lines_of("measured.txt"):
        kind, _, rest = line.partition(": ")
        text, spans = marked(rest.replace("\\n", "\n"))
        found = detector.detect(text)
        right = [
            any(span.start < end and start < span.end for start, end, _ in spans) for span in found
        ]
        own = counts[kind]
        own.texts += 1
        own.quiet += all(right)
        own.found += len(found)
        own.right += sum(right)
        for start, end, label in spans:
            touching = [span for span in found if span.start < end and start < span.end]
            own.wanted += 1
            own.met += bool(touching)
            own.named += any(span.label == label for span in touching)
    return counts


def main() -> None:
    """Print a table."""
    print("| text | texts | without a wrong finding | precision | recall | with the same label |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind, own in measure(LearnedDetector()).items():
        precision = f"{own.right / own.found:.2f}" if own.found else "–"
        recall = f"{own.met / own.wanted:.2f}" if own.wanted else "–"
        named = f"{own.named / own.wanted:.2f}" if own.wanted else "–"
        print(f"| {kind} | {own.texts} | {own.quiet} | {precision} | {recall} | {named} |")


if __name__ == "__main__":
    main()
