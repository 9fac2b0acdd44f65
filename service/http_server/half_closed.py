"""A client that has closed its side of the connection: one that still listens is told from one that has gone.

Both send the same end of the stream. What is sent to one that has gone comes back as a reset, so something is sent: the
interim answer 102, which every client of HTTP/1.1 reads over (RFC 9110, 15.2).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

_PROBE = b"HTTP/1.1 102 Processing\r\n\r\n"
_FIRST_SECONDS = 0.25  # ours: most answers are there by then, and nothing has to be asked
_LOOK_SECONDS = 0.5  # ours: what a reset takes around the world, and what an engine works for nobody
_LOOKS = 20  # ours: of which the first is after a probe; someone who left later is noticed too


class HalfClosed:
    """Looks after such a connection until it is answered; one that was reset is given up."""

    def __init__(self, transport: Any, may_probe: Callable[[], bool]) -> None:
        """`may_probe` says whether an interim answer may be sent now."""
        self._transport, self._may_probe = transport, may_probe
        self._looks = 0
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_FIRST_SECONDS, self._look)

    def _look(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if self._transport.is_closing() or sock is None:
            return
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
            return
        if self._looks % _LOOKS == 0 and self._may_probe():
            self._transport.write(_PROBE)
        self._looks += 1
        self._timer = self._loop.call_later(_LOOK_SECONDS, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()
