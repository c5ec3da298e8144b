"""The optimizer of a run, and its learning rate."""

import optax

import orthojax
from experiments import low_rank

OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam", "adamw", "muon")
DECAYING = ("sgd", "momentum", "adamw", "muon")  # those with an `optimizer.weight_decay`
MAPS = orthojax.MAPS | {"unitary": orthojax.unitary}  # {name: () -> Parameterization}
SCHEDULES = ("constant", "cosine", "warm_restarts", "step_decay", "tenth_decay")
PERIODIC = ("warm_restarts", "step_decay", "tenth_decay")  # those with an `optimizer.period`

# Constraints that are links of a chain: {name: (section `optimizer`, learning rate, axes) ->}.
LINKS = {
    "pogo": lambda c, lr, axes: optax.chain(_inner(c, lr, 0.0), orthojax.pogo(axes=axes)),
    "landing": lambda c, lr, axes: optax.chain(_inner(c, lr, 0.0), orthojax.landing(axes=axes)),
    "muon": lambda c, lr, axes: orthojax.manifold_muon(lr, c.momentum, axes=axes),
}
# {penalty.name: (penalty.weight, axes) ->}; the gradients of the first are added to those of the
# loss, the weight of "spectral_cap" is the cap.
PENALTIES = {
    "so": lambda weight, axes: orthojax.add_soft_orthogonality(weight, axes),
    "dso": lambda weight, axes: orthojax.add_double_soft_orthogonality(weight, axes),
    "mc": lambda weight, axes: orthojax.add_mutual_coherence(weight, axes),
    "srip": lambda weight, axes: orthojax.add_srip(weight, axes=axes),
    "spectral_norm": lambda weight, axes: orthojax.add_spectral_norm(weight, axes=axes),
    "spectral_cap": lambda cap, axes: orthojax.spectral_cap(cap, axes=axes),
}


def make_schedule(config, method=None) -> optax.Schedule:
    """Returns steps done -> learning rate: linear warmup, then one of `SCHEDULES`; with
    `config.oialr.rewarm` warmed up again after each change of the OIALR `method`.

    "cosine" is half a cosine to 0; "warm_restarts" is one every `period` steps (Loshchilov and
    Hutter 2017, arXiv:1608.03983); "step_decay" halves every `period` steps, "tenth_decay" leaves a
    tenth.
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
        case "tenth_decay":
            schedule = optax.exponential_decay(c.lr, c.period, decay_rate=0.1, staircase=True)
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
    constrained_schedule = lambda step: constraint.get("lr_factor", 1.0) * schedule(step)
    if low_rank.face(config) != "none":
        optimizer = low_rank.make_optimizer(config, method, schedule, free)
    elif constraint.map in LINKS:
        make = lambda axes: LINKS[constraint.map](c, constrained_schedule, axes)
        optimizer = _by_rules(constraint.rules, make, free)
    elif constraint.map == "none" and c.name == "muon":
        options = {"momentum": c.momentum, "weight_decay": c.weight_decay}
        make = lambda axes: orthojax.muon(constrained_schedule, axes=axes, **options)
        optimizer = _by_rules(constraint.rules, make, free)
    elif constraint.map == "none":
        optimizer = free
    else:
        optimizer = orthojax.orthogonal(
            # No decay: that of theta would pull the weights to their base, not to 0.
            _inner(c, constrained_schedule, weight_decay=0.0),
            map=MAPS[constraint.map](),
            rules=constraint.rules,
            rest=free,
            rebase_every=constraint.rebase_every or None,
        )
    if "penalty" in config and config.penalty.name != "none":
        p = config.penalty
        make = lambda axes: PENALTIES[p.name](p.weight, axes)
        link = _by_rules(p.rules, make, optax.identity())
        links = (optimizer, link) if p.name == "spectral_cap" else (link, optimizer)
        optimizer = optax.chain(*links)
    if c.clip_norm:
        # Before, not after: the constrained update must be the last.
        optimizer = optax.chain(optax.clip_by_global_norm(c.clip_norm), optimizer)
    return optimizer


def _by_rules(rules, make, rest):
    """`make`(axes) for the parameters that `rules` call orthogonal, `rest` for the others."""
    labels = [(pattern, "free" if value == "free" else "chosen") for pattern, value in rules]
    axes = [(p, value if isinstance(value, orthojax.MatrixAxes) else None) for p, value in rules]
    return optax.partition({"chosen": make(axes), "free": rest}, orthojax.label_by_path(labels))


def _inner(c, schedule, weight_decay):
    """The optimizer of the section `c` with this learning rate, without constraints."""
    decay = optax.add_decayed_weights(weight_decay)
    match c.name:
        case "sgd":
            return optax.chain(decay, optax.sgd(schedule))
        case "momentum":
            return optax.chain(decay, optax.sgd(schedule, momentum=c.momentum))
        case "rmsprop":
            # As in PyTorch: gradients below 1e-4 are not small.
            return optax.rmsprop(schedule, decay=c.b2, eps_in_sqrt=False)
        case "adam" | "muon":  # Muon is for matrices, the rest is Adam's.
            return optax.adam(schedule, c.b1, c.b2)
        case "adamw":
            return optax.adamw(schedule, c.b1, c.b2, weight_decay=weight_decay)
