"""OIALR in the experiment runner: changes of bases, faces, controls, forks, stability."""

import json

import jax
import numpy as np
import optax
import pytest
from oialr_runs import (
    ANEW,
    FORKED,
    KERNELS,
    alone,
    arms,
    assert_orthonormal,
    factors,
    layout,
    leaf,
    logged,
    loss_on_test_images,
    programs,
    trunk_of,
    weights,
    written,
)
from runs import LOW_RANK, arrays, rows, status, tiny

from experiments import data, figures, low_rank, optimizers, run, training

pytestmark = pytest.mark.usefixtures("one_device")


# Conversion, changes and faces.


def test_ranks_fall_from_the_delay_on_and_the_model_is_the_product_of_its_factors(forked):
    changes = logged(forked / "OIALR", "low_rank")
    assert list(changes) == [4, 6, 8, 10, 12, 14, 16]
    # A quarter of the columns, but at most half of the rank falls at once.
    for name, ranks in (("hidden_0", [8, 4, 4, 4, 4, 4, 4]), ("head", [5, 2, 2, 2, 2, 2, 2])):
        assert [row["ranks"][f"{name}/kernel"] for row in changes.values()] == ranks
    state = arrays(forked / "OIALR", 16)
    for name, basis in state["bases"].items():
        assert basis["u"].shape[1] == basis["rank"] == changes[16]["ranks"][name]
        assert_orthonormal(basis["u"], basis["v"])
    found = logged(forked / "OIALR", "test_loss")[16]
    assert found == pytest.approx(loss_on_test_images(state), rel=1e-5)


def test_a_run_at_low_rank_from_its_start_keeps_what_the_rule_says(forked):
    dataset = data.load("mnist_5k")
    params, _ = training.make_model(alone("at once"), dataset).init()
    ((step, change),) = logged(forked / "at once", "low_rank").items()
    assert step == 0
    for name, w in weights({"params": params}).items():
        s = np.linalg.svd(w, compute_uv=False)
        assert change["ranks"][name] == sum(s >= 0.5 * s[0])
    assert logged(forked / "at once", "test_loss")[0] != logged(forked / "dense", "test_loss")[0]


def test_a_program_is_compiled_when_shapes_change_and_else_never(forked):
    small = {"hidden_0/kernel": 4, "hidden_1/kernel": 4, "head/kernel": 2}
    for step in (6, 8, 10, 12, 14, 16):
        assert layout(forked / "OIALR", step) == small
    assert programs(forked / "OIALR") == [0, 4, 6]  # The first one in the trunk.
    assert programs(forked / "grow") == [0, 4, 6]
    for name in FORKED - {"OIALR", "grow"}:
        assert programs(forked / name) == ([0] if name in ANEW else [0, 4])


def test_both_faces_train_the_same_model(forked):
    for name in ("train_loss", "test_loss", "test_accuracy"):
        latent, factored = (logged(forked / arm, name) for arm in ("latent", "OIALR"))
        assert latent.keys() == factored.keys()
        for step, value in latent.items():
            if (name[:4], step) != ("test", 4):  # The trunk was evaluated before it forked.
                assert value == pytest.approx(factored[step], rel=1e-4)
    latent, factored = (weights(arrays(forked / arm, 16)) for arm in ("latent", "OIALR"))
    for name, w in latent.items():
        np.testing.assert_allclose(w, factored[name], atol=1e-5)


def test_truncation_at_the_end_meets_its_budget_and_is_what_is_evaluated(forked):
    ((step, change),) = logged(forked / "at the end", "low_rank").items()
    assert step == 16
    stored = sum(r * (sum(KERNELS[name]) + r) for name, r in change["ranks"].items())
    dense = sum(n * p for n, p in KERNELS.values())
    assert 0.2 * dense < stored <= 0.3 * dense
    state = arrays(forked / "at the end", 16)
    for name, w in weights(state).items():
        assert np.linalg.matrix_rank(w, tol=1e-4) == change["ranks"][name]
    found = logged(forked / "at the end", "test_loss")
    assert found[16] == pytest.approx(loss_on_test_images(state), rel=1e-5)
    assert found[12] == logged(forked / "dense", "test_loss")[12]


