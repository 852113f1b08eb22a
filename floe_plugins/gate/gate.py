"""Decides whether a text may leave the device.

Every failure makes the text private: an exception, a late or invalid answer, a text that is too
long or not valid Unicode. No log line holds any of the text.
"""

import functools
import logging
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from floe_plugins.checks import is_integer, is_number
from floe_plugins.errors import ConfigError
from floe_plugins.gate.conversation import Conversation, Message
from floe_plugins.gate.detector import Detector, Span, log_coverage
from floe_plugins.gate.disguises import new_views, views_of
from floe_plugins.gate.disguises.near_changes import Part, by_view, parts_of
from floe_plugins.gate.disguises.view import View
from floe_plugins.gate.growing import BESIDE, Growing, beginning, reads_new
from floe_plugins.gate.judgement import Judge, checked_thresholds
from floe_plugins.gate.profiles import Profile, may_be_in_context
from floe_plugins.gate.redaction import with_placeholders, with_whole_values
from floe_plugins.gate.runner import (
    DetectorRunner,
    LoadedDetector,
    Reading,
    in_context,
    load_detectors,
    longest_finding,
)
from floe_plugins.gate.verdict import (
    Action,
    Decision,
    Failure,
    Policy,
    Reason,
    Rules,
    Verdict,
    check_labels,
)
from floe_plugins.isolation import Failed, count_failure

logger = logging.getLogger(__name__)

#: The largest accepted `timeout_s`, seconds.
MOST_TIMEOUT_S = 60
TIMEOUT_S = 1.0
MAX_CHARS = 200_000

VARIABLE = "FLOE_GATE_CONFIG"
"""Environment variable: the path of a gate's configuration."""


