"""Everything a user can set, in one typed class; each value also comes from GRADIENTSPACE_<NAME>."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import UsageError
from service.logs import LogFormat

ENV_PREFIX = "GRADIENTSPACE_"


class Settings(BaseSettings):
    """What `gradientspace serve` runs with. The tags say where a default comes from."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    bundle: Path = Field(description="the folder that `gradientspace train` wrote")
    base_model: str | None = Field(  # ours: the manifest knows it
        default=None, description="folder or hub id of the base model, instead of the manifest's"
    )
    host: str = "127.0.0.1"  # ours: nothing is reachable from outside unless that was asked for
    port: int = Field(default=8000, ge=0, le=65535)  # anchor:vllm (0: any free port)
    router_threads: int = Field(default=1, ge=1)  # ours: the other cores belong to the engine
    shutdown_seconds: int = Field(default=30, ge=0)  # anchor:production-stack's and litellm's drain
    verbose: bool = False  # ours: vLLM's own log stays at errors
    log_format: LogFormat = Field(  # ours: a person starts it first, a log collector later
        default="text", description="lines of the log as text or as json"
    )
    request_log: bool = Field(  # anchor:uvicorn, and with it vLLM's own server
        default=True, description="one line of log per request, without its text"
    )
    otlp_endpoint: str | None = Field(  # anchor:opentelemetry, off until there is a receiver
        default=None, description="base address of an OTLP receiver of traces, e.g. http://localhost:4318"
    )
    engine_flags: Annotated[tuple[str, ...], NoDecode] = Field(  # anchor:vllm, its flags as they are
        default=(), description="flags for vLLM, in the environment as one shell-quoted string"
    )

    @field_validator("engine_flags", mode="before")
    @classmethod
    def _split_flags(cls, value: object) -> object:
        return tuple(shlex.split(value)) if isinstance(value, str) else value


def load_settings(**given: Any) -> Settings:
    """Return the settings; what is None counts as not given, and the environment fills it in.

    Raises:
        UsageError: a value is missing or impossible, in one sentence.

    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise UsageError(
            f"Setting {name!r}: {first['msg']}. Give it on the command line or as {ENV_PREFIX}{name.upper()}"
        ) from error
