"""vLLM's server on the V2 runner where there is no GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import vllm
from packaging.version import Version

from integration_tests.harness.vllm_servers import ServerSpec

#: Whether the V2 runner takes logits processors beside speculative decoding.
DRAFTS = Version(vllm.__version__).release >= (0, 32)


@dataclass(frozen=True, kw_only=True)
class Interpreted(ServerSpec):
    """A server whose interpreter prepares Triton before vLLM is imported; it forks the others.

    Its environment needs `interpreted_triton.variables`.
    """

    forks: bool = False

    def command(self, port: int) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-m", "integration_tests.harness.prepared", *self.options(port)]


def ngrams(drafts: int, *, least: int = 1, most: int = 3) -> tuple[str, str]:
    """Return the arguments by which the text itself is the drafter: what followed before."""
    lengths = {"prompt_lookup_min": least, "prompt_lookup_max": most}
    return _speculative({"method": "ngram", "num_speculative_tokens": drafts, **lengths})


def draft_model(drafts: int, *, model: str) -> tuple[str, str]:
    """Return the arguments by which a model with the host's tokenizer drafts."""
    values = {"method": "draft_model", "model": model, "num_speculative_tokens": drafts}
    return _speculative(values)


def _speculative(values: Mapping[str, object]) -> tuple[str, str]:
    return "--speculative-config", json.dumps(values)
