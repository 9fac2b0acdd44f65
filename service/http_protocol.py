"""uvicorn's HTTP, with the error shape even where a request can't be read as HTTP at all."""

from __future__ import annotations

import json
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from service.errors import error_body


class HttpProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Answers what is no HTTP (two lengths, a broken chunk, a bad header) with 400, and hangs up."""

    transport: Any

    def send_400_response(self, msg: str) -> None:
        """Send the answer; `msg` is uvicorn's, the same for everything."""
        body = json.dumps(error_body(400, "The request can't be read as HTTP/1.1")).encode()
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\n"
            b"content-type: application/json\r\n"
            b"content-length: " + str(len(body)).encode() + b"\r\n"
            b"connection: close\r\n"
            b"\r\n" + body
        )
        self.transport.close()
