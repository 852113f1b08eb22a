"""The processor's configuration: ``--additional-config '{"floe": {...}}'`` and the file it names.

Values on the command line become part of vLLM's compile-cache key. Those that change between two
starts of the same server (URL, key, deadlines) therefore belong in the JSON file that
``config_file`` names, or, for the key, in an environment variable.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from floe_plugins.config import (
    Names,
    ServerAccess,
    Settings,
    Url,
    Variable,
    Wording,
    Words,
    is_url,
)
from floe_plugins.errors import ConfigError
from floe_plugins.gate.allow_lists import ALLOW_ACCEPTED, ALLOW_HELP
from floe_plugins.gate.gate import MOST_TIMEOUT_S, TIMEOUT_S
from floe_plugins.gate.judgement import THRESHOLDS_ACCEPTED, THRESHOLDS_HELP
from floe_plugins.gate.profiles import PROFILE_HELP
from vllm_logits_processor.config_file import SECTION, merged, read_config_file

__all__ = [
    "MODES",
    "UNKNOWN",
    "Api",
    "Ask",
    "Dtype",
    "ExpertConfig",
    "FloeConfig",
    "Mode",
    "why_off",
]

Api = Literal["auto", "vllm", "llama.cpp", "openai-completions"]
Ask = Literal["always", "unsure", "margin"]
Dtype = Literal["auto", "bfloat16", "float32"]
GateProfile = Literal["secrets", "personal", "strict"]
#: Nothing is redacted here: host and expert would continue different texts.
GateAction = Literal["clear", "local"]
AllowList = Literal["values", "domains", "patterns"]
Mode = Literal["auto", "host", "fused"]
MODES: tuple[str, ...] = get_args(Mode)
#: In `expert.tokenizer`: nobody knows it.
UNKNOWN = "unknown"

#: A day in milliseconds, because a thread's wait is limited (`threading.TIMEOUT_MAX`).
_MOST_WAIT_MS = 86_400_000
_MOST_CONTEXT = 100_000_000
_ASKED_BY_URL = (None, "completions")


def _wording(section: str) -> Wording:
    return Wording(
        wrong=f"floe: {section}{{key}} is {{value}}; accepted is {{accepted}}.",
        unknown=f"floe: {section}{{key}} is not a setting; {{hint}}",
        missing=f"floe: {section}{{key}} is missing.",
    )


def _urls(value: object) -> object:
    """Check one URL, or several; a list becomes a tuple."""
    if value is None:
        return None
    urls = [value] if isinstance(value, str) else value
    if not isinstance(urls, list | tuple) or not all(isinstance(url, str) for url in urls):
        raise ValueError("a string or a list of strings")
    if not urls or not all(map(is_url, urls)):
        raise ValueError
    plain = [url.rstrip("/") for url in urls]
    twice = [url for url in urls if plain.count(url.rstrip("/")) > 1]
    if twice:
        raise ConfigError(
            f"floe: expert.url names {twice[0]!r} more than once; accepted are servers of "
            "their own, each once."
        )
    return value if isinstance(value, str) else tuple(urls)


def _has_folder(path: str) -> str:
    if not Path(path).parent.is_dir():
        raise ValueError
    return path


_Urls = Annotated[
    str | tuple[str, ...] | None,
    BeforeValidator(_urls),
    Words(accepted="an http:// or https:// URL, or a list of them"),
]
_Reference = Annotated[
    str,
    Field(min_length=1),
    Words(accepted="a folder, a hub id, embedded:NAME or unknown", unset="the model"),
]
_Positive = Annotated[float, Field(gt=0)]
_Share = Annotated[float, Field(gt=0, lt=1), Words(accepted="a number above 0, below 1")]
_Wait = Annotated[float, Field(gt=0, le=_MOST_WAIT_MS)]
_Hedge = Annotated[_Positive, Words(accepted="a number above 0, with two URLs")]
_Device = Annotated[
    str, Field(pattern=r"^[a-z]+(:[0-9]+)?$"), Words(accepted="a device of torch's, as cuda:0")
]
_Kind = Annotated[str, Field(min_length=1), Words(accepted="the name of a kind of expert")]
_File = Annotated[str, Words(accepted="the path of a JSON file")]
_TraceFile = Annotated[
    str, AfterValidator(_has_folder), Words(accepted="a path in an existing folder")
]


class ExpertConfig(ServerAccess):
    """The other model: section ``expert`` of the configuration."""

    wording: ClassVar[Wording] = _wording("expert.")

    model: Annotated[str, Field(min_length=1), Words(accepted="a name")] = Field(
        description="the expert's name at its server; a request may name another "
        "(`floe_expert_model`). Without a `url` the model itself: a folder, a hub "
        "id or `embedded:...`"
    )
    url: _Urls = Field(
        default=None,
        description="base URL of an OpenAI-compatible server, up to `/v1`; a list for several "
        "servers of one model; without it the model runs in this process",
    )
    api: Api = Field(
        default="auto",
        description="how the server is asked: `vllm` (prompts and tokens as ids), `llama.cpp` (its "
        "own routes), or `openai-completions` (text, and tokens by their spelling); with `auto` "
        "the server is [asked which it is](../how-to/serve.md#how-the-server-is-asked)",
    )
    tokenizer: _Reference | None = Field(
        default=None,
        description="where the expert's tokenizer is: a folder, a hub id or `embedded:...`; "
        "with a `url` it must be named. It is compared with the server's own at "
        "the start and by `floe-llm doctor`. `unknown` goes with the `api` `openai-completions` "
        "alone, and [lacks some things](../how-to/serve.md#without-its-tokenizer)",
    )
    trusted: bool = Field(
        default=False,
        description="true where the expert's owner may see private text. Otherwise only text "
        "that the gate clears is sent. A model in this process is asked without "
        "the gate, since nothing leaves",
    )
    top_k: int = Field(
        default=20,
        ge=1,
        le=1000,
        description="how many of its likeliest tokens the expert names at each place, with "
        "their probabilities; the server must allow as many (vLLM: "
        "`--max-logprobs`)",
    )
    context: Annotated[int, Field(ge=2, le=_MOST_CONTEXT)] | None = Field(
        default=None,
        description="most tokens that the expert takes, those to come among them (vLLM: "
        "`--max-model-len`), more than `lookahead`; a longer text is the host's "
        "alone from then on. Without it, what the server says of itself (vLLM, "
        "llama.cpp); one that says nothing refuses the whole step's request for "
        "such a text. Where the `tokenizer` is `unknown` it counts bytes",
    )
    lookahead: int = Field(
        default=1,
        ge=1,
        le=64,
        description="how many tokens the expert writes ahead in one call, at most; while the "
        "answer follows them, no further call is needed. Worth it where the expert "
        "is [far away](../how-to/serve.md#a-far-expert)",
    )
    hedge_ms: _Hedge | None = Field(
        default=None,
        description="with several URLs: milliseconds without a reply after which a second server "
        "is asked too",
    )
    sessions: bool = Field(
        default=True,
        description="whether a server that [keeps sessions](#sessions) is sent only what is new of "
        "each text; false sends all of it at every token",
    )
    dtype: Dtype = Field(
        default="auto", description="type of the weights of a model in this process"
    )
    device: _Device = Field(
        default="cpu",
        description="where a model in this process runs, and keeps what it has read: `cpu`, "
        "`cuda`, or one of several, as `cuda:1`",
    )
    kind: _Kind | None = Field(
        default=None,
        description="how the expert is asked: `completions` (over HTTP, at a server), "
        "`in-process`, or a kind that [a plugin "
        "registers](hooks.md#floe_register_experts); by whether there is a `url` "
        "if not given",
    )

    @field_validator("hedge_ms")
    @classmethod
    def _has_two_urls(cls, value: float | None, info: ValidationInfo) -> float | None:
        urls = info.data.get("url")
        if value is not None and not (isinstance(urls, tuple) and len(urls) > 1):
            raise ValueError
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.url is not None and self.tokenizer is None:
            raise ConfigError(
                "floe: expert.tokenizer is missing, and a server does not hand out its tokenizer; "
                f"write where that of {self.model!r} is: a folder, a hub id or embedded:NAME."
            )
        by_text = self.url and self.api == "openai-completions" and self.kind in _ASKED_BY_URL
        if not self.knows_tokenizer and not by_text:
            accepted = "a folder, a hub id or embedded:NAME, and 'unknown' with an expert.url and "
            raise self.wrong("tokenizer", UNKNOWN, f"{accepted}expert.api 'openai-completions'")
        if self.context is not None and self.context <= self.lookahead:
            range_ = f"an integer from {self.lookahead + 1} to {_MOST_CONTEXT:,}"
            raise self.wrong("context", self.context, range_)
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs; none for a model in the host's process."""
        if self.url is None:
            return ()
        return (self.url,) if isinstance(self.url, str) else self.url

    @property
    def sees_everything(self) -> bool:
        """Whether text may reach the expert without passing the gate.

        False for a plugin's kind unless trusted, because it may send text anywhere.
        """
        return self.trusted or (not self.urls and self.kind in (None, "in-process"))

    @property
    def knows_tokenizer(self) -> bool:
        """False if the expert's tokens are their spellings alone."""
        return self.tokenizer != UNKNOWN

    @property
    def tokenizer_reference(self) -> str:
        """Folder or hub id of the tokenizer."""
        return self.tokenizer or self.model


