"""A run in several processes, and what they tell each other."""

import json
import signal
import socket
import time

import pytest
import runs
from absl import flags
from absl.testing import flagsaver
from runs import rows, start, status, tiny

from experiments import configuration, metrics, processes, run

LOW_RANK = "tests/low_rank_config.py"


def start_two(workdir, *arguments, devices=4, **options):
    """Two processes of as many devices each, on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    where = [f"--coordinator={address}", "--num_processes=2", "--heartbeat_timeout=10"]
    return [
        start(workdir, *arguments, *where, f"--process_id={i}", devices=devices, **options)
        for i in range(2)
    ]


def ended(started):
    """Their exit codes and outputs."""
    outputs = [process.communicate(timeout=300)[0] for process in started]
    return [process.returncode for process in started], outputs


def wait_for_step(started, workdir, step):
    """Returns when `workdir` has a row of `step` or later."""
    path = workdir / "metrics.jsonl"
    while all(process.poll() is None for process in started):
        if path.exists() and any(json.loads(r).get("step", -1) >= step for r in rows(workdir)):
            return
        time.sleep(0.01)
    pytest.fail(f"ended too early: {ended(started)}")


def assert_same_numbers(workdir, expected, rel=1e-4, until=60):
    """All that is logged up to a step, but for orthogonality errors, which are rounding."""
    found, others = (
        {
            (row["step"], name): value
            for row in metrics.read(folder / "metrics.jsonl")[1]
            for name, value in configuration.flatten(row).items()
            if "orthogonality_error" not in name and row["step"] <= until
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
    two = start_two(tmp_path)
    wait_for_step(two, tmp_path, 12)
    two[1].kill()
    (code, killed), outputs = ended(two)
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
def test_two_processes_under_pmap_give_the_numbers_of_one(alone, tmp_path):
    codes, outputs = ended(start_two(tmp_path, "--config.parallel=pmap", "--config.steps=12"))
    assert codes == [0, 0], outputs
    assert "step 12/12" in outputs[0]
    assert "step" not in outputs[1].split("cpu devices")[1]  # One of them talks.
    assert_same_numbers(tmp_path, alone, until=12)


def test_split_low_rank_training_stops_together_and_resumes(tmp_path, one_device):
    run.train(tiny(runs.LOW_RANK), tmp_path / "alone")
    split = ("--config.mesh.fsdp=2", "--config.mesh.tensor=2")
    two = start_two(tmp_path / "two", *split, devices=2, config=LOW_RANK)
    wait_for_step(two, tmp_path / "two", 4)
    two[1].send_signal(signal.SIGTERM)
    codes, outputs = ended(two)
    assert codes == [75, 75], outputs
    assert status(tmp_path / "two")["status"] == "interrupted"
    stopped = status(tmp_path / "two")["step"]
    assert (tmp_path / "two" / "checkpoints" / str(stopped)).is_dir()
    run.train(tiny(runs.LOW_RANK), tmp_path / "two")
    assert_same_numbers(tmp_path / "two", tmp_path / "alone", rel=2e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_processes": 2}, "--coordinator=host:port, --num_processes and --process_id go"),
        ({"coordinator": "x:1", "num_processes": 2, "process_id": 2}, "must be below"),
        (
            {"coordinator": "127.0.0.1:1", "num_processes": 2, "process_id": 1},
            r"--coordinator=127\.0\.0\.1:1: .*refused; process 0 is started by",
        ),
        ({"coordinator": "nowhere", "num_processes": 2, "process_id": 1}, "--coordinator=nowhere"),
    ],
)
def test_processes_that_cannot_meet_say_so(given, message):
    flags.FLAGS.mark_as_parsed()
    with (
        flagsaver.flagsaver(initialization_timeout=1, **given),
        pytest.raises(configuration.ConfigurationError, match=message),
    ):
        processes.initialize()


def test_one_process_waits_for_nobody(monkeypatch):
    flags.FLAGS.mark_as_parsed()
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    processes.initialize()
    assert processes.is_first()
