"""Stands in for experiments/run.py in the tests of sweeps: counts to --config.steps in a moment.

Writes what run.py writes, a checkpoint each step, and a line in began.txt for each start.
--config.model.name says how it goes: "good", "crash once", "crash", "diverge", "preempted",
"wait" (until go.txt is there) or "mistake".
"""

import argparse
import csv
import json
import os
import signal
import sys
import time
from pathlib import Path


def main():
    """One start of the program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--config.steps", dest="steps", type=int, default=6)
    parser.add_argument("--config.optimizer.lr", dest="lr", type=float, default=1.0)
    parser.add_argument("--config.model.name", dest="kind", default="good")
    parser.add_argument("--config.seed", dest="seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = arguments.workdir
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))

    def write(status, step):
        part = folder / "status.part"
        part.write_text(json.dumps({"status": status, "step": step, "steps": arguments.steps}))
        os.replace(part, folder / "status.json")

    def loss(step):
        return arguments.lr * (1 + 0.1 * arguments.seed) / (1 + step)

    with (folder / "began.txt").open("a") as file:
        file.write(f"{os.getpid()}\n")
    begun = len((folder / "began.txt").read_text().splitlines())
    saved = folder / "saved"
    step = int(saved.read_text()) if saved.exists() else 0
    if arguments.kind == "mistake":
        sys.exit(2)
    write("running", step)
    while step < arguments.steps:
        step += 1
        time.sleep(0.02)
        while arguments.kind == "wait" and step == 3 and not (folder / "go.txt").exists():
            time.sleep(0.02)
            if stopped:
                break
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "test_loss": loss(step)}) + "\n")
        saved.write_text(str(step))
        write("running", step)
        print(f"step {step}", flush=True)
        if stopped:
            write("interrupted", step)
            sys.exit(143)
        if step >= 3 and (
            arguments.kind == "crash" or (arguments.kind == "crash once" and begun == 1)
        ):
            sys.exit("out of luck")
        if arguments.kind == "preempted" and step < 5:
            write("interrupted", step)
            sys.exit(75)
    ending = "diverged" if arguments.kind == "diverge" else "done"
    write(ending, step)
    row = {
        "arm": "",
        "seed": arguments.seed,
        "status": ending,
        "step": step,
        "test_loss": loss(step),
    }
    with (folder / "results.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, row)
        table.writeheader()
        table.writerow(row)
    sys.exit(ending == "diverged")


if __name__ == "__main__":
    main()
