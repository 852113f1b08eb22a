from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import Sequence

import pytest

import floe_plugins.middleware
from floe_plugins.errors import ConfigError
from floe_plugins.middleware.asgi import Headers
from floe_plugins.middleware.expert_sessions import (
    VARIABLE,
    ExpertSessions,
    SessionSettings,
    configured,
)
from floe_plugins.middleware.privacy_gate import PrivacyGate
from floe_plugins.middleware.session_wire import (
    CLIENT,
    CONTENT_TYPE,
    HEADER,
    MOST_IDS,
    NOT_KEPT,
    UNKNOWN,
    Prompt,
    SessionRequest,
    decode_reply,
    digest_of,
    encode_request,
    pack,
)
from floe_plugins.testing.asgi import SETTINGS
from floe_plugins.testing.completions import CompletionsServer, post, row_of

Reply = tuple[int, Headers, bytes]
ANNOUNCED = (HEADER, b"1")
TEXT = [*range(100, 140)]


def prompt(
    ids: Sequence[int], *, known: int = 0, session: int = 1, base: int | None = None
) -> Prompt:
    """Return a prompt of which the server has the first `known` ids already."""
    return Prompt(
        session=session,
        base=session if base is None else base,
        offset=known,
        added=pack(ids[known:]),
        digest=digest_of(pack(ids)),
    )


def body_of(
    *prompts: Prompt, client: bytes = b"c" * CLIENT, steps: int = 1, model: str = "slm"
) -> bytes:
    return encode_request(
        SessionRequest(client=client, model=model, top_k=5, steps=steps, prompts=prompts)
    )


class Client:
    """Sends several requests to one application, within one event loop."""

    def __init__(self, server: CompletionsServer, *, settings: SessionSettings | None = None):
        self.server = server
        self.app = ExpertSessions(server, settings=settings or SessionSettings())

    def send(self, *bodies: bytes, key: str | None = None) -> list[Reply]:
        async def run() -> list[Reply]:
            return [
                await post(self.app, body, content_type=CONTENT_TYPE, key=key) for body in bodies
            ]

        return asyncio.run(run())

    @property
    def seen(self) -> list[list[int]]:
        """The prompts that the server behind has got."""
        return [each for body in self.server.bodies for each in body["prompt"]]


@pytest.fixture
def client() -> Client:
    return Client(CompletionsServer())


def test_the_server_gets_the_whole_text_and_the_host_what_it_says(client: Client) -> None:
    first, second = client.send(
        body_of(prompt(TEXT)), body_of(prompt([*TEXT, 7], known=len(TEXT)), steps=2)
    )
    assert [first[0], second[0]] == [200, 200]
    assert client.server.bodies[1] == {
        "model": "slm",
        "prompt": [[*TEXT, 7]],
        "max_tokens": 2,
        "logprobs": 5,
        "return_tokens_as_token_ids": True,
        "temperature": 0.0,
        "vllm_xargs": {"floe": "host"},
    }
    row = row_of([*TEXT, 7], top_k=5)
    following = row_of([*TEXT, 7, row[0][0]], top_k=5)
    assert decode_reply(second[2]) == [([row[0][0], following[0][0]], [row, following])]
    headers = dict(second[1])
    assert headers == {
        b"content-type": CONTENT_TYPE,
        b"content-length": str(len(second[2])).encode(),
        HEADER: b"1",
    }


def test_several_streams_and_covers_go_in_one_request(client: Client) -> None:
    other = [*range(300, 310)]
    (reply,) = client.send(
        body_of(
            prompt(TEXT),
            prompt([*TEXT[:-1], 9], known=len(TEXT) - 1, base=1, session=NOT_KEPT),
            prompt(other, session=2),
            prompt([*TEXT[:5], 3], known=5, base=1, session=3),
        )
    )
    assert reply[0] == 200
    assert client.seen == [TEXT, [*TEXT[:-1], 9], other, [*TEXT[:5], 3]]
    again = client.send(
        body_of(
            prompt([*TEXT, 1], known=len(TEXT)),
            prompt([*other, 2], known=len(other), session=2),
            prompt([*TEXT[:5], 3, 4], known=6, session=3),
        )
    )
    assert again[0][0] == 200
    assert client.seen[4:] == [[*TEXT, 1], [*other, 2], [*TEXT[:5], 3, 4]]


def test_a_text_may_be_taken_back_and_repeated(client: Client) -> None:
    shorter = [*TEXT[:20], 5]
    repeated = body_of(prompt(shorter, known=20))
    replies = client.send(body_of(prompt(TEXT)), repeated, repeated)
    assert [reply[0] for reply in replies] == [200, 200, 200]
    assert client.seen == [TEXT, shorter, shorter]
    # What was taken back is not known any more.
    (gone,) = client.send(body_of(prompt([*TEXT, 7], known=len(TEXT))))
    assert gone[0] == UNKNOWN


