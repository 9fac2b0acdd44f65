"""vLLM's arguments: what the manifest fixes, what the service sets, and what a user passed through."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

import psutil
from jinja2 import TemplateSyntaxError

from bundle.errors import BundleError
from bundle.fingerprints import TOP_TOKENS
from bundle.manifest import CHAT_TEMPLATE_FILE, Manifest
from bundle.read import Bundle
from router.chat_template import ChatTemplate
from service.engine.tool_calls import tool_parser
from service.errors import UsageError

_GIB = 1024**3
_KV_CACHE_GIB = 4  # anchor:vllm, what its CPU backend took before it took a share of the memory
_NOT_GIVEN: Any = object()

_FIXED_BY_MANIFEST = (
    *("model", "model_tag", "served_model_name", "tokenizer", "tokenizer_mode", "tokenizer_revision"),
    *("revision", "code_revision", "hf_config_path", "hf_overrides", "skip_tokenizer_init", "load_format"),
    *("dtype", "quantization", "generation_config", "override_generation_config"),
    *("chat_template", "default_chat_template_kwargs"),
    *("enable_lora", "lora_modules", "max_lora_rank", "max_loras", "max_cpu_loras", "lora_dtype"),
    "lora_target_modules",
    *("default_mm_loras",),
)
_OF_VLLMS_OWN_SERVER = (
    *("host", "port", "uds", "root_path", "middleware", "api_key", "enable_request_id_headers"),
    *("headless", "api_server_count", "grpc", "grpc_port", "disable_fastapi_docs", "enable_offline_docs"),
    *("allowed_origins", "allowed_methods", "allowed_headers", "allow_credentials"),
    *("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers", "enable_ssl_refresh"),
    *(
        "shutdown_timeout",
        "uvicorn_log_level",
        "disable_uvicorn_access_log",
        "disable_access_log_for_endpoints",
        "tokens_only",
    ),
)


def engine_args(
    bundle: Bundle, base: Path, flags: Sequence[str], max_answer_tokens: int | None = None
) -> Namespace:
    """Return the arguments vLLM is built with, parsed by vLLM's own parser.

    `max_answer_tokens` ends the answers of requests that give no length themselves.

    Raises:
        UsageError: a flag is unknown or impossible, contradicts the manifest, or belongs to vLLM's own server.
        BundleError: its chat template is none.

    """
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.launchers.launcher import validate_api_server_args
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        def error(self, message: str) -> NoReturn:  # instead of a page of usage and an exit
            raise UsageError(f"Engine flags: {message}. `gradientspace serve BUNDLE -- --help` lists them")

    parser = make_arg_parser(Parser(prog="gradientspace serve BUNDLE --"))
    parser.set_defaults(use_tqdm_on_load=False, tool_strict_level=None)
    if current_platform.is_cpu():
        parser.set_defaults(enforce_eager=True, kv_cache_memory_bytes=_kv_cache_bytes())
        parser.set_defaults(worker_extension_cls=f"{__package__}.lora_on_cpu.LoraOnCpu")
    reserved = (*_FIXED_BY_MANIFEST, *_OF_VLLMS_OWN_SERVER)
    args = parser.parse_args(list(flags), Namespace(**dict.fromkeys(reserved, _NOT_GIVEN)))
    _refuse_reserved(args)
    _refuse_blind(args)
    for name in reserved:
        setattr(args, name, parser.get_default(name))
    args.given_tool_call_parser, args.given_tool_strict_level = args.tool_call_parser, args.tool_strict_level
    if args.enable_auto_tool_choice and not _calls_known(bundle, args.given_tool_call_parser):
        raise UsageError(
            "Engine flag --enable-auto-tool-choice needs --tool-call-parser with it: the bundle's chat template does "
            "not say how its model writes a call"
        )
    vars(args).update(_from_manifest(bundle, base) | _tool_calls(bundle, args))
    if max_answer_tokens is not None:
        args.override_generation_config = {"max_new_tokens": max_answer_tokens}
    try:
        validate_parsed_serve_args(args)
        validate_api_server_args(args)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"Engine flags: {error.args[0]}") from error
    return args


def _refuse_reserved(args: Namespace) -> None:
    given = [
        name
        for name, value in vars(args).items()
        if value is not _NOT_GIVEN
        and not (name == "model_tag" and value is None)  # a positional is always set
    ]
    for name in given:
        flag = f"--{name.replace('_', '-')}"
        if name == "model_tag":
            raise UsageError(f"{args.model_tag!r} after -- is no flag. The model comes from the bundle")
        if name in _FIXED_BY_MANIFEST:
            raise UsageError(
                f"Engine flag {flag} contradicts the bundle, whose manifest fixes it. Leave it out; "
                "another base model is given with --base-model"
            )
        if name in _OF_VLLMS_OWN_SERVER:
            raise UsageError(
                f"Engine flag {flag} belongs to vLLM's own HTTP server, which does not run here. Leave it out; "
                "this service has its own --host and --port"
            )


def _refuse_blind(args: Namespace) -> None:
    """Refuse what would keep the service from comparing the engine with the bundle's fingerprints."""
    if 0 <= args.max_logprobs < TOP_TOKENS:
        raise UsageError(
            f"Engine flag --max-logprobs {args.max_logprobs} is too small: the bundle's fingerprints are "
            f"checked with {TOP_TOKENS}. Give at least that, or leave it out"
        )
    if args.logprobs_mode.endswith("logits"):
        raise UsageError(
            f"Engine flag --logprobs-mode {args.logprobs_mode} gives no log-probabilities, with which the "
            "bundle's fingerprints are checked. Leave it out"
        )


