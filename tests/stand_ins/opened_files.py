"""See from outside whether any process opens a file of a folder, with the kernel's inotify."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

_OPENED = 0x20  # IN_OPEN
_EVENT = struct.Struct("iIII")


class OpenedFiles:
    """Watches the folders from its making on."""

    def __init__(self, *folders: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._stream = libc.inotify_init1(os.O_NONBLOCK)
        for folder in folders:
            if libc.inotify_add_watch(self._stream, os.fsencode(folder), _OPENED) < 0:
                raise OSError(ctypes.get_errno(), f"{folder} can't be watched")

    def names(self) -> list[str]:
        """What was opened since the last call; the folder itself is an empty name."""
        found, events = [], b""
        while True:
            try:
                events += os.read(self._stream, 65536)
            except BlockingIOError:
                break
        while events:
            _, _, _, length = _EVENT.unpack_from(events)
            name, events = events[_EVENT.size : _EVENT.size + length], events[_EVENT.size + length :]
            found.append(name.rstrip(b"\0").decode())
        return found

    def close(self) -> None:
        os.close(self._stream)
