"""What leaves the device, by who answers: bytes and private spans, against the LLM alone.

The SLM hosts on the device, the LLM in a cloud that is not trusted, and a relay between them keeps
every request. Five ways to answer the same prompts, private ones with labelled spans and public:

- ``llm-only``: every prompt goes to the cloud;
- ``router``: the half that the SLM finds least likely does, the SLM answers the others;
- ``router+gate``: of that half only what the privacy gate clears;
- ``floe``: the LLM is asked at every token of texts that the gate clears, as is Floe's default;
- ``slm-only``: none does.

A span has left when its text stands in a text that the relay saw of that prompt.
"""
