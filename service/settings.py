"""Everything a user can set, in one typed class: a field here is a flag, a variable and a key of the file.

What is given must be known by name and possible; `settings_sources` puts the three ways together.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from service.logs import LogFormat

Keys = tuple[SecretStr, ...]
ENV_PREFIX = "GRADIENTSPACE_"
SECRETS = ("api_key", "admin_key")
"""They have no flag: every user of a machine can read its command lines."""
_KEY_SEPARATORS = re.compile(r"[\s,]+")


def flag_of(name: str) -> str:
    """Return a setting's flag."""
    return f"--{name.replace('_', '-')}"


def variable_of(name: str) -> str:
    """Return a setting's environment variable."""
    return ENV_PREFIX + name.upper()


class Settings(BaseModel):
    """What `gradientspace serve` runs with. The tags say where a default comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path = Field(description="The folder that `gradientspace train` wrote.")
    base_model: str | None = Field(  # ours: the manifest knows it
        default=None, description="Folder or hub id of the base model, instead of the bundle's."
    )
    host: str = Field(  # ours: nothing is reachable from outside unless that was asked for
        default="127.0.0.1", description="Address to listen on."
    )
    port: int = Field(  # anchor:vllm
        default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    metrics_port: int | None = Field(  # anchor:tei, `--prometheus-port`
        default=None,
        ge=0,
        le=65535,
        description="A port of its own for /metrics; the main one then has none.",
    )
    metrics_host: str = Field(  # ours: that port asks for no key
        default="127.0.0.1", description="Address of the metrics port."
    )
    api_key: Keys = Field(  # ours: no key, because nothing is reachable from outside by default
        default=(), description="Keys that clients may use, separated by commas or spaces."
    )
    api_key_file: Path | None = Field(  # ours
        default=None, description="A file with one key per line, in addition."
    )
    admin_key: Keys = Field(  # ours: without one, nothing under /admin/ is served
        default=(), description="Keys for /admin/, separated by commas or spaces."
    )
    admin_key_file: Path | None = Field(  # ours
        default=None, description="A file with one admin key per line, in addition."
    )
    router_threads: int = Field(  # ours: the other cores belong to the engine
        default=1, ge=1, description="Threads of the router's forward pass."
    )
    router_seconds: float = Field(  # ours: a thousand times what the paper's router takes
        default=5.0, gt=0, description="How long routing may take; the fallback answers after that."
    )
    router_queue: int = Field(  # ours: four texts for each request that is answered at once
        default=1024, ge=1, description="Texts that may wait for the router; the fallback answers more."
    )
    router_memory: int = Field(  # ours: about 1.5 MB; 16 MB is the most, however many experts there are
        default=4096, ge=0, description="Prompts whose routing is remembered; 0 remembers none."
    )
    max_in_flight: int = Field(  # anchor:vllm, it runs 256 sequences at once and queues the rest without end
        default=256, ge=1, description="Requests answered at once; one more is a 429."
    )
    max_body_bytes: int = Field(  # anchor:tei allows 2 MB; ours twice that, for conversations with tools
        default=4_000_000, ge=1, description="Largest body of a request."
    )
    body_seconds: float = Field(  # anchor:nginx, `client_body_timeout`; here for the whole body
        default=60, gt=0, description="How long a body may take to come in; then 408."
    )
    max_prompt_tokens: int | None = Field(  # ours: the engine's own bound is exact and enough
        default=None, ge=1, description="Largest prompt in tokens. (default: the model's context)"
    )
    max_answer_tokens: int | None = Field(  # ours: as for the prompt
        default=None, ge=1, description="Largest `max_tokens`. (default: the model's context)"
    )
    max_choices: int = Field(  # anchor:openai, its bound on `n`
        default=128, ge=1, description="Most answers of one request: prompts times `n`."
    )
    shutdown_seconds: float = Field(  # anchor:production-stack's and litellm's drain
        default=30, ge=0, description="How long answers under way may take once it ends."
    )
    engine_death_seconds: float = Field(  # ours: a readiness probe every 5 s has then failed three times
        default=15, ge=0, description="How long requests get a 503 after the engine died, before it exits."
    )
    playground: bool = Field(  # ours: a first look needs no client; the page itself is static
        default=True, description="Serve the playground at /."
    )
    log_format: LogFormat = Field(  # ours: a person starts it first, a log collector later
        default="text", description="Lines of the log as text or as json."
    )
    request_log: bool = Field(  # anchor:uvicorn, and with it vLLM's own server
        default=True, description="One line of log per request, without its text."
    )
    otlp_endpoint: str | None = Field(  # anchor:opentelemetry, off until there is a receiver
        default=None, description="Base address of an OTLP receiver of traces, e.g. http://localhost:4318."
    )
    verbose: bool = Field(  # ours: vLLM's own log stays at errors
        default=False, description="Show vLLM's whole log."
    )
    engine_flags: Annotated[
        tuple[str, ...], Field(description="Flags for vLLM, as one shell-quoted text.")
    ] = ()
    # anchor:vllm, its flags as they are

    @field_validator("engine_flags", mode="before")
    @classmethod
    def _split_flags(cls, value: object) -> object:
        return tuple(shlex.split(value)) if isinstance(value, str) else value

    @field_validator(*SECRETS, mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        keys = tuple(filter(None, _KEY_SEPARATORS.split(value))) if isinstance(value, str) else value
        if keys == ():  # an empty secret must not open the door
            raise ValueError("there is no key in it")
        return keys

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        if self.metrics_port and self.metrics_port == self.port:
            raise ValueError("metrics_port is the same as port")
        return self
