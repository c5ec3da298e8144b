"""Search by Ray Tune: all points begin, the worse ones are stopped early, and saved.

A trial is a set of overrides; points that differ only in their seed are one trial, which counts by
their mean. It starts the programs that a sweep without search would start, follows their
metrics.jsonl, and reports every evaluation that all of its seeds have. What is stopped can go on:
a later sweep without search resumes it.
"""

import contextlib
import json
import math
import os
import time
from pathlib import Path

from experiments.configuration import ConfigurationError
from experiments.sweeps import cores, engines, files, running
from experiments.sweeps.points import Point, without_seed

SCHEDULERS = ("asha", "median")
STOPPED = "stopped by the search"


def trials(points: list[Point]) -> list[list[Point]]:
    """The points, those together that differ only in their seed."""
    groups = {}
    for point in points:
        key = json.dumps(without_seed(point.overrides), sort_keys=True)
        groups.setdefault(key, []).append(point)
    return list(groups.values())


def check(config):
    """Raises ConfigurationError unless a point of `config` has one curve to judge it by."""
    for field, value in (("arms", config.get("arms", {})), ("seeds", config.get("seeds", ()))):
        if len(value):
            empty = "{}" if field == "arms" else "()"
            raise ConfigurationError(
                f"--search judges a point by one curve, but the configuration has {field}; give "
                f"--config.{field}='{empty}'"
                + (' and sweep over them: grid("seed", ...).' if field == "seeds" else ".")
            )


class Trial:
    """The runs of one trial, and the mean of what they measure."""

    def __init__(self, points, steps: int, metric: str = "", cpus: float = 1, retries: int = 2):
        self._points, self._steps, self._metric = points, steps, metric
        self._cpus, self._retries = cpus, retries
        self._runners, self._locks = None, []
        self._reported, self._score = -1, math.inf

    def next(self) -> dict:
        """Waits for the next evaluation: {"trained": step, "score": mean, "over": whether it is the
        last}. Lower scores are better; accuracies come with a minus sign.

        The last evaluation is held back until the programs have ended.
        """
        while True:
            ends = [runner.poll() for runner in self._runners or ()]
            over = bool(ends) and all(ends)
            score = self._evaluated(over)
            if score is not None:
                return score
            if any(end in ("diverged", "failed") for end in ends):
                self.stop("another seed of this trial failed or diverged")
                return {"trained": max(0, self._reported), "score": math.inf, "over": True}
            if over:
                return {"trained": max(0, self._reported), "score": self._score, "over": True}
            if self._runners is None:  # All that was written earlier is told.
                self._start()
            time.sleep(0.2)

    def _evaluated(self, over):
        found = [files.evaluations(point.folder, self._metric) for point in self._points]
        steps = set.intersection(*map(set, found))
        steps = sorted(step for step in steps if step > self._reported)
        if not steps:
            return None
        if self._runners is None:
            over = all(files.ended(point.folder) for point in self._points)
        if steps[0] >= self._steps and not over:
            return None
        self._reported = step = steps[0]
        signs = [-1 if own[step][0].endswith("accuracy") else 1 for own in found]
        values = [sign * own[step][1] for sign, own in zip(signs, found, strict=True)]
        self._score = sum(values) / len(values)
        return {"trained": step, "score": self._score, "over": step >= self._steps}

    def _start(self):
        self._runners = []
        for point in self._points:
            whole = self._cpus >= 1 and self._cpus == int(self._cpus)
            own, locks = cores.take(int(self._cpus)) if whole else ([], [])
            self._locks += locks
            runner = running.Runner(point, self._retries, own, keep=locks)
            while not runner.start():
                time.sleep(0.5)
            self._runners.append(runner)

    def stop(self, reason: str = STOPPED):
        """Has the programs save and end, and waits for that."""
        for runner in self._runners or ():
            if runner.poll() is None:
                runner.stop(reason)
        while any(runner.poll() is None for runner in self._runners or ()):
            time.sleep(0.1)
        cores.release(self._locks)
        self._locks = []


def run(
    points: list[Point],
    config,
    workdir: Path,
    watch,
    *,
    scheduler: str = "asha",
    metric: str = "",
    grace: int = 0,
    reduction: float = 3,
    workers: int = 1,
    retries: int = 2,
    address: str | None = None,
    cpus: float = 1,
    gpus: float = 0,
) -> str:
    """Runs the search and returns a line on its best trial.

    Args:
      scheduler: "asha" (asynchronous successive halving, Li et al. 2020, arXiv:1810.05934) or
        "median" (stops what is worse than the median of the others so far).
      metric: by which trials are judged; by default the validation loss, else the test loss.
      grace: steps before which nothing is stopped; by default a ninth of all.
      reduction: of as many trials at a rung one goes on, asha.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Else it shows tables of its own.
    import ray
    from ray import tune
    from ray.tune import schedulers

    check(config)
    groups = trials(points)
    steps = [group[0].overrides.get("steps", config.steps) for group in groups]
    times = {"time_attr": "trained", "grace_period": grace or max(1, max(steps) // 9)}
    if scheduler == "asha":
        rule = schedulers.ASHAScheduler(max_t=max(steps), reduction_factor=reduction, **times)
    else:
        # An endless time slice: else it pauses trials, hence their programs, to look at others.
        rule = schedulers.MedianStoppingRule(
            min_samples_required=3, min_time_slice=math.inf, **times
        )
    options = {"metric": metric, "cpus": cpus, "retries": retries}

    class Followed(tune.Trainable):
        def setup(self, choice):
            number = choice["trial"]
            self._trial = Trial(groups[number], steps[number], **options)

        def step(self):
            told = self._trial.next()
            return {**told, "done": told["over"]}

        def cleanup(self):
            self._trial.stop()

        def save_checkpoint(self, folder):
            pass  # The programs save themselves.

        def load_checkpoint(self, folder):
            pass

    class Look(tune.Callback):
        def on_step_end(self, iteration, trials, **info):
            watch()

    seeds = max(map(len, groups))
    engines.connect(ray, workers, address, cpus * seeds, gpus * seeds)
    with contextlib.ExitStack() as stack:
        if address is None:
            stack.callback(ray.shutdown)
        found = tune.Tuner(
            tune.with_resources(Followed, {"cpu": cpus * seeds, "gpu": gpus * seeds}),
            param_space={"trial": tune.grid_search(list(range(len(groups))))},
            tune_config=tune.TuneConfig(
                metric="score", mode="min", scheduler=rule, reuse_actors=False
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(Path(workdir).absolute()),
                verbose=0,
                callbacks=[Look()],
                failure_config=tune.FailureConfig(max_failures=retries),
            ),
        ).fit()
    return _best(groups, [one.metrics or {} for one in found], found, metric)


def _best(groups, told, found, metric):
    ended = [(one["score"], i) for i, one in enumerate(told) if one.get("over")]
    numbers = [one.config["trial"] for one in found]
    if not ended or not math.isfinite(min(ended)[0]):
        return "Search: no trial came to its end."
    score, i = min(ended)
    best = groups[numbers[i]]
    names = {name for name, _ in files.evaluations(best[0].folder, metric).values()}
    by = ", ".join(sorted(names))
    warning = "; on the test split, so report another" if by.startswith("test") else ""
    overrides = json.dumps(without_seed(best[0].overrides))
    return f"Search: best by {by}{warning}: {overrides}, {abs(score):.4f} (seeds: {len(best)})."
