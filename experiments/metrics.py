"""What a run writes beside its checkpoints.

config.json      the configuration
status.json      running, done, interrupted, diverged or failed, and at which step
metrics.jsonl    a line with configuration, versions and devices, then one a measurement; nothing in
                 it depends on the time, so a run that was interrupted writes the same bytes
timing.jsonl     how long steps and compilations took, their multiply-adds and their memory
tensorboard/     the same measurements as TensorBoard events

Of several processes the first one writes; the others read, and decide the same.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
from absl import logging
from tensorboardX import SummaryWriter
from tqdm import tqdm

import orthojax
from experiments import configuration, processes
from experiments.tasks import FORMATS


class Diverged(RuntimeError):
    """A measurement is not finite."""


class Interrupted(RuntimeError):
    """A signal asked the run to stop."""

    def __init__(self, signal_number, step):
        super().__init__(f"stopped at step {step}, which is saved")
        self.signal_number = signal_number


def header(config) -> dict:
    """Returns what a reader of the numbers has to know of their making."""
    packages = {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")}
    device = jax.local_devices()[0]
    return {
        "config": configuration.as_json(config),
        "versions": {
            "python": platform.python_version(),
            **packages,
            "orthojax": orthojax.__version__,
        },
        "revision": _revision(),
        "devices": {"kind": device.device_kind, "count": jax.device_count()},
    }


def _revision():
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "."], capture_output=True)
    except OSError:  # No git here.
        return None
    if revision.returncode:
        return None
    return revision.stdout.strip() + ("+changes" if changed.returncode else "")


def read(path) -> tuple[dict, list[dict]]:
    """Returns the header and the rows of a metrics.jsonl; an incomplete last line is left out, and
    with a warning any other that is not JSON."""
    lines = Path(path).read_text(errors="replace").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):  # Killed while writing it.
        lines.pop()
    parsed = []
    for number, line in enumerate(lines, 1):
        try:
            parsed.append(json.loads(line))
        except ValueError:
            logging.warning("%s: line %d is not JSON and is left out.", path, number)
    if not parsed or "config" not in parsed[0]:
        parsed.insert(0, {})
    return parsed[0], parsed[1:]


def best(rows):
    """Returns the first row of the lowest validation loss; None where there is no such split."""
    evaluated = [row for row in rows if "validation_loss" in row]
    return min(evaluated, key=lambda row: row["validation_loss"], default=None)


def write_json(path, content):
    """Writes all of `content` or nothing."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(part, path)