def test_the_learning_rate_warms_up_again_after_each_change():
    config = tiny(LOW_RANK, oialr__rewarm=2, optimizer__lr=1.0)
    rate = optimizers.make_schedule(config, low_rank.make_method(config))
    np.testing.assert_allclose([rate(step) for step in range(16)], [1] * 4 + [0.5, 1] * 6)


# Controls.


def test_random_bases_are_orthonormal_of_the_ranks_of_the_singular_ones(forked, tmp_path):
    trunk = trunk_of(forked)
    state = jax.device_get(run.train(alone("random", fork_at=4), tmp_path, until=4, trunk=trunk))
    before = weights(arrays(forked / "trunk", 4))
    for name, basis in state.bases.items():
        assert basis.u.shape[1] == logged(forked / "OIALR", "low_rank")[4]["ranks"][name]
        assert_orthonormal(basis.u, basis.v)
        core = leaf(state._asdict(), name)
        np.testing.assert_allclose(core, basis.u.T @ before[name] @ basis.v, atol=1e-5)
        assert np.abs(core - np.diag(np.diag(core))).max() > 0.1  # Not the singular bases.


def test_of_a_diagonal_core_the_diagonal_alone_is_trained(forked):
    first, last = (arrays(forked / "diagonal", step) for step in (8, 16))
    for name in KERNELS:
        before, core = leaf(first, name), leaf(last, name)
        np.testing.assert_array_equal(core, np.diag(np.diag(core)))
        assert np.all(np.diag(core) != np.diag(before))
        np.testing.assert_array_equal(first["bases"][name]["u"], last["bases"][name]["u"])


def test_control_all_trains_both_bases_too(forked):
    first, last = (arrays(forked / "all", step) for step in (8, 16))
    for name in KERNELS:
        for side in "uv":
            moved = factors(last, name)[side] - factors(first, name)[side]
            assert np.abs(moved).max() > 1e-3
    found = logged(forked / "all", "test_loss")[16]
    assert found == pytest.approx(loss_on_test_images(last), rel=1e-5)
    report = logged(forked / "all", "low_rank")[4]
    assert report["trainable"] == report["stored"]
    report = logged(forked / "diagonal", "low_rank")[4]
    others = 784 * 16 + 3 * 16 + 10
    trained = others + sum(report["ranks"].values())
    assert report["trainable"] == pytest.approx(trained / (others + 2 * 256 + 160))


def test_galore_moves_kernels_at_low_rank_from_the_fork_on(forked, tmp_path):
    trunk = trunk_of(forked)
    state = jax.device_get(run.train(alone("galore", fork_at=4), tmp_path, until=5, trunk=trunk))
    before = weights(arrays(forked / "trunk", 4))
    for name in KERNELS:
        assert np.linalg.matrix_rank(leaf(state._asdict(), name) - before[name], tol=1e-5) == 4
    assert int(optax.tree.get(state.opt_state, "ScaleByScheduleState").count) == 5


# Forks.


def test_arms_have_the_steps_of_the_trunk_behind_them_unless_they_differ(forked):
    trunk = rows(forked / "trunk")[1:]
    assert [json.loads(row)["step"] for row in (trunk[0], trunk[-1])] == [0, 4]
    for name in FORKED - {*ANEW}:
        assert rows(forked / name)[1 : 1 + len(trunk)] == trunk
    for name in ("trunk", *FORKED):
        assert status(forked / name)["step"] == (4 if name == "trunk" else 16)
        assert json.loads(rows(forked / name)[0])["config"] == json.loads(
            (forked / name / "config.json").read_text()
        )


