"""Section ``expert`` of the configuration: the other model, where it is, and how it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from floe_plugins.config import ApiKey, check_credentials, is_integer, is_number, is_url
from floe_plugins.errors import ConfigError
from vllm_logits_processor.config_checks import accept

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