class Log:
    """The files of one run, from `step` on; measurements after `step` are dropped.

    With `trunk`, the folder of another run, those up to `step` are taken over from there.

    A context: how it is left decides what status.json says in the end.
    """

    def __init__(self, workdir: Path, config, step: int, trunk: Path | None = None, bar=True):
        self._writes = processes.is_first()
        self._workdir, self._steps, self._patience = workdir, config.steps, config.patience
        self._began, self._step, self._finite = time.monotonic(), step, step
        self._latest = {}  # {name: value} of the last measurement
        self._message = ""
        path = workdir / "metrics.jsonl"
        if trunk is not None:
            first, rows = {}, read(trunk / "metrics.jsonl")[1]
        else:
            first, rows = read(path) if path.exists() and step else ({}, [])
        rows = [row for row in rows if row["step"] <= step]
        last = max((row["step"] for row in rows), default=0)
        # A checkpoint is saved after all rows up to it.
        lost = step and trunk is None and last < step - step % config.log_every
        self._validated = [row for row in rows if "validation_loss" in row]
        # disable=None: a bar on a terminal only.
        off = None if bar and self._writes else True
        self._bar = tqdm(total=config.steps, initial=step, disable=off, unit="step", leave=False)
        if not self._writes:
            return
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "config.json", configuration.as_json(config))
        if lost:
            self.say(
                f"Warning: {path} ends at step {last}: what was measured from there to {step}, "
                "the step of the checkpoint, is lost."
            )
        with path.with_suffix(".part").open("w") as part:
            for row in [first or header(config), *rows]:
                part.write(json.dumps(row) + "\n")
        os.replace(path.with_suffix(".part"), path)
        self._rows = path.open("a")
        # TensorBoard hides what an interrupted run wrote from `purge_step` on.
        purge = step + 1 if step else 0
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=purge)

    def __enter__(self):
        self._write_status("running")
        return self

    def __exit__(self, kind, error, _):
        self._bar.close()
        if self._writes:
            self._rows.close()
            self._events.close()
        if kind is None:
            self._write_status("done", self._message)
        elif issubclass(kind, Interrupted | KeyboardInterrupt):
            self._write_status("interrupted")
        elif issubclass(kind, Diverged):
            self._write_status("diverged", str(error))
        else:
            self._write_status("failed", f"{kind.__name__}: {error}")

    def _write_status(self, status, message=""):
        if not self._writes:
            return
        seconds = round(time.monotonic() - self._began, 1)
        content = {"status": status, "step": self._step, "steps": self._steps, "seconds": seconds}
        write_json(
            self._workdir / "status.json", content | ({"message": message} if message else {})
        )

    def advance(self, step):
        """Counts up to `step` on the progress bar."""
        self._bar.update(step - self._step)
        self._step = step

    def say(self, text):
        """Prints `text` above the progress bar."""
        self._bar.write(text) if not self._bar.disable else print(text, flush=True)

    def end(self, text):
        """Prints `text`, which becomes the message of a run that is done."""
        self._message = text
        self.say(text)

    def best(self):
        """Returns the first row of the lowest validation loss, or None."""
        return best(self._validated)

    def out_of_patience(self):
        """Whether the last `patience` evaluations brought no lower validation loss.

        From the rows alone, so that a resumed run counts on.
        """
        since = sum(row["step"] > self.best()["step"] for row in self._validated)
        return 0 < self._patience <= since

    def summary(self, step, measured):
        """Returns the losses and other measures of an evaluation in one line."""
        parts = [f"step {step:>{len(str(self._steps))}}/{self._steps}"]
        if "train_loss" in measured:
            parts.append(f"train loss {measured['train_loss']:.4f}")
        for name, value in measured.items():
            split, _, measure = name.partition("_")
            if split in ("validation", "test", "population"):
                parts.append(f"{split} {measure} {value:{FORMATS[measure]}}")
        if "orthogonality_error" in measured:
            worst = max(measured["orthogonality_error"].values())
            parts.append(f"orthogonality error {worst:.1e}")
        return "  ".join(parts)

    def check(self, step, measured):
        """Raises `Diverged` unless all numbers are finite, but for the infinite logarithms that a
        profile has of zeros."""
        for name, value in configuration.flatten(measured).items():
            logarithms = name.startswith("profile.")
            if np.any(np.isnan(value)) or not (logarithms or np.all(np.isfinite(value))):
                raise Diverged(
                    f"{name} is {value} at step {step}, all was finite at step {self._finite}; "
                    "try a lower optimizer.lr or a positive optimizer.clip_norm."
                )
            self._latest[name] = value
        self._finite = step

    def write(self, step, measured):
        """Writes numbers, [min, max] pairs or longer lists, in dicts nested at will. Raises
        `Diverged`."""
        self.record(step, measured)
        if "test_loss" in measured:
            self.say(self.summary(step, self.trained() | measured))

    def trained(self):
        """Returns the last {"train_loss": ...}, {} if there is none yet."""
        return {k: x for k, x in self._latest.items() if k == "train_loss"}

    def record(self, step, measured):
        """`write` that says nothing."""
        self.check(step, measured)
        if "validation_loss" in measured:
            self._validated.append({"step": step, **measured})
        if not self._writes:
            return
        self._rows.write(json.dumps({"step": step, **measured}) + "\n")
        self._rows.flush()  # So that a kill after the next checkpoint finds the row in the file.
        for name, value in configuration.flatten(measured).items():
            if isinstance(value, list):
                ends = value if len(value) == 2 else (min(value), max(value))
                for end, x in zip(("min", "max"), ends, strict=True):
                    self._events.add_scalar(f"{name}/{end}", x, step)
            else:
                self._events.add_scalar(name, value, step)
        self._write_status("running")


