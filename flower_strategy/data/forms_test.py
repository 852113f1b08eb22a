import json
import logging
from typing import Any

import pytest

from floe_plugins.errors import ConfigError
from flower_strategy.data.examples import Example
from flower_strategy.data.forms import custom_template, to_examples

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
TALK = [USER, ASSISTANT]


def example_of(row: dict[str, Any]) -> Example:
    (example,) = to_examples([(1, row)], source="data")
    return example


@pytest.mark.parametrize(
    ("row", "text", "user"),
    [
        ({"prompt": "q", "response": " a"}, "q| a", "q"),
        ({"prompt": "q", "completion": " a"}, "q| a", "q"),
        ({"prompt": "q", "chosen": " a", "rejected": "b"}, "q| a", "q"),
        ({"instruction": "q", "input": "n", "output": "a"}, "q\nn\nResponse:| a", "q\nn"),
        ({"instruction": "q", "input": "", "output": "a"}, "q\nResponse:| a", "q"),
        ({"instruction": "q", "input": None, "output": "a"}, "q\nResponse:| a", "q"),
        ({"instruction": "q", "context": "", "response": "a"}, "q\nResponse:| a", "q"),
        ({"instruction": "q", "context": "c", "response": "a"}, "q\nc\nResponse:| a", "q\nc"),
        ({"instruction": "q", "output": "a"}, "q\nResponse:| a", "q"),
        ({"instruction": "q", "response": "a"}, "q\nResponse:| a", "q"),
        ({"question": "q", "answer": "a"}, "Question: q\nAnswer:| a", "q"),
        ({"question": "q", "answer": 4.5}, "Question: q\nAnswer:| 4.5", "q"),
        (
            {"question": "q", "context": "c", "answer": "yes", "long_answer": "Since."},
            "Context: c\nQuestion: q\nAnswer:| yes. Since.",
            "Context: c\nQuestion: q",
        ),
        (
            {"question": "q", "context": "c", "answers": {"text": ["a", "b"], "answer_start": [1]}},
            "Context: c\nQuestion: q\nAnswer:| a",
            "Context: c\nQuestion: q",
        ),
        ({"question": "q", "answers": ["a", "b"]}, "Question: q\nAnswer:| a", "q"),
        ({"text": "t", "spans": []}, "|t", None),
        ({"chosen": "t", "rejected": "u"}, "|t", None),
    ],
)
def test_common_fields_are_recognised(row: dict[str, Any], text: str, user: str | None) -> None:
    example = example_of(row)
    assert f"{example.prompt}|{example.response}" == text
    said = [message["content"] for message in example.messages]
    assert said == ([] if user is None else [user, example.response.strip()])


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TALK},
        {"messages": json.dumps(TALK)},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [ASSISTANT]},
        {"chosen": TALK, "rejected": TALK},
        {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]},
        {"messages": [*TALK, {"role": "user", "content": "what nobody answers"}]},
    ],
)
def test_conversations_of_all_forms_are_one(row: dict[str, Any]) -> None:
    example = example_of(row)
    assert example.messages == TALK
    assert not example.has_text
    assert example.text == "q\na"


def test_roles_tools_and_calls_are_kept() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    turns = [
        {"role": "developer", "content": "s"},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "function", "name": "f", "content": "2"},
        ASSISTANT,
    ]
    example = example_of({"messages": turns, "tools": json.dumps(tools)})
    assert [message["role"] for message in example.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert example.messages[2] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert json.loads(example.tools) == tools


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": None, "response": "a"}, "the field prompt holds null; text or a number"),
        ({"prompt": float("nan"), "response": "a"}, "the field prompt holds no number (NaN"),
        ({"prompt": "q", "response": True}, "the field response holds true or false"),
        ({"prompt": "q", "response": ["a"]}, "the field response holds a list"),
        ({"prompt": [USER], "response": "a"}, "the field prompt holds a list"),
        ({"prompt": "q", "response": " "}, "the response is empty"),
        ({"prompt": "q\ud800", "response": "a"}, "'\\ud800', half of a character"),
        ({"messages": []}, "the field messages holds a list; a list of messages"),
        ({"messages": [USER]}, "has no turn of the assistant to learn"),
        (
            {"messages": [{"role": "boss", "content": "a"}]},
            "messages[0] has an unknown role; accepted are",
        ),
        ({"messages": [USER, {"role": "assistant"}]}, "messages[1].content holds null"),
        ({"messages": ["a"]}, "messages[0] holds str; a message with role and content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "messages[0] has a part that is no text",
        ),
        ({"messages": "[a"}, "holds text that is no JSON"),
    ],
)
def test_values_that_are_no_text_are_refused_with_their_line(
    row: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        list(to_examples([(7, row)], source="own.jsonl"))
    assert str(caught.value).startswith("own.jsonl, line 7: ")
    assert complaint in str(caught.value)
    assert str(caught.value).endswith(".")


def test_the_first_row_decides_and_later_ones_must_follow() -> None:
    rows = [(1, {"prompt": "q", "response": "a"}), (2, {"prompt": "q", "answer": "a"})]
    with pytest.raises(ConfigError, match="line 2: no field response; the row has prompt, answer"):
        list(to_examples(rows, source="own.jsonl"))
    talk: list[tuple[int, dict[str, Any]]] = [(1, {"messages": TALK}), (2, {"messages": None})]
    with pytest.raises(ConfigError, match="line 2: the field messages holds null; a list"):
        list(to_examples(talk, source="own.jsonl"))


def test_unknown_fields_are_answered_with_those_found_and_the_keys_to_set() -> None:
    with pytest.raises(ConfigError) as caught:
        example_of({"en": "one", "de": "eins"})
    assert "has the fields en, de, which are not recognised: set prompt-template and" in str(
        caught.value
    )
    assert "instruction, input, output" in str(caught.value)


def test_a_template_over_other_fields() -> None:
    template = custom_template("English: {en}\\nGerman:", " {de:>6}")
    rows = [(1, {"en": "one", "de": "eins"})]
    (example,) = to_examples(rows, source="data", template=template)
    assert example == Example("English: one\nGerman:", "   eins")


@pytest.mark.parametrize("prompt", ["{en", "{0}", "{en.x}"])
def test_a_template_that_is_none_is_refused(prompt: str) -> None:
    with pytest.raises(ConfigError, match="template"):
        custom_template(prompt, "{de}")


def test_preference_data_have_a_word_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "flwr"):
        example_of({"prompt": "q", "chosen": "a", "rejected": "b"})
    assert "data: preference data: `chosen` is learned, `rejected` is not looked at." in caplog.text


