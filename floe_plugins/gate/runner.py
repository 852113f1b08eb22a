"""Chooses the detectors of a gate and calls them, in a thread of their own, with a deadline.

A gate has one such thread. A detector that does not return keeps it, and until it returns every
scan fails at once: without that detector no text could be cleared anyway.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from floe_plugins.checks import is_integer, is_number
from floe_plugins.errors import ConfigError, PluginError
from floe_plugins.gate.detector import PROSE, Detector, Span
from floe_plugins.gate.growing import Growing, asker, finder
from floe_plugins.gate.verdict import Failure
from floe_plugins.isolation import LATE, STUCK, InvalidAnswerError, IsolationThread, PluginCallError
from floe_plugins.manager import BUILT_IN, plugin_manager

_Ask = Callable[[str, int], Sequence[Span]]

LONGEST = 1024
"""Characters that a finding may span if its detector has no attribute `longest`."""


@dataclass(frozen=True)
class LoadedDetector:
    """A detector of a gate.

    Attributes
    ----------
    plugin : str
        The plugin that registers it.
    labels : frozenset of str
        The labels that it may give.
    """

    detector: Detector
    plugin: str
    labels: frozenset[str]

    def failure(self, reason: str) -> Failure:
        """Return a failure of this detector."""
        return Failure(self.detector.name, self.plugin, reason)


def load_detectors(
    detectors: Sequence[Detector | str] | None, plugins: Iterable[str] = ()
) -> tuple[LoadedDetector, ...]:
    """Resolve the detectors that a configuration names.

    Parameters
    ----------
    detectors : sequence of Detector or str, or None
        Detectors, or names of registered ones. None stands for all registered ones except those
        with a false attribute `default`, which are used only if named.
    plugins : iterable of str, optional
        Dotted paths of plugins to load besides the installed ones.

    Returns
    -------
    tuple of LoadedDetector
        Sorted by name.

    Raises
    ------
    ConfigError
        A name is not registered or named twice, there is no detector, or an attribute of one is
        invalid.
    PluginError
        A plugin does not load, or a detector's method `load` fails.
    """
    if isinstance(detectors, str):
        raise ConfigError(f"The gate's detectors are {detectors!r}; accepted is a list of names.")
    registered = plugin_manager(plugins).detectors
    loaded = []
    defaults = [name for name, each in registered.items() if getattr(each.value, "default", True)]
    for detector in defaults if detectors is None else detectors:
        if not isinstance(detector, str):
            loaded.append(LoadedDetector(detector, "caller", _labels(detector, "caller")))
        elif detector in registered:
            found = registered[detector]
            loaded.append(
                LoadedDetector(found.value, found.plugin, _labels(found.value, found.plugin))
            )
        else:
            raise ConfigError(
                f"There is no detector {detector!r}; registered are "
                f"{', '.join(sorted(registered))}."
            )
    if not loaded:
        raise ConfigError("The gate has no detectors; accepted is at least one.")
    names = [each.detector.name for each in loaded]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"The gate names the detector {repeated[0]!r} more than once.")
    for each in loaded:
        _load(each)
    return tuple(sorted(loaded, key=lambda each: each.detector.name))


def longest_finding(detectors: Iterable[LoadedDetector]) -> int:
    """Return how many characters the longest finding of any of the detectors may span.

    Raises
    ------
    ConfigError
        A detector's `longest` is not a whole number from 1.
    """
    return max(map(_longest, detectors))


def in_context(
    detectors: Iterable[LoadedDetector], needs_context: Callable[[Collection[str]], bool]
) -> dict[str, Callable[[Growing], bool]]:
    """Return the methods `stays` of those whose findings are private in contexts only, by name.

    Such a method returns whether new text changes findings beside it only: then it need not be
    asked while no words beside make its findings private. Only Floe's own detectors have one.
    """
    return {
        each.detector.name: each.detector.stays
        for each in detectors
        if each.plugin == BUILT_IN
        and hasattr(each.detector, "stays")
        and needs_context(each.labels)
    }


def _load(loaded: LoadedDetector) -> None:
    """Load a detector's model now: if that failed later, every text would be local."""
    load = getattr(loaded.detector, "load", None)
    if not callable(load):
        return
    try:
        load()
    except Exception as error:  # the detector is a plugin's, which may raise anything
        raise PluginError(
            f"The detector {loaded.detector.name!r} of plugin {loaded.plugin!r} cannot be loaded: "
            f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        ) from error


def _longest(loaded: LoadedDetector) -> int:
    longest: int = getattr(loaded.detector, "longest", LONGEST)
    if not is_integer(longest, least=1):
        raise ConfigError(
            f"The attribute longest of detector {loaded.detector.name!r} of plugin "
            f"{loaded.plugin!r} is {longest!r}; accepted are whole numbers from 1."
        )
    return longest


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


@dataclass(frozen=True)
class Reading:
    """One view of a text.

    Attributes
    ----------
    text : str
        The text passed to the detectors.
    values_only : bool
        Whether labels of `PROSE` do not count in it.
    """

    text: str
    values_only: bool = False


@dataclass
class Scan:
    """The views of one text, while the detectors scan them.

    Attributes
    ----------
    deadline : float
        On the clock of `time.monotonic`, seconds.
    spans : list of set of Span
        Findings per view; complete only when every detector has been called.
    failures : list of Failure
        Complete likewise.
    asking : LoadedDetector or None
        The detector that is running.
    here : bool
        Whether the detectors run in the caller's thread.
    """

    readings: tuple[Reading, ...]
    deadline: float
    spans: list[set[Span]] = field(init=False)
    failures: list[Failure] = field(default_factory=list)
    asking: LoadedDetector | None = None
    here: bool = False

    def __post_init__(self) -> None:
        self.spans = [set() for _ in self.readings]

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline

    def failure(self, reason: str) -> Failure:
        """Return a failure of the running detector, or of the gate before the first one."""
        asking = self.asking
        return Failure("gate", "floe", reason) if asking is None else asking.failure(reason)


