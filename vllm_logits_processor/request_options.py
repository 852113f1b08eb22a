"""Options of one request: ``vllm_xargs`` of the OpenAI API, ``extra_args`` offline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field

from floe_plugins.config import Settings, Wording
from vllm_logits_processor.config import Mode
from vllm_logits_processor.config_file import SECTION

_Short = Annotated[str, Field(min_length=1, max_length=256)]


class RequestOptions(Settings):
    """Options of one request, from ``vllm_xargs`` (OpenAI API) or ``extra_args`` (offline).

    The attribute `mode` is the key ``floe``; the others have their names after ``floe_``.
    """

    model_config = ConfigDict(
        alias_generator=lambda name: SECTION if name == "mode" else f"{SECTION}_{name}"
    )
    wording: ClassVar[Wording] = Wording(
        wrong="vllm_xargs: {key} is {value}; accepted is {accepted}.",
        unknown="vllm_xargs: {key} is not known; {listed}",
        missing="vllm_xargs: {key} is missing.",
    )

    mode: Mode = Field(
        default="auto",
        description="`host`: the expert is never asked. `fused`: at every token, as far as the "
        "gate allows. `auto`: as `default_mode` says",
    )
    expert_model: _Short | None = Field(
        default=None,
        description="the expert's model for this request, such as an adapter that its server has "
        "loaded",
    )
    label: _Short | None = Field(
        default=None, description="copied into the trace file; appears nowhere else"
    )

    @classmethod
    def from_extra_args(cls, extra: Mapping[str, Any] | None) -> Self:
        """Read and check the keys.

        Raises
        ------
        ConfigError
            A `ValueError`, which vLLM answers with HTTP 400: an unknown key that begins with
            ``floe``, or a value that is not accepted.
        """
        values = {key: value for key, value in (extra or {}).items() if key.startswith(SECTION)}
        cls.refuse_unknown(values)
        for key, value in values.items():
            if value is None:
                raise cls.wrong(cls.names()[key], value)
        return cls(**values)
