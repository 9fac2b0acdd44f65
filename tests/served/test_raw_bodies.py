"""Bytes that no well-behaved client sends: an error in its shape, or a closed connection, and no harm done."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.request.endpoints import ENDPOINTS
from tests.stand_ins.live_server import LiveServer

SECONDS = 300
TELLS_TOO_MUCH = re.compile(r"Traceback|File \"|site-packages|\bvllm\.|<class|pydantic_core|\.py\b")
CHAT = "/v1/chat/completions"


def check_refused(status: int, text: str) -> None:
    assert 400 <= status < 500, text[:500]
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == status
    assert isinstance(error["message"], str)
    assert error["message"]
    assert not TELLS_TOO_MUCH.search(text), text[:500]


def valid(path: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hi there"}]
    return {
        "/v1/completions": {"prompt": "Hi there", "max_tokens": 2},
        "/v1/chat/completions": {"messages": messages, "max_tokens": 2},
        "/v1/responses": {"input": "Hi there", "max_output_tokens": 2},
        "/v1/messages": {"messages": messages, "max_tokens": 2},
        "/v1/messages/count_tokens": {"messages": messages},
        "/tokenize": {"messages": messages},
        "/detokenize": {"tokens": [3, 4]},
        "/v1/route": {"input": "Hi there"},
    }[path]


PATHS = [*ENDPOINTS, "/v1/route"]


@pytest.fixture(autouse=True, scope="module")
def _alive_afterwards(http: httpx.Client) -> Iterator[None]:
    yield
    assert http.get("/health/ready").status_code == 200
    assert http.post("/v1/completions", json=valid("/v1/completions")).status_code == 200


def nested(depth: int) -> bytes:
    return b'{"messages": ' + b"[" * depth + b"]" * depth + b"}"


MALFORMED = {
    "truncated": b'{"prompt": "Hi the',
    "truncated escape": b'{"prompt": "\\ud8',
    "a comma too much": b'{"prompt": "a",}',
    "two objects": b'{"prompt": "a"}{"prompt": "b"}',
    "nan": b'{"prompt": "a", "temperature": NaN}',
    "infinity": b'{"prompt": "a", "temperature": -Infinity}',
    "1e400": b'{"prompt": "a", "temperature": 1e400}',
    "10**30": b'{"prompt": "a", "seed": 1' + b"0" * 30 + b"}",
    "10000 digits": b'{"prompt": "a", "seed": ' + b"1" * 10_000 + b"}",
    "nested 200": nested(200),
    "nested 100000": nested(100_000),
    "invalid utf-8": b'{"prompt": "\xff\xfe\xc0"}',
    "utf-16": '{"prompt": "a"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "lone surrogate": b'{"prompt": "\\ud800", "input": "\\udc00"}',
    "nothing": b"",
    "zeros": b"\x00" * 100,
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "a form": b"prompt=a&max_tokens=2",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(http: httpx.Client, path: str, name: str) -> None:
    sent = {"content": MALFORMED[name], "headers": {"content-type": "application/json"}}
    answer = http.post(path, **sent)
    check_refused(answer.status_code, answer.text)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": ""},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
    ids=str,
)
def test_other_kinds_of_bodies(http: httpx.Client, path: str, headers: dict[str, str]) -> None:
    raw = json.dumps(valid(path)).encode()
    raw = gzip.compress(raw) if "content-encoding" in headers else raw
    answer = http.post(path, content=raw, headers=headers)
    check_refused(answer.status_code, answer.text)
    if path != "/v1/route" or "content-encoding" not in headers:  # there FastAPI reads first
        assert answer.status_code == 415


def test_no_content_type_at_all(http: httpx.Client) -> None:
    request = http.build_request("POST", CHAT, content=json.dumps(valid(CHAT)).encode())
    request.headers.pop("content-type", None)
    answer = http.send(request)
    check_refused(answer.status_code, answer.text)


def test_of_a_key_given_twice_the_last_value_counts(http: httpx.Client) -> None:
    body = b'{"model": "nobody", "prompt": "Hi there", "max_tokens": 1, "model": "auto"}'
    answer = http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_ten_megabytes(http: httpx.Client, path: str) -> None:
    text = "many words " * (10 * 2**20 // 11)
    body = {"prompt": text, "input": text, "messages": [{"role": "user", "content": text}]}
    answer = http.post(path, json=body)
    if path != "/tokenize" or answer.status_code != 200:  # to count the tokens of any length is its purpose
        check_refused(answer.status_code, answer.text)


def talk(server: LiveServer, sent: bytes, shut: bool = False) -> bytes:
    """What the server says to these bytes until it hangs up or has answered."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
        connection.sendall(sent)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                heard += chunk
        return heard


def head(path: str, *lines: str) -> bytes:
    fixed = ("host: localhost", "connection: close", "content-type: application/json")
    return "\r\n".join([f"POST {path} HTTP/1.1", *fixed, *lines, "", ""]).encode()


def answers(heard: bytes) -> list[tuple[int, str]]:
    found = []
    for answer in re.split(rb"(?=HTTP/1\.1 \d{3})", heard)[1:]:
        top, _, body = answer.partition(b"\r\n\r\n")
        found.append((int(top.split()[1]), body.decode()))
    return found


BODY = json.dumps(valid(CHAT)).encode()


@pytest.mark.parametrize(
    "lines",
    [
        (f"content-length: {len(BODY)}", "content-length: 3"),
        ("content-length: -1",),
        ("content-length: 99999999999999999999999",),
        ("content-length: abc",),
        (f"content-length: {len(BODY)}", "transfer-encoding: chunked"),
        ("transfer-encoding: chunked, identity",),
        ("bad header without colon",),
    ],
    ids=str,
)
def test_two_lengths_and_other_smuggling(server: LiveServer, lines: tuple[str, ...]) -> None:
    smuggled = b"POST /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
    heard = answers(talk(server, head(CHAT, *lines) + BODY + smuggled, shut=True))
    assert len(heard) <= 1, "the bytes behind the body were taken for a request of their own"
    for status, text in heard:
        check_refused(status, text)


def test_a_broken_chunk(server: LiveServer) -> None:
    ((status, text),) = answers(talk(server, head(CHAT, "transfer-encoding: chunked") + b"zz\r\n{}\r\n"))
    check_refused(status, text)


def test_chunks_without_an_end_hold_nothing_up(server: LiveServer, http: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
        connection.sendall(head(CHAT, "transfer-encoding: chunked") + b'5\r\n{"mes\r\n')
        assert http.post(CHAT, json=valid(CHAT)).status_code == 200
    assert talk(server, head(CHAT, "transfer-encoding: chunked") + b'5\r\n{"mes\r\n', shut=True) == b""


def test_a_body_shorter_than_announced(server: LiveServer) -> None:
    assert talk(server, head(CHAT, f"content-length: {len(BODY) + 9}") + BODY, shut=True) == b""


def test_expect_100_continue(server: LiveServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
        connection.sendall(head(CHAT, "expect: 100-continue", f"content-length: {len(BODY)}"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(BODY)
        heard = b""
        while chunk := connection.recv(65536):
            heard += chunk
    assert heard.startswith(b"HTTP/1.1 200")


def test_what_is_no_http(server: LiveServer) -> None:
    for sent in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"{}\r\n\r\n"):
        ((status, text),) = answers(talk(server, sent))
        check_refused(status, text)
