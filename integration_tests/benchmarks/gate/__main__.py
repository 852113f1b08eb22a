"""Options of the benchmark."""

from pathlib import Path

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import benign_file, labelled_file
from integration_tests.benchmarks.gate.measure import measure
from integration_tests.benchmarks.gate.result import result

OPTIONS = cli.Options(__package__)
OPTIONS.add("--data", labelled_file(), "a prompt with spans per line, else generated", type=Path)
OPTIONS.add("--benign", benign_file(), "ordinary prompts with their sources", type=Path)
OPTIONS.add("--seed", 0, "of generated prompts")
OPTIONS.add("--spacy", help="name or folder of a spaCy model, for Presidio", metavar="MODEL")
OPTIONS.add("--no-peers", help="measure the gate only", action="store_true")
main = cli.main_of(OPTIONS, measure, result)

if __name__ == "__main__":
    cli.run(main)