def test_the_origin_is_the_row_whatever_the_template_makes_of_it() -> None:
    row = {"en": "one", "de": "eins"}
    made = [
        next(to_examples([(1, row)], source="data", template=custom_template(*pair)))
        for pair in (("{en}", "{de}"), ("{de}", "{en}"))
    ]
    assert made[0].origin == made[1].origin
    assert made[0].content != made[1].content


def test_later_rows_of_another_known_form_keep_all_their_fields() -> None:
    rows = [
        (1, {"instruction": "Say hi", "output": "hi"}),
        (2, {"instruction": "Translate", "input": "cat", "output": "Katze"}),
        (3, {"instruction": "Say ho", "output": "ho"}),
    ]
    for order in (rows, rows[::-1]):
        found = {example.prompt for example in to_examples(order, source="data")}
        assert found == {
            "Say hi\nResponse:",
            "Translate\ncat\nResponse:",
            "Say ho\nResponse:",
        }


@pytest.mark.parametrize(
    "row",
    [
        {"Jane Doe born 1970": "x", "diagnosis: flu": "y"},
        {"messages": [{"role": "Dr Jane Miller", "content": "x"}, ASSISTANT]},
        {"messages": [{"role": "user", "content": [{"type": "Jane", "text": "x"}]}, ASSISTANT]},
        {"prompt": "q", "Jane Doe 1970": "x"},
    ],
)
def test_a_refusal_quotes_nothing_that_may_be_private(row: dict[str, Any]) -> None:
    """The sentence goes to the server as the reason for which a node takes no part."""
    with pytest.raises(ConfigError) as caught:
        example_of(row)
    assert not any(word in str(caught.value) for word in ("Jane", "1970", "flu"))


def test_arguments_of_calls_are_decoded_as_servers_do() -> None:
    def talk(arguments: object) -> dict[str, Any]:
        call = {"type": "function", "id": None, "function": {"name": "f", "arguments": arguments}}
        turn = {"role": "assistant", "content": None, "tool_calls": [call]}
        return {"messages": [USER, turn]}

    decoded = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    for given in ('{"x": 1}', {"x": 1}, {"x": 1, "of another row": None}):
        assert example_of(talk(given)).messages[-1]["tool_calls"] == [decoded]
    (empty,) = example_of(talk("")).messages[-1]["tool_calls"]
    assert empty["function"]["arguments"] == {}
    with pytest.raises(ConfigError, match="holds text that is no JSON"):
        example_of(talk("{"))


def test_questions_without_an_answer_are_left_out_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows: list[tuple[int, dict[str, Any]]] = [
        (1, {"question": "a", "answers": {"text": []}}),
        (2, {"question": "b", "answers": {"text": ["c"]}}),
        (3, {"question": "d", "answers": []}),
    ]
    logging.getLogger("flwr").addHandler(caplog.handler)
    try:
        with caplog.at_level("INFO"):
            found = list(to_examples(rows, source="squad"))
    finally:
        logging.getLogger("flwr").removeHandler(caplog.handler)
    assert [example.response for example in found] == [" c"]
    assert "squad: 2 questions without an answer are left out." in caplog.text
