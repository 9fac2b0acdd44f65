"""A line to stand in, so that many cheap answers leave room in the event loop for everything else."""

from __future__ import annotations

import asyncio


class OnePerTurn:
    """Whoever waits here goes on alone: at most one in a turn of the event loop, in the order they came.

    A token on its way to a client takes some twenty turns of the loop. Where each turn first answers everybody who
    asks for something cheap, that token waits for all of them twenty times over.
    """

    def __init__(self) -> None:
        """Nobody waits."""
        self._line = asyncio.Lock()

    async def turn(self) -> None:
        """Return in a turn of one's own."""
        async with self._line:
            await asyncio.sleep(0)
