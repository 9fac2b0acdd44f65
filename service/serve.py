"""Start the service, run it, and end it with everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from bundle.read import Bundle, read_bundle
from router.load import load_router
from router.protocol import Router
from router.text import PromptReader
from router.threaded import RouterThread
from service import console
from service.app import Service, build_app
from service.base_model import checked_base
from service.decision import Decider
from service.dispatch import Dispatch
from service.engine import RunningEngine, running_engine
from service.engine_args import engine_args
from service.environment import available_cores, prepare_environment
from service.errors import UsageError
from service.lifecycle import Lifecycle
from service.logs import configure_logging
from service.metrics import Metrics
from service.names import ModelNames
from service.request_text import RequestTexts
from service.settings import Settings
from service.signals import Signals, StoppedError
from service.tracing import trace_protocol, tracing

if TYPE_CHECKING:
    from fastapi import FastAPI

    from service.spans import Tracer

_WATCH_SECONDS = 1.0  # ours: how soon a dead engine is noticed without a request
_log = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Serve a bundle until a signal or the engine's death; return the exit code.

    0 after SIGTERM or Ctrl-C (a second one does not wait for answers under way), 1 if the engine did not
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
    configure_logging(settings.log_format, settings.verbose, settings.request_log)
    trace_protocol(settings.otlp_endpoint)  # said before the long start
    bundle = read_bundle(settings.bundle)
    console.say(console.describe(bundle))
    base = checked_base(bundle, settings.base_model)
    console.say(f"base model checked: {base}")
    with contextlib.closing(_bound_socket(settings.host, settings.port)) as sock:
        prepare_environment(os.environ, settings.verbose, available_cores())
        with console.ticking("loading vLLM"):
            args = engine_args(bundle, base, settings.engine_flags)
        router = load_router(bundle, settings.router_threads)
        threads = os.environ.get("OMP_NUM_THREADS", "as many as there are cores")
        console.say(
            f"router loaded: {settings.router_threads} thread(s); engine: {args.dtype}, "
            f"{args.max_loras} adapters of rank up to {args.max_lora_rank}, OMP threads: {threads}"
        )

        def on_ready(port: int) -> None:
            console.say_ready(settings.host, port, time.monotonic() - start)

        serving = _serve(settings, bundle, args, router, sock, signals, on_ready)
        with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
            try:
                return runner.run(serving)
            except EngineStartError as error:
                console.say(str(error))
                return 1


class EngineStartError(RuntimeError):
    """The engine could not be started; the reason stands in its own log lines above."""


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: they would close the port before anyone sees a 503."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(
    settings: Settings,
    bundle: Bundle,
    args: Namespace,
    router: Router,
    sock: socket.socket,
    signals: Signals,
    on_ready: Callable[[int], None],
) -> int:
    lifecycle = Lifecycle()
    async with _started(args, lifecycle) as engine:
        with (
            contextlib.closing(RouterThread(router)) as classifier,
            tracing(settings.otlp_endpoint) as tracer,
        ):
            server = _HttpServer(
                uvicorn.Config(
                    _wired(bundle, engine, classifier, lifecycle, tracer),
                    lifespan="off",
                    log_config=None,  # its lines go where ours go
                    access_log=False,  # `request_log` says more
                    server_header=False,
                    timeout_graceful_shutdown=settings.shutdown_seconds,
                )
            )

            def close() -> None:
                server.should_exit = True

            def on_stop(again: bool) -> None:
                server.force_exit = again
                lifecycle.stop()

            running = asyncio.create_task(server.serve(sockets=[sock]))
            while not server.started and not running.done():
                await asyncio.sleep(0.01)
            lifecycle.serving(close)
            signals.serving(on_stop)
            watch = asyncio.create_task(_watch(engine, lifecycle))
            on_ready(sock.getsockname()[1])
            await running
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
    bundle: Bundle,
    engine: RunningEngine,
    classifier: RouterThread,
    lifecycle: Lifecycle,
    tracer: Tracer | None,
) -> FastAPI:
    """Put the parts together."""
    manifest = bundle.manifest
    metrics = Metrics()
    metrics.serve_bundle(manifest)
    metrics.watch(lambda: not engine.dead, lambda: lifecycle.not_ready_because is None)
    tokenizer = engine.tokenizer
    template = bundle.chat_template.read_text(encoding="utf-8")
    prompts = PromptReader(template, tokenizer.bos_token, tokenizer.eos_token)
    texts = RequestTexts(manifest.routed_text.rule, prompts, tokenizer)
    decider = Decider(ModelNames(manifest), classifier, manifest.calibration.threshold)
    service = Service(bundle, decider, texts, lifecycle, engine.max_model_len)
    return build_app(service, Dispatch(engine.app, decider, texts, metrics), metrics, tracer)


async def _watch(engine: RunningEngine, lifecycle: Lifecycle) -> None:
    """Notice a dead engine even if no request comes; vLLM's own watch runs only in its own server."""
    while not engine.dead:
        await asyncio.sleep(_WATCH_SECONDS)
    lifecycle.engine_died()


def _bound_socket(host: str, port: int) -> socket.socket:
    """Take the port before the long start, so that a port in use is said at once; nothing listens yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise UsageError(
            f"Port {port} on {host} can't be opened ({error.strerror}). Give another with --port"
        ) from error
    return sock
