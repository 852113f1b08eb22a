"""An expert behind an OpenAI-compatible completions endpoint that returns top-K logprobs."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from vllm_logits_processor.experts.reply import ExpertError, ExpertReply, checked_top_k

#: A reply may have this many bytes per logprob asked for, and as many more per prompt; a larger
#: one is not read to its end.
_BYTES_PER_LOGPROB = 256
_BYTES_PER_PROMPT = 65_536

_TOKEN_ID = "token_id:"


class CompletionsExpert:
    """Asks for the next token of many prompts in one request, without blocking the caller.

    One thread with an event loop serves all calls, over connections that stay open. Nothing is
    locked while a call is on its way.

    Parameters
    ----------
    url : str
        Base URL that ends before ``/completions``, such as ``http://127.0.0.1:8001/v1``.
    top_k : int
        Logprobs per prompt; the server must allow as many (vLLM: ``--max-logprobs``).
    vocabulary : int
        Number of the expert's tokens.
    end_ids : int32 array
        The expert's end tokens, joined into one event.
    api_key : str, optional
        Sent as a bearer token.
    timeout_s : float
        Seconds after which a call is given up for good. The deadline of a token is the caller's and
        shorter: a reply that misses it is dropped when it comes.
    """

    def __init__(
        self,
        *,
        url: str,
        top_k: int,
        vocabulary: int,
        end_ids: npt.NDArray[np.int32],
        api_key: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self._url = f"{url.rstrip('/')}/completions"
        self._top_k = top_k
        self._vocabulary = vocabulary
        self._end_ids = end_ids
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="floe-expert", daemon=True
        )
        self._thread.start()
        # The proxy settings of the environment are not for a server that the configuration names.
        self._client = httpx.AsyncClient(timeout=timeout_s, trust_env=False)

    def start(self, prompts: Sequence[Sequence[int]], *, model: str) -> Future[ExpertReply]:
        """Send one request for all `prompts` (expert token ids) and return at once.

        The future holds the reply, or `ExpertError`. Cancelling it ends the request.
        """
        return asyncio.run_coroutine_threadsafe(self._ask(prompts, model), self._loop)

    def close(self) -> None:
        """End the thread and the connections; calls in flight are dropped."""
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result(timeout=5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)

    async def _ask(self, prompts: Sequence[Sequence[int]], model: str) -> ExpertReply:
        body = json.dumps(
            {
                "model": model,
                "prompt": prompts,
                "max_tokens": 1,
                "temperature": 0.0,
                "logprobs": self._top_k,
                # Distinct tokens may have one spelling; ids cannot collide.
                "return_tokens_as_token_ids": True,
            },
            separators=(",", ":"),
        ).encode()
        limit = len(prompts) * (_BYTES_PER_PROMPT + self._top_k * _BYTES_PER_LOGPROB)
        received = bytearray()
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream(
                    "POST", self._url, content=body, headers=self._headers
                ) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    raise ExpertError(f"The expert answered HTTP {response.status_code}.")
                async for part in response.aiter_bytes():
                    received += part
                    if len(received) > limit:
                        raise ExpertError(f"The expert's reply is larger than {limit} bytes.")
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            # The type only: a message may quote what was sent.
            raise ExpertError(f"The expert did not answer ({type(error).__name__}).") from None
        rows = _rows(bytes(received), count=len(prompts))
        return ExpertReply(
            top=checked_top_k(rows, vocabulary=self._vocabulary, end_ids=self._end_ids),
            sent_bytes=len(body),
            received_bytes=len(received),
        )


def _rows(data: bytes, *, count: int) -> list[list[tuple[int, float]]]:
    """Read the top-K of each prompt out of a completions reply, in the order of the prompts."""
    try:
        choices: list[dict[str, Any]] = json.loads(data)["choices"]
        by_index = {choice["index"]: choice["logprobs"]["top_logprobs"][0] for choice in choices}
        if sorted(by_index) != list(range(count)) or len(choices) != count:
            raise ExpertError(f"The expert's reply has not one choice for each of {count} prompts.")
        return [
            [
                (int(token.removeprefix(_TOKEN_ID)), float(logprob))
                for token, logprob in by_index[place].items()
                if token.startswith(_TOKEN_ID)
            ]
            for place in range(count)
        ]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ExpertError(
            f"The expert's reply is not a completion with logprobs ({type(error).__name__})."
        ) from None
