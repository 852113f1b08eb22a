"""Right answers of whole systems: LLM alone, SLM alone, routers of whole prompts, and Floe.

A federated run trains the SLM's adapters for some tasks. Two real vLLM servers, the device's with
those adapters and the cloud's with Floe's processor, then answer held-out items of these tasks and
of others. All systems get the same prompts and decode greedily.
"""
