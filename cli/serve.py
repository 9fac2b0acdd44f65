"""`gradientspace serve`: answer with a bundle's experts behind one OpenAI-compatible port."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.fail import fail


def serve(
    bundle: Annotated[
        Path | None, typer.Argument(help="The folder that `gradientspace train` wrote.", show_default=False)
    ] = None,
    engine_flags: Annotated[
        list[str] | None,
        typer.Argument(
            help="After `--`: flags for vLLM, e.g. `-- --max-model-len 4096`.", show_default=False
        ),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Folder or hub id of the base model, instead of the bundle's.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one. [default: 8000]")
    ] = None,
    router_threads: Annotated[
        int | None, typer.Option(help="Threads of the router's forward pass. [default: 1]")
    ] = None,
    shutdown_seconds: Annotated[
        int | None, typer.Option(help="How long answers under way may take once it ends. [default: 30]")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show vLLM's whole log.")] = False,
    log_format: Annotated[str | None, typer.Option(help="Lines as text or as json. [default: text]")] = None,
    request_log: Annotated[
        bool | None, typer.Option(help="One line per request, without its text. [default: on]")
    ] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="OTLP receiver of traces, e.g. http://localhost:4318.")
    ] = None,
) -> None:
    """Serve a bundle. Every option can also be set as GRADIENTSPACE_<NAME>."""
    from bundle.errors import BundleError
    from service.errors import UsageError
    from service.serve import run
    from service.settings import load_settings

    try:
        settings = load_settings(
            bundle=bundle,
            base_model=base_model,
            host=host,
            port=port,
            router_threads=router_threads,
            shutdown_seconds=shutdown_seconds,
            verbose=verbose or None,
            log_format=log_format,
            request_log=request_log,
            otlp_endpoint=otlp_endpoint,
            engine_flags=tuple(engine_flags) if engine_flags else None,
        )
        code = run(settings)
    except (BundleError, UsageError) as error:
        fail(str(error))
    raise typer.Exit(code)