class Gate:
    """Detectors and a policy that decide about texts. Immutable, and safe to use from threads.

    Parameters
    ----------
    detectors : sequence of Detector or str, optional
        The detectors, or names of registered ones. By default all registered ones except those
        with a false attribute `default`.
    policy : Policy or str, optional
        ``strict``, ``redact`` or ``labels``.
    actions : mapping of str to Action or str, optional
        For the policy ``labels``: label to ``clear``, ``redact`` or ``local``. ``*`` stands for all
        other labels, which are ``local`` without it. A label that is named counts under every
        profile.
    profile : Profile or str, optional
        What is private: ``secrets``, ``personal`` or ``strict``.
    thresholds : mapping of str to float, optional
        Label to the least score, from 0 to 1, with which a finding counts.
    allow : mapping of str to sequence of str, optional
        What may leave: lists of whole ``values``, of ``domains`` and of ``patterns``.
    roles, fields : mapping of str to str, optional
        Role of a message, or field of a request, to the profile that its text is judged by, or to
        ``ignored``.
    plugins : iterable of str, optional
        Dotted paths of plugins to load besides the installed ones.
    timeout_s : float, optional
        How long one decision may wait for its detectors, seconds. It bounds detectors that run in
        Python or wait for something; a detector that holds the interpreter's lock in native code
        cannot be interrupted.
    max_chars : int, optional
        A longer text is private without being scanned; it is never cut. This bounds memory: texts
        of that length need a longer `timeout_s` than the default.

    Attributes
    ----------
    detectors : tuple of str
        The names of the detectors, sorted.
    labels : frozenset of str
        All labels that the detectors may give.
    longest : int
        The most characters that one finding may span.
    reads_new : bool
        Whether all detectors say how much of a text they must read when it grows.
    policy, profile, timeout_s, max_chars
        As given.

    Raises
    ------
    ConfigError
        A value is out of range, a name is not registered, or there is no detector.
    PluginError
        A plugin does not load.

    Examples
    --------
    >>> Gate().decide("Write to joe@example.org").decision
    <Decision.LOCAL: 'local'>
    """

    def __init__(
        self,
        *,
        detectors: Sequence[Detector | str] | None = None,
        policy: Policy | str = Policy.STRICT,
        actions: Mapping[str, Action | str] | None = None,
        profile: Profile | str = Profile.PERSONAL,
        thresholds: Mapping[str, float] | None = None,
        allow: Mapping[str, Sequence[str]] | None = None,
        roles: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        plugins: Iterable[str] = (),
        timeout_s: float = TIMEOUT_S,
        max_chars: int = MAX_CHARS,
    ) -> None:
        self._rules = Rules(policy, actions)  # type: ignore[arg-type]  # turned into enums there
        least = checked_thresholds(thresholds)
        self._judge = Judge(
            profile, self._rules, allow=allow, roles=roles, fields=fields, thresholds=least
        )
        if not is_number(timeout_s):
            raise ConfigError(f"The gate's timeout_s is {timeout_s!r}; accepted is a number.")
        if not 0 < timeout_s <= MOST_TIMEOUT_S:
            raise ConfigError(
                f"The gate's timeout_s is {timeout_s!r}; accepted are more than 0 up to "
                f"{MOST_TIMEOUT_S} seconds."
            )
        if not is_integer(max_chars, least=1):
            raise ConfigError(
                f"The gate's max_chars is {max_chars!r}; accepted are whole numbers from 1."
            )
        self._timeout_s = timeout_s
        self._max_chars = max_chars
        loaded = load_detectors(detectors, plugins)
        self._detectors = tuple(each.detector.name for each in loaded)
        self._labels = frozenset().union(*(each.labels for each in loaded))
        check_labels(self._rules.actions or (), self._labels, name="actions", others=True)
        check_labels(least or (), self._labels, name="thresholds")
        self._longest = longest_finding(loaded)
        self._reads_new = all(reads_new(each.detector) for each in loaded)
        self._in_context = in_context(loaded, self._judge.needs_context)
        self._runner = DetectorRunner(loaded, least)
        weakref.finalize(self, self._runner.close)
        log_coverage(self._labels)

    @property
    def policy(self) -> Policy:
        """The policy."""
        return self._rules.policy

    @property
    def profile(self) -> Profile:
        """The profile."""
        return self._judge.profile

    @property
    def timeout_s(self) -> float:
        """Seconds that one decision may wait for its detectors."""
        return self._timeout_s

    @property
    def max_chars(self) -> int:
        """Characters of the longest text that is scanned."""
        return self._max_chars

    @property
    def detectors(self) -> tuple[str, ...]:
        """The names of the detectors, sorted."""
        return self._detectors

    @property
    def labels(self) -> frozenset[str]:
        """All labels that the detectors may give."""
        return self._labels

    @property
    def longest(self) -> int:
        """The most characters that one finding may span."""
        return self._longest

    @property
    def reads_new(self) -> bool:
        """Whether no detector must read all of a text that grows."""
        return self._reads_new

    def decide(self, text: str | Sequence[Message], *, new_from: int = 0) -> Verdict:
        """Decide whether a text, or a conversation, may leave: see `decide`."""
        return decide(text, gate=self, new_from=new_from)


def decide(
    text: str | Sequence[Message], *, gate: Gate | None = None, new_from: int = 0
) -> Verdict:
    """Decide whether a text, or the messages of a conversation, may leave.

    The middleware, the logits processor, the command and the library all call this function.

    Parameters
    ----------
    text : str or sequence of Message
        The whole text that would leave. Messages are scanned together, to find a value that begins
        in one and ends in another.
    gate : Gate, optional
        The gate that decides; by default one without any settings.
    new_from : int, optional
        Of one text: its first so many characters by themselves were clear by the same gate. Then
        only new text, and what a finding in it may begin with, is scanned. The decision is the same
        as without this; a clear verdict has the spans of the part that was scanned.

    Returns
    -------
    Verdict
        For messages, the spans are offsets into the messages joined by line feeds, and
        `Verdict.messages` has them message by message. Messages without a role are joined by more
        line feeds and scanned by themselves. The function never raises for any text or detector.
    """
    decision = _Decision(gate if gate is not None else _default())
    if isinstance(text, str) and 0 < new_from <= len(text):
        return decision.of_new(text, new_from)
    return decision.of(text)


@functools.cache
def _default() -> Gate:
    return Gate()


