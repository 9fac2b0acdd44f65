"""HTTP/1.1 on one connection: uvicorn's, kept in step with its client whatever the client sends.

Each request gets one answer, and what stands in a body is never read as a request. What can't be read as HTTP, never
comes whole, or is larger than stated here gets an answer in the error shape before any of our layers sees it.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

import httptools
from starlette.types import Message, Send
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import error_body
from service.http_server.half_closed import HalfClosed

HEAD_SECONDS = 60.0
"""anchor:nginx, `client_header_timeout`: all headers of a request, from the connection or else their first byte."""
SEND_SECONDS = 60.0
"""anchor:nginx, `send_timeout`: how long a client may read nothing of an answer that waits for it."""
KEEP_ALIVE_SECONDS = 620.0
"""ours: how long an idle connection stays; longer than proxies keep theirs (nginx and AWS 60, Google 600)."""
MAX_HEAD_BYTES = 65_536
"""anchor:uvicorn, its bound with h11: request line and headers together, and what stands around a body's pieces."""
MAX_FIELDS = 256  # ours: browsers and proxies send some dozens
_LINGER_SECONDS = 2.0  # ours: who is still sending gets to read why nobody listens
_MESSAGE_END = b"\n\r\n"
_VERSIONS = ("1.0", "1.1")
_IGNORED = b"ignored"
"""Stands for the name `upgrade` while the parser reads it, so that it is read over (RFC 9110, 7.8)."""


