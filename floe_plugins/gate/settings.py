"""The gate's configuration as a JSON file, read by the middleware, the adapter and the command."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, SkipValidation

from floe_plugins.config import Names, ServerAccess, Settings, Url, Wording, Words
from floe_plugins.errors import ConfigError
from floe_plugins.gate.allow_lists import ALLOW_ACCEPTED, ALLOW_HELP
from floe_plugins.gate.gate import MAX_CHARS, MOST_TIMEOUT_S, TIMEOUT_S, VARIABLE, Gate
from floe_plugins.gate.judgement import (
    FIELDS_HELP,
    ROLES_HELP,
    THRESHOLDS_ACCEPTED,
    THRESHOLDS_HELP,
)
from floe_plugins.gate.profiles import PROFILE_HELP, Judged, Profile
from floe_plugins.gate.verdict import ACTIONS_HELP, POLICY_HELP, Action, Policy

_ModelName = Annotated[
    str, Field(min_length=1), Words(accepted="a model's name", unset="the request's")
]
_BY_PROFILE = Words(
    accepted="a table to `secrets`, `personal`, `strict` or `ignored`", unset="see there"
)
_Seconds = Annotated[float, Field(gt=0)]


class CloudSettings(ServerAccess):
    """The cloud for clear texts: section ``cloud`` of the gate's configuration."""

    wording: ClassVar[Wording] = Wording(
        wrong="The gate's cloud.{key} is {value}; accepted is {accepted}.",
        unknown="The gate's section cloud has the key {key!r}; {listed}",
        missing="The gate's section cloud has no {key}; accepted is an object with it.",
    )

    url: Url = Field(
        description="base URL of an OpenAI-compatible server, ending before `/chat/completions`"
    )
    model: _ModelName | None = Field(default=None, description="the model's name at the cloud")
    connect_timeout_s: _Seconds = Field(default=2.0, description="seconds to wait for a connection")
    first_byte_timeout_s: _Seconds = Field(
        default=10.0, description="seconds to wait for a stream to begin"
    )
    read_timeout_s: _Seconds = Field(
        default=60.0,
        description="seconds to wait for an answer that comes whole, and between the pieces of "
        "a stream",
    )
    cooldown_s: _Seconds = Field(
        default=5.0, description="seconds for which a cloud that failed is left alone"
    )

    @classmethod
    def from_mapping(cls, values: object) -> Self:
        """Read the section.

        Raises
        ------
        ConfigError
            If a key is unknown or a value is not accepted.
        """
        if not isinstance(values, Mapping):
            raise ConfigError("The gate's section cloud has no url; accepted is an object with it.")
        return cls(**values)


class GateSettings(Settings):
    """The gate's configuration."""

    wording: ClassVar[Wording] = Wording(
        wrong="The gate's {key} is set to {value}; accepted is {accepted}.",
        unknown="The gate's configuration has the key {key!r}; {listed}",
        missing="The gate's configuration has no {key}.",
    )

    # The gate itself checks these, with the labels of its detectors.
    profile: SkipValidation[Profile] = Field(default=Profile.PERSONAL, description=PROFILE_HELP)
    policy: SkipValidation[Policy] = Field(default=Policy.STRICT, description=POLICY_HELP)
    actions: Annotated[
        SkipValidation[Mapping[str, Action] | None],
        Words(accepted="a table from label to `clear`, `redact` or `local`"),
    ] = Field(default=None, description=ACTIONS_HELP)
    allow: Annotated[
        SkipValidation[Mapping[str, Sequence[str]] | None],
        Words(accepted=ALLOW_ACCEPTED),
    ] = Field(default=None, description=ALLOW_HELP)
    thresholds: Annotated[
        SkipValidation[Mapping[str, float] | None],
        Words(accepted=THRESHOLDS_ACCEPTED),
    ] = Field(default=None, description=THRESHOLDS_HELP)
    roles: Annotated[SkipValidation[Mapping[str, Judged] | None], _BY_PROFILE] = Field(
        default=None, description=ROLES_HELP
    )
    fields: Annotated[SkipValidation[Mapping[str, Judged] | None], _BY_PROFILE] = Field(
        default=None, description=FIELDS_HELP
    )
    detectors: Annotated[Names, Words(unset="all that need not be named")] | None = Field(
        default=None, description="names of detectors, see `floe-llm plugins`"
    )
    plugins: Names = Field(
        default=(), description="dotted paths of plugin modules to load beside the installed ones"
    )
    timeout_s: float = Field(
        default=TIMEOUT_S,
        gt=0,
        le=MOST_TIMEOUT_S,
        description="seconds that a decision waits for its detectors; after that the text is local",
    )
    max_chars: int = Field(
        default=MAX_CHARS,
        ge=1,
        description="a longer text is local without being scanned; no text is ever cut",
    )
    cloud: Annotated[Mapping[str, Any] | None, Words(accepted="an object with `url`")] = Field(
        default=None,
        description="a cloud to which the middleware passes clear requests on, [see "
        "below](#pass-clear-requests-on-to-a-cloud)",
    )

    @classmethod
    def from_environment(cls) -> Self:
        """Read the file that ``FLOE_GATE_CONFIG`` names; all defaults if it is not set.

        Raises
        ------
        ConfigError
            As `from_file`.
        """
        path = os.environ.get(VARIABLE)
        return cls.from_file(path) if path else cls()

    @classmethod
    def from_file(cls, path: str) -> Self:
        """Read a file; a key ``$schema`` in it is for editors.

        Raises
        ------
        ConfigError
            If it cannot be read, is not a JSON object, has an unknown key or a value that is not
            accepted. An invalid policy, table or name is reported when the gate is built.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"The gate's configuration {path} cannot be read as JSON ({error})."
            ) from None
        if isinstance(values, dict):
            values.pop("$schema", None)
        return cls.from_mapping(values, source=path)

    @classmethod
    def from_mapping(cls, values: object, *, source: str) -> Self:
        """Read the values of a JSON object.

        Parameters
        ----------
        values : object
            The parsed JSON.
        source : str
            Its origin, for messages.

        Raises
        ------
        ConfigError
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"The gate's configuration {source} is no JSON object.")
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of the file."""
        schema = super().json_schema()
        section = CloudSettings.json_schema()
        del section["$schema"]
        schema["properties"]["cloud"] = {**section, "type": ["object", "null"], "default": None}
        schema["properties"]["$schema"] = {"type": "string"}
        return schema

    def gate(self) -> Gate:
        """Build the gate.

        Raises
        ------
        ConfigError, PluginError
            If a value is wrong, or a detector or plugin does not load.
        """
        return Gate(**{name: getattr(self, name) for name in self.names() if name != "cloud"})