def test_a_fork_that_ended_before_it_saved_forks_again(forked, tmp_path, monkeypatch):
    batch = data.batch

    def ending(split, size, seed, step, *rest):
        assert step < 5, "The end."
        return batch(split, size, seed, step, *rest)

    monkeypatch.setattr("experiments.data.batching.batch", ending)
    config, trunk = alone("all", fork_at=4), trunk_of(forked)
    with pytest.raises(AssertionError, match="The end"):
        run.train(config, tmp_path, trunk=trunk)
    assert status(tmp_path)["status"] == "failed"
    monkeypatch.undo()
    run.train(config, tmp_path, trunk=trunk)
    assert written(tmp_path) == written(forked / "all")


def test_an_arm_of_another_learning_rate_begins_anew(forked, tmp_path):
    config = alone("OIALR", fork_at=4, optimizer__lr=1e-3)
    run.train(config, tmp_path, until=1, trunk=trunk_of(forked))
    assert status(tmp_path)["step"] == 1
    assert programs(tmp_path) == [0]


def test_an_arm_of_other_kernels_forks_and_measures_its_own(forked, tmp_path):
    rules = (("hidden_.*/kernel", "low_rank"), (".*", "dense"))
    config = alone("OIALR", fork_at=4, oialr__rules=rules)
    run.train(config, tmp_path, until=6, trunk=trunk_of(forked))
    found = logged(tmp_path, "basis_stability")
    assert found[4] == logged(forked / "OIALR", "basis_stability")[4]
    assert found[6].keys() == {"hidden_0/kernel", "hidden_1/kernel"}
    for name, value in found[6].items():  # The head is at full rank here.
        assert value == pytest.approx(
            logged(forked / "OIALR", "basis_stability")[6][name], abs=1e-2
        )


def test_each_seed_has_its_trunk_its_folder_and_its_row(tmp_path, monkeypatch, capsys):
    drawn = {}
    monkeypatch.setattr(figures, "draw", lambda runs, workdir: drawn.update(runs) or [])
    run.run(arms(["dense"], steps=4, fork_at=2, seeds=(3, 5)), tmp_path)
    for name in ("trunk", "dense"):
        assert {path.name for path in (tmp_path / name).iterdir()} == {"seed_3", "seed_5"}
    table = (tmp_path / "results.csv").read_text().splitlines()
    assert [row.split(",")[:4] for row in table] == [
        ["arm", "seed", "status", "step"],
        *(["dense", str(seed), "done", "4"] for seed in (3, 5)),
    ]
    folders = [tmp_path / "dense" / f"seed_{seed}" for seed in (3, 5)]
    assert drawn == {"dense": [folder / "metrics.jsonl" for folder in folders]}
    a, b = (logged(folder, "test_loss")[4] for folder in folders)
    assert f"{(a + b) / 2:.4f} ± {abs(a - b) / 2**0.5:.4f}" in capsys.readouterr().out


# Stability of the bases.


def test_stability_is_the_cosine_between_the_singular_bases_of_two_states(forked):
    for arm, steps in (("dense", (6, 8)), ("OIALR", (12, 14))):
        first, last = (weights(arrays(forked / arm, step)) for step in steps)
        for name, found in logged(forked / arm, "basis_stability")[steps[1]].items():
            bases = []
            for w in (first[name], last[name]):
                u, s, vt = np.linalg.svd(w, full_matrices=False)
                rank = np.sum(s > 1e-5)
                bases.append(u[:, :rank] @ vt[:rank])
            cosine = np.sum(bases[0] * bases[1]) / np.prod([np.linalg.norm(x) for x in bases])
            assert found == pytest.approx(cosine, abs=1e-4)
            assert found < 1


def test_bases_of_weights_that_do_not_move_are_stable(tmp_path):
    keep_all = {"oialr.rank_value": 1.0, "oialr.delay": 0.0}
    run.train(tiny(LOW_RANK | keep_all, optimizer__lr=1e-12, steps=4), tmp_path)
    found = logged(tmp_path, "basis_stability")
    assert list(found) == [2, 4]
    assert list(logged(tmp_path, "low_rank")) == [0, 2, 4]
    np.testing.assert_allclose([list(row.values()) for row in found.values()], 1, atol=1e-5)
