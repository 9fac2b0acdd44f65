"""Open the router of a bundle, whatever its kind."""

from __future__ import annotations

from bundle.errors import BundleError
from bundle.manifest import MANIFEST_FILE, ROUTER_FOLDER, RouterKind
from bundle.read import ROUTER_HEAD, Bundle
from router.protocol import Router


def load_router(bundle: Bundle, threads: int = 1) -> Router:
    """Return the router that the manifest names; `threads` is what one forward pass may use.

    Raises:
        BundleError: its files can't be used, or it is of a kind that is not served.

    """
    manifest = bundle.manifest
    record, temperature = manifest.router, manifest.calibration.temperature
    router = _open(bundle, record.kind, ROUTER_HEAD, temperature, threads)
    if record.cascade is None:
        return router
    from router.cascade import CASCADE_FILE, CascadeRouter, HashedWordsModel

    model = HashedWordsModel(
        bundle.router_folder / CASCADE_FILE,
        f"{ROUTER_FOLDER}/{CASCADE_FILE}",
        manifest.label_order,
        manifest.routed_text.max_tokens,
    )
    return CascadeRouter(model, router, record.cascade.threshold)


def _open(bundle: Bundle, kind: RouterKind, head: str, temperature: float, threads: int) -> Router:
    labels, text = bundle.manifest.label_order, bundle.manifest.routed_text
    match kind:  # a manifest with another kind was refused when it was read
        case "semantic":
            from router.semantic import SemanticRouter

            folder = bundle.router_folder
            return SemanticRouter(folder, labels, text.max_tokens, temperature, threads, text.keeps)
        case "embedding":
            from router.embedding import EmbeddingRouter

            return EmbeddingRouter(
                bundle.router_folder,
                bundle.folder / head,
                head,
                labels,
                text.max_tokens,
                temperature,
                threads,
                text.keeps,
            )
        case "keyword":
            from router.keyword import KeywordRouter

            return KeywordRouter(bundle.folder / head, head, labels, text.max_tokens, temperature)
        case "gradient":
            raise BundleError(
                MANIFEST_FILE,
                "router.kind",
                "a 'gradient' router needs the base model itself for every prompt, and is only evaluated",
                "Train the router again with router.kind=semantic; all other stages are kept",
            )
