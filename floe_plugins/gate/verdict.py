"""The gate's verdict, and the policy that turns findings into a decision."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from floe_plugins.errors import ConfigError
from floe_plugins.gate.detector import Span


class Decision(StrEnum):
    """Whether a text may leave."""

    CLEAR = "clear"
    """The text may leave as it is."""

    REDACTED = "redacted"
    """Only `Verdict.redacted_text` may leave."""

    LOCAL = "local"
    """Nothing of the text may leave."""


@dataclass(frozen=True)
class Failure:
    """Why a text was not scanned in full; holds nothing of the text.

    Attributes
    ----------
    detector : str
        The detector that failed, or ``gate`` if the text was not given to any.
    plugin : str
        The plugin that registers the detector.
    reason : str
        The type of the exception, or a fixed phrase such as ``late``.
    """

    detector: str
    plugin: str
    reason: str


@dataclass(frozen=True)
class Reason:
    """Why a finding is private or not; holds nothing of the text.

    Attributes
    ----------
    label : str
        The finding's label.
    rule : str
        What decided, such as ``contact data`` or ``alone``.
    profile : str
        The profile that the finding was judged by.
    private : bool
        Whether it is private.
    """

    label: str
    rule: str
    profile: str
    private: bool


@dataclass(frozen=True)
class Verdict:
    """The gate's verdict on one text.

    Attributes
    ----------
    decision : Decision
        ``clear``, ``redacted`` or ``local``.
    labels : tuple of str
        The labels found, sorted, each once.
    spans : tuple of Span
        The findings, private or not, sorted by position; offsets into the original text, or into
        the messages joined by line feeds. Where something is replaced: whole values, and what
        belongs to them, which may overlap.
    scanned_all : bool
        Whether every detector gave a valid answer on the whole text. If not, the decision is
        ``local``.
    detectors : tuple of str
        The detectors that were called, sorted.
    milliseconds : float
        How long the decision took.
    failures : tuple of Failure
        Why the text was not scanned in full, if it was not.
    profile : str
        The gate's profile.
    reasons : tuple of Reason
        Why each of the spans is private or not, in their order.
    messages : tuple of tuple of Span
        For a conversation: the spans message by message, with offsets into each. If a value is
        split over messages, each of them has its part.
    redacted_text : str or None
        The text with a placeholder such as ``<EMAIL>`` for the private spans, one for those that
        overlap, if the decision is ``redacted``. Not in the representation.
    redacted_messages : tuple of str or None
        The same message by message, for a conversation. Not in the representation.
    """

    decision: Decision
    labels: tuple[str, ...]
    spans: tuple[Span, ...]
    scanned_all: bool
    detectors: tuple[str, ...]
    milliseconds: float
    failures: tuple[Failure, ...] = ()
    profile: str = ""
    reasons: tuple[Reason, ...] = ()
    messages: tuple[tuple[Span, ...], ...] = ()
    redacted_text: str | None = field(default=None, repr=False)
    redacted_messages: tuple[str, ...] | None = field(default=None, repr=False)

    @classmethod
    def of_calm(cls, detectors: tuple[str, ...], profile: str, milliseconds: float) -> "Verdict":
        """Return the verdict on a text in which nothing is found."""
        return cls(Decision.CLEAR, (), (), True, detectors, milliseconds, profile=profile)

    @property
    def why(self) -> str:
        """Why the text may leave or not, in one line without any of the text."""
        if self.failures:
            causes = [f"{each.detector} failed ({each.reason})" for each in self.failures]
        else:
            private = [each for each in self.reasons if each.private]
            counted = dict.fromkeys(private or self.reasons)
            causes = [
                f"{each.label} {each.rule}"
                + (f" (profile {each.profile})" if each.profile != self.profile else "")
                for each in sorted(counted, key=lambda each: (each.label, each.rule, each.profile))
            ]
        return f"{'; '.join(causes) or 'nothing found'}; profile {self.profile}"

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values, without any of the text."""
        values = asdict(self)
        del values["redacted_text"], values["redacted_messages"]
        if not self.messages:
            del values["messages"]
        values["decision"] = str(self.decision)
        values["why"] = self.why
        return values


OTHERS = "*"
"""Key of a table of actions that stands for all other labels."""


