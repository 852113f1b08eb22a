"""Private prompts with labelled spans, and public ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from random import Random
from typing import Any

from floe_plugins.errors import ConfigError
from flower_strategy.data import read_examples
from flower_strategy.data.embedded import make_examples
from flower_strategy.data.files import find_files
from flower_strategy.data.forms import Template
from integration_tests.benchmarks.data import first_row, labelled_file, task_files
from integration_tests.benchmarks.gate.data import Prompt, read_prompts

#: Longer ones are left out: prompt and answer must fit the servers' 512 tokens, whatever the
#: tokenizer makes of the bytes.
MOST_BYTES = 400

# The question alone, of rows that have a context too: contexts are longer than that.
_QUESTION = Template("Question: {question}\nAnswer:", " {answer}")

#: How generated prompts put private values; names in braces are methods of Faker.
_FORMS = (
    "Please write a friendly letter to {name} who lives at {street_address} in {city}.",
    "Summarise the note: {name} called from {phone_number} and asks for a refund.",
    "Draft a reply to {email} about the invoice that is overdue.",
    "My card {credit_card_number} was charged twice. What should I tell the bank?",
    "Is the account {iban} of {name} ready for the transfer to {company}?",
    "My social security number is {ssn}; how do I correct a mistake in it?",
    "The printer at {ipv4} does not answer. What can I check first?",
    "{name} of {company} moves to {city} next month. Suggest a farewell message.",
)
_CLASSES = {
    "name": "PERSON",
    "street_address": "ADDRESS",
    "city": "LOCATION",
    "phone_number": "PHONE_NUMBER",
    "email": "EMAIL_ADDRESS",
    "credit_card_number": "CREDIT_CARD",
    "iban": "IBAN_CODE",
    "company": "ORGANIZATION",
    "ssn": "US_SSN",
    "ipv4": "IP_ADDRESS",
}


@dataclass(frozen=True)
class Prompts:
    """What is asked."""

    private: list[Prompt]  # with at least one span each
    public: list[Prompt]
    sources: tuple[str, ...]  # file names, or what was made at run time

    @property
    def all(self) -> list[Prompt]:
        """Both kinds, evenly mixed, as a server would meet them."""
        kinds = (self.private, self.public)
        places = [((at + 0.5) / len(kind), one) for kind in kinds for at, one in enumerate(kind)]
        return [prompt for _, prompt in sorted(places, key=lambda each: each[0])]


def default_data() -> str:
    """Return the files beside the project, as far as they are there; may be empty."""
    labelled = labelled_file()
    return ",".join(map(str, [*([labelled] if labelled else []), *task_files()]))


def load_prompts(data: str, *, private: int, public: int, seed: int) -> Prompts:
    """Draw prompts, no text twice; the public ones evenly from all files of tasks.

    `data` are JSONL files separated by commas: of texts with spans, of public tasks, or both. A
    kind that no file is of is made at run time.
    """
    files = find_files(data) if data else {}
    keys = {name: first_row(path).keys() for name, path in files.items()}
    labelled = {name: path for name, path in files.items() if "spans" in keys[name]}
    examples = {
        name: read_examples(path, template=_QUESTION if _QUESTION.fields <= keys[name] else None)
        for name, path in files.items()
        if name not in labelled
    } or {task: make_examples(task, count=4 * public, seed=seed) for task in ("arithmetic", "code")}
    tasks = {name: [Prompt(each.prompt, ()) for each in all_] for name, all_ in examples.items()}
    random = Random(seed)
    texts = [prompt for path in labelled.values() for prompt in read_prompts(path) if prompt.spans]
    ends = [public * at // len(tasks) for at in range(len(tasks) + 1)]
    return Prompts(
        _drawn(texts or generated(4 * private, random), private, random, kind="private"),
        [
            prompt
            for each, begin, end in zip(tasks.values(), ends, ends[1:], strict=False)
            for prompt in _drawn(each, end - begin, random, kind="public")
        ],
        tuple(labelled or ("generated",)) + tuple(tasks),
    )


def generated(count: int, random: Random) -> list[Prompt]:
    """Make private prompts with Faker."""
    if find_spec("faker") is None:
        raise ConfigError(
            "There are no prompts with labelled spans: give --data a JSONL file with text and "
            "spans, or install the extra 'dev', whose Faker makes some."
        )
    from faker import Faker

    maker = Faker("en_US")
    maker.seed_instance(random.getrandbits(32))
    return [_filled(random.choice(_FORMS), maker) for _ in range(count)]


def _filled(form: str, maker: Any) -> Prompt:
    text, spans = "", []
    for piece in form.split("{"):
        name, closed, rest = piece.partition("}")
        if not closed:
            text += piece
            continue
        value = str(getattr(maker, name)())
        spans.append((len(text), len(text) + len(value), _CLASSES[name]))
        text += value + rest
    return Prompt(text, tuple(spans))


def _drawn(prompts: Sequence[Prompt], count: int, random: Random, *, kind: str) -> list[Prompt]:
    fitting = (each for each in prompts if 0 < len(each.text.encode()) <= MOST_BYTES)
    different = list({each.text: each for each in fitting}.values())
    if len(different) < count:
        raise ConfigError(
            f"Asked for are {count} {kind} prompts of up to {MOST_BYTES} bytes from a source "
            f"that has {len(different)} different ones; accepted are at most as many."
        )
    return random.sample(different, count)
