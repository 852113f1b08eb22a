"""The environment that every test runs in, and the processes that tests start."""

import os

os.environ.update(
    {
        # The tests need no network: models come from installed packages.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Flower would otherwise create a separate environment for the app.
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        # Tests fork, which the tokenizers' threads do not survive.
        "TOKENIZERS_PARALLELISM": "false",
        "MPLBACKEND": "Agg",
        # TRL's import silences vLLM's servers unless a level is set.
        "VLLM_LOGGING_LEVEL": "INFO",
    }
)
# Two processes run tests at a time. With as many threads in each as there are cores, threads wait
# for each other in a loop, and a tiny model's training takes five times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The machine's own setting must not choose the tests' plugins.
os.environ.pop("FLOE_LLM_PLUGINS", None)
# Otherwise every process of a test's servers would compile all that it imports again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