class Policy(StrEnum):
    """What the gate does with a finding."""

    STRICT = "strict"
    """Any private finding keeps the whole text local."""

    REDACT = "redact"
    """Placeholders replace the private findings, and the rest may leave."""

    LABELS = "labels"
    """A table says for each label whether it may leave, is replaced, or makes the text local."""


class Action(StrEnum):
    """What the gate does with a finding of one label."""

    CLEAR = "clear"
    """The finding may leave."""

    REDACT = "redact"
    """A placeholder replaces the finding."""

    LOCAL = "local"
    """Nothing of the text leaves."""


POLICY_HELP = (
    "what becomes of private findings. `strict`: the text is local. `redact`: they are replaced by "
    "placeholders such as `<EMAIL>`, whole words and whole addresses with town, post code, country "
    "and who is there, and what is left is scanned again. `labels`: as `actions` says"
)
ACTIONS_HELP = (
    "for `labels`: what to do with a label; `*` for all others that are private, which are `local` "
    "without it. A label that is named counts under every profile. The most restrictive action "
    "among the findings wins"
)


@dataclass(frozen=True)
class Rules:
    """A policy with its table of actions.

    Parameters
    ----------
    policy : Policy or str
        What to do.
    actions : mapping of str to Action or str, optional
        Label to action, for the policy ``labels`` and only for it. The key ``*`` stands for all
        other labels, which are ``local`` without it.

    Raises
    ------
    ConfigError
        The policy or an action is unknown, or a table is missing or superfluous.
    """

    policy: Policy
    actions: Mapping[str, Action] | None = None

    def __post_init__(self) -> None:
        if self.policy not in list(Policy):
            raise ConfigError(
                f"The gate's policy is {self.policy!r}; accepted are {', '.join(Policy)}."
            )
        object.__setattr__(self, "policy", Policy(self.policy))
        if (self.policy is Policy.LABELS) != (self.actions is not None):
            wanted = "a table from label to action" if self.actions is None else "no table"
            raise ConfigError(
                f"The gate's actions are {_shown(self.actions)} with the policy "
                f"{str(self.policy)!r}; accepted is {wanted}."
            )
        if self.actions is not None:
            object.__setattr__(self, "actions", _checked(self.actions))

    def names(self, label: str) -> bool:
        """Return whether the table names a label itself."""
        return self.actions is not None and label in self.actions

    def action(self, label: str) -> Action:
        """Return the action for a label of private findings."""
        if self.actions is None:
            return Action.LOCAL if self.policy is Policy.STRICT else Action.REDACT
        return self.actions.get(label, self.actions.get(OTHERS, Action.LOCAL))

    def decision(self, spans: Iterable[Span]) -> Decision:
        """Return the most restrictive decision that the findings require."""
        actions = {self.action(span.label) for span in spans}
        if Action.LOCAL in actions:
            return Decision.LOCAL
        return Decision.REDACTED if Action.REDACT in actions else Decision.CLEAR

    def to_replace(self, spans: Iterable[Span]) -> list[Span]:
        """Return the findings that placeholders replace, of a text that need not stay local.

        What belongs to a finding alone does not make the text local, but is no more to leave.
        """
        return [span for span in spans if self.action(span.label) is not Action.CLEAR]


def check_labels(
    table: Iterable[str], known: Iterable[str], *, name: str, others: bool = False
) -> None:
    """Refuse a table with a label that no detector gives: it may be misspelt.

    `others` tells whether the table may have `OTHERS`.

    Raises
    ------
    ConfigError
    """
    accepted = sorted(known)
    for label in table:
        if label not in accepted and not (others and label == OTHERS):
            raise ConfigError(
                f"The gate's {name} name the label {label!r}; the detectors give "
                f"{', '.join(accepted)}."
            )


def _checked(actions: object) -> Mapping[str, Action]:
    accepted = ", ".join(Action)
    if not isinstance(actions, Mapping):
        raise ConfigError(
            f"The gate's actions are {actions!r}; accepted is a table from label to action "
            f"({accepted})."
        )
    for label, action in actions.items():
        if not isinstance(label, str) or action not in list(Action):
            raise ConfigError(
                f"The gate's action for {label!r} is {action!r}; accepted are {accepted}."
            )
    return MappingProxyType({label: Action(action) for label, action in actions.items()})


def _shown(actions: object) -> str:
    return "missing" if actions is None else "given"