class FloeConfig(Settings):
    """The processor's configuration."""

    wording: ClassVar[Wording] = _wording("")

    config_file: _File | None = Field(
        default=None, description="a JSON file with further keys of this table"
    )
    expert: Annotated[ExpertConfig, Words(accepted="a JSON object")] = Field(
        description="the other model: the keys of the table below"
    )
    router: Annotated[str, Words(accepted="a router's name")] = Field(
        default="evidence",
        description="who gives the two models their weights: `evidence`, `entropy`, `perplexity`, "
        "`mean`, `host`, `expert`, or a plugin's",
    )
    default_mode: Literal["host", "fused"] = Field(
        default="fused", description="what a request gets that says `auto` or nothing"
    )
    deadline_ms: _Wait = Field(
        default=250.0,
        description="how long a token waits for the expert: milliseconds from the start of the "
        "call",
    )
    first_deadline_ms: _Wait = Field(
        default=5000.0,
        description="milliseconds that the expert may take to read a prompt. Nobody waits that "
        "long: past `deadline_ms` the first tokens are the host's until the reply is there. A call "
        "that takes longer has failed, and is cancelled",
    )
    answer_budget_ms: _Positive | None = Field(
        default=None,
        description="milliseconds that one answer may wait for the expert, all its tokens "
        "together; after that the host finishes it alone",
    )
    ask: Ask = Field(
        default="always",
        description="`always`: at every token, while the host computes. `unsure`, `margin`: only "
        "where the host is unsure, by its entropy or by the margin of its likeliest token, for "
        "experts that cost money; the call then starts after the host's forward pass",
    )
    unsure_nats: _Positive = Field(
        default=1.0,
        description="with `ask` `unsure`: the host counts as unsure where the entropy of its "
        "next token is at least so many nats",
    )
    unsure_margin: _Share = Field(
        default=0.5,
        description="with `ask` `margin`: the host counts as unsure where the probabilities of "
        "its two likeliest tokens differ by at most so much",
    )
    covers: int = Field(
        default=3,
        ge=0,
        le=16,
        description="where the text ends inside one of the expert's tokens: most further prompts "
        "that a call asks about, each of which ends where such a token may begin; 0 asks about the "
        "text as it stands",
    )
    breaker_failures: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=5, description="failed or late calls in a row after which a server is left alone"
    )
    breaker_cooldown_s: _Positive = Field(
        default=5.0,
        description="seconds for which a server is left alone after so many failures; then one "
        "call probes it, for which nobody waits",
    )
    plugins: Names = Field(
        default=(), description="dotted paths of plugin modules to load beside the installed ones"
    )
    detectors: Annotated[Names, Words(unset="all")] | None = Field(
        default=None,
        description="names of the detectors that the privacy gate asks; all but those "
        "[that must be named](detectors.md#asked-only-where-they-are-named) if not given",
    )
    gate_profile: GateProfile = Field(default="personal", description=PROFILE_HELP)
    gate_actions: Annotated[
        Mapping[str, GateAction] | None,
        Words(accepted="a table from label to `clear` or `local`"),
    ] = Field(
        default=None,
        description="what becomes of findings with a label: with `local` the expert does not see "
        "the text; `*` for all others that are private, which are `local` without it. A label that "
        "is named counts under every profile",
    )
    gate_allow: Annotated[
        Mapping[AllowList, Names] | None,
        Words(accepted=ALLOW_ACCEPTED),
    ] = Field(default=None, description=ALLOW_HELP)
    gate_thresholds: Annotated[
        Mapping[str, Annotated[float, Field(ge=0, le=1)]] | None,
        Words(accepted=THRESHOLDS_ACCEPTED),
    ] = Field(default=None, description=THRESHOLDS_HELP)
    gate_timeout_s: Annotated[float, Field(gt=0, le=MOST_TIMEOUT_S)] = Field(
        default=TIMEOUT_S,
        description="seconds that the privacy gate may take for one text; a text that takes "
        "longer is not sent to the expert. The decoding step waits for the gate",
    )
    trace_file: _TraceFile | None = Field(
        default=None, description="a JSON Lines file for [figures per token](#trace-file)"
    )
    metrics_port: Annotated[int, Field(ge=1, le=65_535)] | None = Field(
        default=None, description="port on 127.0.0.1 for [metrics](#metrics)"
    )
    host_url: Url | None = Field(
        default=None,
        description="base URL of this server itself; with it both models score each prompt once, "
        "and the router begins with that evidence",
    )
    host_api_key_env: Variable | None = Field(
        default=None,
        description="environment variable with this server's API key, if it asks for one",
    )

    def fuses(self, mode: Mode) -> bool:
        """Return whether a request of this mode is fused."""
        return (self.default_mode if mode == "auto" else mode) != "host"

    @classmethod
    def from_additional_config(cls, additional: Mapping[str, Any] | None) -> Self | None:
        """Read the configuration that vLLM was started with; return None if it has no ``floe``.

        Relative paths, also those in the file that ``config_file`` names, start at the folder in
        which the process was started.

        Raises
        ------
        ConfigError
            If a key is unknown or in the wrong place, a value is out of range, or the file cannot
            be read.
        """
        if not isinstance(additional, Mapping) or additional.get(SECTION) is None:
            return None
        values = additional[SECTION]
        if not isinstance(values, Mapping):
            raise ConfigError(f"floe: the configuration is {values!r}; accepted is a JSON object.")
        values = dict(values)
        if "config_file" in values:
            file = read_config_file(values["config_file"], named_by="floe: config_file")
            if "config_file" in file:
                raise ConfigError("floe: config_file names a file that names another; keep one.")
            values = merged(values, file)
        _check_places(values)
        if "expert" not in values:
            raise ConfigError("floe: the section 'expert' (model, url, tokenizer) is missing.")
        if isinstance(values["expert"], Mapping):
            values["expert"] = ExpertConfig(**values["expert"])
        return cls(**values)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of a file: the section, bare or with its name."""
        section = super().json_schema()
        definitions = section.pop("$defs")
        dialect = section.pop("$schema")
        section["properties"]["$schema"] = {"type": "string"}
        return {
            "$schema": dialect,
            "type": "object",
            "if": {"required": [SECTION]},
            "then": {"properties": {SECTION: {"$ref": "#/$defs/FloeConfig"}}},
            "else": {"$ref": "#/$defs/FloeConfig"},
            "$defs": {**definitions, "FloeConfig": section},
        }


def _check_places(values: Mapping[str, Any]) -> None:
    """Refuse keys beside the section ``expert`` that belong in it, and the reverse."""
    outside, inside = FloeConfig.model_fields.keys(), ExpertConfig.model_fields.keys()
    found = [key for key in values if key in inside - outside]
    if found:
        raise ConfigError(
            f"floe: {_listed(found)} in the section 'expert', not beside it: "
            f'write {{"expert": {{{json.dumps(found[0])}: ...}}}}.'
        )
    section = values.get("expert")
    keys = section if isinstance(section, Mapping) else {}
    found = [key for key in keys if key in outside - inside]
    if found:
        raise ConfigError(
            f"floe: {_listed(found)} beside the section 'expert', not in it: "
            f'write {{"expert": {{...}}, {json.dumps(found[0])}: ...}}.'
        )
    if "expert" not in values:
        for key in values:
            if key not in outside and difflib.get_close_matches(key.lower(), ["expert"], n=1):
                raise ConfigError(f"floe: {key} is not a setting; did you mean 'expert'?")


def _listed(keys: list[str]) -> str:
    return f"{', '.join(keys)} {'belongs' if len(keys) == 1 else 'belong'}"


def why_off(additional: object) -> str:
    """Return why an ``--additional-config`` does not enable fusion, and what to write instead.

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
    settings = FloeConfig.model_fields.keys()
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