class Logs:
    """The logs of models that are trained together, each with a folder and a configuration of its
    own; measurements are lists with one item a model, but for what all have in common.

    A model that diverges is left out from then on; its log says so.
    """

    def __init__(self, folders, configs, step: int):
        self._logs = [
            Log(folder, config, step, bar=i == 0)
            for i, (folder, config) in enumerate(zip(folders, configs, strict=True))
        ]
        self._diverged = {}  # {index: error}

    def __enter__(self):
        for log in self._logs:
            log.__enter__()
        return self

    def __exit__(self, *failure):
        for i, log in enumerate(self._logs):
            error = self._diverged.get(i)
            log.__exit__(*((Diverged, error, None) if error else failure))

    @property
    def diverged(self):
        """What the models that have diverged died of."""
        return [self._diverged[i] for i in sorted(self._diverged)]

    def advance(self, step):
        for i, log in enumerate(self._logs):
            if i not in self._diverged:
                log.advance(step)

    def say(self, text):
        self._logs[0].say(text)

    def out_of_patience(self):
        return False

    def best(self):
        return None

    def check(self, step, measured):
        """Raises `Diverged` if no model is left."""
        self._each("check", step, measured)

    def write(self, step, measured):
        self._each("record", step, measured)
        if "test_loss" in measured:
            left = [i for i in range(len(self._logs)) if i not in self._diverged]
            rows = [self._logs[i].trained() | _own(measured, i) for i in left]
            mean = jax.tree.map(lambda *xs: np.mean(xs, axis=0), *rows)
            mean = {name: mean[name] for name in rows[0]}  # In the order in which they came.
            self.say(f"{self._logs[0].summary(step, mean)}  (mean of {len(left)} seeds)")

    def _each(self, method, step, measured):
        for i, log in enumerate(self._logs):
            if i in self._diverged:
                continue
            try:
                getattr(log, method)(step, _own(measured, i))
            except Diverged as error:
                self._diverged[i] = error
        if len(self._diverged) == len(self._logs):
            raise self._diverged[0]


def _own(measured, index):
    """The measurements of one of several models."""
    if isinstance(measured, dict):
        return {name: _own(x, index) for name, x in measured.items()}
    return measured[index] if isinstance(measured, list) else measured


class Clock:
    """Seconds of programs, phases of steps and changes of bases, a line each in timing.jsonl.

    A phase is the steps of one compiled program in one process; evaluation does not count. Of
    models that are trained together each has its part, in its own folder.
    """

    def __init__(self, workdirs: list[Path], trunk: Path | None = None):
        self._paths = [workdir / "timing.jsonl" for workdir in workdirs]
        if trunk is not None and processes.is_first():  # Its steps count too.
            shutil.copyfile(trunk / "timing.jsonl", self._paths[0])
        self._began, self._seconds, self._steps = None, 0.0, 0

    def compiled(self, step, compile_seconds, program):
        """Begins the phase of `program` (a `jax.stages.Compiled`), from `step` on."""
        self.end_phase()
        cost, text = program.cost_analysis(), program.as_text()
        cost = cost[0] if isinstance(cost, list) else cost or {}
        # XLA counts the body of a loop once, however often it runs. Loops that carry unsigned
        # integers draw random numbers, a small part.
        loops = re.findall(r"= \(s32\[\], (?!u32).*known_trip_count\":{\"n\":\"(\d+)\"", text)
        flops = cost.get("flops") if all(n == "1" for n in loops) else None
        memory = program.memory_analysis()
        size = 0
        if memory is not None:
            size = memory.argument_size_in_bytes + memory.output_size_in_bytes
            size += memory.temp_size_in_bytes - memory.alias_size_in_bytes
        self._began = step
        self._write(
            {
                "program_at": step,
                "compile_seconds": round(compile_seconds / len(self._paths), 3),
                "flops": flops / len(self._paths) if flops else None,
                "memory_bytes": size // len(self._paths),
            }
        )

    @contextlib.contextmanager
    def changing(self, step):
        """Times what happens inside, a change of bases with its compilation."""
        began = time.perf_counter()
        yield
        self._write({"change_at": step, "seconds": round(time.perf_counter() - began, 3)})

    @contextlib.contextmanager
    def running(self, steps):
        """Counts what happens inside as part of `steps` steps."""
        began = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began
        self._steps += steps

    def end_phase(self):
        """Writes the mean of the phase."""
        if self._steps:
            self._write(
                {
                    "phase_from": self._began,
                    "steps": self._steps,
                    "seconds_per_step": round(self._seconds / self._steps / len(self._paths), 6),
                }
            )
        self._seconds, self._steps = 0.0, 0

    def _write(self, row):
        for path in self._paths if processes.is_first() else ():
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
