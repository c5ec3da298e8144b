"""OIALR in a run: the section `oialr` of a configuration, and the baselines it is compared with.

face       none, factored (training costs what the rank is) or latent (dense weights, SVD in the
           step)
delay      part of the steps at full rank; 1.0: low rank at the very end
every      steps between changes of the bases; 0: never after the conversion
rank_rule  cutoff, energy, stable_rank, budget or fixed, with the number `rank_value`
rewarm     steps of learning-rate warm-up after each change; 0: none
rules, keep_first, keep_last, open, max_drop, floor, grow: see `orthojax.OIALR`
stability_every
           steps between measurements of how far the singular bases have turned; 0: none; also with
           face none
control    none, or what is changed for comparison, factored face only:
             random    random orthonormal bases of the same ranks, and W projected on them
             diagonal  of the core only the diagonal is trained
             all       U and V are trained too
             galore    optax.contrib.galore instead, from the same step on
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import orthojax
from orthojax import diagnostics, matrices, ranks

FACES = ("none", "factored", "latent")
CONTROLS = ("none", "random", "diagonal", "all", "galore")
RULES = {
    "cutoff": ranks.relative,
    "energy": ranks.energy,
    "stable_rank": ranks.stable_rank,
    "budget": ranks.budget,
    "fixed": ranks.fixed,
}

# The fields of the section, which a configuration may leave out as a whole.
FIELDS = {
    "oialr.face": str,
    "oialr.delay": float,
    "oialr.every": int,
    "oialr.rank_rule": str,
    "oialr.rank_value": float,
    "oialr.rewarm": int,
    "oialr.rules": tuple,
    "oialr.keep_first": bool,
    "oialr.keep_last": bool,
    "oialr.open": float,
    "oialr.max_drop": float,
    "oialr.floor": float,
    "oialr.grow": int,
    "oialr.stability_every": int,
    "oialr.control": str,
}


def face(config) -> str:
    """The face of OIALR that `config` asks for, "none" if it has no such section."""
    return config.oialr.face if "oialr" in config else "none"


def control(config) -> str:
    """What is changed for comparison."""
    return config.oialr.control if face(config) != "none" else "none"


def delay_steps(config) -> int:
    """Steps at full rank; -1 without OIALR."""
    return -1 if face(config) == "none" else round(config.oialr.delay * config.steps)


def begins_dense(config, steps) -> bool:
    """Whether the first `steps` steps are those of the same run without OIALR."""
    own_optimizer = control(config) == "galore"
    return face(config) == "none" or (
        face(config) == "factored" and (own_optimizer or delay_steps(config) >= steps)
    )


def make_method(config, order=()) -> orthojax.OIALR | None:
    """Returns the `OIALR` of `config.oialr`; `order` is that of the kernels in the model.

    Raises `ValueError` for what cannot be right.
    """
    if face(config) == "none":
        return None
    c = config.oialr
    if c.control == "galore":
        if c.rank_value < 1 or c.every < 1:
            raise ValueError(
                "control=galore needs rank_value, its rank, and every of at least 1, got "
                f"{c.rank_value} and {c.every}."
            )
        return None
    try:
        rank = RULES[c.rank_rule](c.rank_value)
    except ValueError as error:
        raise ValueError(f"rank_value={c.rank_value}, rank_rule={c.rank_rule}: {error}") from error
    return orthojax.OIALR(
        delay=delay_steps(config),
        every=c.every or config.steps + 1,
        steps=config.steps,
        rules=c.rules or None,
        order=order if c.keep_first or c.keep_last or c.open < 1 else (),
        keep_first=c.keep_first,
        keep_last=c.keep_last,
        open=c.open,
        max_drop=c.max_drop,
        floor=c.floor,
        rank=rank,
        grow=c.grow,
    )


def make_optimizer(config, method, schedule, inner):
    """Returns the optimizer of the run, made from `inner`, whose learning rate is `schedule`."""
    if control(config) == "galore":
        c = config.optimizer
        return optax.contrib.galore(
            schedule,
            rank=int(config.oialr.rank_value),
            update_proj_gap=config.oialr.every,
            base_optimizer=optax.scale_by_adam(c.b1, c.b2),
            weight_decay=c.weight_decay,
        )
    if face(config) == "latent":
        options = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
        return orthojax.oialr(inner, **options)
    return inner


# Where control "all" keeps U and V among the params.
TRAINED = "trained_bases"


def _apart(params, bases):
    """Params without U and V, and the bases with them, where they are trained."""
    if TRAINED not in params:
        return params, bases
    bases = {n: dataclasses.replace(b, **params[TRAINED][n]) for n, b in bases.items()}
    return {key: value for key, value in params.items() if key != TRAINED}, bases


def bound(params, bases):
    """`orthojax.bind`, also where U and V are among the params, and get gradients."""
    if TRAINED not in params:
        return orthojax.bind(params, bases)
    params, bases = _apart(params, bases)
    cores = matrices.named(params)
    kernels = {name: orthojax.Factored(basis, cores[name]) for name, basis in bases.items()}
    return matrices.replaced(params, kernels)


def masked(config, grads, bases):
    """Gradients or updates of which only the diagonals of cores are left, for control
    "diagonal"."""
    if control(config) != "diagonal":
        return grads
    leaves = matrices.named(grads)
    return matrices.replaced(
        grads, {name: leaves[name] * jnp.eye(leaves[name].shape[-1]) for name in bases}
    )


def dense(params, bases):
    """The params of the dense model."""
    return orthojax.materialize(*_apart(params, bases))


def change(config, method, optimizer, step, state, grads=None):
    """The state after the change of bases that is due after `step` steps; on the host."""
    converting = not state.bases
    params, bases, opt_state = method.refresh(
        step, state.params, state.bases, state.opt_state, optimizer, grads
    )
    if converting and control(config) == "random":
        params, bases = _random_bases(config.seed, state.params, params, bases)
    if converting and control(config) == "all":
        # Copies, since the step donates both.
        trained = {n: {"u": jnp.copy(b.u), "v": jnp.copy(b.v)} for n, b in bases.items()}
        params = {**params, TRAINED: trained}
        opt_state = carried_over(opt_state, optimizer.init(params))
    return state._replace(params=params, bases=bases, opt_state=opt_state)


def _random_bases(seed, dense_params, params, bases):
    """Random orthonormal bases of the same ranks; cores are the projections of W on them."""
    weights, orthonormal = matrices.named(dense_params), jax.nn.initializers.orthogonal()
    key = jax.random.key(seed)
    new, cores = {}, {}
    for i, (name, basis) in enumerate(bases.items()):
        keep = jnp.arange(basis.columns) < basis.rank[..., None, None]
        keys = jax.random.split(jax.random.fold_in(key, i))
        u, v = (
            jnp.where(keep, orthonormal(k, x.shape[-2:])[..., : x.shape[-1]], 0)
            for k, x in zip(keys, (basis.u, basis.v), strict=True)
        )
        new[name] = dataclasses.replace(basis, u=u, v=v)
        w = basis.axes.view(weights[name])
        cores[name] = jnp.einsum("ia,ij,jb->ab", u, w, v, precision="highest")
    return matrices.replaced(params, cores), new


def carried_over(old, new):
    """`new`, with the leaves that `old` has at the same path in the same shape."""
    known = dict(jax.tree_util.tree_leaves_with_path(old))

    def choose(path, leaf):
        before = known.get(path)
        return before if before is not None and before.shape == leaf.shape else leaf

    return jax.tree_util.tree_map_with_path(choose, new)


def layout(state) -> dict[str, int]:
    """{path: allocated rank}: with the configuration, what the shapes of a state follow from."""
    return {name: basis.columns for name, basis in state.bases.items()}


def abstract(config, method, optimizer, state, columns):
    """The shapes of a state with the `layout` `columns`, from those of the initial `state`.

    Raises `ValueError` for a layout that does not fit the model.
    """
    if not columns:
        return state
    if method is None:
        raise ValueError(f"it is of low rank, in {', '.join(columns)}, this run is not")
    params, bases = method.abstract(state.params, columns)
    if control(config) == "all":
        params = {**params, TRAINED: {n: {"u": b.u, "v": b.v} for n, b in bases.items()}}
    opt_state = jax.eval_shape(optimizer.init, params)
    return state._replace(params=params, bases=bases, opt_state=opt_state)


def report(config, state) -> dict:
    """What is logged at each change: trainable, stored, served and FLOPs as parts of dense, and
    the ranks."""
    params, bases = _apart(state.params, state.bases)
    sizes = orthojax.size_report(params, bases)
    if TRAINED in state.params:
        sizes["trainable"] = sizes["stored"]  # U, V and S.
    if control(config) == "diagonal":
        rest = sum(np.sum(np.square(r) - r).item() for r in sizes["ranks"].values())
        kernels = jax.eval_shape(orthojax.materialize, params, bases)
        sizes["trainable"] -= rest / sum(leaf.size for leaf in jax.tree.leaves(kernels))
    several = {
        name: r if isinstance(r, int) else [np.min(r).item(), np.max(r).item()]
        for name, r in sizes["ranks"].items()
    }
    return {"low_rank": {**sizes, "ranks": several}}


def stability_every(config) -> int:
    """Steps between measurements of the stability, 0 for none."""
    return config.oialr.stability_every if "oialr" in config else 0


def singular_bases(config):
    """Returns params of the dense model -> {path: singular basis}, {} if none are measured."""
    if not stability_every(config):
        return lambda params: {}
    # Whatever the face: the same kernels.
    method = orthojax.OIALR(delay=0, every=1, rules=config.oialr.rules or None)

    def bases(params):
        leaves = matrices.named(params)
        return {
            name: diagnostics.singular_basis(leaves[name], axes)
            for name, axes in method.select(params).items()
        }

    return bases


def make_measure_stability(config, replicated=None):
    """Returns state -> (state with the bases of now as reference, {path: similarity})."""
    bases_of = singular_bases(config)

    @functools.partial(jax.jit, out_shardings=(None, replicated))
    def compare(params, bases, reference):
        now = bases_of(dense(params, bases))
        return now, {n: diagnostics.similarity(reference[n], x) for n, x in now.items()}

    def measure(state):
        reference, similar = compare(state.params, state.bases, state.reference)
        values = {name: float(x) for name, x in jax.device_get(similar).items()}
        return state._replace(reference=reference), {"basis_stability": values}

    return measure
