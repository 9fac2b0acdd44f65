"""The service put together: what all versions of a bundle share, made once, and each version's own parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bundle.read import Bundle
from router.load import load_router
from router.policy import Policy
from router.prompt_memory import PromptMemory
from router.protocol import Router
from router.served import ServedRouter
from router.text import PromptReader
from service.app import Service, build_app
from service.dispatch.dispatch import Dispatch
from service.engine.engine import LoadedBundle, RunningEngine
from service.engine.request_models import RequestModels
from service.engine.tool_calls import tool_parser
from service.layers.auth import Access
from service.lifecycle.in_flight import InFlight
from service.lifecycle.lifecycle import Lifecycle
from service.request.decision import Decider
from service.request.limits import Limits, RequestLimits
from service.request.names import ModelNames
from service.request.routed_text import RequestTexts
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.versions.reload import Reloader, ReloadMetrics
from service.versions.versions import Version

if TYPE_CHECKING:
    from service.telemetry.spans import Tracer


class Assembly:
    """Makes versions, the first one and those of reloads, around one engine."""

    def __init__(
        self,
        settings: Settings,
        access: Access,
        engine: RunningEngine,
        lifecycle: Lifecycle,
        tracer: Tracer | None,
    ) -> None:
        """Make what is not of one bundle."""
        self._settings = settings
        self._access = access
        self._engine = engine
        self._lifecycle = lifecycle
        self._tracer = tracer
        self._metrics = Metrics()
        self._metrics.watch(
            lambda: not (engine.dead or lifecycle.stalled), lambda: lifecycle.not_ready_because is None
        )
        self._reload_metrics = ReloadMetrics()
        context = engine.max_model_len
        limits = Limits(
            context,
            min(settings.max_prompt_tokens or context, context - 1),  # an answer has one token at least
            settings.max_answer_tokens or context,
            settings.max_choices,
        )
        self._limits = RequestLimits(limits, engine.tokenizer, self._metrics.rejected)
        self._models = RequestModels(engine.inner.routes)
        self.in_flight = InFlight(settings.max_in_flight, lifecycle, self._metrics)
        self.reloader = Reloader(
            settings.bundle,
            engine,
            self._load_router,
            self.version,
            self._announce,
            self._reload_metrics,
        )

    def served_router(self, bundle: Bundle, router: Router) -> ServedRouter:
        """Return a bundle's router on a thread and with a memory of its own, within the settings' bounds."""
        settings = self._settings
        memory = PromptMemory(bundle.digest, settings.router_memory)
        return ServedRouter(router, memory, settings.router_seconds, settings.router_queue)

    def version(self, bundle: Bundle, loaded: LoadedBundle, router: ServedRouter) -> Version:
        """Return a bundle that is in the engine, with everything that answers for it."""
        manifest, engine = bundle.manifest, self._engine
        tokenizer = engine.tokenizer
        template = bundle.chat_template.read_text(encoding="utf-8")
        prompts = PromptReader(template, tokenizer.bos_token, tokenizer.eos_token)
        texts = RequestTexts(manifest.routed_text.rule, prompts, tokenizer)
        decider = Decider(ModelNames(manifest), router, Policy.of(manifest))
        service = Service(
            bundle,
            decider,
            texts,
            self._lifecycle,
            self.in_flight,
            self._limits,
            engine.max_model_len,
            self.reloader,
            tuple(engine.inner.routes),
        )
        dispatch = Dispatch(
            loaded.app,
            decider,
            texts,
            self._metrics,
            self.in_flight,
            self._limits,
            lambda: engine.dead,
            self._models,
            tool_parser(template, engine.args.given_tool_call_parser)[1],
        )
        app = build_app(service, dispatch, self._access, self._metrics, self._settings, self._tracer)
        return Version(bundle, loaded, router, app)

    def _load_router(self, bundle: Bundle) -> ServedRouter:
        return self.served_router(bundle, load_router(bundle, self._settings.router_threads))

    def _announce(self, bundle: Bundle) -> None:
        """Say in the metrics what is served; called at the start, at a switch, and after the last old answer."""
        self._metrics.serve_bundle(bundle.manifest)
        self._reload_metrics.serving(bundle)
