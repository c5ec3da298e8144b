"""Which numbers should a network put out for a rotation? Heads of SO(3) on one task.

After Zhou et al. 2019, arXiv:1812.07035, sec. 5: given a set of points and its copy, turned by R,
find R; R uniform on SO(3). Two things differ. Their sets are airplanes of ShapeNet; here they are
reliefs of MNIST digits, `clouds`, those of the test split of other digits than those trained on.
And here the network, a PointNet, sees each point beside its copy, where theirs has to find out
which belong together: it learns within minutes of one core. Adam with a cosine schedule, the loss
|R_out - R|_F^2, new rotations for each batch.

Arms are heads, `study.head`:

6d, 9d, quaternion, vector  those of `orthojax.rotations`, in training and in testing
9d_bare     trained by the loss of the bare matrix, |X - R|_F^2; a rotation (`rotation_from_9d`) in
            testing only, as Gu et al. 2023, arXiv:2312.00462, and Choy 2026, arXiv:2604.05414,
            recommend

All start near the identity. Reported is the geodesic error in degrees over `study.tests` rotations
of the test digits in turn, the same for all arms and seeds.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from experiments import configuration
from experiments.configuration import ConfigurationError
from experiments.drawing import label_ends
from experiments.models.point_net import PointNet
from experiments.studies import common
from orthojax import rotations

FIELDS = {
    "seeds": tuple,
    "data.name": str,
    "data.dir": str,
    "study.head": str,
    "study.points": int,
    "study.widths": tuple,
    "study.hidden": int,
    "study.steps": int,
    "study.batch_size": int,
    "study.lr": float,
    "study.tests": int,
    "study.evaluations": int,
}
MAY_CHANGE = ("seeds",)
EYE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
# {name: (of the numbers in training, in testing, those of the identity)}
HEADS = {
    "6d": (rotations.rotation_from_6d, rotations.rotation_from_6d, EYE[:6]),
    "9d": (rotations.rotation_from_9d, rotations.rotation_from_9d, EYE),
    "9d_bare": (lambda x: x.reshape(-1, 3, 3), rotations.rotation_from_9d, EYE),
    "quaternion": (*[rotations.rotation_from_quaternion] * 2, EYE[:4]),
    "vector": (*[rotations.rotation_from_vector] * 2, (0.0,) * 3),
}
PERCENTILES = np.arange(1, 101)


def check(config):
    c = config.study
    configuration.check_name("study.head", c.head, list(HEADS))
    positive = ("points", "hidden", "steps", "batch_size", "lr", "tests", "evaluations")
    common.check_positive(config, *(f"study.{field}" for field in positive))
    if not c.widths or any(type(width) is not int or width < 1 for width in c.widths):
        raise ConfigurationError(f"study.widths are those of the layers, got {c.widths}.")
    if c.steps % c.evaluations:
        raise ConfigurationError(
            f"study.steps is a multiple of study.evaluations, got {c.steps} and {c.evaluations}."
        )


def cells(config):
    return list(config.seeds)


def clouds(images, points, seed=0):
    """Points [N, points, 3] on the reliefs of `images` uint8 [N, H, W, 1], in float32.

    Pixels are drawn by their brightness, and a place in each; the height is the brightness of the
    blurred image there. Centred, and the farthest point has the distance 1.
    """
    rng = np.random.default_rng(seed)
    bright = images[..., 0] / 255.0
    # Binomial blur [1, 4, 6, 4, 1] / 16 of rows and columns.
    padded = np.pad(bright, ((0, 0), (2, 2), (2, 2)))
    kernel, (h, w) = np.array([1, 4, 6, 4, 1]) / 16, bright.shape[1:]
    blurred = sum(k * padded[:, i : i + h] for i, k in enumerate(kernel))
    blurred = sum(k * blurred[:, :, i : i + w] for i, k in enumerate(kernel))
    levels = np.cumsum(bright.reshape(len(bright), -1), axis=1)
    draws = rng.random((len(bright), points)) * levels[:, -1:]
    pixels = np.stack([np.searchsorted(*own, "right") for own in zip(levels, draws, strict=True)])
    rows, columns = np.divmod(np.minimum(pixels, h * w - 1), w)
    height = np.take_along_axis(blurred.reshape(len(bright), -1), rows * w + columns, axis=1)
    jitter = rng.random((2, *rows.shape))
    x = np.stack([columns + jitter[0], -rows - jitter[1], 0.4 * w * height], axis=-1)
    x -= x.mean(axis=1, keepdims=True)
    return (x / np.linalg.norm(x, axis=-1).max(axis=1)[:, None, None]).astype(np.float32)


def make_measure(config):
    c = config.study
    dataset = common.load_data(config.data.name, config.data.dir)
    train, test = (
        clouds(split.images, c.points, seed)
        for seed, split in enumerate((dataset.train, dataset.test))
    )
    test = np.resize(test, (c.tests, *test.shape[1:]))
    draw = jax.jit(lambda key: rotations.random_rotation(key, (c.tests,)))
    answers = draw(jax.random.key(0))
    init, advance, evaluate = make_training(c)

    def measure(seed):
        key, state_key = jax.random.split(jax.random.key(seed))
        state, curve = init(state_key), []
        every = c.steps // c.evaluations
        for i in tqdm(range(c.evaluations), leave=False, disable=None):
            state = advance(state, key, i * every, train)
            errors = np.asarray(evaluate(state, test, answers))
            curve.append(float(np.median(errors)))
        row = {
            "seed": seed,
            "median": float(np.median(errors)),
            "mean": float(errors.mean()),
            "p95": float(np.percentile(errors, 95)),
            "max": float(errors.max()),
            "curve": curve,
            "percentiles": np.percentile(errors, PERCENTILES).tolist(),
        }
        return [row]

    return measure


def make_training(c):
    """`init(key) -> state`, `advance(state, key, step, clouds) -> state` after `study.steps` /
    `study.evaluations` more, and `evaluate(state, clouds, rotations)`, the errors in degrees."""
    in_training, in_testing, start = HEADS[c.head]
    arguments = {"widths": c.widths, "hidden": c.hidden, "start": start}
    make = lambda key: PointNet(len(start), **arguments, rngs=nnx.Rngs(key))
    graph = nnx.graphdef(nnx.eval_shape(make, jax.random.key(0)))
    optimizer = optax.adam(optax.cosine_decay_schedule(c.lr, c.steps))

    def outputs(params, x, r):
        turned = jnp.matmul(x, r.mT, precision="highest")  # R v, of rows.
        return nnx.merge(graph, params)(x, turned)

    def loss(params, x, r):
        return rotations.chordal_loss(in_training(outputs(params, x, r)), r).mean()

    @jax.jit
    def init(key):
        params = nnx.state(make(key))
        return params, optimizer.init(params)

    @jax.jit
    def advance(state, key, step, train):
        def body(state, step):
            params, opt_state = state
            choose, turn = jax.random.split(jax.random.fold_in(key, step))
            x = train[jax.random.randint(choose, (c.batch_size,), 0, len(train))]
            r = rotations.random_rotation(turn, (c.batch_size,))
            updates, opt_state = optimizer.update(jax.grad(loss)(params, x, r), opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.lax.scan(body, state, step + jnp.arange(c.steps // c.evaluations))[0]

    @jax.jit
    def evaluate(state, x, r):
        one = lambda pair: outputs(state[0], pair[0][None], pair[1][None])[0]
        found = in_testing(jax.lax.map(one, (x, r), batch_size=min(len(x), 500)))
        return jnp.rad2deg(rotations.rotation_angle(found, r))

    return init, advance, evaluate


def report(arms, rows):
    names = {"median": "median", "mean": "mean", "p95": "95 %", "max": "largest"}
    lines = [["head", *names.values()]]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for arm, color in common.colored(arms):
        own = common.values_of(rows, arm)
        if not own:
            continue
        cells = [common.mean_and_deviation([row[k] for row in own]) for k in names]
        lines.append([arm or "-", *cells])
        c = arms[arm].study
        errors = [row["percentiles"] for row in own]
        common.band(left, PERCENTILES, errors, arm or "measured", color)
        steps = np.arange(1, c.evaluations + 1) * (c.steps // c.evaluations)
        common.band(right, steps, [row["curve"] for row in own], arm or "measured", color)
    left.set(title="Geodesic error, degrees", xlabel="percent of the rotations", yscale="log")
    left.legend(frameon=False)
    right.set(title="Median error, degrees", xlabel="step", yscale="log")
    label_ends(right)
    return {"rotations": figure}, lines
