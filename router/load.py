"""Open the router of a bundle, whatever its kind."""

from __future__ import annotations

from bundle.errors import BundleError
from bundle.manifest import OTHER_ROUTERS_FOLDER, RouterKind
from bundle.read import ROUTER_CASCADE, ROUTER_HEAD, Bundle
from router.familiar_file import read_familiarity, read_known_pairs
from router.head_file import read_head
from router.protocol import Router


def load_router(bundle: Bundle, threads: int = 1) -> Router:
    """Return the router that the manifest names; `threads` is what one forward pass may use.

    Raises:
        BundleError: its files can't be used.

    """
    manifest = bundle.manifest
    record, temperature = manifest.router, manifest.calibration.temperature
    router = _open(bundle, record.kind, ROUTER_HEAD, temperature, threads)
    if record.cascade is None:
        return router
    from router.cascade import CascadeRouter, HashedWordsModel

    path, tokens = bundle.folder / ROUTER_CASCADE, manifest.routed_text.max_tokens
    model = HashedWordsModel(path, ROUTER_CASCADE, manifest.label_order, tokens)
    return CascadeRouter(model, router, record.cascade.threshold, read_known_pairs(bundle))


def load_other_router(bundle: Bundle, kind: RouterKind, threads: int = 1) -> Router:
    """Return a router of this kind, for comparison: of the kind that is served the one that is, without its cascade.

    Raises:
        BundleError: the bundle holds no such router, or its files can't be used.

    """
    manifest = bundle.manifest
    if kind == manifest.router.kind:
        return _open(bundle, kind, ROUTER_HEAD, manifest.calibration.temperature, threads)
    head = f"{OTHER_ROUTERS_FOLDER}/{kind}.safetensors"
    if head not in manifest.files or (kind != "keyword" and manifest.router.encoder is None):
        raise BundleError(
            head, "", f"the bundle holds no {kind!r} router", "Train it with router.kind=semantic"
        )
    _, metadata = read_head(bundle.folder / head, head, manifest.label_order)
    return _open(bundle, kind, head, float(metadata["temperature"]), threads)


def _open(bundle: Bundle, kind: RouterKind, head: str, temperature: float, threads: int) -> Router:
    labels, text = bundle.manifest.label_order, bundle.manifest.routed_text
    served = kind == bundle.manifest.router.kind  # what is there for comparison is asked for its choice alone
    familiarity = read_familiarity(bundle) if served else None
    match kind:  # a manifest with another kind was refused when it was read
        case "semantic":
            from router.semantic import SemanticRouter

            folder = bundle.router_folder
            return SemanticRouter(
                folder, labels, text.max_tokens, temperature, threads, text.keeps, familiarity
            )
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
                familiarity,
            )
        case "keyword":
            from router.keyword import KeywordRouter

            known = read_known_pairs(bundle) if served else None
            return KeywordRouter(bundle.folder / head, head, labels, text.max_tokens, temperature, known)
