"""Open the router of a bundle, whatever its kind."""

from __future__ import annotations

from bundle.read import Bundle
from router.protocol import Router


def load_router(bundle: Bundle, threads: int = 1) -> Router:
    """Return the router that the manifest names; `threads` is what one forward pass may use.

    Raises:
        BundleError: its files can't be used.

    """
    match bundle.manifest.router.kind:  # a manifest with another kind was refused when it was read
        case "semantic":
            from router.semantic import SemanticRouter

            return SemanticRouter.from_bundle(bundle, threads)
