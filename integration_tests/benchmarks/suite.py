"""All benchmarks: what each asks, and how much of it `make bench` and `make bench-quick` run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from floe_plugins.errors import ConfigError
from integration_tests.benchmarks.data import Data


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark of the suite.

    Attributes
    ----------
    name : str
        ``python -m integration_tests.benchmarks.NAME``.
    title : str
        A line for the page of results.
    full, quick : str
        Its arguments in the full run, and in the quick one, separated by blanks; ``{tiny}`` stands
        for the folder of a model of a few hundred kilobytes.
    reads : str
        Which files its ``--data`` takes: ``tasks``, ``labelled``, ``both`` or none. Without that
        option a benchmark takes what lies beside the project, or what it makes itself.
    """

    name: str
    title: str
    full: str = ""
    quick: str = ""
    reads: Literal["", "tasks", "labelled", "both"] = ""

    def arguments(self, *, quick: bool, tiny: str = "", data: Data | None = None) -> list[str]:
        """Return its arguments.

        Parameters
        ----------
        quick : bool
            Whether those of the quick run.
        tiny : str
            The tiny model's folder, where they ask for one.
        data : Data, optional
            Files to read in place of the default ones.
        """
        chosen = [each.format(tiny=tiny) for each in (self.quick if quick else self.full).split()]
        if data is None or not self.reads:
            return chosen
        kinds = {"tasks": data.tasks, "labelled": data.labelled, "both": data.labelled + data.tasks}
        files = [str(file) for file in kinds[self.reads]]
        if not files:
            return chosen
        if self.name == "fusion_quality":
            return [*chosen, "--text", *files]
        return [*chosen, "--data", files[0] if self.reads == "labelled" else ",".join(files)]


#: In the order of the pages: the federated half, the serving half, both, the gate, scale.
SUITE = (
    Benchmark(
        name="federated_quality",
        title="Held-out loss over non-IID levels, against other ways of federated LoRA (figure 3)",
        full="--max-length 24 --eval-examples 4",
        reads="tasks",
        quick="--model {tiny} --seeds 0 --levels 1,0 --methods floe,fedavg,untrained --budget 30 "
        "--local-steps 1 --batch-size 1 --eval-examples 2 --max-length 24",
    ),
    Benchmark(
        name="rank_latency",
        title="Seconds of a round over the rank, per class of device (figure 4)",
        full="--repeats 2",
        quick="--ranks 4 16 64 --repeats 1 --local-steps 2 --max-length 32",
        reads="tasks",
    ),
    Benchmark(
        name="task_embeddings",
        title="Cosines of task embeddings, and the clusters in them (figure 5)",
        reads="tasks",
        quick="--nodes 9 --texts 4 --mixed 2 --noise 0 0.05",
    ),
    Benchmark(
        name="aggregation_cost",
        title="Exact aggregation in factored form against dense sum-then-SVD",
        full="--clients 32 128 --repeats 2",
        quick="--size 576x1536 --clients 32 --repeats 3",
    ),
    Benchmark(
        name="round_overhead",
        title="A whole round with Floe over one with Flower's FedAvg",
        full="--rounds 2 --repeats 1",
        quick="--model {tiny} --rounds 1 --clients 2 --local-steps 1 --repeats 1",
    ),
    Benchmark(
        name="answers",
        title="Answers of LLM, SLM, prompt-level routers and Floe; time, energy, bytes",
        full="--items 8 --fit 3 --max-tokens 48",
        reads="tasks",
        quick="--slm {tiny} --llm {tiny} --in-task records --out-of-task code --rounds 1 "
        "--local-steps 1 --max-length 16 --items 3 --fit 1 --timed 1 --max-tokens 12",
    ),
    Benchmark(
        name="fusion_quality",
        title="Bits per byte of the host, the expert and the two fused, per router and peer",
        full="--reversed --limit-bytes 700",
        quick="--limit-bytes 60",
        reads="tasks",
    ),
    Benchmark(
        name="fusion_cost",
        title="A step's fusion over log_softmax of the same rows",
        quick="--rows 8 --vocabulary 262144 --k 20 100 --repeats 9",
    ),
    Benchmark(
        name="decode_overlap",
        title="Tokens per second with an expert in flight over those without one",
        full="--tokens 48 --repeats 2",
        quick="--host {tiny} --parts overlap --latencies 0.5 --tokens 16 --repeats 1",
    ),
    Benchmark(
        name="decode_peers",
        title="Tokens per second against one call after the other",
        full="--tokens 48 --repeats 2",
        quick="--host {tiny} --expert {tiny} --latency 0.8 --tokens 16 --repeats 1",
    ),
    Benchmark(
        name="deadlines",
        title="Time per token and per answer under deadlines",
        full="--deadlines 0.5 1 2 4",
        quick="--host {tiny} --latencies 1 --deadlines 0.5 2 --tokens 16 --repeats 1",
    ),
    Benchmark(
        name="privacy",
        title="Private spans and bytes that left the device, against LLM-only",
        full="--private 24",
        reads="both",
        quick="--tiny --private 16 --public 8 --tokens 4",
    ),
    Benchmark(
        name="gate",
        title="Recall, false alarms and time of the privacy gate",
        reads="labelled",
        quick="--no-peers",
    ),
    Benchmark(
        name="scale",
        title="10,000 devices and 1,000 streams: server time, memory, bytes",
        quick="--devices 200 400 --terms 64 --streams 1 100 --k 20 100 --calls 1 --repeats 5",
    ),
)


def named(names: Sequence[str]) -> list[Benchmark]:
    """Return the benchmarks of these names, in the suite's order; all for no names.

    Raises
    ------
    ConfigError
        A name is none of them.
    """
    known = {each.name: each for each in SUITE}
    for name in names:
        if name not in known:
            raise ConfigError(f"There is no benchmark {name!r}; there are {', '.join(known)}.")
    return [each for each in SUITE if not names or each.name in names]
