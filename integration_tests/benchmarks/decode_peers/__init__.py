"""Tokens per second of the same host and expert, asked in turn or while the host computes.

Servers of proxy-tuning (Liu et al., COLM 2024) and of GaC (Yu et al., EMNLP Findings 2024) run a
step of one model, call the other, and merge: a token takes both models' time. Here that order is
Floe's own with ``ask: unsure`` and a threshold below every entropy, so the order alone is compared,
to the peers' advantage. The expert is a vLLM server on the other core, or with ``--latency`` the
one of `decode.canned_expert`, that many host steps away.
"""
