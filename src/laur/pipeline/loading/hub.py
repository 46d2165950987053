"""Checkpoints from a hub: only when a user names one, and from the local cache where it is there."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from laur.core.errors import CheckpointError, NotFoundError

_COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
_SHARD = r"(?:-\d+-of-\d+)?"
_WEIGHTS = re.compile(rf"(?:diffusion_pytorch_model|model){_SHARD}(?:\.(?P<variant>[\w-]+?))?{_SHARD}\.safetensors")
_SMALL = (".json", ".txt", ".model")
_TIMEOUT = 10.0
"""Seconds for the hub to answer which files there are."""


def fetch(repository: str) -> Path:
    """The local folder, or the one .safetensors file, of hub repository `owner/name`.

    What the cache holds complete is used without asking the network.

    Raises:
        NotFoundError: the hub has no such repository, or does not show it to this user.
        CheckpointError: the hub cannot be reached, or the repository holds no checkpoint in .safetensors.
    """
    cached = _from_cache(repository)
    return cached if cached is not None else _download(repository)


def choose_files(files: Sequence[str], repository: str) -> list[str]:
    """What of a repository's files a checkpoint needs: plain weights, or fp16 where there are no plain ones."""
    if "model_index.json" not in files:
        return [_only_file(files, repository)]
    wanted = ["model_index.json"]
    for component in _COMPONENTS:
        inside = [file for file in files if PurePosixPath(file).parent.as_posix() == component]
        wanted += [file for file in inside if file.endswith(_SMALL)]
        wanted += _weights(inside)
    if not any(file.endswith(".safetensors") for file in wanted):
        raise CheckpointError(
            f"{repository} holds pickles only, which can run code when they are read; ask its makers for .safetensors"
        )
    return wanted


def _weights(files: Sequence[str]) -> list[str]:
    variants: dict[str | None, list[str]] = {}
    for file in files:
        if found := _WEIGHTS.fullmatch(PurePosixPath(file).name):
            variants.setdefault(found["variant"], []).append(file)
    return variants.get(None) or variants.get("fp16") or next(iter(variants.values()), [])


def _only_file(files: Sequence[str], repository: str) -> str:
    singles = [file for file in files if "/" not in file and file.endswith(".safetensors")]
    if len(singles) == 1:
        return singles[0]
    what = f"{len(singles)} .safetensors files" if singles else "no .safetensors file"
    raise CheckpointError(
        f"{repository} is no diffusers folder and has {what} at its top; download the one you mean and give its path"
    )


def _from_cache(repository: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    from laur.pipeline.loading.folder import is_complete

    try:
        folder = Path(snapshot_download(repository, local_files_only=True, allow_patterns=["model_index.json"]))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    singles = sorted(folder.glob("*.safetensors"))
    if not (folder / "model_index.json").exists() and len(singles) == 1:
        return singles[0]
    return folder if is_complete(folder) else None


def _download(repository: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    with _in_plain_words(repository):
        # model_info fails at once where there is no network; the listing calls try again for half a minute
        siblings = HfApi().model_info(repository, timeout=_TIMEOUT).siblings or []
    wanted = choose_files([sibling.rfilename for sibling in siblings], repository)
    with _in_plain_words(repository):
        folder = Path(snapshot_download(repository, allow_patterns=wanted))
    return folder if "model_index.json" in wanted else folder / wanted[0]


@contextmanager
def _in_plain_words(repository: str) -> Generator[None]:
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError:
        raise NotFoundError(
            f"{repository} is only for users who accepted its terms; do so on its page, then run 'hf auth login'"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise NotFoundError(
            f"the hub has no model {repository}, or it is private; check the name, or run 'hf auth login'"
        ) from None
    except Exception as error:  # offline, a dropped connection, a full disk: each hub version has its own classes
        raise CheckpointError(
            f"{repository} is not on this machine and cannot be fetched ({_reason(error)}); "
            "go online, or download it elsewhere and give its folder"
        ) from None


def _reason(error: BaseException) -> str:
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
