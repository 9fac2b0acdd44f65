"""Change what is served without a restart: load the new bundle beside the old one, check it, switch, let go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Info

from bundle.base_check import check_shapes
from bundle.errors import BundleError
from bundle.manifest import Manifest
from bundle.read import Bundle, read_bundle
from router.served import ServedRouter
from service import console
from service.bundle_source import bundle_folder
from service.engine.arguments import args_for
from service.engine.engine import AdapterLoadError, LoadedBundle, RunningEngine
from service.engine.fingerprints import check_fingerprints
from service.errors import ConflictError, UsageError
from service.versions.template_trial import try_template
from service.versions.versions import Version, Versions

_LOAD_SECONDS = 300.0  # ours: the adapters of a large base are read and checked in a tenth of it
_ABORT_SECONDS = 1.0  # ours: a request whose client left still has to reach the engine as an abort
_log = logging.getLogger(__name__)

LoadRouter = Callable[[Bundle], ServedRouter]
MakeVersion = Callable[[Bundle, LoadedBundle, ServedRouter], Version]


class ReloadMetrics:
    """How often it was tried, and what is served."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Register the families."""
        self.reloads = Counter(
            "gradientspace_reloads",
            "Reloads by result: switched, unchanged (the bundle is the one that is served) or refused",
            ["result"],
            registry=registry,
        )
        for result in ("switched", "unchanged", "refused"):
            self.reloads.labels(result)
        self.bundle = Info("gradientspace_bundle", "The bundle that is served", registry=registry)

    def serving(self, bundle: Bundle) -> None:
        """Say which bundle is served from now on."""
        manifest = bundle.manifest
        self.bundle.info(
            {
                "digest": bundle.digest,
                "base": manifest.base.name,
                "experts": str(len(manifest.experts)),
                "created": manifest.created,
            }
        )


@dataclass(frozen=True)
class Reloaded:
    """What a reload did; the two digests are equal if there was nothing to do."""

    before: str
    now: str
    seconds: float


class Reloader:
    """Reads the bundle anew from where it was read at the start, and from nowhere else."""

    def __init__(
        self,
        path: Path,
        engine: RunningEngine,
        load_router: LoadRouter,
        make_version: MakeVersion,
        announce: Callable[[Bundle], None],
        metrics: ReloadMetrics,
    ) -> None:
        """`path` is the start's bundle folder, or a link to one; `load_router` may take its time.

        `announce` is told what is served whenever that may have changed.
        """
        self._path = path
        self._engine = engine
        self._load_router = load_router
        self._make_version = make_version
        self._announce = announce
        self._metrics = metrics
        self._versions: Versions | None = None
        self._loading = False
        self._leaving: asyncio.Task[None] | None = None
        self._signalled: asyncio.Task[None] | None = None

    def serving(self, versions: Versions) -> None:
        """Take note of where the current version stands; a reload switches it there."""
        self._versions = versions
        self._announce(versions.current.bundle)

    async def reload(self) -> Reloaded:
        """Load the bundle that lies there now, and switch to it if it is another one.

        Returns after the switch; the version before leaves when it has given its last answer.

        Raises:
            ConflictError: the bundle can't be served here, or another reload is not over. Nothing changed.

        """
        try:
            reloaded = await self._reload()
        except ConflictError as error:
            self._metrics.reloads.labels("refused").inc()
            console.say(f"Reload refused: {error}")
            raise
        result = "unchanged" if reloaded.now == reloaded.before else "switched"
        self._metrics.reloads.labels(result).inc()
        console.say(
            f"Reload: {result}, bundle {reloaded.before} -> {reloaded.now} in {reloaded.seconds:.1f} s"
        )
        return reloaded

    def reload_on_signal(self) -> None:
        """Start a reload; what comes of it stands in the log."""

        async def quietly() -> None:
            with contextlib.suppress(ConflictError):
                await self.reload()

        self._signalled = asyncio.create_task(quietly())

    async def aclose(self) -> None:
        """Stop waiting for a version's last answer, and end every router thread."""
        for task in (self._signalled, self._leaving):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._versions is not None:
            self._versions.current.router.close()

    async def _reload(self) -> Reloaded:
        if self._versions is None or self._loading:
            raise ConflictError("A reload is under way: try again when it is over")
        if self._leaving is not None and not self._leaving.done():
            raise ConflictError(
                "The version before the present one still gives its last answers: try again when they are over"
            )
        self._loading = True
        began = time.monotonic()
        try:
            before = self._versions.current
            bundle = await self._read(before.bundle.manifest)
            if bundle.digest != before.bundle.digest:
                async with asyncio.timeout(_LOAD_SECONDS):
                    new = await self._load(bundle, before.loaded)
                self._versions.switch(new)
                self._announce(bundle)
                self._leaving = asyncio.create_task(self._let_go(before, self._versions))
        except TimeoutError as error:
            raise ConflictError(
                f"The bundle was not loaded within {_LOAD_SECONDS:g} seconds, the one before is served on"
            ) from error
        except Exception as error:  # a chat template, say, is a program: it may raise anything
            if not isinstance(error, BundleError | UsageError | AdapterLoadError):
                _log.exception("A bundle can't be loaded")
            raise ConflictError(f"The bundle was not loaded, the one before is served on. {error}") from error
        finally:
            self._loading = False
        return Reloaded(before.bundle.digest, bundle.digest, time.monotonic() - began)

    async def _read(self, served: Manifest) -> Bundle:
        """Read and verify; from the folder that a link names now, whatever it names a moment later."""
        bundle = await asyncio.to_thread(lambda: read_bundle(bundle_folder(self._path)))
        base, running = bundle.manifest.base, served.base
        if (base.weights_sha256, base.dtype) != (running.weights_sha256, running.dtype):
            raise UsageError(
                f"It is for the base model {base.name} in {base.dtype} (weights {base.weights_sha256[:12]}), the "
                f"engine runs {running.name} in {running.dtype} (weights {running.weights_sha256[:12]}). "
                "Restart the service to serve it"
            )
        await asyncio.to_thread(check_shapes, bundle, Path(self._engine.args.model))
        tokenizer = self._engine.tokenizer
        await asyncio.to_thread(try_template, bundle, tokenizer.bos_token, tokenizer.eos_token)
        return bundle

    async def _load(self, bundle: Bundle, beside: LoadedBundle) -> Version:
        args = args_for(bundle, self._engine.args)
        router = await asyncio.to_thread(self._load_router, bundle)
        try:
            loaded = await self._engine.load(args, beside, bundle.manifest.answer_end)
        except BaseException:
            router.close()
            raise
        try:
            await check_fingerprints(self._engine, loaded, bundle)
            await router.route(["A first text costs more than those after it."])
            return self._make_version(bundle, loaded, router)
        except BaseException:
            router.close()
            await self._engine.unload(loaded, keep=beside)
            raise

    async def _let_go(self, old: Version, versions: Versions) -> None:
        await versions.last_answer(old)
        self._announce(versions.current.bundle)
        await asyncio.to_thread(old.router.close)
        await asyncio.sleep(_ABORT_SECONDS)
        await self._engine.unload(old.loaded, keep=versions.current.loaded)