class _Decision:
    """One decision in progress."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._rules = gate._rules
        self._judge = gate._judge
        self._started = time.monotonic()

    def of(self, text: str | Sequence[Message]) -> Verdict:
        conversation = _conversation(text)
        if conversation is None:
            return self._verdict(failures=(Failure("gate", "floe", "not a text"),))
        refusal = self._refusal(conversation)
        if refusal is not None:
            return self._verdict(failures=(refusal,))
        found, failures = self._scan(conversation)
        reasons = self._judge.judge(conversation, found)
        private = _private(reasons)
        messages = () if isinstance(text, str) else conversation.split([*reasons])
        if failures or self._rules.decision(private) is not Decision.REDACTED:
            return self._verdict(reasons=reasons, messages=messages, failures=failures)
        reasons = with_whole_values(conversation, reasons, self._rules, self._judge)
        private = _private(reasons)
        messages = () if isinstance(text, str) else conversation.split([*reasons])
        redacted = self._redacted(conversation, private)
        # Text beside a placeholder may now look like something private.
        found, failures = self._scan(redacted)
        left = _private(self._judge.judge(redacted, found))
        if failures or self._rules.decision(left) is not Decision.CLEAR:
            return self._verdict(reasons=reasons, messages=messages, failures=failures, kept=True)
        return self._verdict(
            reasons=reasons,
            messages=messages,
            redacted=redacted,
            by_message=not isinstance(text, str),
        )

    def of_new(self, text: str, new_from: int) -> Verdict:
        """Decide about a text whose beginning is clear; any doubt is decided by a whole scan."""
        if len(text) > self._gate.max_chars or not _is_valid(text):
            return self.of(text)
        found = self._scan_new(Growing(text, new_from))
        # What goes on without a space may make of an allowed value another one.
        apart = text[new_from : new_from + 1].isspace()
        if found is None or (self._judge.allows and (found or not apart)):
            return self.of(text)
        if not found:
            milliseconds = (time.monotonic() - self._started) * 1e3
            return Verdict.of_calm(self._gate.detectors, str(self._judge.profile), milliseconds)
        reasons = self._judge.judge(Conversation((Message(text),)), found)
        return self.of(text) if _private(reasons) else self._verdict(reasons=reasons)

    def _scan_new(self, grown: Growing) -> dict[Span, str | None] | None:
        """Return the findings in new text; None if they do not tell enough, or a detector fails."""
        views = new_views(grown)
        if views is None:
            return None
        begin, plain, others = views
        found = self._ask_new(grown)
        if found is None:
            return None
        spans = dict(found)
        if plain:
            # Signs like a long dash are common, and what was before the new text is known.
            view, others = others[0], others[1:]
            found = self._ask_new(Growing(view.text, len(plain)))
            if found is None or any(found.values()):
                return None
            _add(spans, _moved(found, view, begin))
        for view in others:
            deadline = self._started + self._gate.timeout_s
            own, failures = self._gate._runner.ask(
                (Reading(view.text, view.values_only),), deadline
            )
            if failures:
                return None
            found = self._judge.kinds(view.text, own[0])
            if any(found.values()):
                return None
            _add(spans, _moved(found, view, begin))
        return spans

    def _ask_new(self, grown: Growing) -> Mapping[Span, str | None] | None:
        text = grown.text

        def without(loaded: LoadedDetector) -> bool:
            stays = self._gate._in_context.get(loaded.detector.name)
            return stays is not None and not may_be_in_context(grown) and stays(grown)

        found, failures = self._gate._runner.ask_new(
            grown, self._started + self._gate.timeout_s, without=without
        )
        if failures:
            return None
        if not found:
            return {}
        # Words around the findings are read in a part of the text with all of them.
        begin = beginning(text, min(span.start for span in found) - 2 * BESIDE)
        moved = {
            replace(span, start=span.start - begin, end=span.end - begin): span for span in found
        }
        kinds = self._judge.kinds(text[begin:], moved)
        return {span: kinds[each] for each, span in moved.items()}

    def _refusal(self, conversation: Conversation) -> Failure | None:
        """Return why the detectors cannot scan a text, or None."""
        if conversation.size > self._gate.max_chars:
            return Failure("gate", "floe", "too long")
        return None if _is_valid(conversation.text) else Failure("gate", "floe", "invalid Unicode")

    def _scan(
        self, conversation: Conversation
    ) -> tuple[dict[Span, str | None], tuple[Failure, ...]]:
        """Return the findings, each with what it is private as by itself, and the failures."""
        text = conversation.text
        parts = [part for view in views_of(text) for part in parts_of(view, text)]
        seams = [
            view for seam in conversation.seams() for view in (seam, *views_of(seam.text, seam))
        ]
        deadline = self._started + self._gate.timeout_s
        read: list[Part | View] = [*parts, *seams]
        readings = [Reading(each.text, each.values_only) for each in read]
        found, failures = self._gate._runner.ask((Reading(text), *readings), deadline)
        spans: dict[Span, str | None] = {}
        if found:
            spans.update(self._judge.kinds(text, found[0]))
            for view, own in by_view(parts, found[1:]):
                _add(spans, _moved(self._judge.kinds(view.text, own), view))
            at_seams = zip(seams, found[1 + len(parts) :], strict=True)
            across = ((seam, self._judge.kinds(seam.text, own)) for seam, own in at_seams)
            _add(spans, list(_across(across, spans)))
        for failure in failures:
            count_failure(
                Failed("floe_register_detectors", failure.plugin, failure.detector, failure.reason)
            )
            logger.warning(
                "Detector %s of plugin %s failed: %s; the text stays local.",
                failure.detector,
                failure.plugin,
                failure.reason,
            )
        return spans, tuple(failures)

    def _redacted(self, conversation: Conversation, spans: Sequence[Span]) -> Conversation:
        """Replace spans by placeholders, in every message that has a part of one."""
        split = conversation.split(self._rules.to_replace(spans))
        return conversation.replaced(
            [
                with_placeholders(message.text, own)
                for message, own in zip(conversation.messages, split, strict=True)
            ]
        )

    def _verdict(
        self,
        *,
        reasons: Mapping[Span, Reason] = MappingProxyType({}),
        messages: tuple[tuple[Span, ...], ...] = (),
        failures: tuple[Failure, ...] = (),
        redacted: Conversation | None = None,
        by_message: bool = False,
        kept: bool = False,
    ) -> Verdict:
        if redacted is not None:
            decision = Decision.REDACTED
        elif failures or kept:
            decision = Decision.LOCAL
        else:
            decision = self._rules.decision(_private(reasons))
        texts = tuple(message.text for message in redacted.messages) if redacted else ()
        return Verdict(
            decision=decision,
            labels=tuple(sorted({span.label for span in reasons})),
            spans=tuple(reasons),
            scanned_all=not failures,
            detectors=self._gate.detectors,
            milliseconds=(time.monotonic() - self._started) * 1e3,
            failures=failures,
            profile=str(self._judge.profile),
            reasons=tuple(reasons.values()),
            messages=messages,
            redacted_text=redacted.text if redacted else None,
            redacted_messages=texts if by_message else None,
        )


def _is_valid(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _conversation(text: object) -> Conversation | None:
    if isinstance(text, str):
        return Conversation((Message(text),))
    if isinstance(text, Sequence) and all(
        isinstance(each, Message) and isinstance(each.text, str) for each in text
    ):
        return Conversation(text)
    return None


_Kinds = Mapping[Span, str | None]


def _private(reasons: Mapping[Span, Reason]) -> list[Span]:
    return [span for span, reason in reasons.items() if reason.private]


def _add(spans: dict[Span, str | None], more: Iterable[tuple[Span, str | None]]) -> None:
    """Add findings; one that is private in any way of reading is private."""
    for span, kind in more:
        spans[span] = spans.get(span) or kind


def _moved(kinds: _Kinds, view: View, begin: int = 0) -> Iterable[tuple[Span, str | None]]:
    """Yield findings of a view, of the part of a text from `begin` on, by their places in that."""
    for span, kind in kinds.items():
        start, end = view.original(span.start, span.end)
        yield replace(span, start=start + begin, end=end + begin), kind


def _across(
    found: Iterable[tuple[View, _Kinds]], known: Iterable[Span]
) -> Iterable[tuple[Span, str | None]]:
    """Return what was found at seams, by its places in the messages."""
    begun = {(span.start, span.label) for span in known}
    for view, kinds in found:
        for span, kind in kinds.items():
            stretches = view.stretches(span.start, span.end)
            # A value that is complete in one message continues, at a seam, into the next one.
            if (stretches[0][0], span.label) not in begun:
                for start, end in stretches:
                    yield replace(span, start=start, end=end), kind
