"""One engine of vLLM's: ``python -m integration_tests.gpu_check.serving_run REQUEST.json``.

Writes the answers' tokens and the seconds they took beside the request, as ``REQUEST.answer``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Answer the prompts once to warm up, then again."""
    from vllm import LLM, SamplingParams

    file = Path(sys.argv[1])
    request = json.loads(file.read_text())
    engine = LLM(**request["engine"])
    params = SamplingParams(
        temperature=0.0,
        max_tokens=request["tokens"],
        ignore_eos=True,
        extra_args={"floe": request["mode"]},
    )
    engine.generate(request["prompts"], params, use_tqdm=False)
    begun = time.perf_counter()
    answers = engine.generate(request["prompts"], params, use_tqdm=False)
    seconds = time.perf_counter() - begun
    tokens = [list(answer.outputs[0].token_ids) for answer in answers]
    file.with_suffix(".answer").write_text(json.dumps({"tokens": tokens, "seconds": seconds}))


if __name__ == "__main__":
    main()
