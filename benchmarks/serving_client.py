"""Clients that wait for each answer before they ask again: bare HTTP/1.1 on asyncio, light beside the servers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Reply:
    """An answer, and how long it took."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float
    """From the request's first byte to the answer's last."""
    first_seconds: float
    """To the first byte of the body: of a stream its first event."""


def request_bytes(path: str, body: Mapping[str, Any]) -> bytes:
    """Return a whole POST request."""
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: {_HOST}\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}"
    return f"{head}\r\n\r\n".encode() + raw


class Connection:
    """One connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use `opened`."""
        self._reader = reader
        self._writer = writer

    @classmethod
    async def opened(cls, port: int) -> Connection:
        """Return a connection to a server on this machine."""
        return cls(*await asyncio.open_connection(_HOST, port))

    async def ask(self, request: bytes) -> Reply:
        """Send one request and read its answer to the end.

        Raises:
            EOFError: the server closed the connection.

        """
        start = time.perf_counter()
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "content-length" in headers:
            body = await self._reader.readexactly(int(headers["content-length"]))
            end = first = time.perf_counter()
        else:
            chunks, first = [], None
            while chunk := await self._chunk():
                first = first or time.perf_counter()
                chunks.append(chunk)
            body, end = b"".join(chunks), time.perf_counter()
        return Reply(int(status_line.split()[1]), headers, body, end - start, (first or end) - start)

    async def _chunk(self) -> bytes:
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        return (await self._reader.readexactly(size + 2))[:-2]

    def close(self) -> None:
        """Close it."""
        self._writer.close()


async def ask_once(port: int, path: str, body: Mapping[str, Any]) -> Reply:
    """Ask on a connection of its own."""
    connection = await Connection.opened(port)
    try:
        return await connection.ask(request_bytes(path, body))
    finally:
        connection.close()


async def ask_in_turns(
    port: int, turns_by_client: Sequence[Sequence[Sequence[bytes]]]
) -> tuple[float, list[list[list[Reply]]]]:
    """Let every client take its turns at once; in a turn it asks all requests and waits for all answers.

    Returns the seconds from the first request to the last answer, and the replies by client, turn and request.
    """
    widest = [max(len(turn) for turn in turns) for turns in turns_by_client]
    connections = [[await Connection.opened(port) for _ in range(width)] for width in widest]

    async def client(own: list[Connection], turns: Sequence[Sequence[bytes]]) -> list[list[Reply]]:
        return [
            list(await asyncio.gather(*(one.ask(request) for one, request in zip(own, turn, strict=False))))
            if len(turn) > 1
            else [await own[0].ask(turn[0])]
            for turn in turns
        ]

    try:
        start = time.perf_counter()
        replies = await asyncio.gather(*map(client, connections, turns_by_client))
        return time.perf_counter() - start, replies
    finally:
        for connection in (one for own in connections for one in own):
            connection.close()
