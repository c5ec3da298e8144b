"""Measures how many pictures a second the input pipeline of ImageNet makes on this machine.

    taskset -c 0 python scripts/benchmark_input.py
    python scripts/benchmark_input.py --workers=1,2 --pictures=DIRECTORY

prints a table, of one column for each number of workers (1: threads, as many as there are cores),
and for threads how many pictures a second of one core's time: what an idle core would make where
the machine is busy. Without --pictures, the tfds directory of a prepared imagenet2012, the pictures
are three photographs from installed packages, of the size that ImageNet's usually have: 500 x 375
pixels, 110 KB. The time of a row begins with its second batch.
"""

import importlib.resources
import io
import os
import time

import numpy as np
from absl import app, flags
from PIL import Image

from experiments import data

_PICTURES = flags.DEFINE_string("pictures", None, "tfds directory with imagenet2012.")
_WORKERS = flags.DEFINE_list("workers", ["1"], "Comma-separated numbers of workers.")
_SIZE = flags.DEFINE_integer("size", 224, "Pixels of the side.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 64, "Pictures of a batch, even.", lower_bound=2)
_SECONDS = flags.DEFINE_float("seconds", 10.0, "Of each measurement.", lower_bound=0.0)

BYTES = 110_000
COUNT = 50_000  # pictures of a split, the same three again and again
MAGNITUDE = 9


class Repeated:
    """`COUNT` records, which are a few again and again."""

    def __init__(self, records):
        self.records = records

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return self.records[index % len(self.records)]


def photographs() -> list[bytes]:
    """JPEGs of 500 x 375 pixels or 375 x 500, of the quality that comes nearest to 110 KB."""
    files = importlib.resources.files
    folder = files("sklearn") / "datasets" / "images"
    hopper = files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    return [_scaled(path) for path in (folder / "china.jpg", folder / "flower.jpg", hopper)]


def _scaled(path):
    image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    sides = (500, 375) if image.width > image.height else (375, 500)
    image = image.resize(sides, Image.Resampling.LANCZOS)
    contents = []
    for quality in range(75, 100):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        contents.append(file.getvalue())
    return min(contents, key=lambda content: abs(len(content) - BYTES))


def dataset_of(workers: int) -> data.Dataset:
    """The prepared set, or photographs instead."""
    if _PICTURES.value:
        options = {"size": _SIZE.value, "magnitude": MAGNITUDE, "workers": workers}
        return data.load("imagenet2012", _PICTURES.value, **options)
    records = Repeated([{"image": content, "label": 0} for content in photographs()])
    split = data.Pictures(records, _SIZE.value, MAGNITUDE, workers)
    arguments = {"image_shape": split.image_shape, "num_classes": 1000}
    return data.Dataset("photographs", "classification", split, None, split, arguments)


def rates_of(batches) -> np.ndarray:
    """Pictures a second, and a second of this process' CPU time, of an iterator of batches."""
    next(batches)
    count, began, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < _SECONDS.value:
        next(batches)
        count += _BATCH.value
    return count / np.array([time.perf_counter() - began, time.process_time() - cpu])


def measure(dataset: data.Dataset) -> dict[str, np.ndarray]:
    """{what is done: both rates}"""
    size, measured = _BATCH.value, {}
    evaluation = data.eval_batches(dataset.test, size)
    measured["evaluation"] = rates_of(evaluation)
    evaluation.close()
    for augment in ("resized_crop", "rand_augment"):
        for alpha in (0.0, 0.2):
            batches = data.Batches(dataset, size, 0, augment, np.arange(size), alpha)
            name = augment + (" + mixup" if alpha else "")
            measured[name] = rates_of(map(batches, range(1 << 30)))
            batches.close()
    return measured


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments {argv[1:]}.")
    columns = {}
    for workers in map(int, _WORKERS.value):
        dataset = dataset_of(workers)
        found = measure(dataset)
        columns[f"workers={workers}"] = {name: rate[0] for name, rate in found.items()}
        if workers == 1:
            columns["a core's second"] = {name: rate[1] for name, rate in found.items()}
    records = [dataset.train.records[i] for i in range(min(100, len(dataset.train)))]
    size = np.mean([len(record["image"]) for record in records]) / 1e3
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"pictures a second, {_SIZE.value} pixels from {size:.0f} KB, on {cores} cores")
    print(f"{'':22}" + "".join(f"{name:>18}" for name in columns))
    for row in next(iter(columns.values())):
        print(f"{row:22}" + "".join(f"{column[row]:18.0f}" for column in columns.values()))


if __name__ == "__main__":
    app.run(main)
