"""One ASGI call: what the application is told, what goes out, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tritonode.errors import InvalidRequestError
from tritonode.openai import call as asgi_call
from tritonode.openai.call import HttpCall, HttpRequest

JSON_HEADERS = [(b"content-type", b"application/json")]


def request(**head: Any) -> HttpRequest:
    return HttpRequest.parse({"method": "POST", "path": "/x", **head}, b"body")


class Outbox:
    """Collects what is sent."""

    def __init__(self) -> None:
        self.responses: list[tuple[list[bytes], bool]] = []

    async def __call__(self, parts: list[bytes], final: bool) -> None:
        self.responses.append((parts, final))

    @property
    def body(self) -> bytes:
        return b"".join(part for parts, _ in self.responses for part in parts)


def respond(headers: list[tuple[bytes, bytes]], *chunks: bytes) -> Callable[..., Awaitable[None]]:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return application


def test_the_scope_says_what_the_request_says() -> None:
    parsed = HttpRequest.parse(
        {"method": "post", "path": "/a%20b/c?q=1&r=%C3%A9", "headers": [["X-Name", "v\u00e9"]], "window": 5}, b""
    )
    scope = parsed.scope()
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("POST", "/a b/c", b"/a%20b/c")
    assert scope["query_string"] == b"q=1&r=%C3%A9"
    assert scope["headers"] == [(b"x-name", b"v\xe9")]
    assert parsed.window == 5


@pytest.mark.parametrize(
    "head",
    [
        {"path": "/x"},
        {"method": "GET", "path": "x"},
        {"method": "GET", "path": "/\u00e9"},
        {"method": "GET", "path": "/x", "headers": [["a"]]},
        {"method": "GET", "path": "/x", "headers": [["a", "\u20ac"]]},
        {"method": "GET", "path": "/x", "headers": 1},
        {"method": "GET", "path": "/x", "window": 0},
        {"method": "GET", "path": "/x", "window": True},
    ],
)
def test_a_head_that_is_none_is_refused(head: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="http_request"):
        HttpRequest.parse(head, b"")


def test_a_body_of_known_length_travels_with_its_head() -> None:
    outbox = Outbox()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == {"type": "http.request", "body": b"body", "more_body": False}
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    asyncio.run(HttpCall(request(), outbox).run(application))
    [(parts, final)] = outbox.responses
    assert json.loads(parts[0]) == {"status": 200, "headers": [["content-length", "2"]]}
    assert (parts[1:], final) == ([b"ok"], True)


def test_a_streamed_body_lets_its_head_go_first() -> None:
    outbox = Outbox()
    asyncio.run(HttpCall(request(), outbox).run(respond(JSON_HEADERS, b"a", b"", b"b")))
    head, *rest = outbox.responses
    assert json.loads(head[0][0])["status"] == 201 and len(head[0]) == 1
    assert rest == [([b"a"], False), ([b"b"], False), ([], True)]


def test_more_than_the_window_is_not_sent_until_it_is_read() -> None:
    async def scenario() -> None:
        outbox = Outbox()
        call = HttpCall(request(window=10), outbox)
        task = asyncio.create_task(call.run(respond(JSON_HEADERS, *[b"1234"] * 8)))
        await asyncio.sleep(0.01)
        # 4 and 4 and 4 are under way: the window of 10 is full.
        assert len(outbox.responses) == 1 + 3
        call.read(4)
        await asyncio.sleep(0.01)
        assert len(outbox.responses) == 1 + 4
        call.read(12)
        await asyncio.sleep(0.01)
        assert len(outbox.responses) == 1 + 7
        assert not task.done()
        call.read(100)
        await task
        assert outbox.responses[-1] == ([], True)
        assert outbox.body.endswith(b"1234" * 8)

    asyncio.run(scenario())


def test_cancelling_the_call_is_the_client_going_away() -> None:
    async def scenario() -> None:
        outbox, seen = Outbox(), []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "http.response.start", "status": 200, "headers": JSON_HEADERS})
            seen.append(await receive())
            # What is sent to nobody is dropped.
            await send({"type": "http.response.body", "body": b"late"})
            seen.append("ended by itself")

        task = asyncio.create_task(HttpCall(request(), outbox).run(application))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == [{"type": "http.disconnect"}, "ended by itself"]
        assert b"late" not in outbox.body

    asyncio.run(scenario())


def test_a_call_that_waits_for_room_ends_when_its_client_goes() -> None:
    async def scenario() -> None:
        task = asyncio.create_task(HttpCall(request(window=1), Outbox()).run(respond(JSON_HEADERS, b"aa", b"bb")))
        await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(scenario(), 2))


def test_an_application_that_does_not_listen_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi_call, "_END_SECONDS", 0.02)

    async def scenario() -> None:
        ended: list[str] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        task = asyncio.create_task(HttpCall(request(), Outbox()).run(application))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == ["cancelled"]

    asyncio.run(scenario())


def test_a_failure_after_the_answer_is_not_the_callers() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await respond(JSON_HEADERS, b"a")(scope, receive, send)
        raise ValueError("a middleware passes on what it has answered")

    outbox = Outbox()
    asyncio.run(HttpCall(request(), outbox).run(application))
    assert outbox.responses[-1] == ([], True)


def test_a_failure_before_the_end_of_the_answer_is() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": JSON_HEADERS})
        raise ValueError("half way")

    async def forgets(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": JSON_HEADERS})

    with pytest.raises(ValueError, match="half way"):
        asyncio.run(HttpCall(request(), Outbox()).run(fails))
    with pytest.raises(RuntimeError, match="without a complete response"):
        asyncio.run(HttpCall(request(), Outbox()).run(forgets))
