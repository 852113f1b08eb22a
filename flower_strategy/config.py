"""The run configuration: every key of ``flwr run --run-config``, checked before anything starts.

Flower hands an app a flat dictionary of str, int, float and bool. `RunConfig.from_dict` turns it
into a frozen dataclass; a wrong value is answered with the key, the value and what is accepted,
an unknown key with its nearest neighbour. ``KEYS`` holds the documentation of every key.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from floe_plugins.errors import ConfigError
from flower_strategy.config_device import DeviceKeys
from flower_strategy.config_keys import ConfigValue, Key
from flower_strategy.config_server import ServerKeys
from flower_strategy.device.hardware import parse_device

__all__ = ["KEYS", "ConfigValue", "RunConfig", "check_values"]


@dataclass(frozen=True, kw_only=True)
class RunConfig(ServerKeys, DeviceKeys):
    """One federated run.

    The attributes are the configuration's keys with ``_`` for ``-``; `markdown` has each with its
    default, meaning and accepted values.
    """

    def __post_init__(self) -> None:
        for name in self.tasks:
            if name not in _TASKS:
                raise ConfigError(_complaint("tasks", name, KEYS["tasks"]))
        for device in self.devices:
            parse_device(device)
        if self.max_examples == 1:
            raise ConfigError(
                "Run configuration max-examples=1 is not accepted: a node needs 2 examples at "
                "least, one to train on and one to hold out; 0 keeps all."
            )
        if bool(self.prompt_template) != bool(self.response_template):
            raise ConfigError(
                "prompt-template and response-template belong together: give both or neither."
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, ConfigValue]) -> RunConfig:
        """Check Flower's run configuration.

        Raises
        ------
        ConfigError
            A key is unknown, or a value is not accepted.
        """
        known = {}
        for name, value in values.items():
            if name not in KEYS:
                nearest = difflib.get_close_matches(name, KEYS, n=1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(KEYS)}."
                raise ConfigError(f"Unknown run configuration key {name!r}; {hint}")
            try:
                known[name.replace("-", "_")] = KEYS[name].parse(value)
            except ValueError:
                raise ConfigError(_complaint(name, value, KEYS[name])) from None
        return cls(**known)

    @classmethod
    def defaults(cls) -> dict[str, ConfigValue]:
        """Return the defaults as Flower writes them in ``[tool.flwr.app.config]``."""
        return {_name(item.name): _written(item.default) for item in fields(cls)}

    @classmethod
    def markdown(cls) -> str:
        """Return the reference page of all keys."""
        defaults = cls.defaults()
        rows = [
            f"| `{name}` | `{_toml(defaults[name])}` | {key.help} | {key.accepts} |"
            for name, key in KEYS.items()
        ]
        return "\n".join([_PAGE_HEAD, *rows, ""])


def check_values(values: Mapping[str, Any]) -> None:
    """Check what a program sets by what the keys of the run configuration accept.

    Parameters
    ----------
    values : Mapping[str, Any]
        Attribute of `RunConfig` -> value.

    Raises
    ------
    ConfigError
        A value is not accepted.
    """
    for attribute, value in values.items():
        key = KEYS[_name(attribute)]
        try:
            key.parse(value)
        except (TypeError, ValueError):
            raise ConfigError(
                f"{attribute}={value!r} is not accepted: it must be {key.accepts}."
            ) from None


def _written(value: Any) -> ConfigValue:
    written: ConfigValue = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return written


def _toml(value: ConfigValue) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _complaint(name: str, value: object, key: Key) -> str:
    return f"Run configuration {name}={value!r} is not accepted: it must be {key.accepts}."


def _name(attribute: str) -> str:
    return attribute.replace("_", "-")


_TASKS = ("code", "arithmetic", "records")
KEYS: dict[str, Key] = {_name(item.name): item.metadata["key"] for item in fields(RunConfig)}
"""Key as typed -> what it means and accepts."""

_PAGE_HEAD = """# Run configuration

Every key of `flwr run . --run-config "KEY=VALUE KEY=VALUE"`. Texts go in quotes: `model='...'`. A
wrong value or an unknown key ends the run before anything starts, with a sentence that says what is
accepted.

This page is written by `python -m flower_strategy.config`.

| key | default | meaning | accepts |
| --- | --- | --- | --- |"""

if __name__ == "__main__":
    print(RunConfig.markdown(), end="")
