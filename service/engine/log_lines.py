"""vLLM's own log lines, in whichever of its processes: they look and go as the service's do.

Next to nothing is imported here, because vLLM's processes load this file first of all.
"""

from __future__ import annotations

import logging
import os

from service.logs import ServiceHandler

SEES_ONLY_TOKENS = (
    *("vllm.v1.engine.core", "vllm.v1.core", "vllm.v1.executor", "vllm.v1.worker"),
    *("vllm.model_executor", "vllm.distributed", "vllm.platforms"),
)
"""Loggers of code that never sees a text, so what it raises can be said in full."""
_CONFIG = os.path.join(os.path.dirname(__file__), "vllm_logging.json")


def configure_engine_logging() -> None:
    """Have vLLM send its lines through `engine_handler`; a logging configuration that the user gave it stays."""
    if os.environ.get("VLLM_CONFIGURE_LOGGING", "1") == "1":
        os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", _CONFIG)


def engine_handler() -> logging.Handler:
    """Return the handler of vLLM's logger; its level is VLLM_LOGGING_LEVEL."""
    logging.getLogger("vllm").setLevel(os.environ.get("VLLM_LOGGING_LEVEL", "ERROR").upper())
    return ServiceHandler(SEES_ONLY_TOKENS)