def args_for(bundle: Bundle, running: Namespace) -> Namespace:
    """Return the arguments of a running engine for another bundle on the same base.

    Raises:
        UsageError: the bundle does not fit into that engine.
        BundleError: its chat template is none.

    """
    adapters, rank = len(bundle.manifest.adapters), engine_rank(bundle.manifest)
    if adapters > running.max_loras:
        raise UsageError(
            f"The new bundle has {adapters} adapters (experts and fallback), the engine was started for "
            f"{running.max_loras}. Restart the service to serve it"
        )
    if rank > running.max_lora_rank:
        raise UsageError(
            f"The new bundle's LoRA rank {bundle.manifest.lora.rank} is above {running.max_lora_rank}, which the "
            "engine was started for. Restart the service to serve it"
        )
    modules = set(bundle.manifest.lora.target_modules) - set(running.lora_target_modules)
    if modules:
        raise UsageError(
            f"The new bundle adapts {', '.join(sorted(modules))}, and the engine was started for adapters of "
            f"{', '.join(running.lora_target_modules)}. Restart the service to serve it"
        )
    of_bundle = _of_bundle(bundle) | _tool_calls(bundle, running)
    return Namespace(**vars(running) | of_bundle)


def _from_manifest(bundle: Bundle, base: Path) -> dict[str, Any]:
    manifest = bundle.manifest
    adapters = len(manifest.adapters)  # K experts and the fallback
    return {
        "model": str(base),
        "dtype": manifest.base.dtype,
        "generation_config": "vllm",
        "enable_lora": True,
        "max_lora_rank": engine_rank(manifest),
        # Without this vLLM puts a LoRA layer around the output head, too. It computes for nothing, and the
        # log-probabilities of a prompt beside any other request end the engine in it.
        "lora_target_modules": list(manifest.lora.target_modules),
        "max_loras": adapters,
        "max_cpu_loras": 2 * adapters,  # room for another version of each, for a reload
        **_of_bundle(bundle),
    }


def _of_bundle(bundle: Bundle) -> dict[str, Any]:
    """What differs between two bundles on one base."""
    from vllm.entrypoints.openai.models.protocol import LoRAModulePath

    manifest = bundle.manifest
    return {
        "served_model_name": [manifest.base.name],
        "chat_template": _chat_template(bundle),
        "lora_modules": [
            LoRAModulePath(
                record.engine_name, str(bundle.folder.resolve() / record.folder), manifest.base.name
            )
            for record in manifest.adapters
        ],
    }


def _calls_known(bundle: Bundle, given: str | None) -> bool:
    return tool_parser(bundle.chat_template.read_text(encoding="utf-8"), given)[1]


def _tool_calls(bundle: Bundle, args: Namespace) -> dict[str, Any]:
    parser, known = tool_parser(bundle.chat_template.read_text(encoding="utf-8"), args.given_tool_call_parser)
    # A model that was never shown a tool can't be left alone with the arguments of a call that it has to make.
    strict = args.given_tool_strict_level or ("auto" if known else "parameter")
    return {"tool_call_parser": parser, "tool_strict_level": strict, "enable_auto_tool_choice": True}


def _chat_template(bundle: Bundle) -> str:
    """Return its text: vLLM remembers templates by path, and another bundle may lie there by then.

    Raises:
        BundleError: it is no template; vLLM would only notice with the first conversation.

    """
    source = bundle.chat_template.read_text(encoding="utf-8")
    try:
        ChatTemplate(source, None, None)
    except TemplateSyntaxError as error:
        raise BundleError(
            CHAT_TEMPLATE_FILE, "", f"line {error.lineno}: {error.message}", "Give a chat template in Jinja"
        ) from error
    return source


def engine_rank(manifest: Manifest) -> int:
    """Return the smallest rank that vLLM can be set to and that holds the bundle's.

    Raises:
        UsageError: the bundle's is larger than any.

    """
    from vllm.config.lora import MaxLoRARanks

    allowed = sorted(get_args(MaxLoRARanks))
    fitting = [rank for rank in allowed if rank >= manifest.lora.rank]
    if not fitting:
        raise UsageError(
            f"The bundle's LoRA rank {manifest.lora.rank} is above vLLM's largest, {allowed[-1]}. "
            "Train with a smaller rank"
        )
    return fitting[0]


def _kv_cache_bytes() -> int:
    """Return the KV cache's size on a CPU, where vLLM alone would take most of the memory there is."""
    return max(_GIB, min(_KV_CACHE_GIB * _GIB, psutil.virtual_memory().available // 4))
