"""The engine inside this process: vLLM's client and its app, as they stand, without its server."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient


class EngineDeathBell:
    """Stands where vLLM keeps its HTTP server: its error handler sets `should_exit` when the engine died."""

    def __init__(self, on_death: Callable[[], None]) -> None:
        """`on_death` is called once per report; it has to bear several."""
        self._on_death = on_death

    @property
    def should_exit(self) -> bool:
        """Never asked for by anyone; the setter is what matters."""
        return False

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        if value:
            self._on_death()


@dataclass(frozen=True)
class RunningEngine:
    """The engine and vLLM's app in front of it."""

    client: EngineClient
    app: ASGIApp
    routes: tuple[Any, ...]
    """Every route of vLLM's app."""

    @property
    def dead(self) -> bool:
        """Whether the engine can't answer any more."""
        return bool(self.client.errored)

    @property
    def max_model_len(self) -> int:
        """How many tokens a prompt and its answer may have together."""
        return int(self.client.model_config.max_model_len)

    @property
    def tokenizer(self) -> Any:
        """The base model's tokenizer."""
        return self.client.renderer.get_tokenizer()


@asynccontextmanager
async def running_engine(args: Namespace, on_death: Callable[[], None]) -> AsyncIterator[RunningEngine]:
    """Start the engine with every adapter loaded, and end all its processes on the way out.

    Starting blocks the event loop for as long as it takes. vLLM names no stable interface for this;
    these five names changed by 0 to 41 lines between its last two releases.

    Raises:
        Exception: whatever vLLM raises if it can't start.

    """
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.entrypoints.launchers.app import build_app

    async with build_async_engine_client(args) as client:
        tasks = await client.get_supported_tasks()
        inner = build_app(args, tasks, client.model_config)
        await init_app_state(client, inner.state, args, tasks)
        inner.state.server = EngineDeathBell(on_death)
        async with inner.router.lifespan_context(inner):
            yield RunningEngine(client, inner, tuple(inner.routes))
