"""A causal model over a tree of token sequences that share their beginnings, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from floe_plugins.errors import ModelError
from floe_plugins.models import resolve
from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

#: Rows of logits that exist at a time: 64 of 262,144 float32 are 64 MiB.
ROWS = 64


class TokenTree:
    """A trunk, the tokens of a whole document, and branches that leave it.

    A node stands for the sequence that ends in it: the model's output there is the distribution
    after that sequence. The trunk has at least one token.
    """

    def __init__(self, trunk: Sequence[int]) -> None:
        self._trunk = list(trunk)
        self.tokens: list[int] = list(trunk)
        self.parents: list[int] = list(range(-1, len(trunk) - 1))
        self._children: dict[tuple[int, int], int] = {}

    def node_of(self, sequence: Sequence[int]) -> int:
        """Return the node of a sequence of at least one token, made if it is not there yet."""
        common = self._shared_with_trunk(sequence)
        if common == 0:
            raise ValueError(
                f"The sequence begins with token {sequence[:1]}, the trunk with {self._trunk[0]}."
            )
        node = common - 1
        for token in sequence[common:]:
            child = self._children.get((node, token))
            if child is None:
                child = self._children[node, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(node)
            node = child
        return node

    def depths(self) -> npt.NDArray[np.int64]:
        """Return the place of each node in its own sequence, from 0; shape (nodes,)."""
        depths = np.arange(len(self.tokens))
        for node in range(len(self._trunk), len(self.tokens)):
            depths[node] = depths[self.parents[node]] + 1
        return depths

    def sight(self, *, first: int = 0, window: int | None = None) -> npt.NDArray[np.bool_]:
        """Return which node sees which, its ancestors and itself; shape (nodes - first, nodes).

        With a window only ancestors less than so many tokens back (sliding-window attention).
        """
        nodes, trunk = len(self.tokens), len(self._trunk)
        seen = np.zeros((nodes - first, nodes), dtype=bool)
        for node in range(first, nodes):
            row = seen[node - first]
            row[node] = True
            above = self.parents[node]
            while above >= trunk:
                row[above] = True
                above = self.parents[above]
            # Of the trunk a node sees all up to where its branch leaves it.
            row[: above + 1] = True
        if window is not None:
            depths = self.depths()
            seen &= depths[first:, None] - depths[None, :] < window
        return seen

    def _shared_with_trunk(self, sequence: Sequence[int]) -> int:
        shorter = min(len(sequence), len(self._trunk))
        differs = np.not_equal(sequence[:shorter], self._trunk[:shorter])
        return int(differs.argmax()) if differs.any() else shorter


class Scorer:
    """A model and its vocabulary; logits are float32.

    A model whose logits are not those of its output embeddings on its last hidden states is a
    `ModelError`.
    """

    def __init__(self, name: str, *, dtype: torch.dtype = torch.float32) -> None:
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
        """Return the K most likely next tokens at some nodes, as a server would send them.

        Rows of an embedding that has more of them than there are tokens, as Qwen's, are left out.
        """
        ids, logprobs = [], []
        for chunk in chunks(nodes):
            rows = torch.log_softmax(self.logits(hidden, chunk), dim=-1)
            best = rows[:, : len(self.vocabulary)].topk(k)
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
        windows = {
            "full_attention": None,
            "sliding_attention": getattr(self._config, "sliding_window", None),
        }
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
    """A model's last hidden states at the nodes of a tree, kept up to date as the tree grows."""

    def __init__(
        self, model: Any, tree: TokenTree, *, masks: Callable[[TokenTree, int], Any]
    ) -> None:
        self._model, self._tree, self._masks = model, tree, masks
        # Without a configuration every layer keeps all: branches may leave the trunk far back.
        self._cache = DynamicCache()
        self.hidden = torch.empty(0, 0)

    @property
    def depth(self) -> int:
        return int(self._tree.depths().max()) + 1

    @torch.no_grad()
    def catch_up(self) -> None:
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
