"""Replaces private findings by placeholders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from floe_plugins.gate.conversation import Conversation
from floe_plugins.gate.detector import Span
from floe_plugins.gate.judgement import ALLOWED, PLACE
from floe_plugins.gate.linked_values import linked_values
from floe_plugins.gate.profiles import is_of_an_address
from floe_plugins.gate.verdict import Reason
from floe_plugins.gate.whole_values import whole_values

#: The rule by which something is replaced that no detector finds.
LINKED = "belongs to a finding"


def with_whole_values(
    conversation: Conversation, reasons: Mapping[Span, Reason]
) -> dict[Span, Reason]:
    """Widen the private findings to whole values, in their messages and up to what may stay.

    What belongs to them is added: see `linked_values`.
    """
    stays = [span for span, reason in reasons.items() if reason.rule == ALLOWED]
    found = {span: reason for span, reason in reasons.items() if not reason.private}
    groups: dict[tuple[int, int], list[Span]] = {}
    for span in (span for span, reason in reasons.items() if reason.private):
        start, end = conversation.bounds(span)
        start = max([start, *(each.end for each in stays if each.end <= span.start)])
        end = min([end, *(each.start for each in stays if each.start >= span.end)])
        groups.setdefault((start, end), []).append(span)
    for bounds, spans in groups.items():
        streets = {span for span in spans if is_of_an_address(span.label, reasons[span].rule)}
        whole = whole_values(conversation.text, spans, streets=streets, bounds=bounds)
        found.update((whole[span], reasons[span]) for span in spans)
        linked = linked_values(
            conversation.text,
            [*whole.values()],
            streets={whole[span] for span in streets},
            bounds=bounds,
        )
        profile = reasons[spans[0]].profile
        for span in linked:
            if span not in found or not found[span].private:
                found[span] = Reason(span.label, LINKED, profile, private=True)
    return {span: found[span] for span in sorted(found, key=PLACE)}


def with_placeholders(text: str, spans: Sequence[Span]) -> str:
    """Replace spans by placeholders; overlapping spans get one, with the longest span's label."""
    pieces: list[str] = []
    end = 0
    for group in _overlapping(spans):
        longest = max(group, key=lambda span: span.end - span.start)
        pieces += (text[end : group[0].start], f"<{longest.label}>")
        end = max(span.end for span in group)
    pieces.append(text[end:])
    return "".join(pieces)


def _overlapping(spans: Sequence[Span]) -> list[list[Span]]:
    """Group sorted spans that overlap; spans that only touch stay apart."""
    groups: list[list[Span]] = []
    end = 0
    for span in spans:
        if not groups or span.start >= end:
            groups.append([])
        groups[-1].append(span)
        end = max(end, span.end)
    return groups
