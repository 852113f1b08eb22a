"""GGUF adapters that Floe writes, in llama.cpp's server: the distributions are those of PEFT.

The base model is in float16, so that nothing of a difference is quantisation's. Differences of log
probabilities are taken over the 20 tokens that are likeliest by PEFT at each position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from floe_plugins import models
from floe_plugins.llama_server import GgufAdapter, LlamaSettings, start
from floe_plugins.models.gguf_file import resolve_gguf
from flower_strategy.adapters.adapter import AdapterState, LoraFactors
from flower_strategy.adapters.gguf_lora import KINDS, gguf_base, save_gguf
from flower_strategy.adapters.peft_folder import save_adapter
from flower_strategy.device.base_model import adapted_modules
from flower_strategy.testing.architectures import write_checkpoint
from integration_tests.harness.gguf_base import next_logprobs, write_base

RANK = 8
LIKELIEST = 20
#: Asked of the server: by it, PEFT's likeliest may stand a little lower.
ASKED = 100
#: Nats that log probabilities may differ by.
CLOSE = 0.05
#: Nats between two tokens that float16 cannot tell apart.
TIE = 0.005
SMOLLM2 = "embedded:smollm2-135m-instruct"

#: Where transformers' own default is of a large model, and llama.cpp takes the head's size.
CHANGES: Mapping[str, dict[str, Any]] = {
    "gemma2": {"query_pre_attn_scalar": 32},
    "gemma3_text": {"query_pre_attn_scalar": 32},
}

TEXT = """\
The tide came in slowly over the flat sand, and the children who had built the castle that morning
stood on the wall to watch it go. First the moat filled, then the bridge of driftwood floated away,
and at last the tower with the paper flag leaned to one side and was gone. Nobody was sad about it.
They had known since noon that the water would come back, as it did on every day of the summer, and
they had already agreed where the next one should stand: further up, behind the second row of stone,
where the sand is coarse and dry and has to be carried water in buckets before it holds any shape.
def mean(values): return sum(values) / len(values). The price rose from 12 to 15 dollars in a year,
which is an increase of 25 percent; a second rise of the same size would bring it to 18.75 dollars.
They counted the buckets that evening, and there were nine of them.
"""

pytestmark = pytest.mark.timeout(600)

#: Stands for a token that is not among those asked for.
_LOWEST = -30.0

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Served:
    """A base model with four adapters, in llama.cpp's server, and what PEFT says.

    Attributes
    ----------
    ask : Callable
        Position, adapters with their scales -> token -> log probability of what comes next.
    base, tuned : Rows
        By transformers, without and with the adapter; shape (positions, vocabulary).
    server : Any
        Lives as long as this does.
    """

    ask: Callable[[int, Mapping[int, float]], dict[int, float]]
    base: Rows
    tuned: Rows
    server: Any

    def compared(
        self, rows: Rows, lora: Mapping[int, float], positions: range
    ) -> tuple[float, list[float]]:
        """Compare the server's answers with rows of transformers.

        Returns
        -------
        float
            The largest difference of a log probability.
        list[float]
            For each position with another likeliest token, by how much it is behind in the rows.
        """
        differences, behind = [], []
        for position in positions:
            row, found = rows[position], self.ask(position, lora)
            first = max(found, key=lambda token: found[token])
            if first != row.argmax():
                behind.append(float(row.max() - row[first]))
            differences += [
                abs(float(row[token]) - found.get(int(token), _LOWEST))
                for token in np.argsort(-row)[:LIKELIEST]
            ]
        return max(differences), behind

    def wrong(self, lora: Mapping[int, float], positions: range) -> float:
        """Return the largest difference to the tuned rows, whatever is likeliest."""
        return self.compared(self.tuned, lora, positions)[0]


#: Ids of the adapters: as Floe writes it, and with what it does left out.
ADAPTERS = RIGHT, NOT_PAIRED, NOT_SCALED = range(3)


def serve(
    folder: str, tokens: list[int], *, where: Path, size: float, tokenizer: Path | None = None
) -> Served:
    """Start the server with a random adapter whose scaling is not 1."""
    modules = adapted_modules(folder)
    draw = np.random.default_rng(0)
    adapter = AdapterState(
        {
            name: LoraFactors(
                b=draw.normal(0, size, (rows, 4)).astype(np.float32),
                a=draw.normal(0, columns**-0.5, (4, columns)).astype(np.float32),
            )
            for name, (rows, columns) in modules.shapes.items()
        },
        scaling=2.5,
    )
    save_adapter(adapter, where / "peft", rank=RANK, base_model=folder, modules=modules)
    base = gguf_base(folder)
    written = {
        "right": (adapter, base),
        "not-paired": (adapter, replace(base, heads=None)),
        "not-scaled": (replace(adapter, scaling=1.0), base),
    }
    for name, (each, of) in written.items():
        save_gguf(each, where / f"{name}.gguf", base=of, rank=RANK)
    server = start(
        LlamaSettings(
            model=write_base(folder, where / "base.gguf", tokenizer=tokenizer),
            name="base",
            adapters=tuple(
                GgufAdapter(place, name, where / f"{name}.gguf")
                for place, name in enumerate(written)
            ),
            port=0,
            context=512,
            slots=1,
        )
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = torch.tensor([tokens])
    with torch.no_grad():
        plain = torch.log_softmax(model(text).logits[0], -1).numpy()
        peft: Any = PeftModel.from_pretrained(model, str(where / "peft")).eval()
        tuned = torch.log_softmax(peft(text).logits[0], -1).numpy()
    count = min(ASKED, plain.shape[1])

    def ask(position: int, lora: Mapping[int, float]) -> dict[int, float]:
        return next_logprobs(
            server.listening_address,
            tokens[: position + 1],
            count=count,
            lora=dict.fromkeys(ADAPTERS, 0.0) | dict(lora),
        )

    return Served(ask, plain, tuned, server)


def test_the_page_names_every_accepted_type() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "llama-cpp.md").read_text("utf-8")
    for kind in KINDS:
        assert f"`{kind}`" in page


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_accepted_type_has_pefts_distributions(kind: str, tmp_path: Path) -> None:
    folder = write_checkpoint(kind, tmp_path / kind, **CHANGES.get(kind, {}))
    tokens = np.random.default_rng(1).integers(1, 257, 64).tolist()
    served = serve(folder, tokens, where=tmp_path, size=0.2)
    positions = range(20, 60, 2)
    # The base is what transformers has, so that rows of Q and K are where llama.cpp wants them.
    for rows, lora in ((served.base, {}), (served.tuned, {RIGHT: 1.0})):
        difference, behind = served.compared(rows, lora, positions)
        assert difference < CLOSE
        assert max(behind, default=0.0) < CLOSE
    assert served.wrong({}, positions) > 1.0
    assert served.wrong({NOT_SCALED: 1.0}, positions) > 0.5
    if KINDS[kind].paired:
        assert served.wrong({NOT_PAIRED: 1.0}, positions) > 0.5


def test_smollm2_has_pefts_distributions_at_200_positions(tmp_path: Path) -> None:
    folder = models.resolve(SMOLLM2)
    tokens = AutoTokenizer.from_pretrained(folder)(TEXT).input_ids
    served = serve(folder, tokens, where=tmp_path, size=0.04, tokenizer=resolve_gguf(SMOLLM2))
    positions = range(len(tokens) - 200, len(tokens))
    assert positions.start > 0
    difference, behind = served.compared(served.tuned, {RIGHT: 1.0}, positions)
    few = positions[::10]
    wrong = {
        "without": served.wrong({}, few),
        "half the scale": served.wrong({RIGHT: 0.5}, few),
        "without its scaling": served.wrong({NOT_SCALED: 1.0}, few),
        "without the order of Q and K": served.wrong({NOT_PAIRED: 1.0}, few),
    }
    print(f"{len(positions)} positions: difference {difference:.4f}, behind {behind}; {wrong}")
    assert difference < CLOSE
    # The likeliest token is the same, save where float16 cannot tell the two likeliest apart.
    assert len(behind) <= 2
    assert max(behind, default=0.0) < TIE
    assert min(wrong.values()) > 10 * CLOSE, wrong
    # Of the base by itself, to tell what is the adapter's.
    assert served.compared(served.base, {}, few)[0] < CLOSE
