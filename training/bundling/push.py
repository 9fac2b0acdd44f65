"""Upload a bundle to a model hub (`gradientspace push`)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import PurePosixPath

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    ModelInfo,
    get_token,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from bundle.manifest import MANIFEST_FILE
from bundle.read import HUB_FILES, Bundle
from training.errors import TrainingError

_MAIN = "main"


class PushError(TrainingError):
    """The hub did not take the bundle; the message says why and what to do."""


@dataclass(frozen=True)
class Pushed:
    """What went where."""

    url: str
    commit: str
    files: int
    size: int
    """Bytes."""
    removed: tuple[str, ...]
    """Files of an older bundle that this one does not have."""


def push(bundle: Bundle, repo_id: str, private: bool, revision: str | None, message: str | None) -> Pushed:
    """Upload a verified bundle in one commit: the hub shows all of it or nothing.

    The repository is made if there is none. One that holds a bundle gets this one in its place; one that
    holds anything else is left alone. The token is that of `hf auth login`, or HF_TOKEN.

    Raises:
        PushError: the name, the token, the repository or the network is at fault.

    """
    _check_name(repo_id)
    if get_token() is None:
        raise PushError("There is no token for the hub. Run `hf auth login`, or set HF_TOKEN.")
    api = HfApi()
    try:
        there = _repository(api, repo_id, private, revision)
        return _commit(api, bundle, repo_id, there, revision or _MAIN, message)
    except PushError:
        raise
    except Exception as error:  # the client raises many kinds, and its transfers wrap them once more
        raise PushError(_reason(error, repo_id, api.endpoint)) from error


def _check_name(repo_id: str) -> None:
    owner, slash, name = repo_id.partition("/")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PushError(f"{repo_id!r} is no name of a repository ({str(error).splitlines()[0]})") from error
    if not (owner and slash and name):
        raise PushError(f"{repo_id!r} does not say whose repository it is. Give OWNER/NAME.")


def _repository(api: HfApi, repo_id: str, private: bool, revision: str | None) -> ModelInfo:
    """Find or make the repository and the branch; return what the branch holds."""
    try:
        found = api.model_info(repo_id)
    except RepositoryNotFoundError:
        # None, not False: an organisation's own rule may be that everything begins private.
        api.create_repo(repo_id, private=private or None)
        found = api.model_info(repo_id)
    if private and not found.private:
        raise PushError(
            f"{repo_id} is there already and public. Make it private there, give another name, or leave out --private."
        )
    if revision not in (None, _MAIN):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
        found = api.model_info(repo_id, revision=revision)
    names = {sibling.rfilename for sibling in found.siblings or ()}
    if names - HUB_FILES and MANIFEST_FILE not in names:
        raise PushError(
            f"{repo_id} is there already and holds something that is no bundle, {min(names - HUB_FILES)} among it. "
            "Give another name, or a --revision of its own."
        )
    return found


def _commit(
    api: HfApi, bundle: Bundle, repo_id: str, there: ModelInfo, revision: str, message: str | None
) -> Pushed:
    # `upload_folder` would make several commits of a large folder, and a kill would leave half a bundle.
    paths = [MANIFEST_FILE, *sorted(bundle.manifest.files)]
    old = {sibling.rfilename for sibling in there.siblings or ()} - HUB_FILES
    removed = tuple(sorted(old - set(paths)))
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
        *(CommitOperationDelete(path) for path in removed),
        *(CommitOperationAdd(path, bundle.folder / PurePosixPath(path)) for path in paths),
    ]
    manifest = bundle.manifest
    said = message or f"Bundle {bundle.digest}: {len(manifest.experts)} experts on {manifest.base.name}"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        done = api.create_commit(
            repo_id, operations, commit_message=said, revision=revision, parent_commit=there.sha
        )
    return Pushed(
        url=f"{api.endpoint}/{repo_id}/tree/{revision}",
        commit=done.oid,
        files=len(paths),
        size=sum((bundle.folder / path).stat().st_size for path in paths),
        removed=removed,
    )


def _reason(error: BaseException, repo_id: str, endpoint: str) -> str:
    answered = _answer_in(error)
    if answered is None:
        first_line = (str(error).strip().splitlines() or ["no reason given"])[0]
        return (
            f"{repo_id}: the upload to {endpoint} failed ({type(error).__name__}: {first_line}). Check the network and "
            "start the same command again: the hub takes all files in one commit, or none."
        )
    status = answered.response.status_code
    remedies = {
        401: "The hub does not accept the token. Run `hf auth login` again, or set HF_TOKEN anew.",
        403: "The token may not write there. Use one with write access, or an owner's name that is yours.",
        409: "Somebody else is changing the repository. Start the same command again.",
        412: "Somebody else changed the repository meanwhile. Start the same command again.",
    }
    said = answered.server_message or str(answered).strip().splitlines()[0]
    remedy = remedies.get(status, f"It said: {said}. The repository is as it was.")
    return f"{repo_id}: {endpoint} answered {status}. {remedy}"


def _answer_in(error: BaseException | None) -> HfHubHTTPError | None:
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error
        error = error.__cause__ or error.__context__
    return None
