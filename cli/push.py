"""`gradientspace push`: a bundle to a model hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.fail import fail
from cli.inspect import opened_bundle


def push(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle, or of the run that wrote it.")],
    repo_id: Annotated[
        str, typer.Argument(help="OWNER/NAME of the model repository; made if there is none.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Refuse to upload where others could see it.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch; made if there is none. [default: main]")
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", help="Of the commit. [default: the bundle's digest and base]")
    ] = None,
) -> None:
    """Verify a bundle and upload it in one commit, with the token of `hf auth login` or HF_TOKEN.

    A report made by training shows rows of the data it was trained on, and is uploaded too.
    """
    opened = opened_bundle(bundle)
    from rich.filesize import decimal

    from training.bundling.push import PushError
    from training.bundling.push import push as upload

    if (opened.folder / "report").is_dir():
        typer.echo("The bundle's report/ shows rows of its training data; it is uploaded too.", err=True)
    try:
        pushed = upload(opened, repo_id, private, revision, message)
    except PushError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("Stopped. The repository is as it was.", code=130)
    typer.echo(f"Bundle {opened.digest}: {pushed.files} files, {decimal(pushed.size)}")
    typer.echo(f"to {pushed.url}, commit {pushed.commit}")
    for path in pushed.removed:
        typer.echo(f"removed there: {path}")
