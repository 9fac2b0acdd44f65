"""`gradientspace pack`: existing LoRA adapters to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.fail import fail

# Training names keys of its recipe; this command has a flag for each of those that it takes.
_FLAGS = {
    "Recipe, base.model": "--base-model",
    "Recipe, base.chat_template": "--chat-template",
    "--set router.encoder=": "--encoder ",
    "router.encoder": "--encoder",
    "--set router.max_tokens=": "--max-tokens ",
    "router.max_tokens": "--max-tokens",
}


def pack(
    base_model: Annotated[
        str,
        typer.Option(
            "--base-model",
            help="Folder or hub id (ID@REVISION) of the base of the adapters.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", help="Folder of the bundle; an older bundle is replaced.")
    ],
    adapter: Annotated[
        list[str],
        typer.Option(
            "--adapter",
            metavar="NAME=FOLDER",
            help="A PEFT LoRA and the name it is served under; repeat for each. Of a hub: NAME=ID@REVISION.",
        ),
    ],
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--rows", help="Labelled rows: JSONL, JSON, CSV, Parquet or a hub data set; may be repeated."
        ),
    ] = None,
    label_column: Annotated[
        str, typer.Option("--label-column", help="Column of the rows that names the adapter to answer.")
    ] = "expert",
    head: Annotated[
        Path | None,
        typer.Option("--head", help="A trained head on --encoder: safetensors with W [K, hidden] and b [K]."),
    ] = None,
    encoder: Annotated[
        str,
        typer.Option("--encoder", help="The router's encoder: hub id, folder or package:<python package>."),
    ] = "distilbert-base-uncased",
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=8, help="Tokens of a prompt that the router reads.")
    ] = 256,
    fallback: Annotated[
        str | None,
        typer.Option(
            "--fallback",
            help="Who answers when the router fails: one of the names, or the folder of another adapter. "
            "[default: the adapter with the most rows]",
        ),
    ] = None,
    chat_template: Annotated[
        Path | None,
        typer.Option("--chat-template", help="A Jinja file. [default: the base tokenizer's own, else ours]"),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype", help="Served in: float32, bfloat16, or auto: bfloat16 on CUDA, else float32."
        ),
    ] = "auto",
    data_license: Annotated[
        list[str] | None,
        typer.Option("--data-license", help="Licence of the rows, for the card; may be repeated."),
    ] = None,
) -> None:
    """Make a bundle of existing LoRA adapters, with a router trained on labelled rows or taken as it is.

    Rows are Alpaca, prompt/completion or messages, as for `train`; a response is not needed.
    """
    from bundle.errors import BundleError
    from training.errors import PackError, TrainingError

    if dtype not in ("auto", "float32", "bfloat16"):
        fail(f"--dtype {dtype}: give auto, float32 or bfloat16.")
    try:
        adapters = _named_folders(adapter)
        # Only now what takes seconds to import: a wrong flag is told at once.
        from bundle.hub_name import hub_name
        from training.pack.hub import adapter_folder
        from training.pack.pack import Packing
        from training.pack.pack import pack as run
        from training.progress import Narrator
        from training.recipe import BaseSection

        narrator = Narrator()
        base = hub_name(base_model)
        bundle = run(
            Packing(
                base=BaseSection(
                    model=base.id if base else base_model,
                    revision=base.revision if base else None,
                    dtype=dtype,  # type: ignore[arg-type]
                    chat_template=chat_template,
                ),
                adapters={name: adapter_folder(folder) for name, folder in adapters.items()},
                rows=tuple(rows or ()),
                label_column=label_column,
                head=head,
                encoder=encoder,
                max_tokens=max_tokens,
                fallback=fallback,
                data_licenses=tuple(data_license or ()),
                output=output,
            ),
            narrator,
        )
    except (BundleError, PackError, TrainingError) as error:
        fail(_with_flags(str(error)))
    except KeyboardInterrupt:
        fail("Stopped. Nothing was written; the same command starts again.", code=130)
    narrator.title(f"\nThe bundle is ready: {bundle.folder} (K = {len(bundle.manifest.experts)})")
    narrator.say(f"Try the router:  gradientspace route {bundle.folder} 'a prompt'")
    narrator.say(f"Serve it:        gradientspace serve {bundle.folder}")


def _named_folders(given: list[str]) -> dict[str, str]:
    """Return folders or hub ids by name, in the order given.

    Raises:
        PackError: one is not of the form NAME=FOLDER, or two have one name.

    """
    from training.errors import PackError

    folders: dict[str, str] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder:
            raise PackError(f"--adapter {text!r} is not of the form NAME=FOLDER, e.g. math=adapters/math.")
        if name in folders:
            raise PackError(f"--adapter {name}: this name is given twice. Choose another for one of them.")
        folders[name] = folder if folder[0] != "~" else str(Path(folder).expanduser())
    return folders


def _with_flags(message: str) -> str:
    for key, flag in _FLAGS.items():
        message = message.replace(key, flag)
    return message
