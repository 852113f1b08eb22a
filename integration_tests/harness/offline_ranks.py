"""An offline engine on two ranks: `python -m integration_tests.harness.offline_ranks REQUEST.json`.

Writes a JSON object into `SAID`: the tokens of the answers, with and without steps in which the
first rank fails. Each rank notes what it would sample in a file of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from vllm_logits_processor import FloeLogitsProcessor

#: Environment variable with the folder that all processes write to, and the answers' name there.
FOLDER = "FLOE_TEST_RANKS"
SAID = "said.json"


class UnevenRanks(FloeLogitsProcessor):
    """Floe's processor on ranks that are late in turn, and that note what they would sample."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._folder = Path(os.environ[FOLDER])
        self._rank = torch.distributed.get_rank()
        self._step = 0

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """Fuse, late on one rank; the first rank fails at every third step when asked to."""
        self._step += 1
        if self._step % 2 == self._rank:
            time.sleep(0.03)
        fused = super().apply(logits, ctx)
        with (self._folder / f"rank{self._rank}").open("a") as notes:
            print(fused.argmax(-1).tolist(), file=notes)
        return fused

    def _decide(self, logits: torch.Tensor, ctx: Any) -> Any:
        rows = self._rows
        if self._step % 3 or rows is None or not (self._folder / "fail").exists():
            return super()._decide(logits, ctx)
        with patch.object(rows, "decide", side_effect=torch.OutOfMemoryError("asked to fail")):
            return super()._decide(logits, ctx)


def main() -> None:
    """Answer the prompts of the request, then again with steps that fail."""
    from vllm import LLM, SamplingParams

    request = json.loads(Path(sys.argv[1]).read_text())
    engine = LLM(
        logits_processors=["integration_tests.harness.offline_ranks:UnevenRanks"],
        **request["engine"],
    )
    greedy = SamplingParams(temperature=0.0, max_tokens=24)
    seeded = SamplingParams(temperature=1.0, seed=3, max_tokens=24)
    said = {}
    for name, params in (("greedy", greedy), ("seeded", seeded)):
        answers = engine.generate(request["prompts"], params, use_tqdm=False)
        said[name] = [list(answer.outputs[0].token_ids) for answer in answers]
    folder = Path(os.environ[FOLDER])
    (folder / "fail").touch()
    answers = engine.generate(request["prompts"], greedy, use_tqdm=False)
    said["failing"] = [list(answer.outputs[0].token_ids) for answer in answers]
    (folder / SAID).write_text(json.dumps(said))


if __name__ == "__main__":
    main()
