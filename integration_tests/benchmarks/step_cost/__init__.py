"""Processor milliseconds that a decoding step costs the serving process, beside the host's rows.

Streams decode the continuations of a text that both models' tokenizers spell; the expert answers at
once, from a table. ``begin_ms`` is ``begin_step``, with the gate's
thread where there is a gate; ``decide_ms`` is ``decide`` without alignment and the cells that
change, which are ``pass_ms`` and another benchmark's subject. ``calls_ms`` is what the thread that
calls the expert spends on writing a step's request and reading the reply, in vLLM's format.

No stretch of the text is decoded twice, so that what is remembered of its words is what a server
would remember; some of it is decoded before, as a server has run for a while.
"""
