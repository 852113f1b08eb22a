"""Releases of the two hosts on which the tests were run, as minor versions.

Apart from what uses them: the processor imports vLLM, and the doctor must do without it.
"""

VLLM_TESTED = ("0.30", "0.31", "0.32", "0.33")
FLOWER_TESTED = ("1.32", "1.41", "1.42")
