"""The processor's configuration: ``--additional-config '{"floe": {...}}'`` and the file it names.

What stands on the command line becomes part of vLLM's compile-cache key. Values that change between
two starts of the same server (URL, key, deadlines) therefore belong into the JSON file that
``config_file`` names, or, for the key, into an environment variable.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from floe_plugins import config as shared
from floe_plugins.config import (
    ApiKey,
    check_credentials,
    is_integer,
    is_number,
    is_set_variable,
    is_url,
)
from floe_plugins.errors import ConfigError
from floe_plugins.gate.gate import MOST_TIMEOUT_S
from vllm_logits_processor.config_file import SECTION, read_config_file


def accept(key: str, value: object, accepted: str, *, good: bool) -> None:
    """Raise `ConfigError` about a key of the processor's configuration unless `good`."""
    shared.accept(f"floe: {key}", value, accepted, good=good)


def check_places(outer: type, section: type, values: Mapping[str, Any], *, inner: str) -> None:
    """Name keys that stand in the configuration and belong in its section, and the reverse.

    Parameters
    ----------
    outer, section : type
        The dataclasses of the configuration and of the section inside it.
    values : mapping of str to object
        The configuration as it was read.
    inner : str
        The name of the section.

    Raises
    ------
    ConfigError
        About the misplaced keys; about a section whose name is misspelt.
    """
    outside = {field.name for field in dataclasses.fields(outer)} | {"config_file"}
    inside = {field.name for field in dataclasses.fields(section)}
    found = [key for key in values if key in inside - outside]
    if found:
        raise ConfigError(
            f"floe: {_listed(found)} in the section {inner!r}, not beside it: "
            f"write {{{json.dumps(inner)}: {{{json.dumps(found[0])}: ...}}}}."
        )
    part = values.get(inner)
    found = [key for key in part if key in outside - inside] if isinstance(part, Mapping) else []
    if found:
        raise ConfigError(
            f"floe: {_listed(found)} beside the section {inner!r}, not in it: "
            f"write {{{json.dumps(inner)}: {{...}}, {json.dumps(found[0])}: ...}}."
        )
    if inner not in values:
        for key in values:
            if key not in outside and difflib.get_close_matches(key.lower(), [inner], n=1):
                raise ConfigError(f"floe: {key} is not a setting; did you mean {inner!r}?")


def _listed(keys: list[str]) -> str:
    return f"{', '.join(keys)} {'belongs' if len(keys) == 1 else 'belong'}"