def unknown(client: Client, body: bytes, *, key: str | None = None) -> Reply:
    before = len(client.server.bodies)
    (reply,) = client.send(body, key=key)
    assert len(client.server.bodies) == before
    return reply


def test_what_is_unknown_has_one_answer_whatever_the_reason(client: Client) -> None:
    client.send(body_of(prompt(TEXT)), key="mine")
    longer = body_of(prompt([*TEXT, 7], known=len(TEXT)))
    replies = [
        unknown(client, longer, key="another"),
        unknown(client, longer),
        unknown(client, body_of(prompt([*TEXT, 7], known=len(TEXT), session=2)), key="mine"),
        unknown(client, body_of(prompt([*TEXT, 7], known=len(TEXT)), client=b"d" * CLIENT)),
        unknown(client, body_of(prompt([*TEXT, 7, 8], known=len(TEXT) + 1)), key="mine"),
        # Another text of the same length, as after a request that another worker has answered.
        unknown(client, body_of(prompt([*TEXT[:-1], 1, 7], known=len(TEXT))), key="mine"),
    ]
    assert {reply[0] for reply in replies} == {UNKNOWN}
    assert len({reply[2] for reply in replies}) == 1
    assert all(sorted(reply[1]) == sorted(replies[0][1]) for reply in replies)
    assert ANNOUNCED in replies[0][1]
    (found,) = client.send(longer, key="mine")
    assert found[0] == 200


def test_idle_sessions_go_also_if_nobody_asks_again() -> None:
    client = Client(CompletionsServer(), settings=SessionSettings(idle_s=0.05))

    async def run() -> int:
        await post(client.app, body_of(prompt(TEXT)), content_type=CONTENT_TYPE)
        held = len(client.app._store)
        await asyncio.sleep(0.3)
        gc.collect()
        assert len(client.app._store) == 0
        return held

    assert asyncio.run(run()) == 1


def test_the_bounds_of_the_settings_hold() -> None:
    client = Client(CompletionsServer(), settings=SessionSettings(sessions=2, ids=90))
    client.send(*(body_of(prompt(TEXT, session=number)) for number in (1, 2, 3)))
    assert unknown(client, body_of(prompt([*TEXT, 7], known=40, session=1)))[0] == UNKNOWN
    (reply,) = client.send(body_of(prompt([*TEXT, 7], known=40, session=3)))
    assert reply[0] == 200


@pytest.mark.parametrize(
    ("body", "key", "status", "said"),
    [
        (body_of(prompt(TEXT)), "wrong", 401, "Unauthorized"),
        (body_of(prompt(TEXT), model="absent"), "right", 404, "no such model"),
        (body_of(prompt([*range(200)])), "right", 400, "too long"),
    ],
)
def test_the_servers_refusals_pass_and_keep_nothing(
    body: bytes, key: str, status: int, said: str
) -> None:
    client = Client(CompletionsServer(key="right", longest=100))
    (reply,) = client.send(body, key=key)
    assert reply[0] == status
    assert said in json.loads(reply[2])["error"]["message"]
    assert ANNOUNCED in reply[1]
    assert len(client.app._store) == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b'{"prompt": "hello"}', 400),
        (body_of(prompt(TEXT)) + b"x", 400),
        (body_of(*[prompt([5], known=0)] * 3)[:-2], 400),
        (body_of(*[Prompt(session=1, base=1, offset=2**32 - 1, added=b"", digest=b"8" * 8)]), 413),
        (b"\1" * (5 * 2**20 + 1), 413),
    ],
)
def test_a_malformed_request_is_refused_in_the_ordinary_way(
    client: Client, body: bytes, status: int
) -> None:
    """Without the announcement, so that the client goes on without sessions."""
    reply = unknown(client, body)
    assert reply[0] == status
    assert HEADER not in dict(reply[1])
    assert b"hello" not in reply[2]


