"""Milliseconds and bytes of one more token from an expert, by its server.

The same texts grow by a token a step at vLLM, at vLLM with sessions, and at llama.cpp; Floe's own
client asks for the next distribution of all of them in one call, as a decoding step does. The
servers take turns on the same core.
"""
