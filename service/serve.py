"""Start the service, run it, and end it with everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from uvicorn.loops.auto import auto_loop_factory

from bundle.read import Bundle, read_bundle
from router.load import load_router
from router.protocol import Router
from router.text import PromptReader
from router.threaded import RouterThread
from service import console
from service.admission import Admission, Limits
from service.app import Service, build_app, build_metrics_app
from service.auth import Access, read_access
from service.base_model import checked_base
from service.decision import Decider
from service.dispatch import Dispatch
from service.ending import wait_for_the_end
from service.engine import RunningEngine, running_engine
from service.engine_args import engine_args
from service.environment import available_cores, prepare_environment
from service.family import descendants, end_leftovers
from service.in_flight import InFlight
from service.lifecycle import Lifecycle
from service.listening import bound_socket, listening
from service.metrics import Metrics
from service.names import ModelNames
from service.request_text import RequestTexts
from service.settings import Settings
from service.signals import Signals, StoppedError

if TYPE_CHECKING:
    from fastapi import FastAPI

_WATCH_SECONDS = 0.25  # ours: how soon a dead engine is noticed without a request
_log = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Serve a bundle until a signal or the engine's death; return the exit code.

    0 after SIGTERM or Ctrl-C (a second one ends answers under way with an error at once), 1 if the engine did not
    start or died.

    Raises:
        UsageError: a setting or an engine flag is impossible.
        BundleError: the bundle or the base model is not what it should be.

    """
    with Signals() as signals:
        try:
            return _run(settings, signals)
        except StoppedError:
            console.say("stopped before it was ready")
            return 0


def _run(settings: Settings, signals: Signals) -> int:
    start = time.monotonic()
    logging.basicConfig(level=logging.INFO if settings.verbose else logging.WARNING)
    bundle = read_bundle(settings.bundle)
    console.say(console.describe(bundle))
    base = checked_base(bundle, settings.base_model)
    console.say(f"base model checked: {base}")
    access = read_access(settings)
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(bound_socket(settings.host, settings.port, "port"))
        metrics_sock = None
        if settings.metrics_port is not None:
            metrics_sock = stack.enter_context(
                bound_socket(settings.metrics_host, settings.metrics_port, "metrics_port")
            )
        prepare_environment(os.environ, settings.verbose, available_cores())
        with console.ticking("loading vLLM"):
            args = engine_args(bundle, base, settings.engine_flags, settings.max_answer_tokens)
        router = load_router(bundle, settings.router_threads)
        threads = os.environ.get("OMP_NUM_THREADS", "as many as there are cores")
        console.say(
            f"router loaded: {settings.router_threads} thread(s); engine: {args.dtype}, "
            f"{args.max_loras} adapters of rank up to {args.max_lora_rank}, OMP threads: {threads}"
        )

        def on_ready(port: int) -> None:
            print(console.ready_lines(settings.host, port, time.monotonic() - start), flush=True)

        serving = _serve(settings, access, bundle, args, router, sock, metrics_sock, signals, on_ready)
        with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
            try:
                return runner.run(serving)
            except EngineStartError as error:
                console.say(str(error))
                return 1


class EngineStartError(RuntimeError):
    """The engine could not be started; the reason stands in its own log lines above."""


async def _serve(
    settings: Settings,
    access: Access,
    bundle: Bundle,
    args: Namespace,
    router: Router,
    sock: socket.socket,
    metrics_sock: socket.socket | None,
    signals: Signals,
    on_ready: Callable[[int], None],
) -> int:
    lifecycle = Lifecycle()
    loop = asyncio.get_running_loop()

    def on_stop() -> None:
        loop.call_soon_threadsafe(lifecycle.stop)  # a signal alone does not wake the loop

    async with contextlib.AsyncExitStack() as stack:
        leftovers = stack.enter_context(contextlib.ExitStack())
        engine = await stack.enter_async_context(_started(args, lifecycle))
        leftovers.callback(end_leftovers, descendants())
        with contextlib.closing(RouterThread(router, settings.router_seconds)) as classifier:
            app, in_flight = _wired(settings, access, bundle, engine, classifier, lifecycle)
            async with contextlib.AsyncExitStack() as ports:
                await ports.enter_async_context(listening(app, sock, settings.verbose))
                if metrics_sock is not None:
                    page = listening(build_metrics_app(), metrics_sock, settings.verbose)
                    await ports.enter_async_context(page)
                lifecycle.serving()
                signals.serving(on_stop)
                watch = asyncio.create_task(_watch(engine, lifecycle))
                on_ready(sock.getsockname()[1])
                await wait_for_the_end(
                    lifecycle, in_flight, settings.shutdown_seconds, settings.engine_death_seconds
                )
                watch.cancel()
            console.say(f"{lifecycle.not_ready_because}: ending the engine")
    return lifecycle.exit_code


@asynccontextmanager
async def _started(args: Namespace, lifecycle: Lifecycle) -> AsyncIterator[RunningEngine]:
    """Start the engine; what vLLM raises while starting becomes one sentence, with its trace if asked for."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            with console.ticking("engine starting, usually 10-60 s"):
                engine = await stack.enter_async_context(running_engine(args, lifecycle.engine_died))
        except Exception as error:
            _log.info("The engine's failure", exc_info=True)
            raise EngineStartError(f"The engine did not start: {error}") from error
        yield engine


def _wired(
    settings: Settings,
    access: Access,
    bundle: Bundle,
    engine: RunningEngine,
    classifier: RouterThread,
    lifecycle: Lifecycle,
) -> tuple[FastAPI, InFlight]:
    """Put the parts together: the app, and the requests in it."""
    manifest = bundle.manifest
    metrics = Metrics()
    tokenizer = engine.tokenizer
    template = bundle.chat_template.read_text(encoding="utf-8")
    prompts = PromptReader(template, tokenizer.bos_token, tokenizer.eos_token)
    texts = RequestTexts(manifest.routed_text.rule, prompts, tokenizer)
    decider = Decider(ModelNames(manifest), classifier, manifest.calibration.threshold)
    limits = Limits(
        settings.max_prompt_tokens or engine.max_model_len,
        settings.max_answer_tokens or engine.max_model_len,
        settings.max_choices,
    )
    admission = Admission(limits, tokenizer, metrics.rejected)
    in_flight = InFlight(settings.max_in_flight, lifecycle, metrics)
    service = Service(bundle, decider, texts, lifecycle, in_flight, admission, engine.max_model_len)
    dispatch = Dispatch(engine.app, decider, texts, metrics, in_flight, admission, lambda: engine.dead)
    return build_app(service, dispatch, access, metrics.rejected, settings), in_flight


async def _watch(engine: RunningEngine, lifecycle: Lifecycle) -> None:
    """Notice a dead engine even if no request comes; vLLM's own watch runs only in its own server."""
    while not engine.dead:
        await asyncio.sleep(_WATCH_SECONDS)
    lifecycle.engine_died()
