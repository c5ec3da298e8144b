"""A run that is stopped at random, again and again, ends with the bytes of an undisturbed one.

  python scripts/faults.py --stops=50                       # a quickstart, stopped 50 times
  python scripts/faults.py --steps=10000 --stops=100 --output=runs/soak

Trains twice the same: once undisturbed, once in processes that get SIGKILL, SIGTERM or SIGINT at
random moments, in steps, evaluations, checkpoints and compilations, and are started anew by the
same command. Then compares metrics.jsonl and the last checkpoint byte by byte, and says how much
memory the processes had at most. Code 1 if anything differs.
"""

import argparse
import contextlib
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from tqdm import tqdm

ROOT = Path(__file__).parents[1]


def command(workdir, arguments):
    """The same for each start."""
    run, config = (ROOT / "experiments" / name for name in ("run.py", "configs/quickstart.py"))
    return [sys.executable, run, f"--config={config}", f"--workdir={workdir}", *arguments]


def peak_memory(pid):
    """MiB that process `pid` has had at most, or None once it is gone."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 1024
    return None


def to_end(workdir, arguments, log, wait=None, number=None):
    """(exit code, seconds, peak MiB) of one process, which gets the signal `number` after `wait`
    seconds."""
    began, peak = time.monotonic(), 0.0
    process = subprocess.Popen(command(workdir, arguments), stdout=log, stderr=log)
    while process.poll() is None:
        peak = max(peak, peak_memory(process.pid) or 0.0)
        if wait is not None and time.monotonic() - began > wait:
            process.send_signal(number)
            wait = None
        time.sleep(0.02)
    return process.returncode, time.monotonic() - began, peak


def arrays(workdir, steps):
    """The bytes of the last checkpoint, as one digest."""
    state = ocp.StandardCheckpointer().restore(
        (workdir / "checkpoints" / str(steps) / "state").absolute()
    )
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def main():
    """Runs, stops, compares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--checkpoint-every", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals")
    parser.add_argument("--output", type=Path, help="directory to keep; by default a temporary one")
    chosen = parser.parse_args()
    # In the background shells let programs ignore it, and those that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root = chosen.output or Path(tempfile.mkdtemp(prefix="orthojax_faults_"))
    root.mkdir(parents=True, exist_ok=True)
    arguments = [
        f"--config.steps={chosen.steps}",
        f"--config.checkpoint_every={chosen.checkpoint_every}",
        "--config.arms={}",
        "--config.model.depth=4",
    ]
    draw, ends, peaks = random.Random(chosen.seed), {}, []
    with (root / "log.txt").open("w") as log:
        code, seconds, peak = to_end(root / "undisturbed", arguments, log)
        if code:
            raise SystemExit(f"the undisturbed run ended with {code}; see {root / 'log.txt'}.")
        print(f"undisturbed: {seconds:.0f} s, {peak:.0f} MiB at most", flush=True)
        shutil.rmtree(root / "stopped", ignore_errors=True)
        for _ in tqdm(range(chosen.stops), disable=None):
            number = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            # From before the first step on; the more stops, the sooner.
            wait = draw.uniform(2, 2 + 2 * seconds / chosen.stops + 6)
            code, _, peak = to_end(root / "stopped", arguments, log, wait, number)
            ends[code] = ends.get(code, 0) + 1
            peaks.append(peak)
            if code == 0:
                break
        if code != 0:
            code, _, peak = to_end(root / "stopped", arguments, log)
            ends[code] = ends.get(code, 0) + 1
            peaks.append(peak)
    rows, hashes = (
        [f(root / name) for name in ("undisturbed", "stopped")]
        for f in (
            lambda folder: (folder / "metrics.jsonl").read_text().splitlines()[1:],
            lambda folder: arrays(folder, chosen.steps),
        )
    )
    report = {
        "steps": chosen.steps,
        "processes": len(peaks),
        "exit_codes": ends,
        "same_metrics": rows[0] == rows[1],
        "same_weights": hashes[0] == hashes[1],
        "peak_mib": {"first": round(peaks[0]), "last": round(peaks[-1]), "most": round(max(peaks))},
    }
    print(json.dumps(report, indent=2))
    if not (report["same_metrics"] and report["same_weights"]):
        raise SystemExit(f"they differ; see {root}.")
    if chosen.output is None:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
