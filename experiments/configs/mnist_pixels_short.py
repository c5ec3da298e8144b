"""MNIST pixel by pixel, 14 x 14 pixels: 196 time steps, in rows and in a random order.

  python scripts/prepare_data.py --dataset=mnist
  python experiments/run.py --config=experiments/configs/mnist_pixels_short.py

The LSTM has as many recurrent parameters as the orthogonal network, "vanilla" (tanh, from an
orthogonal kernel, without constraint) its width.

Time: 2 minutes an arm on one core.
Result (seed 0, one epoch), test accuracy, rows and permuted: orthogonal 90.9 and 89.1 %, LSTM 51.2
and 54.0 %. "vanilla" has not been run.
"""

from experiments.configs import mnist_pixels

CELLS = {
    "orthogonal": {},
    "lstm": {"model": {"cell": "lstm", "width": 85}, "constraint": {"map": "none"}},
    "vanilla": {"model": {"cell": "vanilla"}, "constraint": {"map": "none"}},
}


def get_config():
    c = mnist_pixels.get_config()
    c.steps = 468  # 1 epoch
    c.model.pool = 2
    c.optimizer.update({"name": "adam", "lr": 1e-3, "b2": 0.999, "schedule": "cosine"})
    c.optimizer.clip_norm = 1.0
    c.arms = {
        f"{cell}, {order}": fields | {"model": fields.get("model", {}) | {"permute": permute}}
        for order, permute in (("rows", False), ("permuted", True))
        for cell, fields in CELLS.items()
    }
    return c
