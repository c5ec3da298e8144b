"""A tour on a CPU, with the core dependencies only: python -m orthojax.examples

Each stop prints what it does and what came of it; the code to read is the function of that stop.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import optax

import orthojax

STACK = orthojax.MatrixAxes(-2, -1)  # [layers, in, out]: each layer is a matrix.


def minimize(tx, loss, params, steps):
    """(params, state, losses [steps]) of `steps` updates, as one compiled program."""

    @jax.jit
    def run(params, state):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, state), length=steps)

    (params, state), losses = run(params, jax.jit(tx.init)(params))
    return params, state, losses


def one_line(steps):
    """1. One line: an optimizer whose weights stay orthonormal.

    tx = orthojax.orthogonal(optax.adam(0.05), rules=[("kernel", "orthogonal"), (".*", "free")])

    The orthonormal matrix nearest to a target, 24 x 8 (Procrustes): its answer is known.
    """
    target = jax.random.normal(jax.random.key(0), (24, 8))
    params = {"kernel": orthojax.initializers.haar(jax.random.key(1), (24, 8))}
    tx = orthojax.orthogonal(optax.adam(0.05), rules=[("kernel", "orthogonal"), (".*", "free")])
    params, _, losses = minimize(tx, lambda p: jnp.sum((p["kernel"] - target) ** 2), params, steps)
    least = jnp.sum((jnp.linalg.svd(target, compute_uv=False) - 1) ** 2)
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.4f}; the least there is, by an SVD: {least:.4f}")
    print(f"max |W'W - I| = {orthojax.orthogonality_error(params['kernel']):.1e}")


def maps(steps):
    """2. Which map: five ways from free parameters to orthonormal matrices.

    orthojax.reparameterize(optax.adam(0.05), NAME, rebase_every=None or 1)

    The same problem with each. `rebase_every=1` is Riemannian descent, of which a step is cheaper.
    """
    target = orthojax.initializers.haar(jax.random.key(0), (24, 8))
    start = orthojax.initializers.haar(jax.random.key(1), (24, 8))
    for name in orthojax.MAPS:
        for every in (None,) if name == "householder" else (None, 1):
            tx = orthojax.reparameterize(optax.adam(0.05), name, every)
            w, _, losses = minimize(tx, lambda w: jnp.sum((w - target) ** 2), start, steps)
            error = orthojax.orthogonality_error(w)
            print(f"{name:12} rebase_every={every!s:4}  loss {losses[-1]:.1e}  error {error:.0e}")
    print("One learning rate for all, tuned for none: no ranking. The default is cayley.")


def depth(steps):
    """3. Depth: a tanh network of 100 layers, in plain JAX.

    rules=[("layers", orthojax.MatrixAxes(-2, -1)), (".*", "free")]

    Two spirals, the same Gaussian start and learning rate, with the constraint and without: the
    first update moves the weights to the nearest orthonormal ones. At a tenth of this rate Adam
    alone trains, too.
    """
    t = jnp.linspace(0.5, 2.5, 128) * jnp.pi
    spiral = jnp.stack([t * jnp.cos(t), t * jnp.sin(t)], axis=-1) / 8
    x, y = jnp.concatenate([spiral, -spiral]), jnp.repeat(jnp.array([0.0, 1.0]), 128)
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "first": jax.random.normal(keys[0], (2, 16)),
        "layers": jax.random.normal(keys[1], (100, 16, 16)) / 4,
        "head": jax.random.normal(keys[2], (16,)) / 4,
    }

    def logits(params):
        h = x @ params["first"]
        h, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h) @ w, None), h, params["layers"])
        return h @ params["head"]

    def loss(params):
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits(params), y))

    rules = [("layers", STACK), (".*", "free")]
    adam = optax.adam(3e-3)
    for name, tx in {"adam": adam, "constrained": orthojax.orthogonal(adam, rules=rules)}.items():
        trained, _, losses = minimize(tx, loss, params, steps)
        right = jnp.mean((logits(trained) > 0) == (y > 0.5))
        error = orthojax.orthogonality_error(trained["layers"], STACK)
        print(f"{name:12} loss {losses[-1]:.3f}, {right:.0%} right, max |W'W - I| {error:.0e}")


def chain(steps):
    """4. Without free parameters: links of an optax.chain.

    optax.chain(riemannian_gradient(), optax.trace(0.9), optax.scale(-0.02), retract("qr"))
    optax.chain(riemannian_gradient(), optax.trace(0.9), optax.scale(-0.02), pogo())

    The 4 leading eigenvectors of a symmetric 32 x 32 matrix, as a maximum of tr W'AW.
    """
    basis = orthojax.initializers.haar(jax.random.key(0), (32, 32))
    a = (basis * (0.8 ** jnp.arange(32))) @ basis.T
    start = orthojax.initializers.haar(jax.random.key(1), (32, 4))
    best = jnp.sum(0.8 ** jnp.arange(4))
    for last in (orthojax.retract("qr"), orthojax.pogo()):
        tx = optax.chain(orthojax.riemannian_gradient(), optax.trace(0.9), optax.scale(-0.02), last)
        w, _, losses = minimize(tx, lambda w: -jnp.sum(w * (a @ w)), start, steps)
        error = orthojax.orthogonality_error(w)
        print(f"tr W'AW = {-losses[-1]:.4f} of {best:.4f}, max |W'W - I| {error:.0e}")


def low_rank(steps):
    """5. Low rank: OIALR freezes the singular bases and trains the core, W = U S V'.

    method = orthojax.OIALR(delay=steps // 3, every=steps // 3, cutoff=0.1)
    params, bases, opt_state = method.refresh(count, params, bases, opt_state, tx)

    A 64 x 48 matrix of rank 4 and a little noise, learnt by regression.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    true = jax.random.normal(keys[0], (64, 4)) @ jax.random.normal(keys[1], (4, 48)) / 8
    x = jax.random.normal(keys[2], (256, 64))
    y = x @ true + 0.1 * jax.random.normal(keys[3], (256, 48))
    third = max(steps // 3, 1)
    method, tx = orthojax.OIALR(delay=third, every=third, cutoff=0.1), optax.adam(0.02)
    params, bases = {"kernel": jnp.zeros((64, 48)) + 0.01 * x[:64, :48]}, {}
    opt_state = tx.init(params)

    @jax.jit
    def step(params, bases, opt_state):
        loss = lambda params: jnp.mean((x @ orthojax.bind(params, bases)["kernel"] - y) ** 2)
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    for count in range(1, steps + 1):
        params, opt_state, value = step(params, bases, opt_state)
        if method.is_due(count):
            print(
                f"step {count}: loss {value:.4f}, kernel trained as {params['kernel'].shape}",
                end="",
            )
            params, bases, opt_state = method.refresh(count, params, bases, opt_state, tx)
            print(f" -> {params['kernel'].shape}, rank {int(bases['kernel'].rank)}")
    report = orthojax.size_report(params, bases)
    print(f"loss {value:.4f}; of the dense kernel {report['trainable']:.1%} is trained,", end=" ")
    print(f"{report['stored']:.1%} stored")


def your_own(steps):
    """6. Your own map: two functions.

    orthojax.Parameterization(init, forward)

    Rotations of the plane by an angle, trained to a quarter turn, with a gradient by jax.vjp.
    """

    def init(w):
        return w, jnp.zeros(w.shape[:-2])

    def forward(base, theta):
        c, s = jnp.cos(theta), jnp.sin(theta)
        turn = jnp.stack([jnp.stack([c, -s], -1), jnp.stack([s, c], -1)], -2)
        return turn @ base

    quarter = jnp.array([[0.0, -1.0], [1.0, 0.0]])
    tx = orthojax.reparameterize(optax.sgd(0.1), orthojax.Parameterization(init, forward))
    _, state, _ = minimize(tx, lambda w: jnp.sum((w - quarter) ** 2), jnp.eye(2), steps)
    print(f"angle {jnp.degrees(state.theta):.3f} degrees")


STOPS = (one_line, maps, depth, chain, low_rank, your_own)


def main(arguments=None):
    """Visits all stops; `--steps` of training at each."""
    parser = argparse.ArgumentParser(prog="python -m orthojax.examples", description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help="updates at each stop")
    steps = parser.parse_args(arguments).steps
    began = time.perf_counter()
    for stop in STOPS:
        title, _, text = stop.__doc__.partition("\n\n")
        print(f"\n{title}\n{'-' * len(title)}")
        print(
            "\n".join(line.removeprefix("    ") for line in text.rstrip().split("\n")), end="\n\n"
        )
        stop(steps)
    print(f"\n{time.perf_counter() - began:.0f} seconds. Next: the fifteen lines of docs/index.md,")
    print("for your own model; docs/tutorials, which open in Jupyter and Colab; docs/howto.")


if __name__ == "__main__":
    main()
