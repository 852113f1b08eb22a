"""The two models that benchmarks compare, from installed packages."""

from __future__ import annotations

SMOLLM2 = "embedded:smollm2-135m-instruct"
GEMMA = "embedded:gemma-3-270m"
