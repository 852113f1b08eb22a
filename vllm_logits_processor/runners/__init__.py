"""vLLM's two runners: which rows of a step belong to which request, and their tokens."""
