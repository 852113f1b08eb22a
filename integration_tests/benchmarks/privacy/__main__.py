"""Options of the benchmark."""

from floe_plugins.gate import Profile
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import GEMMA, SMOLLM2
from integration_tests.benchmarks.privacy.data import default_data
from integration_tests.benchmarks.privacy.measure import measure
from integration_tests.benchmarks.privacy.result import result

OPTIONS = cli.Options(__package__)
OPTIONS.add("--data", default_data(), "JSONL of text and spans, and of public tasks; else made")
OPTIONS.add("--slm", SMOLLM2, "on the device")
OPTIONS.add("--llm", GEMMA, "in the cloud")
OPTIONS.add("--tiny", help="random models of a few hundred kilobytes instead", action="store_true")
OPTIONS.add("--profile", "personal", "of the gate", choices=[str(each) for each in Profile])
OPTIONS.add("--private", 48, "private prompts", least=1)
OPTIONS.add("--public", 16, "public prompts", least=1)
OPTIONS.add("--tokens", 8, "most of an answer", least=1, most=64)
OPTIONS.add("--seed", 0, "of the choice of prompts")

main = cli.main_of(OPTIONS, measure, result)

if __name__ == "__main__":
    cli.run(main)
