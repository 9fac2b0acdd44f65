"""Versions of what is served: each request belongs to one, from its beginning to its last byte."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from bundle.read import Bundle
from router.served import ServedRouter
from service.engine.engine import LoadedBundle


@dataclass(frozen=True, eq=False)
class Version:
    """One bundle, ready to answer: nothing of it is shared with another but adapters of equal weights."""

    bundle: Bundle
    loaded: LoadedBundle
    router: ServedRouter
    app: ASGIApp
    """Our whole app over this bundle: names, router, chat template and headers all come from it."""


class Versions:
    """Pure ASGI, outermost: hands each request to the version that is current when the request comes."""

    def __init__(self, first: Version) -> None:
        """`first` is current until `switch`."""
        self.current = first
        self._under_way: Counter[Version] = Counter()
        self._left: dict[Version, asyncio.Event] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        version = self.current
        self._under_way[version] += 1
        try:
            await version.app(scope, receive, send)
        finally:
            self._under_way[version] -= 1
            if version in self._left and not self._under_way[version]:
                self._left[version].set()

    def switch(self, new: Version) -> Version:
        """Make `new` current and return the version before it."""
        old, self.current = self.current, new
        return old

    async def last_answer(self, version: Version) -> None:
        """Wait until a version that is no longer current has given its last answer."""
        if self._under_way[version]:
            self._left[version] = asyncio.Event()
            await self._left[version].wait()
            del self._left[version]
        del self._under_way[version]
