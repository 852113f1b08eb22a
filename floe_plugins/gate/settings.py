"""The gate's configuration as a JSON file, read by the middleware, the adapter and the command."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from floe_plugins.config import refuse_unknown
from floe_plugins.errors import ConfigError
from floe_plugins.gate.gate import Gate
from floe_plugins.gate.verdict import Policy

VARIABLE = "FLOE_GATE_CONFIG"
"""Environment variable: the path of the configuration."""


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """What a gate is made with; see `Gate` for the meaning of each.

    Attributes
    ----------
    policy : str
        ``strict``, ``redact`` or ``labels``.
    actions : mapping of str to str, optional
        For ``labels``.
    detectors : sequence of str, optional
        Names of detectors.
    plugins : sequence of str
        Dotted paths of plugins.
    timeout_s : float
        Seconds.
    max_chars : int
        Characters.
    cloud : mapping, optional
        Where clear texts may go, as it stands in the file; see
        `floe_plugins.middleware.cloud.CloudSettings`.
    """

    policy: str = str(Policy.STRICT)
    actions: Mapping[str, str] | None = None
    detectors: Sequence[str] | None = None
    plugins: Sequence[str] = ()
    timeout_s: float = 1.0
    max_chars: int = 200_000
    cloud: Mapping[str, Any] | None = None

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
        """Read a file.

        Raises
        ------
        ConfigError
            If it cannot be read, is no JSON object, or has an unknown key. What else is wrong shows
            when the gate is made.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"The gate's configuration {path} cannot be read as JSON ({error})."
            ) from None
        return cls.from_mapping(values, source=path)

    @classmethod
    def from_mapping(cls, values: object, *, source: str) -> Self:
        """Take the values of a JSON object.

        Parameters
        ----------
        values : object
            What was read.
        source : str
            Where from, for messages.

        Raises
        ------
        ConfigError
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"The gate's configuration {source} is no JSON object.")
        known = [field.name for field in fields(cls)]
        refuse_unknown(values, known, where=f"The gate's configuration {source}")
        for key in ("detectors", "plugins"):
            value = values.get(key)
            if value is not None and (
                not isinstance(value, list) or not all(isinstance(each, str) for each in value)
            ):
                raise ConfigError(
                    f"The gate's {key} in {source} are {value!r}; accepted is a list of names."
                )
        return cls(**values)

    def changed(self, **values: Any) -> Self:
        """Return the settings with those of the values that are not None."""
        return replace(self, **{key: value for key, value in values.items() if value is not None})

    def gate(self) -> Gate:
        """Make the gate.

        Raises
        ------
        ConfigError, PluginError
            If a value is wrong, or a detector or plugin does not load.
        """
        return Gate(
            detectors=self.detectors,
            policy=self.policy,
            actions=self.actions,
            plugins=self.plugins,
            timeout_s=self.timeout_s,
            max_chars=self.max_chars,
        )
