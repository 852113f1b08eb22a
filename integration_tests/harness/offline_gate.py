"""An offline engine, ``vllm.LLM``, which has no middleware in front of it; run as a process."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    """Answer the prompts of the request, the first of them twice."""
    from vllm import LLM, SamplingParams

    request = json.loads(Path(sys.argv[1]).read_text())
    engine, floe = request["engine"], request["floe"]
    processors = ["vllm_logits_processor:FloeLogitsProcessor"]
    engine |= {"logits_processors": processors, "additional_config": {"floe": floe}}
    made = LLM(**engine)
    params = SamplingParams(temperature=0.0, max_tokens=4)
    answers = [
        list(answer.outputs[0].token_ids)
        for answer in made.generate(request["prompts"], params, use_tqdm=False)
    ]
    # A client's claim is no permission.
    forged = SamplingParams(temperature=0.0, max_tokens=4, extra_args={"floe": "fused"})
    made.generate(request["prompts"][:1], forged, use_tqdm=False)
    Path(sys.argv[2]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
