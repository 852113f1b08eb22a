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

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.types.guardrails import GuardrailEventHooks

from floe_plugins.errors import ConfigError
from floe_plugins.gate import Decision, Verdict
from floe_plugins.gate.settings import GateSettings
from floe_plugins.litellm_calls import ELSEWHERE, is_text_call, of_the_client, stays_local
from floe_plugins.litellm_door import stand_before_proxy
from floe_plugins.middleware.request_texts import leaving, texts_of

logger = logging.getLogger(__name__)

# The proxy sends these on to where its configuration says, whatever model the request names.
_PASSED_THROUGH = frozenset({"pass_through_endpoint", "allm_passthrough_route"})

# Clear requests that are remembered, as digests, so that each is scanned once.
_REMEMBERED = 4096


class FloeGuardrail(CustomGuardrail):  # type: ignore[misc, unused-ignore]  # untyped if absent
    """Decides about every request, and once more about every call of a deployment.

    A clear request goes on as it is, of a redacted one goes on what redaction leaves. Any other is
    sent to the model that runs on the device, or refused with HTTP 400 where none is named.

    The proxy may call another model than the request names: a fallback, a retry, one of several.
    So the text of each call is looked at where the deployment has been chosen. Only a deployment of
    the local model is called with text that is not clear.

    Parameters
    ----------
    local_model : str, optional
        The proxy's name (``model_name``) of the model that may see everything. All deployments of
        that name may.
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
        self._cleared: OrderedDict[bytes, None] = OrderedDict()
        super().__init__(**options)
        if not self._event_hook_is_event_type(GuardrailEventHooks.pre_call):
            mode = options.get("event_hook")
            raise ConfigError(f"The guardrail's mode is {mode!r}; accepted is pre_call.")
        if options.get("default_on"):
            stand_before_proxy()

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
        if call_type in _PASSED_THROUGH:
            raise _held(Decision.LOCAL)
        if self._local_model is not None and data.get("model") == self._local_model:
            return data
        verdict, left = None, None
        if is_text_call(call_type, data):
            verdict, left = await self._leaving(of_the_client(data))
        if left is not None:
            return {**data, **left}
        decision = Decision.LOCAL if verdict is None else verdict.decision
        if self._local_model is None:
            raise _held(decision)
        logger.info("A request is %s and stays with %s.", decision, self._local_model)
        here = {key: value for key, value in data.items() if key not in ELSEWHERE}
        return {**here, "model": self._local_model}

    async def async_pre_call_deployment_hook(
        self, kwargs: dict[str, Any], call_type: Any
    ) -> dict[str, Any]:
        """Return the call of a deployment as it may go on.

        Nothing is taken from the request's own hook or from what the request says: what is about
        to be sent is decided about, wherever it comes from.

        Raises
        ------
        HTTPException
            If its text may not leave, and the deployment is not the local model's.
        """
        # Under `default_on` no request is without it, but for those of a key that the proxy's
        # administrator has exempted.
        if not self.should_run_guardrail(data=kwargs, event_type=GuardrailEventHooks.pre_call):
            return kwargs
        if stays_local(kwargs, self._local_model):
            return kwargs
        verdict, left = None, None
        if is_text_call(getattr(call_type, "value", None), kwargs):
            verdict, left = await self._leaving(of_the_client(kwargs))
        if left is None:
            logger.info("A call of a deployment is held: its text may not leave.")
            raise _held(Decision.LOCAL if verdict is None else verdict.decision)
        return {**kwargs, **left}

    async def _leaving(
        self, body: Mapping[str, Any]
    ) -> tuple[Verdict | None, Mapping[str, Any] | None]:
        """Have the gate decide, unless it has cleared the very same texts before."""
        texts = texts_of(body)
        said = json.dumps([(message.text, message.role) for message in texts.messages])
        digest = hashlib.sha256(said.encode()).digest()
        if texts.readable and digest in self._cleared:
            self._cleared.move_to_end(digest)
            return None, body
        verdict, left = await leaving(self._gate, body)
        if verdict is not None and verdict.decision is Decision.CLEAR:
            self._cleared[digest] = None
            if len(self._cleared) > _REMEMBERED:
                self._cleared.popitem(last=False)
        return verdict, left


def _held(decision: Decision) -> HTTPException:
    return HTTPException(
        status_code=400,
        detail={"error": f"The privacy gate keeps this request here ({decision})."},
    )
