"""Open the router of a bundle, whatever its kind."""

from __future__ import annotations

from bundle.errors import BundleError
from bundle.manifest import MANIFEST_FILE
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
        case kind:
            raise BundleError(
                MANIFEST_FILE,
                "router.kind",
                f"a {kind!r} router needs the base model itself for every prompt, and is only evaluated",
                "Train the router again with router.kind=semantic; all other stages are kept",
            )
