"""Orthogonal convolutions against the dense matrix of their operators."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from matrices_of import gaussian, orthonormal

import orthojax
from orthojax import block_convolutions, convolutions, fourier_convolutions, skew_convolutions
from orthojax.nn import convolution

pytestmark = pytest.mark.usefixtures("x64")


def dense(f, shape):
    """The matrix [out, in] of a linear `f` of images [1, *shape], column by column."""
    pulses = jnp.eye(np.prod(shape)).reshape(-1, *shape)
    return np.asarray(jax.jit(f)(pulses)).reshape(len(pulses), -1).T


def by_loops(kernel, shape, strides, groups):
    """The matrix of a circular convolution, from its definition."""
    height, width, channels = shape
    *window, inputs, outputs = kernel.shape
    matrix = np.zeros((height // strides, width // strides, outputs, height, width, channels))
    for i, j, a, b, o in np.ndindex(height // strides, width // strides, *window, outputs):
        group = o // (outputs // groups)
        own = slice(group * inputs, (group + 1) * inputs)
        row = (strides * i + a - (window[0] - 1) // 2) % height
        column = (strides * j + b - (window[1] - 1) // 2) % width
        matrix[i, j, o, row, column, own] += kernel[a, b, :, o]
    return matrix.reshape(matrix[..., 0, 0, 0].size, -1)


def defect(matrix):
    """Distance from orthonormal columns, or rows if there are fewer."""
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    return np.abs(gram - np.eye(len(gram))).max()


@pytest.mark.parametrize(
    ("window", "shape", "outputs", "strides", "groups"),
    [((3, 2), (4, 5, 2), 3, 1, 1), ((3, 3), (6, 4, 4), 6, 2, 2), ((2, 2), (4, 4, 1), 6, 2, 1)],
)
def test_singular_values_are_those_of_the_dense_matrix(window, shape, outputs, strides, groups):
    kernel = gaussian(0, (*window, shape[-1] // groups, outputs))
    matrix = by_loops(kernel, shape, strides, groups)
    f = lambda x: convolutions.circular_convolution(x, kernel, strides, groups)
    np.testing.assert_allclose(dense(f, shape), matrix, atol=1e-12)
    found = convolutions.singular_values(kernel, shape[:2], strides, groups)
    expected = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(np.sort(found.ravel())[::-1], expected[: found.size], atol=1e-10)
    largest = convolutions.lipschitz(kernel, shape[:2], strides, groups)
    np.testing.assert_allclose(largest, expected[0], rtol=1e-12)


def test_composition_is_one_convolution_after_the_other_but_for_a_shift():
    first, second = gaussian(1, (2, 3, 2, 3)), gaussian(2, (2, 2, 3, 4))
    one = by_loops(np.asarray(convolutions.compose(first, second)), (4, 6, 2), 2, 1)
    two = by_loops(second, (4, 6, 3), 2, 1) @ by_loops(first, (4, 6, 2), 1, 1)
    # Windows of 2 lie to the right of their pixel, two of them to both sides of one of 3.
    shift = lambda x: jnp.roll(x, -1, axis=1)
    np.testing.assert_allclose(one @ dense(shift, (4, 6, 2)), two, atol=1e-12)


MODULES = [
    # (class, in, out, window, options, image)
    (convolution.CayleyConv, 3, 3, 3, {}, (4, 5)),
    (convolution.CayleyConv, 2, 5, 3, {}, (3, 4)),
    (convolution.CayleyConv, 4, 6, 2, {"strides": 2, "groups": 2}, (6, 4)),
    (convolution.SkewConv, 2, 4, 3, {"groups": 2}, (3, 4)),
    (convolution.SkewConv, 2, 3, 3, {"strides": 2}, (6, 6)),
    (convolution.BlockOrthogonalConv, 3, 5, 4, {}, (5, 4)),
    (convolution.BlockOrthogonalConv, 4, 8, 4, {"strides": 2, "groups": 2}, (4, 6)),
    (convolution.BlockOrthogonalConv, 2, 13, 3, {"strides": 2}, (4, 4)),
    (convolution.ReshapedConv, 2, 5, 2, {"strides": 2}, (4, 4)),
]


@pytest.mark.parametrize(("kind", "inputs", "outputs", "window", "options", "image"), MODULES)
def test_operator_is_orthogonal(kind, inputs, outputs, window, options, image):
    if kind is convolution.SkewConv:
        options = options | {"terms": 14}
    # Free kernels far from where they start.
    if kind in (convolution.CayleyConv, convolution.SkewConv):
        options = options | {"kernel_init": nnx.initializers.normal(2.0)}
    options = options | {"param_dtype": jnp.float64}
    made = lambda x: kind(inputs, outputs, window, **options, rngs=nnx.Rngs(0))(x)
    matrix = dense(made, (*image, inputs))
    strides = options.get("strides", 1)
    assert matrix.shape[0] == np.prod(image) // strides**2 * outputs
    assert defect(matrix) < 1e-10


def test_reshaped_kernels_do_not_stretch():
    init = lambda key, shape, dtype: jnp.full(shape, shape[0] ** -1.0, dtype)
    made = lambda x: convolution.ReshapedConv(1, 1, 3, kernel_init=init, rngs=nnx.Rngs(0))(x)
    # The worst case: a constant kernel, a constant image, nine windows at each pixel.
    np.testing.assert_allclose(np.linalg.norm(dense(made, (4, 4, 1)), 2), 1, rtol=1e-6)
    assert convolutions.overlap((3, 3), 2) == 2


def test_skew_kernels_and_their_bounds():
    kernel, wide = gaussian(3, (3, 3, 2, 4)), gaussian(4, (1, 1, 3, 5))

    @jax.jit
    def computed(kernel, wide):
        bounded = skew_convolutions.bounded_skew_kernel(kernel, 0.5, groups=2)
        of_zeros = jax.grad(lambda k: skew_convolutions.bounded_skew_kernel(k, groups=2).sum())
        return (
            skew_convolutions.skew_kernel(kernel, groups=2),
            skew_convolutions.norm_bound(kernel, groups=2),
            convolutions.singular_values(kernel, (8, 8), groups=2).max(axis=(1, 2, 3)),
            skew_convolutions.norm_bound(1e-9 * wide)[0] * 1e9,
            convolutions.lipschitz(bounded, (8, 8), groups=2),
            of_zeros(0 * kernel),
        )

    skew, bounds, norms, bound, angle, grad = map(np.asarray, computed(kernel, wide))
    matrix = by_loops(skew, (4, 5, 4), 1, 2)
    np.testing.assert_array_equal(matrix, -matrix.T)
    assert bounds.shape == (2,)
    assert (norms <= bounds).all()
    assert (bounds < 4 * norms).all()
    norm = np.linalg.norm(wide[0, 0], 2)
    assert norm <= bound < 1.05 * norm
    assert 0.1 < angle <= 0.5
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("terms", [2, 6])
def test_the_error_of_the_series_is_below_its_bound(terms):
    kernel = jnp.asarray(gaussian(5, (3, 3, 3, 3)))
    skew = jax.jit(skew_convolutions.bounded_skew_kernel, static_argnums=1)(kernel, 2.0)
    a = by_loops(np.asarray(skew), (4, 4, 3), 1, 1)
    w, v = np.linalg.eigh(1j * a)
    exact = ((v * np.exp(-1j * w)) @ v.conj().T).real
    found = dense(lambda x: skew_convolutions.exponential_convolution(x, skew, terms), (4, 4, 3))
    error, angle = np.linalg.norm(found - exact, 2), np.linalg.norm(a, 2)
    bound = skew_convolutions.truncation_error(angle, terms)
    assert bound / 2 < error < bound  # It is sharp.


def test_cayley_at_each_frequency_is_that_of_complex_matrices():
    z = gaussian(6, (5, 3)) + 1j * gaussian(7, (5, 3))
    u, v = z[:3], z[3:]
    a = u - u.conj().T + v.conj().T @ v
    inverse = np.linalg.inv(np.eye(3) + a)
    expected = np.concatenate([inverse @ (np.eye(3) - a), -2 * v @ inverse])
    found, of_real = jax.jit(lambda z: tuple(map(fourier_convolutions.cayley, (z, z.real))))(z)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert of_real.dtype == jnp.float64
    assert defect(np.asarray(of_real)) < 1e-12


def test_block_orthogonal_kernel_is_the_product_of_its_convolutions():
    m, w = orthonormal(8, (6, 2, 2, 1)), orthonormal(9, (2, 2, 2))
    p = m @ m.transpose(0, 1, 3, 2)
    taps = np.stack([p, np.eye(2) - p], axis=1)  # [6, tap, groups, 2, 2]
    taps = taps.transpose(0, 1, 3, 2, 4).reshape(6, 2, 2, 4)  # [6, tap, in / groups, out]
    expected = np.eye(5 * 5 * 4)
    for i in range(3):
        expected = by_loops(taps[i][:, None], (5, 5, 4), 1, 2) @ expected
        expected = by_loops(taps[3 + i][None], (5, 5, 4), 1, 2) @ expected
    expected = by_loops(w.transpose(1, 0, 2).reshape(1, 1, 2, 4), (5, 5, 4), 1, 2) @ expected
    kernel = jax.jit(block_convolutions.block_orthogonal_kernel, static_argnums=2)(m, w, 4)
    # The taps of one lie at 0 and 1, of three at 0 to 3, of a window of four at -1 to 2.
    found = by_loops(np.asarray(kernel), (5, 5, 4), 1, 2).reshape(5, 5, 4, -1)
    found = np.roll(found, (-1, -1), (0, 1)).reshape(100, -1)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_block_orthogonal_convolutions_stay_orthogonal_in_training():
    x, y = gaussian(0, (4, 4, 4, 2), np.float32), gaussian(1, (4, 4, 4, 3), np.float32)
    rules = [*convolution.RULES, (".*", "free")]
    tx = orthojax.orthogonal(optax.adam(0.1), map="cayley", rules=rules)

    @jax.jit
    def train(x, y):
        module = convolution.BlockOrthogonalConv(2, 3, 2, rngs=nnx.Rngs(0))
        graph, params = nnx.split(module, nnx.Param)
        loss = lambda params: jnp.mean((nnx.merge(graph, params)(x) - y) ** 2)

        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        (params, _), losses = jax.lax.scan(step, (params, tx.init(params)), length=10)
        kernel = nnx.merge(graph, params).kernel()
        return losses, convolutions.singular_values(kernel, (4, 4))

    losses, values = train(x, y)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(values, 1, atol=1e-5)


def test_low_precision_goes_through():
    @jax.jit
    def outputs(x):
        kinds = convolution.CONVOLUTIONS.values()
        return [kind(2, 2, 3, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))(x) for kind in kinds]

    for y in outputs(jnp.ones((1, 3, 3, 2), jnp.bfloat16)):
        assert y.dtype == jnp.bfloat16
        assert jnp.isfinite(y).all()


ERRORS = [
    (lambda: convolution.CayleyConv(4, 4, strides=3, rngs=nnx.Rngs(0))(ONES), "strides=3.*8 x 8"),
    (lambda: convolution.CayleyConv(4, 4, 9, rngs=nnx.Rngs(0))(ONES), "9 x 9 is larger"),
    (lambda: convolution.SkewConv(4, 4, 9, rngs=nnx.Rngs(0))(ONES), "9 x 9 is larger"),
    (lambda: convolution.SkewConv(4, 4, 2, rngs=nnx.Rngs(0)), "odd window, got 2"),
    (lambda: convolution.BlockOrthogonalConv(4, 4, 2, strides=4, rngs=nnx.Rngs(0)), "window=2"),
    (lambda: convolution.BlockOrthogonalConv(4, 4, groups=4, rngs=nnx.Rngs(0)), "fewer groups"),
    (lambda: convolution.BlockOrthogonalConv(4, 6, groups=4, rngs=nnx.Rngs(0)), "out_features=6"),
    (lambda: convolution.ReshapedConv(3, 4, rngs=nnx.Rngs(0))(ONES), r"\[B, H, W, 3\]"),
    (lambda: skew_convolutions.skew_kernel(jnp.ones((3, 3, 4, 5))), "as many channels out"),
    (lambda: block_convolutions.block_shapes(3, 4, 6, groups=4), "groups=4 for 4 in and 6 out"),
    (lambda: convolutions.compose(jnp.ones((1, 1, 2, 3)), jnp.ones((1, 1, 2, 3))), "yields"),
    (lambda: fourier_convolutions.cayley(jnp.ones((2, 3))), "got 2 x 3"),
]
ONES = np.ones((1, 8, 8, 4), np.float32)


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
