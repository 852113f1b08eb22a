"""Judges findings: which are private, by which rule of which profile."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType

from floe_plugins.checks import is_number
from floe_plugins.errors import ConfigError
from floe_plugins.gate.allow_lists import AllowLists
from floe_plugins.gate.conversation import Conversation, Message
from floe_plugins.gate.detector import Span
from floe_plugins.gate.profiles import (
    ALONE,
    ANY,
    BESIDE,
    IGNORED,
    NO_SECRET,
    ORDER,
    SURE,
    UNSURE,
    Profile,
    kinds,
    only_in_context,
    secret_kind,
)
from floe_plugins.gate.verdict import Action, Reason, Rules

#: What an operator writes is no user's text.
ROLES: Mapping[str, str] = MappingProxyType(
    {"system": Profile.SECRETS, "developer": Profile.SECRETS}
)
FIELDS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("tools", "functions", "response_format"), Profile.SECRETS)
)

ROLES_HELP = (
    "the profile for messages of a role, such as `system`; `ignored` judges none. By default "
    "`system` and `developer` are judged for `secrets` unless `profile` is `strict`"
)
FIELDS_HELP = (
    "the profile for a field of a request or a message beside the conversation, such as `metadata` "
    "or `tool_calls`. By default `tools`, `functions` and `response_format` are judged for "
    "`secrets` unless `profile` is `strict`"
)
THRESHOLDS_HELP = (
    "the least score, from 0 to 1, of a label's findings; a finding of a detector that gives no "
    "scores has 1"
)
THRESHOLDS_ACCEPTED = "a table from label to a number from 0 to 1"

PLACE = attrgetter("start", "end", "label")

#: The rule of a finding that the configuration lets leave.
ALLOWED = "in an allow list"


class Judge:
    """Decides for findings whether they are private.

    Parameters
    ----------
    profile : Profile or str
        For all texts that no table names.
    rules : Rules
        A label that its table names is private under any profile: the configuration says so.
    allow, roles, fields, thresholds
        As for `Gate`.

    Raises
    ------
    ConfigError
        A value is not accepted.
    """

    def __init__(
        self,
        profile: Profile | str,
        rules: Rules,
        *,
        allow: Mapping[str, Sequence[str]] | None = None,
        roles: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        if profile not in list(Profile):
            raise ConfigError(
                f"The gate's profile is {profile!r}; accepted are {', '.join(Profile)}."
            )
        self.profile = Profile(profile)
        self._rules = rules
        self._allow = AllowLists.of(allow)
        self._thresholds = thresholds or {}
        strict = self.profile is Profile.STRICT
        self._roles = _table(roles, "roles", {} if strict else ROLES)
        self._fields = _table(fields, "fields", {} if strict else FIELDS)

    def kinds(self, text: str, spans: Collection[Span]) -> Mapping[Span, str | None]:
        """Return for each finding in a text the kind by which it is private by itself, or None.

        Parameters
        ----------
        text : str
            A way of reading what is judged.
        """
        if not spans:
            return {}
        private = kinds(text, spans)
        return {span: private.get(span) for span in spans}

    @property
    def allows(self) -> bool:
        """Whether there are allow lists."""
        return self._allow.any

    def allowed(self, text: str, spans: Collection[Span]) -> set[Span]:
        """Return the spans in a text that the allow lists name."""
        return self._allow.allowed(text, spans)

    def allowed_values(self, text: str) -> list[tuple[int, int]]:
        """Return where the values of the allow lists stand in a text, found or not."""
        return self._allow.places(text)

    def needs_context(self, labels: Collection[str]) -> bool:
        """Return whether a user's names and addresses, with these labels, are private in contexts.

        Any other finding, or policy, is private by itself.
        """
        return (
            self._profile_of_one(Message("")) == Profile.PERSONAL
            and not any(map(self._rules.names, labels))
            and only_in_context(labels)
        )

    def judge(
        self, conversation: Conversation, found: Mapping[Span, str | None]
    ) -> dict[Span, Reason]:
        """Return the reasons for the findings in a conversation, sorted by position.

        Parameters
        ----------
        found : mapping of Span to str or None
            What `kinds` says of them, with their places in the conversation's text.
        """
        allowed = self._allow.allowed(conversation.text, found)
        ordered = sorted(found, key=PLACE)
        reasons = {span: self._reason(span, found, conversation, allowed) for span in ordered}
        if any(reason.private and self._holds(span) for span, reason in reasons.items()):
            for span, reason in reasons.items():
                if reason.rule in (ALONE, UNSURE):
                    reasons[span] = Reason(span.label, BESIDE, reason.profile, private=True)
        return reasons

    def _reason(
        self,
        span: Span,
        found: Mapping[Span, str | None],
        conversation: Conversation,
        allowed: Collection[Span],
    ) -> Reason:
        label, kind = span.label, found[span]
        profile = self._profile_of(conversation.messages_of(span))
        if span in allowed:
            return Reason(label, ALLOWED, profile, private=False)
        if profile == IGNORED:
            return Reason(label, "role or field that is ignored", profile, private=False)
        if self._rules.names(label):
            return Reason(label, "named in actions", profile, private=True)
        if profile == Profile.STRICT:
            # Who sets a threshold of a label has said which of its findings count.
            counts = span.score >= SURE or label in self._thresholds or kind is not None
            return Reason(label, ANY if counts else UNSURE, profile, private=counts)
        if profile == Profile.SECRETS:
            secret = secret_kind(label)
            return Reason(label, secret or NO_SECRET, profile, private=secret is not None)
        return Reason(label, kind or ALONE, profile, private=kind is not None)

    def _profile_of(self, messages: Iterable[Message]) -> str:
        """Return the strictest profile of the messages that hold a part of a finding."""
        return max((self._profile_of_one(each) for each in messages), key=ORDER.index)

    def _profile_of_one(self, message: Message) -> str:
        own = self._roles.get(message.role or "", self.profile)
        return self._fields.get(message.field, own) if message.field is not None else own

    def _holds(self, span: Span) -> bool:
        return self._rules.action(span.label) is not Action.CLEAR


def checked_thresholds(thresholds: Mapping[str, float] | None) -> Mapping[str, float]:
    """Return a table of thresholds.

    Raises
    ------
    ConfigError
        It is no table from labels to numbers from 0 to 1.
    """
    if thresholds is None:
        return {}
    if not isinstance(thresholds, Mapping) or not all(
        isinstance(label, str) and is_number(least) and 0 <= least <= 1
        for label, least in thresholds.items()
    ):
        raise ConfigError(
            f"The gate's thresholds are {thresholds!r}; accepted is a table from labels to numbers "
            "from 0 to 1."
        )
    return dict(thresholds)


def _table(
    table: Mapping[str, str] | None, name: str, default: Mapping[str, str]
) -> Mapping[str, str]:
    if table is None:
        return default
    if not isinstance(table, Mapping):
        raise ConfigError(f"The gate's {name} are {table!r}; accepted is a table to profiles.")
    for key, profile in table.items():
        if not isinstance(key, str) or profile not in ORDER:
            raise ConfigError(
                f"The gate's {name} have {profile!r} for {key!r}; accepted are {', '.join(ORDER)}."
            )
    # What the table does not name keeps its default.
    return {**default, **table}
