"""The processor's configuration: ``--additional-config '{"floe": {...}}'`` and the file it names.

What stands on the command line becomes part of vLLM's compile-cache key. Values that change between
two starts of the same server (URL, key, deadlines) therefore belong into the JSON file that
``config_file`` names, or, for the key, into an environment variable.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from floe_plugins.config import is_integer, is_number, is_set_variable, is_url
from floe_plugins.errors import ConfigError
from floe_plugins.gate.gate import MOST_TIMEOUT_S
from vllm_logits_processor.config_checks import accept, check_places, known
from vllm_logits_processor.config_expert import ExpertConfig
from vllm_logits_processor.config_file import SECTION, read_config_file
from vllm_logits_processor.request import MODES, Mode

__all__ = ["Ask", "ExpertConfig", "FloeConfig", "why_off"]

Ask = Literal["always", "unsure"]

#: A day, milliseconds: no thread can be told to wait for any time (`threading.TIMEOUT_MAX`).
_MOST_WAIT_MS = 86_400_000


@dataclass(frozen=True, kw_only=True)
class FloeConfig:
    """All that the processor is told at start.

    Attributes
    ----------
    expert : ExpertConfig
        The other model.
    router : str
        Name of the router; default ``evidence``.
    default_mode : {"fused", "host"}
        What a request that says ``auto``, or nothing, gets. Default ``fused``.
    deadline_ms : float
        Milliseconds from the start of a call for which a token waits for it. Default 250.
    first_deadline_ms : float
        Milliseconds that the expert may take to read a prompt. Nobody waits that long: past
        `deadline_ms` the answer's first tokens are the host's until the reply is there. A call
        that takes longer has failed, and is cancelled. Default 5,000.
    answer_budget_ms : float, optional
        Milliseconds that one answer may wait for the expert, all its tokens together; after that
        the host finishes it alone. Without it, only the deadline per token counts.
    ask : {"always", "unsure"}
        ``always``: at every token, while the host computes. ``unsure``: only where the entropy of
        the host's distribution is above `unsure_nats`, for experts that cost money; the call then
        starts after the host's forward pass, so such a token takes both models' time.
    unsure_nats : float
        Default 1.0.
    covers : int
        Most further prompts per position for text that ends inside one of the expert's tokens, in
        the same request. 0: the text is asked about as it stands. Default 3. What they are worth is
        measured in ``docs/results/fusion_quality.md``.
    breaker_failures : int
        Failed or late calls in a row after which the expert is left alone. Default 5.
    breaker_cooldown_s : float
        Seconds for which it is left alone. Default 5.
    plugins : tuple of str
        Dotted paths of plugin modules to load beside the installed ones.
    detectors : tuple of str, optional
        Names of the detectors that the gate asks; if not given, all that are registered, save those
        that must be named.
    gate_timeout_s : float
        Seconds that the gate may take for one text, up to 60; one that takes longer stays here. The
        step waits for it. Default 1.
    trace_file : str, optional
        A JSON Lines file to append one line per step and stream to: figures, never text.
    metrics_port : int, optional
        Port on 127.0.0.1 that answers with metrics in Prometheus' text format.
    host_url : str, optional
        Base URL of this very server. With it, the prompt is scored once by both models, and the
        router begins with that evidence instead of none. Costs each model one more pass over it.
    host_api_key_env : str, optional
        Environment variable with the API key of this server, if it asks for one.
    """

    expert: ExpertConfig
    router: str = "evidence"
    default_mode: Mode = "fused"
    deadline_ms: float = 250.0
    first_deadline_ms: float = 5000.0
    answer_budget_ms: float | None = None
    ask: Ask = "always"
    unsure_nats: float = 1.0
    covers: int = 3
    breaker_failures: int = 5
    breaker_cooldown_s: float = 5.0
    plugins: tuple[str, ...] = ()
    detectors: tuple[str, ...] | None = None
    gate_timeout_s: float = 1.0
    trace_file: str | None = None
    metrics_port: int | None = None
    host_url: str | None = None
    host_api_key_env: str | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        accept("router", self.router, "a router's name", good=isinstance(self.router, str))
        modes = tuple(mode for mode in MODES if mode != "auto")
        accept(
            "default_mode", self.default_mode, " or ".join(modes), good=self.default_mode in modes
        )
        accept("ask", self.ask, " or ".join(get_args(Ask)), good=self.ask in get_args(Ask))
        for key in ("deadline_ms", "first_deadline_ms"):
            value = getattr(self, key)
            good = is_number(value) and 0 < value <= _MOST_WAIT_MS
            accept(key, value, f"a number above 0, up to {_MOST_WAIT_MS:,}", good=good)
        optional = ("answer_budget_ms",) if self.answer_budget_ms is not None else ()
        for key in ("breaker_cooldown_s", "unsure_nats", *optional):
            value = getattr(self, key)
            accept(key, value, "a number above 0", good=is_number(value) and value > 0)
        good = is_number(self.gate_timeout_s) and 0 < self.gate_timeout_s <= MOST_TIMEOUT_S
        accepted = f"a number above 0, up to {MOST_TIMEOUT_S}"
        accept("gate_timeout_s", self.gate_timeout_s, accepted, good=good)
        ranges = {"breaker_failures": (1, 1_000_000), "covers": (0, 16)}
        if self.metrics_port is not None:
            ranges["metrics_port"] = (1, 65_535)
        for key, (least, most) in ranges.items():
            value = getattr(self, key)
            good = is_integer(value, least=least, most=most)
            accept(key, value, f"an integer from {least} to {most}", good=good)
        if self.host_url is not None:
            good = is_url(self.host_url)
            accept("host_url", self.host_url, "an http:// or https:// URL", good=good)
        if self.host_api_key_env is not None:
            good = is_set_variable(self.host_api_key_env)
            accepted = "the name of an environment variable that is set"
            accept("host_api_key_env", self.host_api_key_env, accepted, good=good)
        if self.trace_file is not None:
            parent = isinstance(self.trace_file, str) and Path(self.trace_file).parent.is_dir()
            accept("trace_file", self.trace_file, "a path in an existing folder", good=parent)

    def fuses(self, mode: Mode) -> bool:
        """Tell whether a request of this mode is fused."""
        return (self.default_mode if mode == "auto" else mode) != "host"

    @classmethod
    def from_additional_config(cls, additional: Mapping[str, Any] | None) -> Self | None:
        """Read the configuration that vLLM was started with; None where there is no ``floe``.

        Relative paths in it count from the folder in which the process was started, those in the
        file that ``config_file`` names as well.

        Raises
        ------
        ConfigError
            If a key is unknown or in the wrong place, a value is out of range, or the file cannot
            be read.
        """
        if not isinstance(additional, Mapping) or additional.get(SECTION) is None:
            return None
        values = additional[SECTION]
        accept("the configuration", values, "a JSON object", good=isinstance(values, Mapping))
        values = dict(values)
        if "config_file" in values:
            file = read_config_file(values.pop("config_file"), named_by="floe: config_file")
            if "config_file" in file:
                raise ConfigError("floe: config_file names a file that names another; keep one.")
            values = _merged(values, file)
        check_places(cls, ExpertConfig, values, inner="expert")
        if "expert" not in values:
            raise ConfigError("floe: the section 'expert' (model, url, tokenizer) is missing.")
        expert = values.pop("expert")
        accept("expert", expert, "a JSON object", good=isinstance(expert, Mapping))
        values["expert"] = ExpertConfig(**known(ExpertConfig, expert, section="expert."))
        return cls(**known(cls, values, section=""))


def why_off(additional: object) -> str:
    """Say why an ``--additional-config`` does not switch fusion on; what to write instead.

    Parameters
    ----------
    additional : object
        The value, for which `FloeConfig.from_additional_config` has returned None.
    """
    wanted = """start vLLM with --additional-config '{"floe": {"expert": {...}}}'"""
    if not isinstance(additional, Mapping) or not additional:
        return f"vLLM was started without --additional-config; {wanted}."
    if SECTION in additional:
        return f"the section floe of --additional-config is null; {wanted}."
    names = [key for key in additional if isinstance(key, str)]
    settings = {field.name for field in fields(FloeConfig)} | {"config_file"}
    outside = [key for key in names if key in settings]
    if outside:
        return (
            f"--additional-config has {', '.join(map(repr, outside))} at its top level; put what "
            f"is meant for Floe into the section floe: {wanted}."
        )
    for key in names:
        if difflib.get_close_matches(key.lower(), [SECTION], n=1):
            return f"--additional-config has the key {key!r}; did you mean 'floe'?"
    return f"--additional-config has no section floe; {wanted}."


def _merged(inline: dict[str, Any], file: dict[str, Any]) -> dict[str, Any]:
    """Join both sources; a key in both would leave open which one counts."""
    merged = {**inline, **file}
    for key in inline.keys() & file.keys():
        if not (isinstance(inline[key], dict) and isinstance(file[key], dict)):
            raise ConfigError(
                f"floe: {key} stands on the command line and in config_file; keep one."
            )
        merged[key] = _merged(inline[key], file[key])
    return merged
