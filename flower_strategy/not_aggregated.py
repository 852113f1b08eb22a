"""Settings of PEFT that a federation cannot average, and why."""

from __future__ import annotations

from collections.abc import Iterable

from floe_plugins.errors import ConfigError

_WHOLE_MODULES = (
    "trains whole weights of modules, while devices exchange LoRA factors alone and vLLM serves no "
    "adapter that holds others; leave it out, and let target-modules name the modules where they "
    "are linear."
)
_DORA = (
    "divides adapted weights by their norm, so that the mean of the devices' updates is no update "
    "of that kind, and vLLM serves none; leave it out."
)
_REASONS = {"modules-to-save": _WHOLE_MODULES, "use-dora": _DORA, "dora": _DORA}


def refuse_not_aggregated(keys: Iterable[str]) -> None:
    """Refuse the first key, with ``-`` or ``_``, that names such a setting.

    Raises
    ------
    ConfigError
        There is one.
    """
    for key in keys:
        reason = _REASONS.get(key.rpartition(".")[2].replace("_", "-"))
        if reason is not None:
            raise ConfigError(f"{key} is not supported: it {reason}")
