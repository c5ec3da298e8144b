"""The state that a run begins with: its own checkpoint, that of a trunk, or a new one."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from etils import epath
from ml_collections import ConfigDict

from experiments import configuration, low_rank, optimizers, training
from experiments.checkpoints import Checkpoints
from experiments.parallel import Parallel


class Trunk(NamedTuple):
    """A run from whose end others begin."""

    folder: Path
    checkpoints: epath.PathLike
    config: ConfigDict
    step: int


class Beginning(NamedTuple):
    """What the state of a run is made of."""

    config: ConfigDict
    devices: Parallel
    model: training.Model
    method: Any  # `orthojax.OIALR` or None
    optimizer: Any
    data: str = ""  # fingerprint
    seeds: tuple = ()  # of models that are trained together; their states are stacked

    def state(self, checkpoints, trunk=None):
        """Returns the state, and the folder of the trunk whose steps it has just taken over, or
        None."""
        restored = checkpoints.restore(self._abstract)
        if restored is not None:
            return restored, None
        if trunk is None or not self._shares(trunk):
            places = self.devices.place(jax.eval_shape(self._new))
            return jax.jit(self._new, out_shardings=places)(), None
        optimizer = optimizers.make_optimizer(trunk.config)
        dense = Beginning(trunk.config, self.devices, self.model, None, optimizer)
        with Checkpoints(trunk.checkpoints, trunk.config, self.data) as checkpoints:
            state = checkpoints.restore(dense._abstract)
        bases = low_rank.singular_bases(self.config)
        if jax.eval_shape(bases, state.params).keys() != state.reference.keys():
            state = state._replace(reference=jax.jit(bases)(state.params))
        state = state._replace(opt_state=self._opt_state(state))
        return self.devices.put_state(state), trunk.folder

    def _shares(self, trunk):
        """Whether the steps of the trunk are the first ones of this run."""
        own, common = (
            configuration.flatten(configuration.as_json(config))
            for config in (self.config, trunk.config)
        )
        same = all(
            own.get(field) == common.get(field) or field.startswith("oialr.")
            for field in (own.keys() | common.keys()) - {*configuration.MAY_CHANGE}
        )
        return same and low_rank.begins_dense(self.config, trunk.step)

    def _new(self):
        bases = low_rank.singular_bases(self.config)
        new = lambda seed: training.init_state(self.model, self.optimizer, seed, bases)
        return jax.vmap(new)(jnp.asarray(self.seeds)) if self.seeds else new(self.config.seed)

    def _opt_state(self, trunk):
        """The state of the optimizer, from that in the state `trunk`."""
        new = self.optimizer.init(trunk.params)
        if low_rank.control(self.config) != "galore":
            return low_rank.carried_over(trunk.opt_state, new)

        step = int(trunk.step)  # No array that is donated twice.

        # Of GaLore nothing: it projects by zeros until its count says to compute the projections.
        def at_step(x):
            return x._replace(count=jnp.full_like(x.count, step)) if is_schedule(x) else x

        is_schedule = lambda x: isinstance(x, optax.ScaleByScheduleState)
        return jax.tree.map(at_step, new, is_leaf=is_schedule)

    def _abstract(self, layout):
        """Shapes and places of the arrays of a checkpoint."""
        dense = jax.eval_shape(self._new)
        state = low_rank.abstract(self.config, self.method, self.optimizer, dense, layout)
        return jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            state,
            self.devices.place(state),
        )
