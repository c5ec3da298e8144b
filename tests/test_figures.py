"""Figures from a metrics.jsonl written by hand."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments import figures, metrics
from experiments.drawing import label_ends

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
