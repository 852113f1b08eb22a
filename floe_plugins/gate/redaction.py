"""Replaces private findings by placeholders."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from floe_plugins.gate.conversation import Conversation
from floe_plugins.gate.detector import Span
from floe_plugins.gate.judgement import ALLOWED, PLACE, Judge
from floe_plugins.gate.linked_values import linked_values
from floe_plugins.gate.profiles import Profile, is_of_an_address
from floe_plugins.gate.verdict import Reason, Rules
from floe_plugins.gate.whole_values import whole_values

#: The rule by which something is replaced that no detector finds.
LINKED = "belongs to a finding"


def with_whole_values(
    conversation: Conversation, reasons: Mapping[Span, Reason], rules: Rules, judge: Judge
) -> dict[Span, Reason]:
    """Widen the private findings to whole values, in their messages and up to what may stay.

    What belongs to those that are replaced is added: see `linked_values`.
    """
    found = {span: reason for span, reason in reasons.items() if not reason.private}
    private = [span for span, reason in reasons.items() if reason.private]
    replaced = {*rules.to_replace(private)}
    linked: dict[Span, Reason] = {}
    for bounds, spans in _by_bounds(conversation, reasons, private, judge).items():
        streets = {span for span in spans if is_of_an_address(span.label, reasons[span].rule)}
        whole = whole_values(conversation.text, spans, streets=streets, bounds=bounds)
        found.update((whole[span], reasons[span]) for span in spans)
        more = linked_values(
            conversation.text,
            [whole[span] for span in spans if span in replaced],
            streets={whole[span] for span in streets},
            bounds=bounds,
        )
        profile = reasons[spans[0]].profile
        labels = {span.label for span in spans}
        for span in more:
            # Where names are not private, they are not beside something private either.
            if profile != Profile.SECRETS or span.label in labels:
                linked[span] = Reason(span.label, LINKED, profile, private=True)
    for span in linked.keys() - judge.allowed(conversation.text, linked):
        if span not in found or not found[span].private:
            found[span] = linked[span]
    return {span: found[span] for span in sorted(found, key=PLACE)}


def _by_bounds(
    conversation: Conversation,
    reasons: Mapping[Span, Reason],
    private: Sequence[Span],
    judge: Judge,
) -> dict[tuple[int, int], list[Span]]:
    """Group private findings by where what they may be widened to begins and ends."""
    stays = [(span.start, span.end) for span, reason in reasons.items() if reason.rule == ALLOWED]
    stays += judge.allowed_values(conversation.text)
    starts, ends = sorted(start for start, _ in stays), sorted(end for _, end in stays)
    groups: dict[tuple[int, int], list[Span]] = {}
    for span in private:
        start, end = conversation.bounds(span)
        before, after = bisect_right(ends, span.start), bisect_left(starts, span.end)
        start = max(start, ends[before - 1]) if before else start
        end = min(end, starts[after]) if after < len(starts) else end
        groups.setdefault((start, end), []).append(span)
    return groups


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
