"""The gate as a guardrail of a LiteLLM proxy; needs ``litellm[proxy]``.

.. code-block:: yaml

    guardrails:
      - guardrail_name: floe
        litellm_params:
          guardrail: floe_plugins.litellm_guardrail.FloeGuardrail
          mode: pre_call
          default_on: true
          local_model: device
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException
from litellm.integrations.custom_guardrail import CustomGuardrail

from floe_plugins.errors import ConfigError
from floe_plugins.gate import Decision
from floe_plugins.gate.settings import GateSettings
from floe_plugins.middleware.texts import leaving

logger = logging.getLogger(__name__)

# What the proxy keeps beside a request for itself, and does not send on.
_OF_THE_PROXY = frozenset(
    {
        "guardrails",
        "litellm_call_id",
        "litellm_logging_obj",
        "litellm_metadata",
        "litellm_trace_id",
        "metadata",
        "model",
        "proxy_server_request",
        "secret_fields",
    }
)

# Calls whose requests are text. Others hold sound, pictures or files, or are not known here.
_TEXT_CALLS = frozenset(
    {
        *("completion", "acompletion", "text_completion", "atext_completion"),
        *("responses", "aresponses", "anthropic_messages"),
        *("embedding", "embeddings", "aembedding", "moderation", "amoderation"),
        *("rerank", "arerank"),
    }
)


class FloeGuardrail(CustomGuardrail):  # type: ignore[misc, unused-ignore]  # untyped if absent
    """Decides about every request before the proxy sends it to a model.

    A clear request goes on as it is, of a redacted one goes on what redaction leaves. Any other is
    sent to the model that runs on the device, or refused with HTTP 400 where none is named.

    Parameters
    ----------
    local_model : str, optional
        The proxy's name (``model_name``) of the model that may see everything.
    gate_config : str, optional
        The path of the gate's configuration; by default what ``FLOE_GATE_CONFIG`` names.
    **options
        What LiteLLM gives to every guardrail.

    Raises
    ------
    ConfigError, PluginError
        If the configuration is wrong, or a detector does not load: the proxy does not start.
    """

    def __init__(
        self, *, local_model: str | None = None, gate_config: str | None = None, **options: Any
    ) -> None:
        if local_model is not None and (not isinstance(local_model, str) or not local_model):
            raise ConfigError(
                f"The guardrail's local_model is {local_model!r}; accepted is a model's name."
            )
        settings = (
            GateSettings.from_file(gate_config) if gate_config else GateSettings.from_environment()
        )
        self._gate = settings.gate()
        self._local_model = local_model
        super().__init__(**options)

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Return the request as it may go on.

        Raises
        ------
        HTTPException
            If it may not leave, and there is no model for it here. Says nothing of the text.
        """
        del user_api_key_dict, cache
        if self._local_model is not None and data.get("model") == self._local_model:
            return data
        verdict, left = None, None
        if call_type in _TEXT_CALLS:
            verdict, left = await leaving(self._gate, _of_the_client(data))
        if left is not None:
            return {**data, **left}
        decision = Decision.LOCAL if verdict is None else verdict.decision
        if self._local_model is not None:
            logger.info("A request is %s and stays with %s.", decision, self._local_model)
            return {**data, "model": self._local_model}
        raise HTTPException(
            status_code=400,
            detail={"error": f"The privacy gate keeps this request here ({decision})."},
        )


def _of_the_client(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a request the proxy sends on."""
    # Where the proxy has a place of its own for what it notes, `metadata` is the client's.
    own = _OF_THE_PROXY - {"metadata"} if "litellm_metadata" in data else _OF_THE_PROXY
    return {key: value for key, value in data.items() if key not in own}
