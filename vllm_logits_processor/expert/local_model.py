"""A transformers model in this process, with a cache for many texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from floe_plugins.errors import ConfigError
from vllm_logits_processor.expert.local_cache import (
    ATTENTION,
    NOWHERE,
    GatheredCache,
    PrefixTree,
    Wiring,
)
from vllm_logits_processor.expert.protocol import ExpertError

#: Most new tokens of a text that join the batch; more are computed first, in their own pass.
_BATCHED = 16
#: Most tokens of one text in one forward pass.
_CHUNK = 256
#: The same where other calls may run between two passes.
_READ_CHUNK = 128
#: The same where the logits of all these tokens, which are large, are needed.
_SCORED_CHUNK = 64

_KINDS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Row:
    """A text as tokens, and the places of those that are cached."""

    tokens: list[int]
    places: list[int]


class LocalModel:
    """Computes next-token logits of texts, reusing what has been computed before.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model made of attention layers, loaded with `load_model`.
    capacity : int
        Tokens that the cache holds.

    Raises
    ------
    ConfigError
        If the model has layers other than attention over all tokens or over a window.
    """

    def __init__(self, model: PreTrainedModel, *, capacity: int) -> None:
        config = model.config.get_text_config()
        kinds = getattr(config, "layer_types", None)
        window = getattr(config, "sliding_window", None)
        if kinds is None:
            kinds = ["sliding_attention" if window else "full_attention"]
        if unknown := set(kinds) - _KINDS:
            raise ConfigError(
                f"floe: the expert's model has layers of the kind {sorted(unknown)[0]!r}; accepted "
                f"in this process are {', '.join(sorted(_KINDS))}. Serve it with vLLM instead, and "
                "give its expert.url."
            )
        self._model = model
        self._device = model.device
        self._kinds = sorted(set(kinds))
        self._window = int(window or 0)
        self._context = int(getattr(config, "max_position_embeddings", 0)) or None
        self._tree = PrefixTree(capacity)
        self._cache = GatheredCache(layers=config.num_hidden_layers, capacity=capacity)

    @property
    def context(self) -> int | None:
        """The most tokens of a text, if the model's configuration says."""
        return self._context

    def begin_call(self, texts: Sequence[Sequence[int]]) -> list[Row]:
        """Look up which tokens of `texts` are cached.

        Raises
        ------
        ExpertError
            If a text is empty, or longer than the model's context.
        """
        self._tree.begin_call()
        for text in texts:
            if not text or (self._context is not None and len(text) > self._context):
                raise ExpertError(
                    f"A text of {len(text)} tokens was given to the expert; accepted are 1 to "
                    f"{self._context}."
                )
        return [Row(list(text), []) for text in texts]

    def read_on(self, texts: Sequence[Sequence[int]]) -> bool:
        """Compute one more chunk of a long uncached text; return whether there was one.

        It counts as a call of its own: others may run before the next one.

        Raises
        ------
        ExpertError
            As for `begin_call` and `next_logits`.
        """
        for row in self.begin_call(texts):
            self._tree.follow(row.places, row.tokens)
            begin, last = len(row.places), len(row.tokens) - 1
            if last - begin >= _BATCHED:
                end = min(begin + _READ_CHUNK, last)
                try:
                    self._place(row, end)
                    self._chunk(row, begin, end, every=False)
                except (RuntimeError, IndexError, MemoryError) as error:
                    raise self._failed(error) from error
                return True
        return False

    def next_logits(self, rows: Sequence[Row]) -> torch.Tensor:
        """Compute the logits after each row.

        Returns
        -------
        float32 tensor, shape (rows, vocabulary)

        Raises
        ------
        ExpertError
            If the rows alone fill the cache, or the model fails.
        """
        try:
            for row in rows:
                self._take_in(row)
            return self._batch(rows)
        except (RuntimeError, IndexError, MemoryError) as error:
            raise self._failed(error) from error

    def score(self, row: Row) -> float:
        """Return the sum of ln p of a row's tokens, from the second on, in nats; cache the row.

        Raises
        ------
        ExpertError
            As for `next_logits`.
        """
        try:
            self._place(row, len(row.tokens))
            total = 0.0
            for begin in range(0, len(row.tokens) - 1, _SCORED_CHUNK):
                end = min(begin + _SCORED_CHUNK, len(row.tokens) - 1)
                logits = self._chunk(row, begin, end, every=True)
                said = torch.tensor(row.tokens[begin + 1 : end + 1], device=self._device)
                total -= float(torch.nn.functional.cross_entropy(logits, said, reduction="sum"))
            return total
        except (RuntimeError, IndexError, MemoryError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> ExpertError:
        # The cache may lack what the tree says it holds.
        self._tree.forget_all()
        return ExpertError(f"The expert's model failed ({type(error).__name__}).")

    def _place(self, row: Row, end: int) -> int:
        """Give the row's first `end` tokens places; return how many had one before."""
        # An earlier row may have cached what this one lacks.
        self._tree.follow(row.places, row.tokens)
        known = min(len(row.places), end)
        self._tree.extend(row.places, row.tokens[known:end])
        return known

    def _take_in(self, row: Row) -> None:
        """Compute a long new part of a text, except its last token."""
        self._tree.follow(row.places, row.tokens)
        if len(row.tokens) - len(row.places) <= _BATCHED:
            return
        last = len(row.tokens) - 1
        begin = self._place(row, last)
        for at in range(begin, last, _CHUNK):
            self._chunk(row, at, min(at + _CHUNK, last), every=False)

    def _chunk(self, row: Row, begin: int, end: int, *, every: bool) -> torch.Tensor:
        """Run tokens `begin` to `end` of one row; return the logits of the last, or of all."""
        return self._run(
            tokens=np.array([row.tokens[begin:end]]),
            positions=np.arange(begin, end)[None],
            write=np.array(row.places[begin:end]),
            read=np.array([row.places[:end]]),
            keep=0 if every else 1,
        )

    def _batch(self, rows: Sequence[Row]) -> torch.Tensor:
        """Run the remaining tokens, each as its own row: only reads are padded."""
        flat: list[tuple[Row, int]] = []
        last = []
        for row in rows:
            # The last token runs even if it is cached: its logits are needed.
            begin = min(self._place(row, len(row.tokens)), len(row.tokens) - 1)
            flat += [(row, at) for at in range(begin, len(row.tokens))]
            last.append(len(flat) - 1)
        positions = np.array([at for _, at in flat])
        read = np.full((len(flat), int(positions.max()) + 1), NOWHERE)
        for place, (row, at) in enumerate(flat):
            read[place, : at + 1] = row.places[: at + 1]
        logits = self._run(
            tokens=np.array([[row.tokens[at]] for row, at in flat]),
            positions=positions[:, None],
            write=np.array([row.places[at] for row, at in flat]),
            read=read,
            keep=1,
        )
        return logits[last]

    def _run(
        self,
        *,
        tokens: np.ndarray[Any, Any],
        positions: np.ndarray[Any, Any],
        write: np.ndarray[Any, Any],
        read: np.ndarray[Any, Any],
        keep: int,
    ) -> torch.Tensor:
        """Run the model once; `tokens` and `positions` have shape (rows, queries).

        Returns
        -------
        float32 tensor, shape (rows * kept queries, vocabulary)
            On the model's device.
        """
        at, ids, written, seen = (
            torch.from_numpy(each).to(self._device) for each in (positions, tokens, write, read)
        )
        self._cache.wire(Wiring(written, seen))
        masks = [self._mask(at, read.shape[1], kind) for kind in self._kinds]
        with torch.inference_mode():
            out = self._model(
                input_ids=ids,
                position_ids=at,
                # Models with a single kind of layer take the mask directly.
                attention_mask=(
                    dict(zip(self._kinds, masks, strict=True)) if len(masks) > 1 else masks[0]
                ),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=keep,
            )
            logits: torch.Tensor = out.logits.flatten(0, 1).float()
            return logits

    def _mask(self, positions: torch.Tensor, length: int, kind: str) -> torch.Tensor:
        """Return the additive mask: 0 where a query sees a place, else -inf."""
        places = torch.arange(length, device=self._device)
        here = positions[:, None, :, None]
        seen = places <= here
        if kind == "sliding_attention":
            seen &= places > here - self._window
        mask = torch.zeros(seen.shape, dtype=self._model.dtype, device=self._device)
        return mask.masked_fill_(~seen, -torch.inf)


def most_reads(texts: Sequence[Sequence[int]]) -> int:
    """Return the most chunks that `LocalModel.read_on` computes for some texts."""
    return sum(1 + len(text) // _READ_CHUNK for text in texts)


def tokens_within(model: PreTrainedModel, memory: int) -> int:
    """Return how many tokens' keys and values fit into `memory` bytes."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token: int = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
    return memory // per_token


def load_model(path: str, *, dtype: str, device: str = "cpu") -> PreTrainedModel:
    """Load a causal language model for `LocalModel`.

    Parameters
    ----------
    path : str
        A folder or hub id.
    dtype : {"auto", "bfloat16", "float32"}
        ``auto`` takes the checkpoint's.
    device : str
        Where it runs, as torch calls it.

    Raises
    ------
    ConfigError
        If it cannot be loaded, or the device is not there.
    """
    place = _usable(device)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation=ATTENTION
        ).to(place)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"floe: the expert's model {path!r} cannot be loaded ({error}); accepted are causal "
            "language models that transformers knows."
        ) from None
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")
    return model.eval()


def _usable(name: str) -> torch.device:
    """Return a device that torch has here."""
    try:
        device = torch.device(name)
        there = torch.get_device_module(device)
        usable = there.is_available() and (device.index or 0) < there.device_count()
    # Of a type without such a module, or of none that torch knows.
    except (RuntimeError, AttributeError):
        usable = False
    if not usable:
        raise ConfigError(
            f"floe: expert.device is {name!r}, which torch does not have here; accepted are 'cpu' "
            "and its accelerators."
        )
    return device
