"""Push a policy to the Hugging Face Hub: checked before anything is trained, done after everything is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zerosearch_env.errors import CheckpointError, ConfigError, require, sentence

from .files import one_line

_LOGIN = "run `hf auth login`, or set HF_TOKEN to a token that may write"


def check_push(name: str | None) -> None:
    """Check that a policy can be pushed under a name, before hours are spent on it: the login, its rights, the name.

    Args:
        name: the repository, ORG/NAME, or NAME for one of the user who is logged in; None: nothing is pushed.

    Raises:
        ConfigError: the name is invalid, no one is logged in, the token may not write there, or the hub cannot be
            reached.
        MissingExtraError: huggingface_hub is not installed.
    """
    if name is None:
        return
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
    try:
        require("huggingface_hub.utils").validate_repo_id(name)
    except errors.HFValidationError as cause:
        raise ConfigError(f"push_to_hub must be ORG/NAME or NAME, got {name!r}: {sentence(cause)}") from cause
    if require("huggingface_hub.constants").HF_HUB_OFFLINE:
        raise ConfigError(f"cannot push to {name}: HF_HUB_OFFLINE is set. Unset it, or leave --push-to-hub out.")
    try:
        user = hub.HfApi().whoami()
    except errors.LocalTokenNotFoundError as cause:
        raise ConfigError(f"cannot push to {name}: no one is logged in to the Hugging Face Hub; {_LOGIN}.") from cause
    except Exception as cause:  # also those of the HTTP library that huggingface_hub uses
        raise ConfigError(
            f"cannot push to {name}: the Hugging Face Hub does not say who is logged in: {sentence(one_line(cause))} "
            f"If the token is invalid, {_LOGIN}."
        ) from cause
    _check_rights(name, user)


# Any: what the hub answers
def _check_rights(name: str, user: dict[str, Any]) -> None:
    owner, _, rest = name.rpartition("/")
    owners = [user.get("name"), *(entry.get("name") for entry in user.get("orgs") or ())]
    if owner and owner not in owners:
        raise ConfigError(
            f"cannot push to {name}: {user.get('name')} is logged in, who is not {owner} and not a member of it. Push "
            f"to {user.get('name')}/{rest}, or log in as another user."
        )
    if ((user.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise ConfigError(f"cannot push to {name}: the token of {user.get('name')} may only read; {_LOGIN}.")


def push_policy(folder: Path, name: str) -> str:
    """Push a saved policy as one commit. A repository that does not exist yet is made, as a private one.

    Args:
        folder: the policy's directory.
        name: see `check_push`.

    Returns:
        The address of the repository.

    Raises:
        CheckpointError: it could not be pushed; the directory is unchanged.
    """
    api = require("huggingface_hub").HfApi()
    try:
        repository = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository.repo_id, folder_path=folder, commit_message="Upload a policy")
    except Exception as cause:  # as above, and those of its upload library
        raise CheckpointError(
            f"the policy is saved in {folder}, but could not be pushed: {sentence(one_line(cause))} Push it with: "
            f"hf upload {name} {folder}"
        ) from cause
    return str(repository)
