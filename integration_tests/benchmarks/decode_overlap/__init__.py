"""Tokens per second with an expert that answers at a chosen time, over those without one.

The host is vLLM's server on one core, decoding one request; the expert a process on the other (see
`decode.canned_expert`). Latencies are shares of the host's step without Floe. Four questions:

- overlap: an expert that answers after 0.2 to 2 steps. `of_slower` compares with the slower of the
  two, one token per ``max(step, latency)``. What is missing there is the part of a step in which no
  call can be in flight, `outside_share`, and the way of the call itself;
- silence: an expert that never answers, with the deadline at one step;
- lookahead: Gemma hosts and SmolLM2, a real model, is three steps away: k up to `LOOKAHEAD` tokens
  per call, against one;
- drafts: who drafts, the expert by look-ahead or the host by vLLM's speculative decoding. SmolLM2
  hosts on the V2 runner, and Gemma is three steps away: see `drafts`.
"""
