"""What a request may say about fusion: the keys of ``vllm_xargs`` that Floe reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from floe_plugins.errors import ConfigError

Mode = Literal["auto", "host", "fused"]
MODES: tuple[str, ...] = get_args(Mode)
_PREFIX = "floe"


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """Options of one request, from ``vllm_xargs`` (OpenAI API) or ``extra_args`` (offline).

    Attributes
    ----------
    mode : {"auto", "host", "fused"}
        Key ``floe``. ``host``: the expert is never asked. ``fused``: it is asked at every token, as
        far as the gate allows. ``auto``, the default: as the server is configured.
    expert_model : str or None
        Key ``floe_expert_model``: the expert's model for this request, such as a user's adapter.
    label : str or None
        Key ``floe_label``: copied into the trace, so that a client finds its request there.
    """

    mode: Mode = "auto"
    expert_model: str | None = None
    label: str | None = None

    @classmethod
    def from_extra_args(cls, extra: Mapping[str, Any] | None) -> Self:
        """Read and check the keys.

        Raises
        ------
        ConfigError
            A `ValueError`, which vLLM answers with HTTP 400: an unknown key that begins with
            ``floe``, or a value that is not accepted.
        """
        known = {"floe": "mode", "floe_expert_model": "expert_model", "floe_label": "label"}
        values: dict[str, Any] = {}
        for key, value in (extra or {}).items():
            if not key.startswith(_PREFIX):
                continue
            if key not in known:
                raise ConfigError(
                    f"vllm_xargs: {key} is not known; accepted are {', '.join(known)}."
                )
            good = (
                value in MODES
                if key == "floe"
                else isinstance(value, str) and 0 < len(value) <= 256
            )
            if not good:
                accepted = ", ".join(MODES) if key == "floe" else "1 to 256 characters"
                raise ConfigError(f"vllm_xargs: {key} is {value!r}; accepted is {accepted}.")
            values[known[key]] = value
        return cls(**values)
