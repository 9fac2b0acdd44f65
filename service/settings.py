"""Everything a user can set, in one typed class: a field here is a flag, a variable and a key of the file.

A flag comes before a GRADIENTSPACE_* variable, a variable before the YAML file, the file before the default. What is
given must be known by name and possible.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from service.logs import LogFormat
from service.usage_error import UsageError

Keys = tuple[SecretStr, ...]
Origins = tuple[str, ...]
ENV_PREFIX = "GRADIENTSPACE_"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
SECRETS = ("api_key", "admin_key")
"""They have no flag: every user of a machine can read its command lines."""
_SEPARATORS = re.compile(r"[\s,]+")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^\s/]+")
_ARGUMENTS = {"bundle": "argument", "engine_flags": "arguments after --"}
_OF_THE_TESTS = (f"{ENV_PREFIX}TEST_", f"{ENV_PREFIX}SHARED")  # what tests are told, no settings


def flag_of(name: str) -> str:
    """Return a setting's flag."""
    return f"--{name.replace('_', '-')}"


def variable_of(name: str) -> str:
    """Return a setting's environment variable."""
    return ENV_PREFIX + name.upper()


def forget_secrets(environ: MutableMapping[str, str]) -> None:
    """Take the keys out of the environment: no process that is started from here on has to inherit them."""
    for name in SECRETS:
        environ.pop(variable_of(name), None)


class Settings(BaseModel):
    """What `gradientspace serve` runs with. The tags say where a default comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path = Field(
        description="The folder that `gradientspace train` wrote, or ID@REVISION of a model hub."
    )
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
    send_seconds: float = Field(  # anchor:nginx, `send_timeout`
        default=60,
        gt=0,
        description="How long a client may read nothing of its answer; then it is hung up on.",
    )
    keep_alive_seconds: float = Field(  # ours: longer than proxies keep one (nginx and AWS 60, Google 600)
        default=620, gt=0, description="How long a connection stays open for another request."
    )
    cors_origins: Origins = Field(  # ours: no page of another site reads answers unless that was asked for
        default=(),
        description="Sites whose pages may ask, separated by commas: https://chat.example.com, or * for all.",
    )
    max_prompt_tokens: int | None = Field(  # ours: the engine's own bound is exact and enough
        default=None,
        ge=1,
        description="Largest prompt in tokens, template included. (default: the model's context)",
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

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        origins = tuple(filter(None, _SEPARATORS.split(value))) if isinstance(value, str) else value
        for origin in origins if isinstance(origins, list | tuple) else ():
            if not isinstance(origin, str) or not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin: give scheme and host, https://chat.example.com")
        return origins

    @field_validator(*SECRETS, mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        keys = tuple(filter(None, _SEPARATORS.split(value))) if isinstance(value, str) else value
        if keys == ():  # an empty secret must not open the door
            raise ValueError("there is no key in it")
        return keys

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        if self.metrics_port and self.metrics_port == self.port:
            raise ValueError("metrics_port is the same as port")
        return self


@dataclass(frozen=True)
class Resolved:
    """The settings, and where each value came from."""

    settings: Settings
    origins: Mapping[str, str]
    """By the setting's name: a flag, a variable, a file, or `default`."""

    def as_yaml(self) -> str:
        """Return a settings file that gives these values, but for the secrets, which it only counts."""
        lines = []
        for name, value in self.settings.model_dump(mode="json").items():
            shown = f"{name}: {json.dumps(value)}"  # which is YAML too
            if name in SECRETS:
                shown = f"# {name}: {len(value)} hidden"
            lines.append(f"{shown}  # {self.origins[name]}")
        return "\n".join(lines)


def resolve(flags: Mapping[str, Any], config: Path | None, environ: Mapping[str, str]) -> Resolved:
    """Return the settings; a flag that is None was not given.

    Raises:
        UsageError: a name is unknown, or a value is missing or impossible, in one sentence that says where.

    """
    given = {name: value for name, value in flags.items() if value is not None}
    variables = _from_environment(environ)
    file = config or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    listed = _from_file(file) if file else {}
    origins = {
        name: next(
            (
                origin
                for source, origin in (
                    (given, _ARGUMENTS.get(name) or flag_of(name)),
                    (variables, variable_of(name)),
                    (listed, str(file)),
                )
                if name in source
            ),
            "default",
        )
        for name in Settings.model_fields
    }
    try:
        return Resolved(Settings.model_validate(listed | variables | given), origins)
    except ValidationError as error:
        raise UsageError(_in_one_sentence(error, origins)) from None  # its text quotes values: secrets too


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    known = {variable_of(name): name for name in Settings.model_fields}
    mine = [
        variable
        for variable in environ
        if variable.startswith(ENV_PREFIX)
        and variable != CONFIG_VARIABLE
        and not variable.startswith(_OF_THE_TESTS)
    ]
    if any(environ[variable].startswith("tcp://") for variable in mine):
        raise UsageError(
            f"The environment has {ENV_PREFIX}PORT and others as Kubernetes makes them for a Service that is "
            "named gradientspace. Set `enableServiceLinks: false` in the pod's spec"
        )
    unknown = sorted(set(mine) - set(known))
    if unknown:
        raise UsageError(
            f"{', '.join(unknown)}: no such setting. Unset it, or use one of {', '.join(sorted(known))}"
        )
    return {known[variable]: environ[variable] for variable in mine}


def _from_file(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise UsageError(f"{file}: the settings file can't be read ({reason})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{file}: a settings file is a mapping, `port: 8000` for example")
    unknown = sorted(str(name) for name in set(values) - set(Settings.model_fields))
    if unknown:
        raise UsageError(
            f"{file}: {', '.join(unknown)}: no such setting. Use one of {', '.join(Settings.model_fields)}"
        )
    return values


def _in_one_sentence(error: ValidationError, origins: Mapping[str, str]) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return f"Settings: {message}"
    name = str(first["loc"][0])
    if first["type"] == "missing":
        where = f"{variable_of(name)} or in the settings file"  # only `bundle` has no default
        return f"Setting {name!r} is missing. Give it as the {_ARGUMENTS[name]}, as {where}"
    return f"Setting {name!r} (from {origins[name]}): {message}"