def known(kind: type, values: Mapping[str, Any], *, section: str) -> dict[str, Any]:
    """Check the keys against the fields of a configuration class; lists become tuples.

    Parameters
    ----------
    kind : type
        A dataclass.
    values : mapping of str to object
        Keys and values as they were read.
    section : str
        Stands in front of a key in sentences, such as ``expert.``.

    Returns
    -------
    dict of str to object
        What `kind` is to be made with.

    Raises
    ------
    ConfigError
        If a key is no field, a field without a default is missing, or a list holds anything but
        strings.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"accepted are {', '.join(fields)}."
            raise ConfigError(f"floe: {section}{key} is not a setting; {hint}")
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    for key in sorted(required - values.keys()):
        raise ConfigError(f"floe: {section}{key} is missing.")
    checked = {}
    for key, value in values.items():
        takes_list = "tuple" in str(fields[key].type)
        takes_string = str(fields[key].type).startswith("str")
        takes_nothing = "None" in str(fields[key].type) and value is None
        if takes_list and not (takes_string and isinstance(value, str)) and not takes_nothing:
            good = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
            accepted = "a string or a list of strings" if takes_string else "a list of names"
            accept(section + key, value, accepted, good=good)
            value = tuple(value)
        checked[key] = value
    return checked


Dtype = Literal["auto", "bfloat16", "float32"]

_MOST_CONTEXT = 100_000_000


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """The other model: section ``expert`` of the configuration.

    Attributes
    ----------
    model : str
        Name of the model at its server; a request may name another (``floe_expert_model``). Without
        a `url`, the model itself: a folder, a hub id or ``embedded:...``.
    url : str or tuple of str, optional
        Base URL of an OpenAI-compatible server, ending before ``/completions``; several for servers
        of the same model. Without one, the model runs in the process of the host.
    tokenizer : str, optional
        Where its tokenizer is: a folder, a hub id or ``embedded:...``; `model` if not given, which
        only a model without a `url` may leave out.
    trusted : bool
        True where the expert's owner may see private text (the user's own SLM). Otherwise only text
        that the privacy gate clears is sent. Default False. A model in the host's process is asked
        without the gate, since nothing leaves.
    top_k : int
        Logprobs per token, 1 to 1,000. The server must allow it (vLLM: ``--max-logprobs``).
    context : int, optional
        Tokens that the model takes at most, those to come among them (vLLM: ``--max-model-len``). A
        text that has grown longer is the host's alone from then on. Without it such a text is asked
        about all the same, and a server refuses the whole step's request for it.
    api_key_env, api_key_file : str, optional
        Environment variable, or file, that holds the API key; one of them. The file is read again
        when it changes.
    ca_file : str, optional
        Certificates (PEM) to verify an https server with, instead of the system's.
    lookahead : int
        Most of the expert's own next tokens that one call asks for, 1 to 64. Default 1. Worth it
        where the expert is far away: see ``docs/how-to/serve.md``.
    hedge_ms : float, optional
        With several URLs: milliseconds without a reply after which a second server is asked too.
    dtype : {"auto", "bfloat16", "float32"}
        Of a model in the host's process; ``auto`` is what its checkpoint says.
    kind : str, optional
        Who asks it: ``completions`` (a server), ``in-process``, or a kind that a plugin registers
        with ``floe_register_experts``. By whether there is a `url` if not given.
    """

    model: str
    url: str | tuple[str, ...] | None = None
    tokenizer: str | None = None
    trusted: bool = False
    top_k: int = 20
    context: int | None = None
    api_key_env: str | None = None
    api_key_file: str | None = None
    ca_file: str | None = None
    lookahead: int = 1
    hedge_ms: float | None = None
    dtype: Dtype = "auto"
    kind: str | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        good = self.url is None or (bool(self.urls) and all(map(is_url, self.urls)))
        accept("expert.url", self.url, "an http:// or https:// URL, or a list of them", good=good)
        twice = [url for url in self.urls if self._plain_urls.count(url.rstrip("/")) > 1]
        if twice:
            raise ConfigError(
                f"floe: expert.url names {twice[0]!r} more than once; accepted are servers of "
                "their own, each once."
            )
        if self.url is not None and self.tokenizer is None:
            raise ConfigError(
                "floe: expert.tokenizer is missing, and a server does not hand out its tokenizer; "
                f"write where that of {self.model!r} is: a folder, a hub id or embedded:NAME."
            )
        for key in ("model", "tokenizer"):
            value = getattr(self, key)
            optional = key == "tokenizer" and value is None
            named = isinstance(value, str) and bool(value)
            accepted = "a name" if key == "model" else "a folder, a hub id or embedded:NAME"
            accept(f"expert.{key}", value, accepted, good=named or optional)
        accept("expert.trusted", self.trusted, "true or false", good=type(self.trusted) is bool)
        for key, most in (("top_k", 1000), ("lookahead", 64)):
            value = getattr(self, key)
            good = is_integer(value, least=1, most=most)
            accept(f"expert.{key}", value, f"an integer from 1 to {most}", good=good)
        if self.context is not None:
            least = self.lookahead + 1
            good = is_integer(self.context, least=least, most=_MOST_CONTEXT)
            said = f"an integer from {least} to {_MOST_CONTEXT:,}"
            accept("expert.context", self.context, said, good=good)
        if self.hedge_ms is not None:
            good = is_number(self.hedge_ms) and self.hedge_ms > 0 and len(self.urls) > 1
            accept("expert.hedge_ms", self.hedge_ms, "a number above 0, with two URLs", good=good)
        good = self.dtype in get_args(Dtype)
        accept("expert.dtype", self.dtype, ", ".join(get_args(Dtype)), good=good)
        good = self.kind is None or (isinstance(self.kind, str) and bool(self.kind))
        accept("expert.kind", self.kind, "the name of a kind of expert", good=good)
        check_credentials(vars(self), section="floe: expert.")

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs; none for a model in the host's process."""
        if self.url is None:
            return ()
        return (self.url,) if isinstance(self.url, str) else self.url

    @property
    def _plain_urls(self) -> list[str]:
        return [url.rstrip("/") for url in self.urls]

    @property
    def sees_everything(self) -> bool:
        """True where text may reach the expert without the gate's word.

        Where the kind of a plugin sends text, nobody here knows.
        """
        return self.trusted or (not self.urls and self.kind in (None, "in-process"))

    @property
    def tokenizer_reference(self) -> str:
        """Where the tokenizer is."""
        return self.tokenizer or self.model

    def api_key(self) -> ApiKey:
        """Return the API key: the environment's, the file's, or none."""
        return ApiKey.named(variable=self.api_key_env, file=self.api_key_file)


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
