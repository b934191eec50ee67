"""Checkpoints of a training run by Orbax: the state, and which run it belongs to."""

import contextlib
import os
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from tvt_jax.errors import UserError


class Checkpoints:
    """The checkpoints in `workdir/checkpoints`, written in the background, complete or not at all.

    Use it as a context: leaving it waits until everything is on disk, also after an error (in a run
    of one process).

    Args:
      workdir: folder of the run, local or in a bucket.
      every: save at multiples of this step.
      keep: how many of the last to keep.
    """

    def __init__(self, workdir: os.PathLike[str], every: int, keep: int):
        path = os.fspath(workdir)
        self._manager = ocp.CheckpointManager(
            epath.Path(path if "://" in path else os.path.abspath(path)) / "checkpoints",
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
        )
        self._every = every

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is not None and jax.process_count() > 1:
            return  # the save would wait for processes that may have failed
        try:
            self._manager.wait_until_finished()
            self._manager.close()
        except Exception as error:  # Orbax passes on whatever its threads raised
            if kind is None:  # else the first error is the one to show
                raise self._write_error(error) from error

    @property
    def latest(self) -> int | None:
        """Step of the last complete checkpoint."""
        return self._manager.latest_step()

    def due(self, step: int) -> bool:
        """Whether `save` saves after this many steps."""
        return step != self.latest and step % self._every == 0

    def save(self, step: int, state: Any, run: dict[str, Any], force: bool = False) -> None:
        """Starts to save if `step` is due, or if `force`.

        Args:
          step: number of steps done.
          state: pytree of arrays; may be donated to the next step at once.
          run: JSON values that say which run this is; compared when it is resumed.

        Raises:
          UserError: the disk is full or the folder cannot be written.
        """
        if not self.due(step) and not (force and step != self.latest):
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run))
        try:
            self._manager.save(step, args=args, force=True)
        except Exception as error:  # also that of an earlier save, from its thread
            raise self._write_error(error) from error

    def restore(self, like: Any, run: dict[str, Any]) -> Any:
        """Restores the last checkpoint.

        Args:
          like: pytree of `ShapeDtypeStruct` with shardings.
          run: as in `save`.

        Returns: the state, on the devices and in the layout of `like`.
        Raises:
          UserError: the checkpoint belongs to another run (its settings are named), or cannot be
            read. (Corrupted bytes on the disk are not detected.)
        """
        step = self.latest
        saved = self._read(step, run=ocp.args.JsonRestore()).run
        changed = [key for key in sorted({*saved, *run}) if saved.get(key) != run.get(key)]
        if changed:
            advice = "choose another `workdir`"
            if changed == ["steps"]:
                advice = (
                    "a cosine learning rate depends on the length of the run: set "
                    f"`config.steps={saved['steps']}` to finish this one, or {advice} for a run of "
                    "another length"
                )
            values = "; ".join(
                f"{key}: {saved.get(key)!r} then, {run.get(key)!r} now" for key in changed
            )
            raise UserError(f"{self._manager.directory} holds another run ({values}); {advice}.")
        return self._read(step, state=ocp.args.StandardRestore(like)).state

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax raises many kinds
            raise UserError(
                f"checkpoint {step} in {self._manager.directory} cannot be read "
                f"({_first_line(error)}); remove its folder to resume from the one before."
            ) from error

    def _write_error(self, error: Exception) -> UserError:
        reason = _first_line(error)
        with contextlib.suppress(OSError):  # a bucket
            free = shutil.disk_usage(self._manager.directory).free / 2**30
            reason += f"; {free:.1f} GiB free"
        return UserError(
            f"cannot write a checkpoint to {self._manager.directory} ({reason}); "
            "earlier checkpoints are intact."
        )


def abstract_like(tree: Any) -> Any:
    """Shapes, dtypes and shardings of a state, for `Checkpoints.restore`."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
