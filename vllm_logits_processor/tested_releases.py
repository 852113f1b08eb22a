"""Minor versions of vLLM and Flower on which the tests were run.

In a module of their own: the processor imports vLLM, and the doctor must work without it.
"""

VLLM_TESTED = ("0.30", "0.31", "0.32", "0.33")
FLOWER_TESTED = ("1.32", "1.41", "1.42")
