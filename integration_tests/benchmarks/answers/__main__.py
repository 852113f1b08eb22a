"""Options of the benchmark."""

from pathlib import Path

from floe_plugins.errors import FloeError
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.answers.measure import measure
from integration_tests.benchmarks.answers.result import result
from integration_tests.benchmarks.answers.servers import FURTHER
from integration_tests.benchmarks.data import SMOLLM2, tests_or_embedded
from integration_tests.demo.federation import DemoError
from integration_tests.demo.serving import CLOUD_MODEL

OPTIONS = cli.Options(__package__)
names = cli.listed(str)
OPTIONS.add("--in-task", help="that the SLM is trained for, separated by commas", type=names)
OPTIONS.add("--out-of-task", help="that it is not trained for; '' for none", type=names)
OPTIONS.add("--data", tests_or_embedded(), "JSONL files, or 'embedded'; each file is a task")
OPTIONS.add("--slm", SMOLLM2, "the SLM: embedded:NAME, a folder or a hub id")
OPTIONS.add("--llm", CLOUD_MODEL, "the LLM, likewise")
OPTIONS.add("--other-llms", help="more LLMs, without costs, separated by commas", type=names)
OPTIONS.add("--other-items", 40, "asked of these per task", least=1)
OPTIONS.add(
    "--further",
    FURTHER,
    "systems beside LLM, SLM, those that choose, and Floe, separated by commas; '' for none",
    type=names,
)
OPTIONS.add("--items", 12, "asked per task", least=1, dest="asked")
OPTIONS.add("--fit", 4, "for the cascade, per task", least=1, dest="fitted")
OPTIONS.add("--timed", 1, "asked alone, per task", least=1)
OPTIONS.add("--trained", 192, "for training, per task", least=1)
OPTIONS.add(
    "--shots", (2,), "solved examples before each prompt; of several, the first has costs", least=0
)
OPTIONS.add("--prompt-characters", 600, "longer ones are cut in front", least=1)
OPTIONS.add("--max-tokens", 72, "of an answer", least=1)
OPTIONS.add("--rounds", 2, "federated rounds", least=1)
OPTIONS.add("--local-steps", 4, "of a round", least=1)
OPTIONS.add("--max-length", 96, "tokens of a trained text", least=1)
OPTIONS.add("--export-rank", 8, "of the adapters", least=1)
OPTIONS.add("--seed", 0, "of the run, the items and the bootstrap")
OPTIONS.add("--run", help="the --output of an earlier call: no training", type=Path)
OPTIONS.add(
    "--output",
    help="keep the working files here; with --run, go on from answers that are there already",
    type=Path,
    metavar="FOLDER",
)
main = cli.main_of(OPTIONS, measure, result, errors=(FloeError, DemoError))

if __name__ == "__main__":
    cli.run(main)
