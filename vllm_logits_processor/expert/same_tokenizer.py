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
    texts = list(PROBES)
    ends = vocabulary.ends
    if ends is not None and ends.ids:
        texts.append("".join(ends.spelled))
    for place, text in enumerate(texts):
        ids = _tokenized(fetcher, url, model, text)
        if ids is None and echo:
            ids = _echoed(fetcher, url, model, text)
        if ids is None:
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


def warn_of_other_tokenizers(config: ExpertConfig, vocabulary: ByteVocabulary) -> None:
    """Warn of servers of the expert that use another tokenizer than `vocabulary`'s.

    Runs in a thread of its own. Without URLs, nothing is compared.
    """
    if config.urls:
        threading.Thread(
            target=_warn, args=(config, vocabulary), name="floe-tokenizers", daemon=True
        ).start()


def _warn(config: ExpertConfig, vocabulary: ByteVocabulary) -> None:
    try:
        fetcher = Fetcher(config)
    # An unreadable file may exist by the first call, which reports it if it does not.
    except (FloeError, OSError):
        return
    for url in config.urls:
        fault = tokenizer_fault(fetcher, url, model=config.model, vocabulary=vocabulary)
        if fault:
            logger.warning(
                "%s has another tokenizer than expert.tokenizer, %r: %s. What it says is fused as "
                "other text: name the tokenizer of the model that it serves.",
                server_of(url),
                config.tokenizer_reference,
                fault,
            )


def _tokenized(fetcher: Fetcher, url: str, model: str, text: str) -> list[int] | None:
    """Ask ``/tokenize``; vLLM reads the first three fields, llama.cpp the others."""
    values = {
        "model": model,
        "prompt": text,
        "add_special_tokens": False,
        "content": text,
        "add_special": False,
    }
    root = url.rstrip("/").removesuffix("/v1")
    said = _read(fetcher.post(f"{root}/tokenize", values)).get("tokens")
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
