"""Decides whether a text may leave the device.

Every failure makes the text private: an exception, an answer that is late or makes no sense, a
text that is too long or not valid. Nothing that is logged holds any of the text.
"""

import logging
import time
import weakref
from collections.abc import Iterable, Sequence
from enum import StrEnum

from floe_plugins.errors import ConfigError
from floe_plugins.gate.asking import Asker, Member
from floe_plugins.gate.detector import Detector, Span
from floe_plugins.gate.normalise import View, normalised
from floe_plugins.gate.verdict import Decision, Failure, Verdict

logger = logging.getLogger(__name__)


class Policy(StrEnum):
    """What the gate does with a finding."""

    STRICT = "strict"
    """Any finding keeps the whole text local."""

    REDACT = "redact"
    """Findings are replaced by placeholders, and the rest may leave."""


class Gate:
    """Decides about texts by asking every detector; the most restrictive answer wins.

    Safe to use from several threads at once.

    Parameters
    ----------
    detectors : sequence of Detector or str, optional
        The detectors, or names of registered ones. All registered ones by default.
    policy : Policy or str, optional
        ``strict`` or ``redact``.
    timeout_s : float, optional
        How long one decision may wait for its detectors, seconds. It bounds detectors that run in
        Python or wait for something; one that holds the interpreter's lock in native code cannot
        be given up on from within the process.
    max_chars : int, optional
        A longer text is private without being scanned; it is never cut.

    Raises
    ------
    ConfigError
        If a value is out of range, a name is not registered, or there is no detector.
    PluginError
        If a plugin does not load.

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
        timeout_s: float = 1.0,
        max_chars: int = 200_000,
    ) -> None:
        if policy not in list(Policy):
            raise ConfigError(f"The gate's policy is {policy!r}; accepted are {', '.join(Policy)}.")
        if not 0 < timeout_s <= 60:
            raise ConfigError(
                f"The gate's timeout_s is {timeout_s!r}; accepted are more than 0 up to 60 seconds."
            )
        if isinstance(max_chars, bool) or not isinstance(max_chars, int) or max_chars < 1:
            raise ConfigError(
                f"The gate's max_chars is {max_chars!r}; accepted are whole numbers from 1."
            )
        self.policy = Policy(policy)
        self.timeout_s = timeout_s
        self.max_chars = max_chars
        members = sorted(_members(detectors), key=lambda member: member.detector.name)
        self.detectors = tuple(member.detector.name for member in members)
        self._asker = Asker(members)
        weakref.finalize(self, self._asker.close)

    def decide(self, text: str) -> Verdict:
        """Decide whether a text may leave.

        Parameters
        ----------
        text : str
            The whole text that would leave.

        Returns
        -------
        Verdict
            Never raises for any text or detector.
        """
        started = time.monotonic()
        refusal = self._refusal(text)
        if refusal is not None:
            return self._verdict(started, spans=(), failures=(refusal,))
        spans, failures = self._scan(text, started + self.timeout_s)
        if not spans or failures or self.policy is Policy.STRICT:
            return self._verdict(started, spans=spans, failures=failures)
        redacted = _redacted(text, spans)
        # What stands beside a placeholder now may read as something private.
        left, failures = self._scan(redacted, started + self.timeout_s)
        if left or failures:
            return self._verdict(started, spans=spans, failures=failures)
        return self._verdict(started, spans=spans, failures=(), redacted_text=redacted)

    def _refusal(self, text: str) -> Failure | None:
        """Say why a text cannot be given to the detectors, if it cannot."""
        if not isinstance(text, str):
            return Failure("gate", "floe", "not a string")
        if len(text) > self.max_chars:
            return Failure("gate", "floe", "too long")
        try:
            text.encode()
        except UnicodeEncodeError:
            return Failure("gate", "floe", "invalid Unicode")
        return None

    def _scan(self, text: str, deadline: float) -> tuple[tuple[Span, ...], tuple[Failure, ...]]:
        view = normalised(text)
        texts = (text,) if view is None else (text, view.text)
        found, failures = self._asker.ask(texts, deadline)
        spans: set[Span] = set()
        if found:
            spans.update(found[0])
        if view is not None and found:
            spans.update(_moved(found[1], view))
        for failure in failures:
            logger.warning(
                "Detector %s of plugin %s failed: %s; the text stays local.",
                failure.detector,
                failure.plugin,
                failure.reason,
            )
        return tuple(sorted(spans)), tuple(failures)

    def _verdict(
        self,
        started: float,
        *,
        spans: tuple[Span, ...],
        failures: tuple[Failure, ...],
        redacted_text: str | None = None,
    ) -> Verdict:
        if redacted_text is not None:
            decision = Decision.REDACTED
        elif spans or failures:
            decision = Decision.LOCAL
        else:
            decision = Decision.CLEAR
        return Verdict(
            decision=decision,
            labels=tuple(sorted({span.label for span in spans})),
            spans=spans,
            scanned_all=not failures,
            detectors=self.detectors,
            milliseconds=(time.monotonic() - started) * 1e3,
            failures=failures,
            redacted_text=redacted_text,
        )


def _members(detectors: Sequence[Detector | str] | None) -> list[Member]:
    # Imported here because the manager loads the built-in detectors, which live in this package.
    from floe_plugins.manager import plugin_manager

    registered = plugin_manager().detectors
    chosen: Sequence[Detector | str] = list(registered) if detectors is None else detectors
    members = []
    for detector in chosen:
        if not isinstance(detector, str):
            members.append(Member(detector, "caller", _labels(detector, "caller")))
        elif detector in registered:
            found = registered[detector]
            members.append(Member(found.value, found.plugin, _labels(found.value, found.plugin)))
        else:
            raise ConfigError(
                f"There is no detector {detector!r}; registered are "
                f"{', '.join(sorted(registered))}."
            )
    if not members:
        raise ConfigError("The gate has no detectors; accepted is at least one.")
    names = [member.detector.name for member in members]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"The gate names the detector {repeated[0]!r} more than once.")
    return members


def _labels(detector: Detector, plugin: str) -> frozenset[str]:
    if not isinstance(detector, Detector):
        raise ConfigError(
            f"{type(detector).__name__} is no detector; accepted are a registered name or an "
            "object with name, labels and detect."
        )
    labels = detector.labels
    if (
        isinstance(labels, str)
        or not labels
        or not all(isinstance(label, str) and label.isidentifier() for label in labels)
    ):
        raise ConfigError(
            f"The labels of detector {detector.name!r} of plugin {plugin!r} are {labels!r}; "
            "accepted is a sequence of identifiers, such as ('EMAIL',)."
        )
    return frozenset(labels)


def _moved(spans: Iterable[Span], view: View) -> Iterable[Span]:
    for span in spans:
        start, end = view.original(span.start, span.end)
        yield Span(start, end, span.label)


def _redacted(text: str, spans: Sequence[Span]) -> str:
    """Replace spans, sorted by place, by placeholders; overlapping ones become one."""
    pieces: list[str] = []
    end = 0
    for span in spans:
        if span.start >= end:
            pieces.extend((text[end : span.start], f"<{span.label}>"))
        end = max(end, span.end)
    pieces.append(text[end:])
    return "".join(pieces)
