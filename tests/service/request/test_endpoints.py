from __future__ import annotations

import pytest

from bundle.read import Bundle
from service.engine.arguments import engine_args
from service.errors import MethodNotAllowedError, NotFoundError
from service.request.endpoints import ENDPOINTS, endpoint_of
from tests.stand_ins.vllm_routes import REFUSED


def test_every_route_of_vllm_was_classified(bundle: Bundle, base: object) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.app import build_app

    args = engine_args(bundle, base, [])
    config = AsyncEngineArgs.from_cli_args(args).create_model_config()
    inner = build_app(args, ("generate",), config)
    paths = {route.path for route in inner.routes}
    assert set(ENDPOINTS) <= paths, "vLLM dropped a route that we serve"
    assert paths - set(ENDPOINTS) == REFUSED


def test_what_is_dispatched() -> None:
    assert endpoint_of("POST", "/v1/responses").reads == "input"
    with pytest.raises(NotFoundError):
        endpoint_of("POST", "/v1/load_lora_adapter")
    with pytest.raises(MethodNotAllowedError):
        endpoint_of("GET", "/tokenize")
