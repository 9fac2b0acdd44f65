"""Which names a client may put into `model`, and what the engine calls them."""

from __future__ import annotations

from dataclasses import dataclass

from bundle.manifest import Manifest
from service.errors import NotFoundError

AUTO = "auto"


@dataclass(frozen=True)
class Target:
    """Something that can answer."""

    name: str
    """What headers and metrics call it."""
    engine_name: str
    """What it is called inside the engine and in the answer's `model` field."""


class ModelNames:
    """The names of one bundle. The routed name is no alias of anything inside the engine."""

    def __init__(self, manifest: Manifest) -> None:
        """Collect the names from the manifest."""
        self.bundle = manifest.digest
        self.base = Target(manifest.base.name, manifest.base.name)
        self.experts = tuple(Target(expert.name, expert.engine_name) for expert in manifest.experts)
        known = {expert.name: expert for expert in self.experts}
        self.labels = tuple((name, known.get(name)) for name in manifest.label_order)
        """What the router's outputs are called, and their experts; a label without one is the fallback's."""
        self.fallback = Target(manifest.fallback.name, manifest.fallback.engine_name)
        self._named = {self.base.name: self.base}
        for expert in self.experts:
            self._named |= {expert.name: expert, expert.engine_name: expert}

    def resolve(self, model: str | None) -> Target | None:
        """Return what a request names, or None if the router has to choose.

        Raises:
            NotFoundError: nothing here has this name.

        """
        if model is None or model == AUTO:
            return None
        target = self._named.get(model)
        if target is None:
            known = ", ".join([AUTO, self.base.name, *(expert.name for expert in self.experts)])
            raise NotFoundError(f"The model `{model}` does not exist. Use one of: {known}", "model")
        return target
