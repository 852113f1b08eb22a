"""The run configuration: every key of ``flwr run --run-config``, checked before anything starts.

`RunConfig.from_dict` makes a frozen model of Flower's flat dictionary of str, int, float and bool.
The error for a wrong value gives the key, the value and what is accepted; the error for an unknown
key gives the nearest known one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

from pydantic import model_validator

from floe_plugins.config import Wording
from floe_plugins.errors import ConfigError
from flower_strategy.config_keys import (
    DataKeys,
    Keys,
    ParticipationKeys,
    ReplyKeys,
    ServerKeys,
    TrainingKeys,
)
from flower_strategy.loop_keys import LoopKeys

__all__ = ["ConfigValue", "RunConfig", "check_values"]

ConfigValue = str | int | float | bool


class _AllKeys(ServerKeys, ReplyKeys, ParticipationKeys, DataKeys, LoopKeys, TrainingKeys):
    """All keys, as a program sets them."""


class RunConfig(_AllKeys):
    """One federated run.

    The attributes are the configuration's keys with ``_`` for ``-``; the reference page
    ``docs/reference/run-configuration.md`` lists their defaults, meanings and accepted values.
    """

    wording: ClassVar[Wording] = replace(
        Keys.wording,
        wrong="Run configuration {key}={value} is not accepted: it must be {accepted}.",
        unknown="Unknown run configuration key {key!r}; {hint}",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.max_examples == 1:
            raise ConfigError(
                "Run configuration max-examples=1 is not accepted: a node needs 2 examples at "
                "least, one to train on and one to hold out; 0 keeps all."
            )
        if bool(self.prompt_template) != bool(self.response_template):
            raise ConfigError(
                "prompt-template and response-template belong together: give both or neither."
            )
        return self

    @classmethod
    def from_dict(cls, values: Mapping[str, ConfigValue]) -> RunConfig:
        """Check Flower's run configuration.

        Raises
        ------
        ConfigError
            A key is unknown, or a value is not accepted.
        """
        cls.refuse_unknown(values)
        checked: dict[str, Any] = dict(values)
        return cls(**checked)


def check_values(values: Mapping[str, Any]) -> None:
    """Check values that a program sets against the keys of the run configuration.

    Parameters
    ----------
    values : Mapping[str, Any]
        Attribute of `RunConfig` -> value.

    Raises
    ------
    ConfigError
        A value is not accepted.
    """
    _AllKeys(**values)
