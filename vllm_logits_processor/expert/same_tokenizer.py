"""Checks that a server uses the configured tokenizer; a wrong one would be fused unnoticed.

Token ids of a wrong tokenizer are mostly in range, so no reply looks wrong although the ids stand
for other texts. The server is therefore asked to tokenize a few fixed texts. vLLM and llama.cpp do
so at ``/tokenize``; a proxy that only passes on the API may still echo a prompt as token ids.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from floe_plugins.errors import FloeError
from floe_plugins.vllm_replies import read_token_ids
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.config import ExpertConfig
from vllm_logits_processor.expert.fetcher import Fetcher
from vllm_logits_processor.observe import server_of

logger = logging.getLogger(__name__)

#: Words, code, and characters that vocabularies split differently. No runs of spaces, which some
#: tokenizers change.
PROBES = (
    "Naïve café owners paid 12.50 € for 3 crêpes.",
    "def add(first, second): return first + second",
    "你好世界 — здравствуй, мир 🙂",
)
#: Statuses of servers that may tell later: those that load, and proxies before them.
_FOR_NOW = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
#: Most ids of either side that a message shows.
_SHOWN = 8


def tokenizer_fault(
    fetcher: Fetcher, url: str, *, model: str, vocabulary: ByteVocabulary, echo: bool = False
) -> str | None:
    """Compare a server's tokenizer with the configured one.

    Parameters
    ----------
    url : str
        The server's base URL, without ``/completions``.
    model : str
        The model's name on the server.
    vocabulary : ByteVocabulary
        The configured tokenizer.
    echo : bool
        Whether a server without ``/tokenize`` may be asked to complete and echo the texts.

    Returns
    -------
    str or None
        The difference, as a clause about the server; an empty string without one; None if the
        server does not tell.
    """
    try:
        return _fault(fetcher, url, model=model, vocabulary=vocabulary, echo=echo)
    except _UnansweredError:
        return None


def probes_of(vocabulary: ByteVocabulary) -> list[str]:
    """Return the texts that a server is asked to tokenize, which say nothing of any user."""
    ends = vocabulary.ends
    return [*PROBES, *(["".join(ends.spelled)] if ends is not None and ends.ids else [])]


class _UnansweredError(FloeError):
    """The server does not answer for now: it is not up, or still loads its model."""


def _fault(
    fetcher: Fetcher, url: str, *, model: str, vocabulary: ByteVocabulary, echo: bool = False
) -> str | None:
    ends = vocabulary.ends
    for place, text in enumerate(probes_of(vocabulary)):
        reply = _tokenize(fetcher, url, model, text)
        ids = _ids_of(reply)
        if ids is None and echo:
            ids = _echoed(fetcher, url, model, text)
        if ids is None:
            if isinstance(reply, str) or reply[0] in _FOR_NOW:
                raise _UnansweredError
            return None
        if place < len(PROBES):
            expected = vocabulary.encode_words(text.encode(), begins_text=True)[0]
            if ids != expected and vocabulary.decode(ids).strip() != text.encode():
                return f"it makes {_shown(ids)} of {text!r}, the configured one {_shown(expected)}"
        elif ends is not None and not ends.ids <= set(ids):
            named = ", ".join(ends.spelled)
            wanted = _shown(sorted(ends.ids))
            return (
                f"it makes {_shown(ids)} of the ends of turn {named}, the configured one {wanted}"
            )
    return ""


class TokenizerComparison:
    """Warns of servers of the expert that use another tokenizer than the configured one.

    Each server is compared once, in a thread of its own. One that does not answer is named in the
    log, once, and is compared when it does.

    Parameters
    ----------
    config : ExpertConfig
        Without URLs, nothing is compared.
    vocabulary : ByteVocabulary
        The configured tokenizer.
    """

    def __init__(self, config: ExpertConfig, vocabulary: ByteVocabulary) -> None:
        self._config, self._vocabulary = config, vocabulary
        #: A server's lock is held while it is asked.
        self._asking = {url: threading.Lock() for url in config.urls}
        self._compared: set[str] = set()
        self._said: set[str] = set()

    def begin(self) -> None:
        """Compare all servers that answer already."""
        for url in self._config.urls:
            self.reached(url)

    def reached(self, url: str) -> None:
        """Compare a server that has just answered, if that has not been done; returns at once."""
        if url not in self._compared:
            threading.Thread(
                target=self._compare, args=(url,), name="floe-tokenizers", daemon=True
            ).start()

    def _compare(self, url: str) -> None:
        # A thread that waits here would else miss a server that comes up while another one asks.
        with self._asking[url]:
            if url in self._compared:
                return
            try:
                fault = _fault(
                    Fetcher(self._config),
                    url,
                    model=self._config.model,
                    vocabulary=self._vocabulary,
                )
            # An unreadable file may exist by the first call, which reports it if it does not.
            except (FloeError, OSError):
                if url not in self._said:
                    self._said.add(url)
                    logger.warning(
                        "%s does not answer yet: its tokenizer is not compared with "
                        "expert.tokenizer, %r, before it does.",
                        server_of(url),
                        self._config.tokenizer_reference,
                    )
                return
            self._compared.add(url)
        if fault:
            logger.warning(
                "%s has another tokenizer than expert.tokenizer, %r: %s. What it says is fused as "
                "other text: name the tokenizer of the model that it serves.",
                server_of(url),
                self._config.tokenizer_reference,
                fault,
            )


def _tokenize(fetcher: Fetcher, url: str, model: str, text: str) -> tuple[int, str] | str:
    """Ask ``/tokenize``; vLLM reads the first three fields, llama.cpp the others."""
    values = {
        "model": model,
        "prompt": text,
        "add_special_tokens": False,
        "content": text,
        "add_special": False,
    }
    root = url.rstrip("/").removesuffix("/v1")
    return fetcher.post(f"{root}/tokenize", values)


def _ids_of(reply: tuple[int, str] | str) -> list[int] | None:
    """Return the ids in a reply of ``/tokenize``, None if it has none."""
    said = _read(reply).get("tokens")
    return said if isinstance(said, list) and all(type(each) is int for each in said) else None


def _echoed(fetcher: Fetcher, url: str, model: str, text: str) -> list[int] | None:
    """Let the server echo a prompt as token ids, before the one token that must be generated."""
    values = {
        "model": model,
        "prompt": text,
        "max_tokens": 1,
        "temperature": 0.0,
        "echo": True,
        "logprobs": 1,
        "return_tokens_as_token_ids": True,
        "add_special_tokens": False,
    }
    reply = _read(fetcher.post(f"{url.rstrip('/')}/completions", values))
    try:
        tokens = reply["choices"][0]["logprobs"]["tokens"]
        return read_token_ids(tokens[: int(reply["usage"]["prompt_tokens"])])
    # A server that ignores one of these fields replies in another shape.
    except (LookupError, TypeError, ValueError):
        return None


def _read(reply: tuple[int, str] | str) -> Mapping[str, Any]:
    """Return the object in a reply with status 200, else an empty one."""
    if isinstance(reply, str) or reply[0] != HTTPStatus.OK:
        return {}
    try:
        values = json.loads(reply[1])
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _shown(ids: Sequence[int]) -> str:
    more = ", ..." if len(ids) > _SHOWN else ""
    return f"[{', '.join(map(str, ids[:_SHOWN]))}{more}]"
