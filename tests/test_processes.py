"""A run in several processes, and what they tell each other."""

import json
import signal
import socket
import time

import pytest
from runs import rows, start, status

from experiments import configuration, metrics

LOW_RANK = "tests/low_rank_config.py"


def start_two(workdir, *arguments, **options):
    """Two processes of four devices each, on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    where = [f"--coordinator={address}", "--num_processes=2", "--heartbeat_timeout=10"]
    return [
        start(workdir, *arguments, *where, f"--process_id={i}", devices=4, **options)
        for i in range(2)
    ]


def ended(processes):
    """Their exit codes and outputs."""
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def wait_for_step(processes, workdir, step):
    """Returns when `workdir` has a row of `step` or later."""
    path = workdir / "metrics.jsonl"
    while all(process.poll() is None for process in processes):
        if path.exists() and any(json.loads(r).get("step", -1) >= step for r in rows(workdir)):
            return
        time.sleep(0.01)
    pytest.fail(f"ended too early: {ended(processes)}")


def assert_same_numbers(workdir, expected, rel=1e-4):
    """All that is logged, but for orthogonality errors, which are rounding."""
    found, others = (
        {
            (row["step"], name): value
            for row in metrics.read(folder / "metrics.jsonl")[1]
            for name, value in configuration.flatten(row).items()
            if "orthogonality_error" not in name
        }
        for folder in (workdir, expected)
    )
    assert found.keys() == others.keys()
    for key, value in others.items():
        assert found[key] == pytest.approx(value, rel=rel, abs=1e-6), key


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The tiny run in one process on one device."""
    workdir = tmp_path_factory.mktemp("alone")
    codes, outputs = ended([start(workdir)])
    assert codes == [0], outputs
    return workdir


@pytest.mark.slow
def test_a_killed_process_ends_the_job_which_goes_on_elsewhere(alone, tmp_path):
    processes = start_two(tmp_path)
    wait_for_step(processes, tmp_path, 12)
    processes[1].kill()
    (code, killed), outputs = ended(processes)
    assert killed == -signal.SIGKILL
    assert code not in (0, 75), outputs[0]
    assert "process 0 of 2" in outputs[0]
    assert "8 cpu devices" in outputs[0]
    stopped = max(
        int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()
    )
    assert stopped < 60
    codes, outputs = ended([start(tmp_path, devices=2)])
    assert codes == [0], outputs
    assert f"Resuming from step {stopped}" in outputs[0]
    assert_same_numbers(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_two_processes_give_the_numbers_of_one(alone, tmp_path, parallel):
    codes, outputs = ended(start_two(tmp_path, f"--config.parallel={parallel}"))
    assert codes == [0, 0], outputs
    assert "step 60/60" in outputs[0]
    assert "step" not in outputs[1].split("cpu devices")[1]  # One of them talks.
    assert_same_numbers(tmp_path, alone)


@pytest.mark.slow
def test_split_low_rank_training_stops_together_and_resumes(tmp_path):
    (code,), output = ended([start(tmp_path / "alone", config=LOW_RANK)])
    assert code == 0, output
    split = ("--config.mesh.fsdp=2", "--config.mesh.tensor=2")
    processes = start_two(tmp_path / "two", *split, config=LOW_RANK)
    wait_for_step(processes, tmp_path / "two", 4)
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = ended(processes)
    assert codes == [75, 75], outputs
    assert status(tmp_path / "two")["status"] == "interrupted"
    stopped = status(tmp_path / "two")["step"]
    assert (tmp_path / "two" / "checkpoints" / str(stopped)).is_dir()
    codes, outputs = ended(start_two(tmp_path / "two", *split, config=LOW_RANK))
    assert codes == [0, 0], outputs
    assert f"Resuming from step {stopped}" in outputs[0]
    assert_same_numbers(tmp_path / "two", tmp_path / "alone", rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_processes=2"], "--coordinator=host:port, --num_processes and --process_id go"),
        (["--coordinator=x:1", "--num_processes=2", "--process_id=2"], "must be below"),
        (
            ["--coordinator=127.0.0.1:1", "--num_processes=2", "--process_id=1"],
            "did not find each other",
        ),
    ],
)
def test_processes_that_cannot_meet_say_so(tmp_path, flags, message):
    codes, (output,) = ended([start(tmp_path, *flags, "--initialization_timeout=2")])
    assert codes == [2], output
    assert message in output.splitlines()[-1]