class DetectorRunner:
    """Calls a gate's detectors one after the other, in a thread of their own.

    Parameters
    ----------
    thresholds : mapping of str to float, optional
        Label to the least score with which a finding counts. A finding is left out before it can
        stand for an equal one of a surer detector.
    """

    def __init__(
        self,
        detectors: Sequence[LoadedDetector],
        thresholds: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._detectors = tuple(detectors)
        self._thresholds = thresholds
        self._thread = IsolationThread("floe-gate")
        # A plugin's own method could hold up the caller's thread.
        self._askers = tuple(
            (
                each,
                asker(each.detector),
                finder(each.detector) if each.plugin == BUILT_IN else None,
            )
            for each in self._detectors
        )
        self._all_built_in = all(each.plugin == BUILT_IN for each in self._detectors)
        #: The current scan of the thread, or its last.
        self._current: Scan | None = None

    def ask(
        self, readings: tuple[Reading, ...], deadline: float
    ) -> tuple[Sequence[set[Span]], Sequence[Failure]]:
        """Call every detector on every view.

        Parameters
        ----------
        deadline : float
            On the clock of `time.monotonic`, seconds.

        Returns
        -------
        spans : sequence of set of Span
            Per view. Complete only if there is no failure.
        failures : sequence of Failure
            One per detector that raised or gave an invalid answer, or one for the first late one.
        """
        scan = Scan(readings, deadline)
        try:
            asked_all = self._thread.run(partial(self._ask_all, scan), deadline=deadline)
        except PluginCallError as error:
            stuck = self._current if error.reason == STUCK else None
            return (), ((stuck or scan).failure(error.reason),)
        if not asked_all:
            return (), (scan.failure(LATE),)
        return scan.spans, scan.failures

    def ask_new(
        self,
        grown: Growing,
        deadline: float,
        *,
        without: Callable[[LoadedDetector], bool],
    ) -> tuple[Collection[Span], Sequence[Failure]]:
        """Call the detectors for what is new in a text.

        Floe's own ones need no thread for that, which would take longer than they do.

        Parameters
        ----------
        without : callable
            Returns whether a detector need not be called.
        """
        asked = self._awake(grown, without)
        if not asked:
            return (), ()
        scan = Scan((Reading(grown.text),), deadline, here=self._all_built_in)
        ask = partial(self._ask_all, scan, grown.new_from, asked)
        try:
            asked_all = ask() if scan.here else self._thread.run(ask, deadline=deadline)
        except PluginCallError as error:
            stuck = self._current if error.reason == STUCK else None
            return (), ((stuck or scan).failure(error.reason),)
        if not asked_all:
            return (), (scan.failure(LATE),)
        return scan.spans[0], scan.failures

    def close(self) -> None:
        """Let the thread end once it is idle."""
        self._thread.close()

    def _awake(
        self, grown: Growing, without: Callable[[LoadedDetector], bool]
    ) -> Sequence[tuple[LoadedDetector, _Ask | None]]:
        """Return the detectors that may find something in what is new, and how to ask them."""
        try:
            return [
                (loaded, ask)
                for loaded, ask, may_find in self._askers
                if (may_find is None or may_find(grown)) and not without(loaded)
            ]
        except Exception:  # noqa: BLE001 - a detector that cannot tell is asked, as all are
            return [(loaded, ask) for loaded, ask, _ in self._askers]

    def _ask_all(
        self,
        scan: Scan,
        new_from: int = 0,
        asked: Sequence[tuple[LoadedDetector, _Ask | None]] = (),
    ) -> bool:
        """Call the detectors; return False if the deadline passes before the last."""
        if not scan.here:
            self._current = scan
        for loaded, of_new in asked or [(each, None) for each in self._detectors]:
            scan.asking = loaded
            if scan.late:
                return False
            try:
                for found, reading in zip(scan.spans, scan.readings, strict=True):
                    if reading.values_only and loaded.labels <= PROSE:
                        continue
                    if of_new is None:
                        answer: object = loaded.detector.detect(reading.text)
                    else:
                        answer = of_new(reading.text, new_from)
                    # Most find nothing.
                    if type(answer) not in _EMPTY or answer:
                        self._note(found, loaded, reading, answer)
            except BaseException as error:
                # Whatever a plugin raises, SystemExit too, makes the text private and must not end
                # the thread. Its message may hold some of the text.
                if scan.here and isinstance(error, KeyboardInterrupt):
                    raise
                scan.failures.append(loaded.failure(type(error).__name__))
        return True

    def _note(
        self, found: set[Span], loaded: LoadedDetector, reading: Reading, answer: object
    ) -> None:
        """Note what of a detector's answer counts."""
        found.update(
            span
            for span in _checked(loaded, answer, len(reading.text))
            if not (reading.values_only and span.label in PROSE)
            and span.score >= self._thresholds.get(span.label, 0.0)
        )


# Types of answers that are right if they are empty.
_EMPTY = (list, tuple)


def _checked(loaded: LoadedDetector, answer: object, length: int) -> list[Span]:
    if not isinstance(answer, Sequence) or isinstance(answer, str | bytes):
        raise InvalidAnswerError
    spans = list(answer)
    for span in spans:
        if (
            not isinstance(span, Span)
            or type(span.start) is not int
            or type(span.end) is not int
            or not 0 <= span.start < span.end <= length
            or span.label not in loaded.labels
            or not is_number(span.score)
            or not 0 <= span.score <= 1
        ):
            raise InvalidAnswerError
    return spans
