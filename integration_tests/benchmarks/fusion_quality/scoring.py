"""A causal model over a tree of tokens: its distributions at the nodes, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from floe_plugins.errors import ModelError
from floe_plugins.models import resolve
from integration_tests.benchmarks.fusion_quality.tree import TokenTree
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

#: Rows of logits that exist at a time: 64 of 262,144 float32 are 64 MiB.
ROWS = 64


class Scorer:
    """A model and its vocabulary.

    Parameters
    ----------
    name : str
        What `floe_plugins.models.resolve` takes.
    dtype : torch.dtype
        Of the weights; logits are float32.

    Raises
    ------
    ModelError
        If the model's logits are not those of its output embeddings on its last hidden states.
    """

    def __init__(self, name: str, *, dtype: torch.dtype = torch.float32) -> None:
        from transformers import AutoModelForCausalLM

        folder = resolve(name)
        self.name = name
        self.vocabulary = ByteVocabulary.from_pretrained(folder, name=name)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self._config = self._model.config.get_text_config()
        self._check_head()

    @property
    def front(self) -> list[int]:
        """What stands before a document: the BOS; an end token for a model without one."""
        return list(self.vocabulary.bos_ids) or [min(self.vocabulary.end_ids)]

    def read(self, tree: TokenTree) -> Reading:
        """Run the model over a tree, which may grow later; see `Reading`."""
        reading = Reading(self._model.base_model, tree, masks=self._masks)
        most = self._config.max_position_embeddings
        if reading.depth > most:
            raise ModelError(
                f"A document has {reading.depth} tokens of {self.name!r}, which takes {most}: "
                "cut it into several documents, or give --limit-bytes."
            )
        reading.catch_up()
        return reading

    @torch.no_grad()
    def logits(self, hidden: torch.Tensor, nodes: Sequence[int]) -> torch.Tensor:
        """Return the logits at some nodes; shape (len(nodes), vocabulary), float32, writable."""
        head = self._model.get_output_embeddings()
        rows: torch.Tensor = head(hidden[torch.tensor(nodes, dtype=torch.int64)]).float()
        return rows

    def top(self, hidden: torch.Tensor, nodes: Sequence[int], k: int) -> ExpertTopK:
        """Return the K most likely next tokens at some nodes, as a server would send them."""
        ids, logprobs = [], []
        for chunk in chunks(nodes):
            best = torch.log_softmax(self.logits(hidden, chunk), dim=-1).topk(k)
            ids.append(best.indices.numpy())
            logprobs.append(best.values.numpy().astype(np.float64))
        return ExpertTopK(token_ids=np.concatenate(ids), logprobs=np.concatenate(logprobs))

    def logprobs_of(
        self, hidden: torch.Tensor, nodes: Sequence[int], tokens: Sequence[int]
    ) -> npt.NDArray[np.float64]:
        """Return the log-probability of one token at each node, nats; shape (len(nodes),)."""
        found: list[float] = []
        for chunk in chunks(range(len(nodes))):
            rows = self.logits(hidden, [nodes[place] for place in chunk])
            wanted = torch.tensor([tokens[place] for place in chunk])
            found += torch.log_softmax(rows, dim=-1).gather(1, wanted[:, None])[:, 0].tolist()
        return np.array(found)

    def _masks(self, tree: TokenTree, first: int) -> Any:
        kinds = set(getattr(self._config, "layer_types", None) or ["full_attention"])
        windows = {"full_attention": None, "sliding_attention": self._window()}
        if unknown := kinds - set(windows):
            raise ModelError(
                f"{self.name!r} has layers of kind {', '.join(sorted(unknown))}; accepted are "
                f"{', '.join(windows)}."
            )
        masks = {
            kind: torch.from_numpy(tree.sight(first=first, window=windows[kind]))[None, None]
            for kind in sorted(kinds)
        }
        return masks if "sliding_attention" in kinds else masks["full_attention"]

    def _window(self) -> int | None:
        window: int | None = getattr(self._config, "sliding_window", None)
        return window

    def _check_head(self) -> None:
        tokens = self.front + self.vocabulary.encode(b"A text.")
        with torch.no_grad():
            expected = self._model(torch.tensor([tokens])).logits[0].float()
        found = self.logits(self.read(TokenTree(tokens)).hidden, range(len(tokens)))
        if not torch.allclose(found, expected, atol=0.05, rtol=0.01):
            raise ModelError(
                f"{self.name!r} does more to its logits than its output embeddings: this "
                "benchmark cannot score it."
            )


class Reading:
    """A model's last hidden states at the nodes of a tree, kept up to date as the tree grows.

    Attributes
    ----------
    hidden : torch.Tensor, shape (nodes read, width)
    """

    def __init__(
        self, model: Any, tree: TokenTree, *, masks: Callable[[TokenTree, int], Any]
    ) -> None:
        from transformers import DynamicCache

        self._model = model
        self._tree = tree
        self._masks = masks
        # Without a configuration every layer keeps all: branches may leave the trunk far back.
        self._cache = DynamicCache()
        self.hidden = torch.empty(0, 0)

    @property
    def depth(self) -> int:
        """Tokens of the longest sequence."""
        return int(self._tree.depths().max()) + 1

    @torch.no_grad()
    def catch_up(self) -> None:
        """Read the nodes that are not read yet."""
        first = len(self.hidden)
        if first == len(self._tree.tokens):
            return
        output = self._model(
            input_ids=torch.tensor([self._tree.tokens[first:]]),
            position_ids=torch.from_numpy(self._tree.depths()[first:])[None],
            attention_mask=self._masks(self._tree, first),
            past_key_values=self._cache,
            use_cache=True,
        )
        read = output.last_hidden_state[0]
        self.hidden = torch.cat([self.hidden, read]) if first else read


def chunks(items: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield `ROWS` items at a time."""
    for begin in range(0, len(items), ROWS):
        yield items[begin : begin + ROWS]