class _RefusedError(Exception):
    """A request is refused for what its head says."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class HttpProtocol(HttpToolsProtocol):
    """Feeds uvicorn's parser line by line, and one request at a time.

    The parser leaves its connection to another protocol where a client offers one, and then takes the body for the
    next request; nothing but HTTP/1.1 is spoken here, so it does not get to see an offer. A second request waits
    unread until the first is answered: reading goes on meanwhile, so that a client that leaves is noticed.
    """

    transport: Any
    cycle: Any

    def __init__(self, *args: Any, send_seconds: float = SEND_SECONDS, **kwargs: Any) -> None:
        """`send_seconds` is how long a client may read nothing of its answer."""
        super().__init__(*args, **kwargs)
        self._send_seconds = send_seconds
        self._unread = bytearray()
        self._in_head = True
        self._head_bytes = self._head_lines = 0
        self._body_left: int | None = 0
        """Bytes that the body still has; None if it comes in chunks."""
        self._since_body = 0
        """Bytes of chunk sizes and trailers since the last byte of a body."""
        self._refused = False
        self._waiting: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._half_closed: HalfClosed | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request's head."""
        super().connection_made(transport)
        self._waiting = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        self._stop_watching()
        if self._half_closed is not None:
            self._half_closed.stop()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # a transport asks for it
        """Answer what a client has asked that sends no more; True keeps the connection open for it."""
        if self._half_closed is None and self._answering() and self._in_head and not self._refused:
            self._half_closed = HalfClosed(self.transport, self._may_say_interim)
        return self._half_closed is not None

    def _may_say_interim(self) -> bool:
        return (
            self._answering()
            and not self.cycle.response_started
            and self.cycle.scope["http_version"] != "1.0"
        )

    def data_received(self, data: bytes) -> None:
        """Read on; time runs while a request has begun and its head is not complete."""
        self._unset_keepalive_if_required()
        if self._refused:
            return
        self._unread += data
        self._read_on()
        if self._answering():
            self._stop_waiting()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def on_response_complete(self) -> None:
        """Go on with what came meanwhile."""
        super().on_response_complete()
        self._answer_the_next()
        if self._half_closed is not None and not (self._answering() and self._in_head):
            self.transport.close()  # nothing is left that came whole

    def _answer_the_next(self) -> None:
        if self.expect_100_continue and not self._in_head and not self.transport.is_closing():
            # Nobody can tell whether a client that was not told to continue sends its body or the next request.
            self._unset_keepalive_if_required()
            self._leave()
        elif self._unread and not self._refused and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._read_on()
            if not self._answering() and self._waiting is None:
                self._waiting = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _read_on(self) -> None:
        """Give the parser what may be read now: of a head whole lines, of a body no byte that is not its own."""
        try:
            while self._unread and not self._refused and not self.transport.is_closing():
                if self._in_head and self._answering():  # the next request, too early
                    if len(self._unread) > HIGH_WATER_LIMIT:
                        self.flow.pause_reading()
                    return
                piece = self._head_line() if self._in_head else self._body_piece()
                if piece is None:
                    return
                self.parser.feed_data(piece)
        except _RefusedError as error:
            self._hang_up(error.status, str(error))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # What a callback raises comes out wrapped.
            cause = error.__context__ if isinstance(error.__context__, _RefusedError) else None
            if cause is not None:
                self._hang_up(cause.status, str(cause))
            else:
                self._hang_up(HTTPStatus.BAD_REQUEST, "The request can't be read as HTTP/1.1")

    def _take(self, count: int) -> bytes:
        piece = bytes(self._unread[:count])
        del self._unread[:count]
        return piece

    def _head_line(self) -> bytes | None:
        """Return the next whole line of a head, None if there is none yet."""
        end = self._unread.find(b"\n") + 1
        self._check_head(self._head_bytes + (end or len(self._unread)))
        if not end:
            return None
        line = self._take(end)
        self._head_bytes += end
        if line.strip():
            self._head_lines += 1
        if self._head_lines == 1 and line.startswith(b"CONNECT "):
            raise _RefusedError(HTTPStatus.NOT_IMPLEMENTED, "This is no proxy: CONNECT is not served")
        if self._head_lines > MAX_FIELDS + 1:
            raise _RefusedError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"The request has too many headers; the limit is {MAX_FIELDS}",
            )
        name, colon, value = line.partition(b":")
        return _IGNORED + colon + value if name.lower() == b"upgrade" else line

    def _check_head(self, size: int) -> None:
        if size > MAX_HEAD_BYTES:
            what = "request line" if not self._head_lines else "head (request line and headers)"
            raise _RefusedError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"The request's {what} is too large; the limit is {MAX_HEAD_BYTES} bytes",
            )

    def _body_piece(self) -> bytes:
        """Return what comes next of a body: nothing behind its end, which in chunks is always an empty line."""
        if self._body_left == 0:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "The request can't be read as HTTP/1.1")
        if self._body_left is not None:
            piece = self._take(self._body_left)
            self._body_left -= len(piece)
            return piece
        if self._since_body > MAX_HEAD_BYTES:
            raise _RefusedError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                "What stands between the body's chunks or behind them is too large; "
                f"the limit is {MAX_HEAD_BYTES} bytes",
            )
        # The line before the empty one may have come, and been fed, earlier: then the empty line stands first.
        if self._unread.startswith((b"\r\n", b"\n")):
            end = self._unread.find(b"\n") + 1
        elif self._unread == b"\r":
            end = 1
        else:
            found = self._unread.find(_MESSAGE_END)
            end = found + len(_MESSAGE_END) if found >= 0 else len(self._unread)
        self._since_body += end
        return self._take(end)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._since_body = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what is sent behind a body (a trailer) is none."""
        if self._in_head and name.lower() != _IGNORED:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Have the request answered, if its head is one of HTTP/1.1.

        Raises:
            _RefusedError: it is of another version, or names no host or several.

        """
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            raise _RefusedError(
                HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, f"HTTP/{version} is not spoken here: use HTTP/1.1"
            )
        names = [name for name, _ in self.headers]
        hosts = names.count(b"host")
        if hosts > 1 or (hosts == 0 and version != "1.0"):
            given = "none" if not hosts else str(hosts)
            raise _RefusedError(
                HTTPStatus.BAD_REQUEST, f"A request has one Host header, this one has {given}"
            )
        if version == "1.0":
            self.expect_100_continue = False
        chunked = b"transfer-encoding" in names
        if chunked and version == "1.0":
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "HTTP/1.0 has no chunked bodies")
        lengths = [value for name, value in self.headers if name == b"content-length"]
        self._body_left = None if chunked else int(lengths[0]) if lengths else 0
        self._in_head = False
        super().on_headers_complete()
        if version == "1.0":
            self.cycle.send = _until_closed(self.cycle, self.cycle.send)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._since_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request; the next head follows."""
        super().on_message_complete()
        self._in_head = True
        self._head_bytes = self._head_lines = 0

    def pause_writing(self) -> None:
        """Watch that the client reads what waits for it."""
        super().pause_writing()
        self._unsent = self.transport.get_write_buffer_size()
        self._stop_watching()
        self._sending = self.loop.call_later(self._send_seconds, self._still_reading)

    def resume_writing(self) -> None:
        """Write on: the client reads."""
        self._stop_watching()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, and not wait without end for what its client does not read."""
        super().timeout_keep_alive_handler()
        if self._sending is None and self.transport.get_write_buffer_size():
            self._sending = self.loop.call_later(self._send_seconds, self.transport.abort)

    def _still_reading(self) -> None:
        """End a connection whose client has read nothing since the last look."""
        unsent, before = self.transport.get_write_buffer_size(), self._unsent
        if unsent >= before:
            self.transport.abort()
            return
        self._unsent = unsent
        self._sending = self.loop.call_later(self._send_seconds, self._still_reading)

    def _stop_watching(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if self._head_bytes or self._unread:
            message = f"The headers were not complete within {HEAD_SECONDS:g} seconds; send the request again"
            self._hang_up(HTTPStatus.REQUEST_TIMEOUT, message)
        else:
            self.transport.close()

    def _hang_up(self, status: HTTPStatus, message: str) -> None:
        """Answer the request that is being read, if nothing answers it yet, and read no more."""
        self._refused = True
        self._unread.clear()
        self._stop_waiting()
        if self.transport.is_closing():
            return
        answered = not self._in_head and self.cycle is not None and self.cycle.response_started
        if self._answering():
            self.cycle.disconnected = True  # whatever it would still say
            self.cycle.message_event.set()
        if answered:
            self.transport.close()
            return
        body = json.dumps(error_body(status, message)).encode()
        self.transport.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            "connection: close\r\n"
            "\r\n".encode()
            + body
        )
        self._leave()

    def _leave(self) -> None:
        """Close the connection, but let the client read first: closed while it sends, it takes the answer with it."""
        self._refused = True
        self._unread.clear()
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)


def _until_closed(cycle: Any, send: Send) -> Send:
    """Return a send channel that ends an answer of unknown length with the connection."""
    unannounced = False

    async def sending(message: Message) -> None:
        nonlocal unannounced
        if message["type"] == "http.response.start":
            unannounced = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
            if unannounced:
                cycle.chunked_encoding = False
        elif unannounced:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    return sending
