"""The optimizer of a run, and its learning rate."""

import optax

import orthojax
from experiments import low_rank

OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam", "adamw")
DECAYING = ("sgd", "momentum", "adamw")  # those with an `optimizer.weight_decay`
SCHEDULES = ("constant", "cosine", "warm_restarts", "step_decay")
PERIODIC = ("warm_restarts", "step_decay")  # the schedules with an `optimizer.period`


def make_schedule(config, method=None) -> optax.Schedule:
    """Returns steps done -> learning rate: linear warmup, then one of `SCHEDULES`; with
    `config.oialr.rewarm` warmed up again after each change of the OIALR `method`.

    "cosine" is half a cosine to 0; "warm_restarts" is one every `period` steps (Loshchilov and
    Hutter 2017, arXiv:1608.03983); "step_decay" halves every `period` steps.
    """
    c = config.optimizer
    match c.schedule:
        case "constant":
            schedule = optax.constant_schedule(c.lr)
        case "cosine":
            schedule = optax.cosine_decay_schedule(c.lr, config.steps - c.warmup_steps)
        case "warm_restarts":
            cycle = optax.cosine_decay_schedule(c.lr, c.period)
            schedule = lambda step: cycle(step % c.period)
        case "step_decay":
            schedule = optax.exponential_decay(c.lr, c.period, decay_rate=0.5, staircase=True)
    if c.warmup_steps:
        warmup = optax.linear_schedule(c.lr / c.warmup_steps, c.lr, c.warmup_steps)
        schedule = optax.join_schedules([warmup, schedule], [c.warmup_steps])
    if method is not None and config.oialr.rewarm:
        schedule = method.rewarmed(schedule, config.oialr.rewarm)
    return schedule


def make_optimizer(config, method=None) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer of `config.optimizer`, under the constraint of `config.constraint` or
    for the OIALR `method`."""
    c, constraint, schedule = config.optimizer, config.constraint, make_schedule(config, method)
    free = _inner(c, schedule, c.weight_decay)
    if low_rank.face(config) != "none":
        optimizer = low_rank.make_optimizer(config, method, schedule, free)
    elif constraint.map == "none":
        optimizer = free
    else:
        factor = constraint.get("lr_factor", 1.0)
        optimizer = orthojax.orthogonal(
            # No decay: that of theta would pull the weights to their base, not to 0.
            _inner(c, lambda step: factor * schedule(step), weight_decay=0.0),
            map=constraint.map,
            rules=constraint.rules,
            rest=free,
            rebase_every=constraint.rebase_every or None,
        )
    if c.clip_norm:
        # Before, not after: the constrained update must be the last.
        optimizer = optax.chain(optax.clip_by_global_norm(c.clip_norm), optimizer)
    return optimizer


def _inner(c, schedule, weight_decay):
    """The optimizer of the section `c` with this learning rate, without constraints."""
    decay = optax.add_decayed_weights(weight_decay)
    match c.name:
        case "sgd":
            return optax.chain(decay, optax.sgd(schedule))
        case "momentum":
            return optax.chain(decay, optax.sgd(schedule, momentum=c.momentum))
        case "rmsprop":
            return optax.rmsprop(schedule, decay=c.b2)
        case "adam":
            return optax.adam(schedule, c.b1, c.b2)
        case "adamw":
            return optax.adamw(schedule, c.b1, c.b2, weight_decay=weight_decay)
