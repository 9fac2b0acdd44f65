"""Where the bundle is: a folder, or a repository of a model hub, which is fetched at one commit."""

from __future__ import annotations

from pathlib import Path

from bundle.hub_name import hub_name
from service import console
from service.usage_error import UsageError


def bundle_folder(given: Path) -> Path:
    """Return the bundle's folder; of `ID@REVISION` the hub's copy of that commit.

    Raises:
        UsageError: the hub does not give it.

    """
    name = hub_name(str(given))
    if name is None:
        return given.resolve()  # a link may name another bundle a moment later
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name.id, revision=name.revision))
    except Exception as error:  # the hub's client raises what its transport raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"{given}: there is no such folder, and the hub does not give it ({reason}). Give a folder, or ID@REVISION"
        ) from error
    # The client's cache names a copy by its commit.
    hint = "" if name.revision else f"; {name.id}@{folder.name} asks for just this"
    console.say(f"bundle {name.id} of the hub, commit {folder.name}{hint}")
    return folder
