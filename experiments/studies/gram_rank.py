"""Numerical rank of the Gram matrices of random batches, in float32 and float64.

The question of Table D1 of Meterez et al. 2023, arXiv:2310.02012: are batches of real data of full
rank, as their theorems need? The rank is that of X X' at the tolerance n eps times its largest
eigenvalue, so that a batch seems deficient in float32 before it is: the Gram matrix squares the
condition number.
"""

import matplotlib.pyplot as plt
import numpy as np

from experiments import configuration, data
from experiments.data.sources import IMAGES
from experiments.drawing import label_ends
from experiments.studies import common
from orthojax.diagnostics import gram_rank, mean_correlation

FIELDS = {
    "data.dir": str,
    "study.datasets": tuple,
    "study.batch_sizes": tuple,
    "study.batches": int,
}
MAY_CHANGE = ("study.datasets", "study.batch_sizes")
DTYPES = ("float32", "float64")


def check(config):
    c = config.study
    for name in c.datasets:
        configuration.check_name("study.datasets", name, list(IMAGES))
    common.check_numbers("study.batch_sizes", c.batch_sizes, least=2)
    common.check_positive(config, "study.batches")


def cells(config):
    return [[name, size] for name in config.study.datasets for size in config.study.batch_sizes]


def make_measure(config):
    def measure(cell):
        name, size = cell
        dataset = common.load_data(name, config.data.dir)
        rows = []
        for i in range(config.study.batches):
            # A seed a batch: as many as asked for, whatever the size of the set.
            images, _ = data.batch(dataset.train, size, seed=i, step=0)
            x = (images / 255.0 - np.array(dataset.mean)) / np.array(dataset.std)
            x = x.reshape(size, -1)  # float64
            cosine = float(mean_correlation(x.astype(np.float32)))
            for dtype in DTYPES:
                rank = int(gram_rank(x, dtype))
                rows.append(
                    {
                        "data": name,
                        "batch_size": size,
                        "dtype": dtype,
                        "batch": i,
                        "rank": rank,
                        "mean_cosine": cosine,
                    }
                )
        return rows

    return measure


def report(arms, rows):
    del arms  # One.
    sizes = list(dict.fromkeys(row["batch_size"] for row in rows))
    names = list(dict.fromkeys(row["data"] for row in rows))
    lines = [["data", "dtype", *(f"n = {size}" for size in sizes), "mean cosine"]]
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for name, color in common.colored(names):
        for dtype in DTYPES:
            own = [row for row in rows if (row["data"], row["dtype"]) == (name, dtype)]
            ranks = [[row["rank"] for row in own if row["batch_size"] == size] for size in sizes]
            cosines = [row["mean_cosine"] for row in own if row["batch_size"] == sizes[-1]]
            lines.append(
                [
                    name,
                    dtype,
                    *(common.mean_and_deviation(x, ".1f") for x in ranks),
                    f"{np.mean(cosines):.3f}",
                ]
            )
            style = {"ls": "--", "label": "_"} if dtype == "float64" else {"label": name}
            relative = [np.mean(x) / size for x, size in zip(ranks, sizes, strict=True)]
            axes.plot(sizes, relative, marker="o", color=color, ms=4, **style)
    axes.set(title="Rank of the Gram matrix / n, float32 (dashed: float64)", xlabel="n")
    axes.set(xscale="log", xticks=sizes, xticklabels=sizes, ylim=(0, 1.05))
    axes.minorticks_off()
    label_ends(axes)
    return {"gram_rank": figure}, lines
