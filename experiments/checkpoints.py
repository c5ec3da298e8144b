"""Orbax checkpoints of the training state, which restore into the same run or say why not.

Beside the arrays lies a JSON record of the configuration and of the shapes: it tells a checkpoint
of another run, which is an error, from an unreadable one, in whose place an older one is taken.
"""

import importlib.util

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from experiments import configuration, processes


def _shapes(state):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _without_empty(target):
    """`target` with a one in the place of each array of no elements, which Orbax refuses."""
    return jax.tree.map(lambda x: x if x.size else jnp.ones((1,) * x.ndim, x.dtype), target)


def _with_empty(restored, target):
    """Inverse of `_without_empty`."""
    return jax.tree.map(
        lambda x, t: x if t.size else jnp.zeros(t.shape, t.dtype, device=t.sharding),
        restored,
        target,
    )


class Checkpoints:
    """The checkpoints of one run, in `directory`; a context, because saving goes on behind it."""

    def __init__(self, directory: epath.PathLike, config, data: str = ""):
        """`data` is the fingerprint of the data set: no checkpoint of others is restored."""
        self._data = data
        if str(directory).startswith("gs://") and importlib.util.find_spec("gcsfs") is None:
            raise configuration.ConfigurationError(
                f'--checkpoints={directory} needs gcsfs: pip install -e ".[gcloud]".'
            )
        directory = epath.Path(directory)  # Or gs://bucket/...
        is_local = "://" not in str(directory)
        self._directory = directory.absolute() if is_local else directory
        self._config = configuration.as_json(config)
        options = ocp.CheckpointManagerOptions(max_to_keep=config.checkpoints_kept)
        self._orbax = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._orbax.close()

    def save(self, step, state, layout):
        """Saves `state` as that after `step` steps; its arrays may be donated on return.

        `layout` is JSON, from which `restore` can tell the shapes of `state`.
        """
        if step in self._orbax.all_steps():
            return
        meta = {
            "step": step,
            "config": self._config,
            "layout": layout,
            "shapes": _shapes(state),
            "data": self._data,
        }
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_without_empty(state)), meta=ocp.args.JsonSave(meta)
        )
        self._orbax.save(step, args=args, force=True)

    def wait(self):
        """Returns when all that was saved is on disk."""
        self._orbax.wait_until_finished()

    def restore(self, abstract):
        """Returns the newest readable state, or None if there is no checkpoint.

        `abstract` takes a layout to the state as `jax.ShapeDtypeStruct`s with shardings, or raises
        `ValueError`. Raises `ConfigurationError` for a checkpoint of another configuration or of
        other shapes, and if there are checkpoints but none can be read.
        """
        steps = sorted(self._orbax.all_steps(), reverse=True)
        for step in steps:
            try:
                record = ocp.args.Composite(meta=ocp.args.JsonRestore())
                meta = self._orbax.restore(step, args=record).meta
                stored, config, layout = meta["shapes"], meta["config"], meta["layout"]
            except Exception as error:  # Whatever a damaged file makes Orbax raise.
                self._set_aside(step, error)
                continue
            where = f"the checkpoint of step {step} in {self._directory}"
            configuration.check_same(config, self._config, where)
            if meta.get("data", self._data) != self._data:
                raise configuration.ConfigurationError(
                    f"{where} was trained on other data of data.name={config['data']['name']} "
                    f"({meta['data']} there, {self._data} now); bring those back or give "
                    "another --workdir."
                )
            try:
                target = abstract(layout)
            except ValueError as error:
                raise configuration.ConfigurationError(
                    f"{where} does not fit: {error}; give another --workdir."
                ) from error
            self._check_shapes(where, stored, target)
            try:
                item = ocp.args.StandardRestore(_without_empty(target))
                restored = self._orbax.restore(step, args=ocp.args.Composite(state=item)).state
                return _with_empty(restored, target)
            except Exception as error:
                self._set_aside(step, error)
        if steps:
            raise configuration.ConfigurationError(
                f"none of the checkpoints {steps} in {self._directory} can be read; "
                "give another --workdir."
            )
        return None

    def _check_shapes(self, where, stored, target):
        needed = _shapes(target)
        different = [
            f"{path}: {stored.get(path, 'nothing')} there, {needed.get(path, 'nothing')} now"
            for path in sorted(stored.keys() | needed.keys())
            if stored.get(path) != needed.get(path)
        ]
        if different:
            more = f" and {len(different) - 3} more" if len(different) > 3 else ""
            raise configuration.ConfigurationError(
                f"{where} does not fit ({'; '.join(different[:3])}{more}); give another --workdir."
            )

    def _set_aside(self, step, error):
        """Moves an unreadable checkpoint away, so that its step can be saved again."""
        aside = self._directory.parent / "unreadable_checkpoints" / str(step)
        if processes.is_first():
            aside.parent.mkdir(exist_ok=True)
            while aside.exists():
                aside = aside.with_name(f"{aside.name}_")
            (self._directory / str(step)).rename(aside)
        processes.wait_for_all("a checkpoint set aside")
        self._orbax.reload()
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        logging.warning(
            "Checkpoint of step %d cannot be read (%s); moved to %s, taking the one before.",
            step,
            reason,
            aside,
        )
