"""Files of model repositories on the Hugging Face hub, or on a mirror of it (HF_ENDPOINT)."""

import fnmatch
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from tvt_jax.errors import UserError


def fetch(
    repositories: Sequence[str],
    patterns: Sequence[str],
    report: Callable[[str], None] = print,
) -> Path:
    """Downloads files of the first of several repositories that has them all.

    They go to the hub's own cache (HF_HOME), where files that are there already are not downloaded
    again and an interrupted download is resumed. Sizes are checked, and the SHA-256 of large files.

    Args:
      repositories: ids, "OWNER/NAME", tried in turn.
      patterns: of paths in the repository, as of `fnmatch`; each must match a file.
      report: called with a line for each repository and file.

    Returns: folder with the files, under their paths in the repository.
    Raises:
      UserError: no repository has the files or can be reached, or a file is not what the hub says.
    """
    from huggingface_hub import HfApi, hf_hub_download

    api, reasons = HfApi(), []
    for repository in repositories:
        try:
            info = api.model_info(repository, files_metadata=True)
            files = [f for f in info.siblings if _matches(f.rfilename, patterns)]
            missing = [p for p in patterns if not any(_matches(f.rfilename, [p]) for f in files)]
            if missing:
                reasons.append(f"{repository} has no {', '.join(missing)}")
                continue
            total = sum(file.size or 0 for file in files)
            report(f"{repository} at {info.sha[:12]}: {len(files)} files, {total / 2**20:,.0f} MiB")
            paths = []
            for file in files:
                path = Path(hf_hub_download(repository, file.rfilename, revision=info.sha))
                _check(path, file)
                digest = f", SHA-256 {file.lfs.sha256[:16]}" if file.lfs else ""
                report(f"  {file.rfilename}: {file.size:,} bytes{digest}")
                paths.append(path)
            return _root(paths[0], files[0].rfilename)
        except UserError:
            raise
        except Exception as error:  # the hub's package lets its HTTP library's errors through
            reasons.append(f"{repository}: {_first_line(error)}")
    raise UserError(
        f"no repository on the hub could be used ({'; '.join(reasons)}). Name another one, set "
        "HF_ENDPOINT to a mirror, or download the files and give their paths."
    )


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _check(path: Path, file) -> None:
    """Raises UserError unless a downloaded file has the size and the hash that the hub says."""
    right = file.size is None or path.stat().st_size == file.size
    if right and file.lfs:
        with path.open("rb") as content:
            right = hashlib.file_digest(content, "sha256").hexdigest() == file.lfs.sha256
    if not right:
        blob = path.resolve()
        blob.unlink()  # else the next attempt would take it from the cache
        raise UserError(
            f"{file.rfilename} was damaged on its way from the hub; run the command again."
        )


def _root(path: Path, name: str) -> Path:
    return path.parents[len(Path(name).parts) - 1]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def local_model(model: str | Path) -> Path:
    """The folder of a model, which may be named by its repository's id, "OWNER/NAME".

    Raises:
      UserError: as `fetch`.
    """
    path = Path(model)
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)) and not path.parent.is_dir()
    return fetch([str(model)], ["*"]) if is_id else path
