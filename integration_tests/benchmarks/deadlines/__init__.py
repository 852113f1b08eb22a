"""Milliseconds per token and per answer under deadlines, with an expert whose latency scatters.

The host is vLLM's server with Floe on one core, decoding one request; the expert a process on the
other (see `decode.canned_expert`), whose latencies are log-normal. Latencies and deadlines are
shares of the host's own step. One server is measured at all deadlines (`decode.timed_processor`),
and each cell begins with answers of the host alone, so that both see the same machine.

Floe counts a deadline from the start of a call, before the host's forward pass. So the promise is
that no token comes later than a step of the host plus the deadline; the aim is the longer of the
two, since they run at the same time. The slowest tokens are held against both.
"""