@pytest.mark.parametrize(("more", "status"), [(0, 409), (1, 413)])
def test_prompts_have_at_most_the_ids_that_the_format_allows(
    client: Client, more: int, status: int
) -> None:
    offsets = (MOST_IDS // 2, MOST_IDS // 2 + more)
    prompts = [
        Prompt(session=1, base=1, offset=offset, added=b"", digest=b"8" * 8) for offset in offsets
    ]
    assert unknown(client, body_of(*prompts))[0] == status


def test_a_compressed_request_is_refused(client: Client) -> None:
    sent = post(
        client.app,
        body_of(prompt(TEXT)),
        content_type=CONTENT_TYPE,
        headers=[(b"content-encoding", b"gzip")],
    )
    assert asyncio.run(sent)[0] == 400


def test_everything_else_passes_with_the_announcement_on_completions(client: Client) -> None:
    body = {"model": "slm", "prompt": [[1, 2]], "max_tokens": 1, "logprobs": 2}
    content = json.dumps(body).encode()
    status, headers, data = asyncio.run(post(client.app, content))
    assert status == 200
    assert ANNOUNCED in headers
    assert "choices" in json.loads(data)
    for path in ("/v1/chat/completions", "/v1/completions/"):
        _, headers, _ = asyncio.run(post(client.app, content, path=path))
        assert HEADER not in dict(headers)
    # On another route this format means nothing: the server itself refuses it.
    sent = post(client.app, body_of(prompt(TEXT)), content_type=CONTENT_TYPE, path="/v1/responses")
    assert asyncio.run(sent)[0] == 400


@pytest.mark.parametrize(
    "reply",
    [
        b"no JSON",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{"index": 0, "logprobs": null}]}',
        b'{"choices": [{"index": 0, "logprobs": {"tokens": ["a"], "top_logprobs": [{}]}}]}',
        b'{"choices": [{"index": 0, "logprobs": {"tokens": ["token_id:1"], "top_logprobs": []}}]}',
        b'{"choices": [{"index": 0, "logprobs": {"tokens": ["token_id:1"], "top_logprobs": '
        b'[{"token_id:1": "secret"}]}}]}',
    ],
)
def test_a_reply_that_is_no_completion_is_not_passed_on(reply: bytes) -> None:
    async def broken(scope: object, receive: object, send: object) -> None:
        assert callable(send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": reply})

    sent = post(
        ExpertSessions(broken, settings=SessionSettings()),
        body_of(prompt(TEXT)),
        content_type=CONTENT_TYPE,
    )
    status, _, data = asyncio.run(sent)
    assert status == 502
    assert b"secret" not in data


def test_requests_of_one_session_may_overlap() -> None:
    """Each gets what it has sent; the session has the text of the one that ended last."""
    client = Client(CompletionsServer())
    texts = [[*TEXT, *range(number)] for number in range(1, 9)]

    async def run() -> list[Reply]:
        await post(client.app, body_of(prompt(TEXT)), content_type=CONTENT_TYPE)
        sent = [
            post(client.app, body_of(prompt(text, known=len(TEXT))), content_type=CONTENT_TYPE)
            for text in texts
        ]
        return await asyncio.gather(*sent)

    replies = asyncio.run(run())
    for text, (status, _, data) in zip(texts, replies, strict=True):
        assert status == 200
        assert decode_reply(data)[0][1] == [row_of(text, top_k=5)]
    assert sorted(client.seen[1:]) == sorted(texts)


def test_no_text_gets_around_a_privacy_gate_on_the_same_server() -> None:
    """In front, the gate refuses what it cannot read; behind, it keeps the request with the host.

    What is rebuilt is for the host alone in any case.
    """
    server = CompletionsServer()
    body = body_of(prompt(TEXT))
    front = PrivacyGate(ExpertSessions(server, settings=SessionSettings()), settings=SETTINGS)
    status, headers, _ = asyncio.run(post(front, body, content_type=CONTENT_TYPE))
    assert status == 415
    assert HEADER not in dict(headers)
    assert server.bodies == []
    # Nor does a body of this format pass as something else.
    assert asyncio.run(post(front, body))[0] == 400
    behind = ExpertSessions(PrivacyGate(server, settings=SETTINGS), settings=SessionSettings())
    status, headers, data = asyncio.run(post(behind, body, content_type=CONTENT_TYPE))
    assert status == 200
    assert dict(headers)[b"content-type"] == CONTENT_TYPE
    assert decode_reply(data)[0][1] == [row_of(TEXT, top_k=5)]
    assert server.bodies[0]["vllm_xargs"] == {"floe": "host"}


def test_nothing_of_a_text_is_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        client.send(body_of(prompt(TEXT)), body_of(prompt([*TEXT, 7], known=90)), b"\1")
    assert [record for record in caplog.records if record.name.startswith("floe")] == []


def test_the_class_is_fetched_as_vllm_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, '{"idle_s": 5}')
    configured.cache_clear()
    assert floe_plugins.middleware.ExpertSessions is ExpertSessions
    assert configured() == SessionSettings(idle_s=5)
    configured.cache_clear()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("5", "is no JSON object"),
        ("{", "is no JSON object"),
        ('{"idle": 5}', "did you mean 'idle_s'?"),
        ('{"idle_s": 0}', "idle_s is 0; accepted is a number above 0"),
        ('{"sessions": 0}', "sessions is 0; accepted is an integer from 1"),
        ('{"ids": "many"}', "ids is 'many'"),
    ],
)
def test_wrong_settings_show_when_the_class_is_fetched(
    value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    configured.cache_clear()
    with pytest.raises(ConfigError) as caught:
        _ = floe_plugins.middleware.ExpertSessions
    assert VARIABLE in str(caught.value)
    assert said in str(caught.value)
    configured.cache_clear()
