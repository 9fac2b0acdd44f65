"""The engine inside this process: vLLM's client and its app, as they stand, without its server."""

from __future__ import annotations

import copy
from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import State
from starlette.types import ASGIApp

from bundle.manifest import AnswerEnd
from service.engine.answer_end import ending
from service.engine.context_length import bound_prompts
from service.engine.doors import make_alike
from service.engine.json_schemas import remember_schemas
from service.request.endpoints import ENDPOINTS

if TYPE_CHECKING:
    from fastapi import FastAPI
    from vllm.engine.protocol import EngineClient
    from vllm.lora.request import LoRARequest


class AdapterLoadError(RuntimeError):
    """The engine does not take an adapter; the message is vLLM's."""


class ServerStandIn:
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
class LoadedBundle:
    """One bundle inside the engine: vLLM's app with its chat template, and its adapters."""

    app: ASGIApp
    adapters: Mapping[str, LoRARequest]
    """By engine name."""
    client: Any
    """vLLM's client as this bundle's app has it: its answers end where the bundle's do."""


@dataclass(frozen=True)
class RunningEngine:
    """The engine, with the bundle that it was started with."""

    client: Any
    """vLLM's AsyncLLM: an EngineClient that can also remove adapters."""
    args: Namespace
    first: LoadedBundle
    inner: FastAPI
    """vLLM's app as it was built, with every route of it."""

    @property
    def dead(self) -> bool:
        """Whether the engine can't answer any more."""
        return bool(self.client.errored)

    async def ask_for_nothing(self) -> None:
        """Return when the engine's process has taken note of a call, between two of its steps."""
        await self.client.is_sleeping()

    @property
    def max_model_len(self) -> int:
        """How many tokens a prompt and its answer may have together."""
        return int(self.client.model_config.max_model_len)

    @property
    def tokenizer(self) -> Any:
        """The base model's tokenizer."""
        return self.client.renderer.get_tokenizer()

    async def load(self, args: Namespace, beside: LoadedBundle, end: AnswerEnd | None = None) -> LoadedBundle:
        """Load another bundle: vLLM's app once more, with the same routes and a state of its own.

        `args` are the engine's with the other bundle's template and adapters, `end` is what its answers end with.
        An adapter that `beside` has
        under the same engine name has the same weights, and is shared. Answers under way notice nothing.

        Raises:
            AdapterLoadError: the engine does not take an adapter; none of the new ones stays in it.

        """
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse
        from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest
        from vllm.lora.request import LoRARequest

        state, client = State(), ending(self.client, end)
        await _init_state(client, state, args, lora_modules=None)
        state.server = self.inner.state.server
        models = state.openai_serving_models
        # The engine knows adapters by number: two bundles must never give one number to two of them.
        models.lora_id_counter = self.inner.state.openai_serving_models.lora_id_counter
        for module in args.lora_modules:
            shared = beside.adapters.get(module.name)
            if shared is not None:
                models.lora_requests[module.name] = LoRARequest(
                    module.name, shared.lora_int_id, module.path, base_model_name=module.base_model_name
                )
                continue
            asked = LoadLoRAAdapterRequest(lora_name=module.name, lora_path=module.path)
            answer = await models.load_lora_adapter(asked, module.base_model_name)
            if isinstance(answer, ErrorResponse):
                await self._remove(models.lora_requests, keep=beside.adapters)
                raise AdapterLoadError(f"{module.name}: {answer.error.message}")
        return LoadedBundle(_with_state(self.inner, state), models.lora_requests, client)

    async def unload(self, loaded: LoadedBundle, keep: LoadedBundle) -> None:
        """Take a bundle's adapters out of the engine, but for those that `keep` has too.

        No answer may be under way with them: the engine would look for their files again.
        """
        await self._remove(loaded.adapters, keep=keep.adapters)

    async def _remove(self, adapters: Mapping[str, LoRARequest], keep: Collection[str]) -> None:
        for name, request in adapters.items():
            if name not in keep:
                await self.client.remove_lora(request.lora_int_id)


@asynccontextmanager
async def running_engine(
    args: Namespace,
    on_death: Callable[[], None],
    prompt_tokens: int | None = None,
    end: AnswerEnd | None = None,
) -> AsyncIterator[RunningEngine]:
    """Start the engine with every adapter loaded, and end all its processes on the way out.

    A prompt may have as many tokens as leave room for an answer, and no more than `prompt_tokens`. `end` is what the
    bundle's answers end with.

    Starting blocks the event loop for as long as it takes. vLLM names no stable interface for this;
    these five names changed by 0 to 41 lines between its last two releases.

    Raises:
        Exception: whatever vLLM raises if it can't start.

    """
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.entrypoints.launchers.app import build_app

    make_alike()
    remember_schemas()
    bound_prompts(prompt_tokens)
    async with build_async_engine_client(args) as client:
        tasks = await client.get_supported_tasks()
        inner = build_app(args, tasks, client.model_config)
        ended = ending(client, end)
        await _init_state(ended, inner.state, args, args.lora_modules)
        inner.state.server = ServerStandIn(on_death)
        inner.router.routes.sort(key=_is_not_served)
        inner.middleware_stack = inner.build_middleware_stack()  # once: its metrics can't be registered twice
        async with inner.router.lifespan_context(inner):
            first = LoadedBundle(inner, inner.state.openai_serving_models.lora_requests, ended)
            yield RunningEngine(client, args, first, inner)


def _is_not_served(route: Any) -> bool:
    """Put what clients reach first: vLLM's app tries its routes one by one, and twice for each request."""
    return getattr(route, "path", None) not in ENDPOINTS


async def _init_state(client: EngineClient, state: State, args: Namespace, lora_modules: Any) -> None:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state

    args = Namespace(**vars(args) | {"lora_modules": lora_modules})
    await init_app_state(client, state, args, await client.get_supported_tasks())


def _with_state(app: FastAPI, state: State) -> FastAPI:
    """Return the same app over another state: vLLM's routes find everything through `request.app.state`."""
    other = copy.copy(app)
    other.state = state
    return other
