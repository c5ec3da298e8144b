"""The options of `OIALR`, which kernels they choose, and which optimizers serve."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import orthojax
from orthojax import low_rank_training


def test_the_default_rules_leave_biases_embeddings_and_thin_matrices_alone():
    shapes = {
        "dense": {"kernel": (20, 8), "bias": (8,)},
        "conv": {"kernel": (3, 3, 4, 16)},
        "first": {"kernel": (100, 10)},  # Just as thin as a tenth.
        "second": {"kernel": (99, 10)},
        "head": {"kernel": (8, 1)},
        "attention": {"query": {"kernel": (16, 2, 8), "bias": (2, 8)}},
        "norm": {"scale": (4, 4)},
        "embed": {"embedding": (16, 16)},
        "token": (1, 16, 16),
    }
    params = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s, jnp.float32), shapes, is_leaf=lambda x: type(x) is tuple
    )
    chosen = orthojax.OIALR(delay=0, every=1).select(params)
    assert set(chosen) == {
        "attention/query/kernel",
        "conv/kernel",
        "dense/kernel",
        "second/kernel",
    }


def test_a_vector_that_a_rule_chooses_is_an_error_that_calls_it_too_thin():
    params = {"head": {"kernel": jnp.ones((8, 1))}}
    method = orthojax.OIALR(delay=0, every=1, rules=[(".*", "low_rank")])
    with pytest.raises(ValueError, match=r"'head/kernel' of shape \(8, 1\) is too thin.*dense"):
        method.convert(params)


def test_a_rule_of_another_word_and_rules_that_choose_nothing_are_errors():
    params = {"kernel": jnp.ones((4, 4))}
    with pytest.raises(ValueError, match=r"`rules` give .*got 'lowrank' for 'kernel'"):
        orthojax.OIALR(delay=0, every=1, rules=[(".*", "lowrank")]).select(params)
    with pytest.raises(ValueError, match=r"`rules` choose none of .*'kernel': \(4, 4\)"):
        orthojax.OIALR(delay=0, every=1, rules=[(".*", "dense")]).select(params)


@pytest.mark.parametrize("svd", ["in_step", "outside", "factored"])
def test_an_optimizer_that_factors_its_moments_is_an_error(svd):
    inner, params = optax.adafactor(1e-2), {"kernel": jnp.ones((256, 256))}
    options = {"delay": 3, "every": 1}
    if svd == "factored":
        convert = functools.partial(orthojax.OIALR(**options).convert, inner=inner)
    else:
        convert = orthojax.oialr(inner, svd=svd, **options).init
    with pytest.raises(ValueError, match=r"`inner` keeps an array of shape \(256,\).*optax\.adamw"):
        convert(params)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, "cab"),
        ({"keep_first": True}, "ab"),
        ({"keep_last": True}, "ca"),
        ({"keep_first": True, "keep_last": True}, "a"),
    ],
)
def test_the_first_and_the_last_kernel_in_order_can_stay_dense(options, kept):
    params = {name: {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)} for name in "abc"}
    order = [f"{name}/{leaf}" for name in "cab" for leaf in ("kernel", "bias")]
    method = orthojax.OIALR(delay=0, every=1, order=order, **options)
    assert list(method.select(params)) == [f"{name}/kernel" for name in kept]


def test_an_order_that_lacks_a_kernel_is_an_error_that_names_it():
    method = orthojax.OIALR(delay=0, every=1, order=["a"], keep_last=True)
    with pytest.raises(ValueError, match=r"`order` lacks the kernels \['b'\]"):
        method.select({"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))})


@pytest.mark.parametrize(
    ("rank", "columns", "expected"),
    [
        (5, 30, 5),
        (17, 64, 32),
        (60, 70, 64),
        (66, 70, 70),
        (65, 512, 128),
        (129, 1024, 256),
        (1000, 1030, 1024),
        (1025, 1030, 1030),
    ],
)
def test_ranks_are_allocated_in_few_sizes(rank, columns, expected):
    assert low_rank_training.bucket(rank, columns) == expected


def test_a_fraction_of_the_steps_is_a_number_of_updates():
    for fraction, steps, expected in (
        (0.3, 1000, 300),
        (0.29, 100, 29),
        (1 / 3, 10, 3),
        (0.0, 7, 0),
    ):
        method = orthojax.OIALR(delay=fraction, steps=steps, every=2)
        assert method.delay_steps == expected
    method = orthojax.OIALR(delay=np.float32(0.5), steps=10, every=2)
    assert [step for step in range(10) if method.is_due(step)] == [5, 7, 9]
    assert [method.changes(step) for step in (5, 7, 9)] == [1, 2, 3]


BAD = [
    ("delay", -1),
    ("delay", 1.5),
    ("every", 0),
    ("every", 2.5),
    ("cutoff", 1.0),
    ("cutoff", -0.1),
    ("steps", 0),
    ("open", 0),
    ("open", 1.1),
    ("max_drop", 0.0),
    ("floor", 1.0),
    ("grow", -1),
    ("compact", 1.0),
]


@pytest.mark.parametrize(("argument", "value"), BAD)
def test_bad_options_are_errors_that_name_and_show_them(argument, value):
    with pytest.raises(ValueError, match=rf"`{argument}`.*got {value}"):
        orthojax.OIALR(**{"delay": 0, "every": 1, "order": ["a"], argument: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": 0.3}, "`delay` is the fraction 0.3 of `steps`, which is missing"),
        ({"delay": 11, "steps": 10}, "`delay` is past the end: 11 .* `steps` = 10"),
        ({"delay": 0, "keep_last": True}, "`keep_last`.*need `order`.*call_order"),
        ({"delay": 0, "open": 0.5}, "`open` need `order`"),
    ],
)
def test_options_that_do_not_fit_together_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        orthojax.OIALR(every=1, **options)


def test_a_method_is_a_value():
    # Compiled programs are looked up by it.
    make = lambda **options: orthojax.OIALR(
        delay=3, every=1, rules=[("a", orthojax.MatrixAxes([0], [1]))], order=["a"], **options
    )
    assert make() == make()
    assert hash(make()) == hash(make())
    assert dataclasses.replace(make(), cutoff=0.5) == make(cutoff=0.5) != make()
    axes = orthojax.MatrixAxes([0, 1], 2)
    assert hash(orthojax.OIALR(delay=3, every=1, rules=axes))
