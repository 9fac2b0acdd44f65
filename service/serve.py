"""Start the service, run it, and end it with everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from uvicorn.loops.auto import auto_loop_factory

from bundle.errors import BundleError
from bundle.fingerprints import tolerance
from bundle.read import Bundle, read_bundle
from router.load import load_router
from router.protocol import Router
from service import console
from service.app import build_metrics_app
from service.assembly import Assembly
from service.bundle_source import bundle_folder
from service.engine.arguments import engine_args
from service.engine.base_model import checked_base
from service.engine.engine import RunningEngine, running_engine
from service.engine.environment import available_cores, prepare_environment, quiet_libraries
from service.engine.fingerprints import check_fingerprints
from service.engine.log_lines import SEES_ONLY_TOKENS, configure_engine_logging
from service.engine.worker_processes import descendants, end_leftovers
from service.http_server.port import bound_socket, listening
from service.layers.auth import Access, read_access
from service.lifecycle.engine_watch import watch_engine
from service.lifecycle.guardian import guarded, guardians
from service.lifecycle.lifecycle import Lifecycle
from service.lifecycle.shutdown import wait_for_the_end
from service.lifecycle.signals import Signals, StoppedError
from service.logs import configure_logging
from service.settings import Settings, forget_secrets
from service.telemetry.tracing import trace_protocol, tracing
from service.versions.versions import Versions

_EVERYWHERE = ("0.0.0.0", "::", "")
_log = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Serve a bundle until a signal or the engine's death; return the exit code.

    0 after SIGTERM or Ctrl-C (a second one ends answers under way with an error at once), 1 if the engine did not
    start or died.

    Raises:
        UsageError: a setting or an engine flag is impossible.
        BundleError: the bundle or the base model is not what it should be.

    """
    if not settings.verbose:
        quiet_libraries(os.environ)  # `Signals` starts a process, which speaks at the very end
    forget_secrets(os.environ)  # they were read
    with guarded(), Signals() as signals:
        try:
            return _run(settings, signals)
        except StoppedError:
            console.say("stopped before it was ready")
            return 0


def _run(settings: Settings, signals: Signals) -> int:
    start = time.monotonic()
    configure_logging(settings.log_format, settings.verbose, settings.request_log, SEES_ONLY_TOKENS)
    configure_engine_logging()
    trace_protocol(settings.otlp_endpoint)  # said before the long start
    bundle = read_bundle(bundle_folder(settings.bundle))
    console.say(console.describe(bundle))
    base = checked_base(bundle, settings.base_model)
    console.say(f"base model checked: {base}")
    access = read_access(settings)
    if settings.host in _EVERYWHERE and not access.clients:
        console.say(
            f"WARNING: {settings.host} is reachable from everywhere, and no API key is set: whoever reaches port "
            f"{settings.port} is answered. Give keys with --api-key-file or GRADIENTSPACE_API_KEY"
        )
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
            console.say_ready(settings.host, port, time.monotonic() - start)

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
        engine = await stack.enter_async_context(
            _started(args, bundle, lifecycle, settings.max_prompt_tokens)
        )
        leftovers.callback(end_leftovers, descendants(but=guardians()))
        tracer = stack.enter_context(tracing(settings.otlp_endpoint))
        assembly = Assembly(settings, access, engine, lifecycle, tracer)
        async with contextlib.aclosing(assembly.reloader) as reloader:
            versions = Versions(
                assembly.version(bundle, engine.first, assembly.served_router(bundle, router))
            )
            reloader.serving(versions)
            gc.freeze()  # what the start made stays: no collection has to look through it again
            async with contextlib.AsyncExitStack() as ports:
                main = listening(versions, sock, settings.send_seconds, settings.keep_alive_seconds)
                await ports.enter_async_context(main)
                if metrics_sock is not None:
                    page = listening(
                        build_metrics_app(), metrics_sock, keep_alive=settings.keep_alive_seconds
                    )
                    await ports.enter_async_context(page)
                lifecycle.serving()
                signals.serving(on_stop)
                loop.add_signal_handler(signal.SIGHUP, reloader.reload_on_signal)
                watch = asyncio.create_task(watch_engine(engine, lifecycle))
                on_ready(sock.getsockname()[1])
                await wait_for_the_end(
                    lifecycle, assembly.in_flight, settings.shutdown_seconds, settings.engine_death_seconds
                )
                watch.cancel()
            console.say(f"{lifecycle.not_ready_because}: ending the engine")
    return lifecycle.exit_code


@asynccontextmanager
async def _started(
    args: Namespace, bundle: Bundle, lifecycle: Lifecycle, prompt_tokens: int | None
) -> AsyncIterator[RunningEngine]:
    """Start the engine and see that it computes what training did.

    What vLLM raises while starting becomes one sentence, with its trace if asked for.
    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            with console.ticking("engine starting, usually 10-60 s"):
                end = bundle.manifest.answer_end
                starting = running_engine(args, lifecycle.engine_died, prompt_tokens, end)
                engine = await stack.enter_async_context(starting)
            await _check_fingerprints(engine, bundle)
        except BundleError:
            raise
        except Exception as error:
            _log.info("The engine's failure", exc_info=True)
            raise EngineStartError(f"The engine did not start: {error}") from error
        yield engine


async def _check_fingerprints(engine: RunningEngine, bundle: Bundle) -> None:
    dtype = bundle.manifest.base.dtype
    for warning in bundle.fingerprints.warnings(dtype):
        console.say(f"warning: {warning}")
    began = time.monotonic()
    farthest = await check_fingerprints(engine, engine.first, bundle)
    console.say(
        f"fingerprints checked in {time.monotonic() - began:.1f} s: the engine is within {farthest:.2g} nats of "
        f"training ({tolerance(dtype):g} allowed)"
    )
