"""All benchmarks: their titles, and their arguments by the size of the suite's run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from floe_plugins.errors import ConfigError
from integration_tests.benchmarks.data import Data

Kind = Literal["", "tasks", "labelled", "both"]

#: ``make bench-quick``, ``make bench``, and the published pages (``--full``).
Size = Literal["quick", "usual", "full"]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark of the suite: ``python -m integration_tests.benchmarks.NAME``."""

    name: str
    title: str  # a line for the page of results
    #: Its arguments by the run's size, separated by blanks; ``{tiny}`` stands for the folder of a
    #: model of a few hundred kilobytes. Without `full`, the usual size is the published one.
    usual: str = ""
    quick: str = ""
    full: str = ""
    #: Which files its ``--data`` takes. Without that option a benchmark takes what lies beside the
    #: project, or what it makes itself.
    reads: Kind = ""
    #: The option that names the larger of two models, where there is one.
    larger: str = ""

    def arguments(
        self, *, size: Size, tiny: str = "", data: Data | None = None, llm: str | None = None
    ) -> list[str]:
        """Return its arguments.

        Parameters
        ----------
        size : Size
        tiny : str
            What stands for ``{tiny}``.
        data : Data, optional
            Files to read in place of the default ones.
        llm : str, optional
            The larger of two models in place of the embedded one, for benchmarks of two models.
        """
        words = self.full or self.usual if size == "full" else getattr(self, size)
        chosen = [each.format(tiny=tiny) for each in words.split()]
        if llm is not None and self.larger:
            chosen += [self.larger, llm]
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
_TITLES = {
    "federated_quality": "Held-out loss over non-IID levels, against other ways of federated LoRA "
    "(figure 3)",
    "rank_latency": "Seconds of a round over the rank, per class of device (figure 4)",
    "task_embeddings": "Cosines of task embeddings, and the clusters in them (figure 5)",
    "aggregation_cost": "Exact aggregation in factored form against dense sum-then-SVD",
    "round_overhead": "A whole round with Floe over one with Flower's FedAvg",
    "answers": "Answers of LLM, SLM, prompt-level routers and Floe; time, energy, bytes",
    "fusion_quality": "Bits per byte of the host, the expert and the two fused, per router and "
    "peer",
    "fusion_cost": "A step's fusion over log_softmax of the same rows",
    "step_cost": "Processor milliseconds of a step beside its pass over the rows",
    "decode_overlap": "Tokens per second with an expert in flight over those without one",
    "decode_peers": "Tokens per second against one call after the other",
    "expert_latency": "Milliseconds and bytes of one more token from an expert, by its server",
    "deadlines": "Time per token and per answer under deadlines",
    "privacy": "Private spans and bytes that left the device, against LLM-only",
    "gate": "Recall, false alarms and time of the privacy gate",
    "scale": "10,000 devices and 1,000 streams: server time, memory, bytes",
}
_USUAL = {
    "federated_quality": "--seeds 0 --max-length 24 --eval-examples 8",
    "rank_latency": "--repeats 2",
    "aggregation_cost": "--clients 32 128 --repeats 2",
    "round_overhead": "--repeats 2",
    "answers": "--items 8 --fit 3 --max-tokens 48",
    "fusion_quality": "--reversed --limit-bytes 700",
    "decode_overlap": "--tokens 48 --repeats 2",
    "decode_peers": "--tokens 48 --repeats 2",
    "expert_latency": "--steps 16",
    "deadlines": "--deadlines 0.5 1 2 4",
    "privacy": "--private 24",
}
_QUICK = {
    "federated_quality": "--model {tiny} --seeds 0 --levels 1,0 --methods floe,fedavg,untrained "
    "--budget 30 --local-steps 1 --batch-size 1 --eval-examples 2 --max-length 24 "
    "--curve-budgets 18 --curve-methods floe --few-levels 1 --few-methods floe",
    "rank_latency": "--ranks 4 16 64 --repeats 1 --local-steps 2 --max-length 32",
    "task_embeddings": "--nodes 9 --texts 4 --mixed 2 --noise 0 0.05",
    "aggregation_cost": "--size 576x1536 --clients 32 --repeats 3",
    "round_overhead": "--model {tiny} --rounds 2 --clients 2 --local-steps 1 --repeats 1",
    "answers": "--slm {tiny} --llm {tiny} --in-task records --out-of-task code --rounds 1 "
    "--local-steps 1 --max-length 16 --items 3 --fit 1 --timed 1 --max-tokens 12",
    "fusion_quality": "--limit-bytes 60",
    "fusion_cost": "--rows 8 --vocabulary 262144 --k 20 100 --repeats 9",
    "step_cost": "--rows 1 8 --seen 0 --warm-up 1 --steps 3",
    "decode_overlap": "--host {tiny} --parts overlap drafts --latencies 0.5 --tokens 16 "
    "--repeats 1 --drafting-host {tiny} --drafting-expert {tiny} --drafting-tokens 12",
    "decode_peers": "--host {tiny} --expert {tiny} --latency 0.8 --tokens 16 --repeats 1",
    "expert_latency": "--contexts 32 --streams 1 2 --top-k 5 --steps 4 --ways llama.cpp",
    "deadlines": "--host {tiny} --latencies 1 --deadlines 0.5 2 --tokens 16 --repeats 1",
    "privacy": "--tiny --private 16 --public 8 --tokens 4",
    "gate": "--no-peers",
    "scale": "--devices 200 400 --terms 64 --streams 1 100 --k 20 100 --calls 1 --repeats 5",
}
_FULL = {
    "answers": "--items 100 --fit 10 --trained 600 --rounds 8 --local-steps 8 --max-length 128 "
    "--max-tokens 128 --shots 2 0",
}
_LARGER = {"answers": "--llm", "fusion_quality": "--further-hosts"}
_TASKS: Kind = "tasks"
_READERS = ("federated_quality", "rank_latency", "task_embeddings", "answers", "fusion_quality")
_READS = dict.fromkeys(_READERS, _TASKS)
_READS |= {"privacy": "both", "gate": "labelled"}
SUITE = tuple(
    Benchmark(
        name,
        title,
        usual=_USUAL.get(name, ""),
        quick=_QUICK[name],
        full=_FULL.get(name, ""),
        reads=_READS.get(name, ""),
        larger=_LARGER.get(name, ""),
    )
    for name, title in _TITLES.items()
)


def named(names: Sequence[str]) -> list[Benchmark]:
    """Return the benchmarks of these names, in the suite's order; all for no names."""
    known = {each.name: each for each in SUITE}
    for name in names:
        if name not in known:
            raise ConfigError(f"There is no benchmark {name!r}; there are {', '.join(known)}.")
    return [each for each in SUITE if not names or each.name in names]
