"""Checkpoints of a training run: state, and what it belongs to. Orbax."""

import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from tvt_jax.errors import UserError


class Checkpoints:
    """The checkpoints in `workdir/checkpoints`, written in the background, whole or not at all.

    Args:
      workdir: folder of the run.
      every: save at multiples of this step.
      keep: how many of the last to keep.
    """

    def __init__(self, workdir: Path, every: int, keep: int):
        folder = workdir.absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                save_interval_steps=every, max_to_keep=keep, create=True
            ),
        )

    @property
    def latest(self) -> int | None:
        """Step of the last complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, run: dict[str, Any], force: bool = False) -> None:
        """Starts to save if `step` is due, or if `force`.

        Args:
          step: number of steps done.
          state: pytree of arrays; may be donated to the next step at once.
          run: JSON values that say which run this is; compared when it is resumed.

        Raises:
          UserError: the disk is full or the folder cannot be written.
        """
        if step == self.latest or not (force or self._manager.should_save(step)):
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run))
        try:
            self._manager.save(step, args=args, force=force)
        except (OSError, ValueError) as error:
            raise self._write_error(error) from error

    def restore(self, like: Any, run: dict[str, Any]) -> Any:
        """Restores the last checkpoint.

        Args:
          like: pytree of `ShapeDtypeStruct` with shardings: what is wanted, and where.
          run: as in `save`.

        Returns: the state, on the devices and in the layout of `like`.
        Raises:
          UserError: the checkpoint belongs to another run (its settings are named), or is damaged.
        """
        step = self.latest
        saved = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
        changed = [
            f"{key}: {saved.get(key)!r} then, {run.get(key)!r} now"
            for key in sorted({*saved, *run})
            if saved.get(key) != run.get(key)
        ]
        if changed:
            raise UserError(
                f"{self._manager.directory} holds another run ({'; '.join(changed)}); "
                "choose another --workdir."
            )
        try:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
            return self._manager.restore(step, args=args).state
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"checkpoint {step} in {self._manager.directory} cannot be restored "
                f"({str(error).splitlines()[0]}); remove its folder to resume from the one before."
            ) from error

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
          UserError: the disk is full or the folder cannot be written.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.close()
        except (OSError, ValueError) as error:
            raise self._write_error(error) from error

    def _write_error(self, error: Exception) -> UserError:
        free = shutil.disk_usage(self._manager.directory).free / 2**30
        return UserError(
            f"cannot write a checkpoint to {self._manager.directory} "
            f"({str(error).splitlines()[0]}; {free:.1f} GiB free); earlier checkpoints are intact."
        )


def abstract_like(tree: Any, shardings: Any) -> Any:
    """Shapes, dtypes and shardings of a state, for `Checkpoints.restore`."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )
