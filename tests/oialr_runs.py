"""Runs of OIALR as small as they may be, and what they wrote, read without the runner."""

import json

import jax
import numpy as np
from runs import LOW_RANK, experiment, rows

from experiments import configuration, data, metrics
from experiments.beginning import Trunk

KERNELS = {"hidden_0/kernel": (16, 16), "hidden_1/kernel": (16, 16), "head/kernel": (16, 10)}
CUTOFF = {"rank_rule": "cutoff", "rank_value": 0.5}
BUDGET = {"rank_rule": "budget", "rank_value": 0.3}
ARMS = {
    "dense": {"oialr": {"face": "none"}, "checkpoint_every": 2},
    "OIALR": {"checkpoint_every": 2},
    "grow": {"oialr": {"grow": 1}},
    "latent": {"oialr": {"face": "latent"}},
    "at once": {"oialr": {"delay": 0.0, "every": 0, "max_drop": 1.0, **CUTOFF}},
    "at the end": {"oialr": {"delay": 1.0, "max_drop": 1.0, **BUDGET}},
    "all": {"oialr": {"control": "all", "every": 0}},
    "diagonal": {"oialr": {"control": "diagonal", "every": 0}},
    "random": {"oialr": {"control": "random"}},
    "galore": {"oialr": {"control": "galore", "rank_value": 4.0, "every": 3}},
}
FORKED = ARMS.keys() - {"random", "galore"}
ANEW = ("latent", "at once")  # Before step 4 they are not what the trunk is.


_all_devices = jax.devices  # Before any patch.


def use_devices(patch, count):
    """Leaves the first `count` devices."""
    devices = _all_devices()[:count]
    for name in ("devices", "local_devices"):
        patch.setattr(jax, name, lambda *_, **__: devices)
    for name in ("device_count", "local_device_count"):
        patch.setattr(jax, name, lambda *_, **__: count)


def arms(names, **overrides):
    return experiment(LOW_RANK, arms={name: ARMS[name] for name in names}, **overrides)


def alone(name, **overrides):
    """The configuration of an arm."""
    return configuration.arms(arms([name], **overrides))[name]


def trunk_of(forked):
    folder = forked / "trunk"
    config = configuration.trunk(arms(["OIALR"], fork_at=4))
    return Trunk(folder, folder / "checkpoints", config, 4)


def logged(folder, name):
    return {r["step"]: r[name] for r in metrics.read(folder / "metrics.jsonl")[1] if name in r}


def written(folder):
    """The configuration and all rows as they were written. But for the revision, which may change
    between the run of `forked` and a later one."""
    header, *measured = rows(folder)
    return [json.loads(header)["config"], *measured]


def programs(folder):
    """The steps at which the step was compiled."""
    timing = map(json.loads, (folder / "timing.jsonl").read_text().splitlines())
    return [row["program_at"] for row in timing if "program_at" in row]


def layout(folder, step):
    record = folder / "checkpoints" / str(step) / "meta" / "metadata"
    return json.loads(record.read_text())["layout"]


def leaf(state, name):
    return state["params"][name.split("/")[0]]["kernel"]


def factors(state, name):
    return state["bases"][name] | state["params"].get("trained_bases", {}).get(name, {})


def weights(state):
    """{path: kernel} of a saved state."""
    found = {name: leaf(state, name) for name in KERNELS}
    for name in state.get("bases") or {}:
        basis = factors(state, name)
        found[name] = basis["u"] @ found[name] @ basis["v"].T
    return found


def loss_on_test_images(state):
    """Of a saved state, by NumPy."""
    dataset, params, kernels = data.load("mnist_5k"), state["params"], weights(state)
    x = (dataset.test.images / 255.0 - dataset.mean) / dataset.std
    x = np.tanh(x.reshape(len(x), -1) @ params["embed"]["kernel"] + params["embed"]["bias"])
    for i in range(2):
        x = np.tanh(x @ kernels[f"hidden_{i}/kernel"] + params[f"hidden_{i}"]["bias"])
    logits = x @ kernels["head/kernel"] + params["head"]["bias"]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -log_p[np.arange(len(x)), dataset.test.labels].mean()


def assert_orthonormal(*sides):
    for side in sides:
        np.testing.assert_allclose(side.T @ side, np.eye(side.shape[1]), atol=1e-5)
