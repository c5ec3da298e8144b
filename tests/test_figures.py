"""Figures from a metrics.jsonl written by hand."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments import figures, low_rank_figures, metrics
from experiments.drawing import average, curve, label_ends

KERNELS = ("conv_10/kernel", "conv_2/kernel")


def write(path, decay, kernels=KERNELS, steps=(0, 10, 20)):
    lines = [{"config": {}, "versions": {}}]
    for step in steps:
        loss = 2.0 * decay**step
        lines.append({"step": step, "train_loss": loss, "train_accuracy": 1 - loss / 2.5})
        lines.append(
            {
                "step": step,
                "test_loss": 1.1 * loss,
                "test_accuracy": 1 - loss / 2.2,
                "orthogonality_error": dict.fromkeys(kernels, 1e-6 * (1 + step)),
                "singular_values": {k: [0.5, 1.5] for k in kernels},
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def arms(tmp_path):
    return {
        "orthogonal": [write(tmp_path / "orthogonal" / "metrics.jsonl", 0.9)],
        "free": [write(tmp_path / "free" / "metrics.jsonl", 0.95)],
    }


def test_the_arms_of_an_experiment_are_drawn_into_three_figures(arms, tmp_path):
    drawn = figures.draw(arms, tmp_path)
    names = ["learning.png", "orthogonality.png", "singular_values.png"]
    assert [path.name for path in drawn] == names
    for path in drawn:
        pixels = plt.imread(path)
        assert min(pixels.shape[:2]) > 400
        assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20  # Not blank.


def test_a_run_without_measured_kernels_is_drawn_without_their_figures(tmp_path):
    path = write(tmp_path / "run" / "metrics.jsonl", 0.9, kernels=())
    assert [p.name for p in figures.draw({"": [path]}, tmp_path)] == ["learning.png"]


def test_the_best_validation_is_marked_on_the_curves_of_a_forecast(tmp_path):
    lines = [{"config": {}}]
    for step, loss in ((0, 3.0), (10, 1.0), (20, 2.0)):
        scores = {"validation_loss": loss, "test_loss": loss + 1, "test_mae": loss / 2}
        lines.append({"step": step, **scores, "validation_mae": loss})
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = metrics.read(path)[1]
    assert metrics.best(rows)["step"] == 10
    figure = figures._learning({"": rows})
    titles = ["Mean squared error", "Mean absolute error"]
    assert [axes.get_title() for axes in figure.axes] == titles
    for axes, value in zip(figure.axes, (2.0, 0.5), strict=True):
        (mark,) = [line for line in axes.lines if line.get_marker() == "o"]
        np.testing.assert_array_equal(mark.get_xydata(), [[10, value]])
    plt.close(figure)


def test_a_run_that_ended_at_once_is_drawn(tmp_path):
    path = write(tmp_path / "run" / "metrics.jsonl", 0.9, steps=(0,))
    assert len(figures.draw({"": [path]}, tmp_path)) == 3


def test_each_arm_is_named_beside_its_curves(arms):
    rows = {arm: metrics.read(*paths)[1] for arm, paths in arms.items()}
    for figure in (figures._learning(rows), figures._orthogonality(rows)):
        for axes in figure.axes:
            assert {text.get_text() for text in axes.texts} == {"orthogonal", "free"}
        plt.close(figure)


def test_labels_of_curves_that_end_together_do_not_overlap():
    figure, axes = plt.subplots()
    for i in range(3):
        axes.plot([0, 1], [0, 1 + 1e-3 * i], label=f"arm {i}")
    axes.plot([0, 1], [0, -10])
    label_ends(axes)
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    plt.close(figure)


def test_curves_are_the_logged_numbers(arms):
    rows = metrics.read(*arms["free"])[1]
    steps, loss = figures.curve(rows, "train_loss")
    np.testing.assert_array_equal(steps, [0, 10, 20])
    np.testing.assert_allclose(loss, 2.0 * 0.95 ** np.array([0, 10, 20]))
    _, ends = figures.curve(rows, "singular_values/conv_2/kernel")
    np.testing.assert_array_equal(ends, [[0.5, 1.5]] * 3)


def test_kernels_are_in_the_order_of_their_numbers(arms):
    assert figures.kernels(metrics.read(*arms["free"])[1]) == ["conv_2/kernel", "conv_10/kernel"]


def test_a_last_line_cut_off_by_a_kill_is_left_out(arms):
    whole = metrics.read(*arms["free"])
    with arms["free"][0].open("a") as file:
        file.write('{"step": 30, "train_lo')
    assert metrics.read(*arms["free"]) == whole


# Low rank.


def write_low_rank(path, changes, steps=(0, 10, 20), end=30):
    """Like `write`, with stability at `steps` and {step: ranks of the kernels} in `changes`."""
    write(path, 0.9, kernels=(), steps=(0, 15, end))
    lines = path.read_text().splitlines()
    for i, step in enumerate(steps):
        stability = {name: 0.5 + 0.1 * i + 0.2 * k for k, name in enumerate(KERNELS)}
        lines.append(json.dumps({"step": step, "basis_stability": stability}))
        lines.append(json.dumps({"step": step, "train_loss": 1.0, "learning_rate": 0.1 * i}))
    for step, ranks in changes.items():
        row = {"step": step, "low_rank": {"ranks": dict(zip(KERNELS, ranks, strict=True))}}
        lines.append(json.dumps(row))
    header, *rows = lines
    rows.sort(key=lambda row: json.loads(row)["step"])
    path.write_text("".join(line + "\n" for line in [header, *rows]))
    return path


@pytest.fixture
def low_rank_arms(tmp_path):
    changes = {"dense": {}, "once": {10: (8, 4)}, "often": {10: (8, [2, 3]), 20: (5, [1, 2])}}
    folders = {name: tmp_path / name / "metrics.jsonl" for name in changes}
    return {name: [write_low_rank(folders[name], changes[name])] for name in changes}


def test_stability_and_ranks_are_drawn_where_they_were_logged(low_rank_arms, tmp_path):
    drawn = figures.draw(low_rank_arms, tmp_path)
    assert [path.name for path in drawn] == ["learning.png", "stability.png", "ranks.png"]
    for path in drawn:
        pixels = plt.imread(path)
        assert min(pixels.shape[:2]) > 400
        assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20
    dense = {"dense": low_rank_arms["dense"]}
    assert [p.name for p in figures.draw(dense, tmp_path)] == ["learning.png", "stability.png"]


def test_the_turn_of_bases_is_the_mean_over_the_kernels_with_a_mark_where_the_rank_fell(
    low_rank_arms,
):
    rows = {arm: metrics.read(*paths)[1] for arm, paths in low_rank_arms.items()}
    figure = low_rank_figures.stability(rows)
    upper, lower = figure.axes
    curves = [line for line in upper.lines if line.get_linestyle() == "-"]
    assert [line.get_label() for line in curves] == ["dense", "once", "often"]
    for line in curves:
        np.testing.assert_allclose(line.get_xydata(), [(0, 0.4), (10, 0.3), (20, 0.2)])
    marks = [line for line in upper.lines if line.get_linestyle() == ":"]
    assert [(mark.get_xdata()[0], mark.get_color()) for mark in marks] == [
        (10, curve.get_color()) for curve in curves[1:]
    ]
    assert "10 steps apart" in upper.get_title(loc="left") + upper.get_title()
    for line in lower.lines:
        np.testing.assert_allclose(line.get_xydata(), [(0, 0), (10, 0.1), (20, 0.2)])
    plt.close(figure)


def test_ranks_last_from_their_change_to_the_end(low_rank_arms):
    rows = {arm: metrics.read(*paths)[1] for arm, paths in low_rank_arms.items()}
    figure = low_rank_figures.ranks(rows)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}
    lines = {name: [x.get_xydata().tolist() for x in axes.lines] for name, axes in panels.items()}
    assert lines == {
        "once": [[[10, 8], [30, 8]], [[10, 4], [30, 4]]],
        # Of several matrices in a kernel the largest.
        "often": [[[10, 8], [20, 5], [30, 5]], [[10, 3], [20, 2], [30, 2]]],
    }
    plt.close(figure)


def test_no_figure_of_low_rank_is_made_of_other_runs(arms):
    rows = {arm: metrics.read(*paths)[1] for arm, paths in arms.items()}
    assert low_rank_figures.stability(rows) is None
    assert low_rank_figures.ranks(rows) is None
    assert low_rank_figures.transition(rows["free"]) is None


def test_the_frontier_is_drawn_of_arms_of_several_sizes_only(tmp_path, monkeypatch):
    rows = [
        {"arm": arm, "stored": stored, "train_flops": 1e9 * stored, "test_loss": loss}
        for arm, stored, loss in (("dense", 1.0, 0.1), ("low", 0.2, 0.3), ("low", 0.4, 0.1))
    ]
    assert low_rank_figures.frontier(rows[:1], tmp_path) == []
    assert low_rank_figures.frontier([{"arm": "wild", "status": "diverged"}], tmp_path) == []
    drawn = []
    monkeypatch.setattr(plt, "close", drawn.append)
    (path,) = low_rank_figures.frontier([*rows, {"arm": "wild"}], tmp_path)
    monkeypatch.undo()
    assert path == tmp_path / "frontier.png"
    assert plt.imread(path).size > 10_000
    for axes in drawn[0].axes:
        means = {c.get_label(): c[0].get_xydata()[0] for c in axes.containers}
        assert means.keys() == {"dense", "low"}
        np.testing.assert_allclose(means["dense"], [1.0, 0.1])
        np.testing.assert_allclose(means["low"], [0.3, 0.2])
    plt.close(drawn[0])


def test_curves_are_the_means_over_seeds_of_what_all_have_logged(tmp_path):
    paths = [
        write(tmp_path / str(i) / "metrics.jsonl", decay) for i, decay in enumerate((0.9, 0.8))
    ]
    short = write(tmp_path / "short" / "metrics.jsonl", 0.7, steps=(0, 10))
    rows = average([metrics.read(path)[1] for path in (*paths, short)])
    steps, loss = curve(rows, "train_loss")
    np.testing.assert_array_equal(steps, [0, 10])
    np.testing.assert_allclose(loss, [2.0, 2 * (0.9**10 + 0.8**10 + 0.7**10) / 3])
    _, ends = curve(rows, "singular_values/conv_2/kernel")
    np.testing.assert_allclose(ends, [[0.5, 1.5]] * 2)


def test_every_one_of_many_arms_is_drawn(arms):
    rows = metrics.read(*arms["free"])[1]
    many = {f"arm {i}": rows for i in range(12)}
    figure = figures._learning(many)
    for axes in figure.axes:
        assert {text.get_text() for text in axes.texts} == set(many)
        colors = {line.get_color() for line in axes.lines if line.get_label() in many}
        assert len(colors) == 12
    plt.close(figure)
