"""Real vLLM servers with Floe's logits processor."""
