"""Milliseconds of fusion after the expert has answered, against those of one ``log_softmax``.

Timed is all that a step does with the expert's words and the host's rows: stacking the words,
alignment, the router, the cells that change, and writing them. The yardstick is
``torch.log_softmax`` of the same rows, as one would call it, and once more into memory that is held
ready, which spares it the page faults; the floor is one sum over the rows. Milliseconds are those
of the thread on its core.

Where the embedded models are installed, Gemma-3-270M hosts, or its first tokens, and SmolLM2 says
what follows a text of its own. Elsewhere group sizes follow Zipf's law, as the real ones roughly do
(the largest group, all that begins with a blank, is 6 % of the vocabulary), and so do the words.
"""
