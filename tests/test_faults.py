"""What may go wrong around a run, beside what test_resume.py and test_run.py have."""

import importlib.util
import shutil
import time

import pytest
from runs import assert_same_arrays, rows, start, status, tiny

from experiments import configuration, data, metrics, processes, run


def copied(undisturbed, tmp_path):
    """A workdir of the finished run without its last checkpoint: it resumes from step 10."""
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed[0], workdir)
    shutil.rmtree(workdir / "checkpoints" / "12")
    return workdir


def test_two_runs_in_one_workdir_are_refused(tmp_path):
    refused = pytest.raises(configuration.ConfigurationError, match=r"is in use by process \d+ on")
    with processes.alone_in(tmp_path), refused, processes.alone_in(tmp_path):
        pass
    with processes.alone_in(tmp_path / "new"):
        assert (tmp_path / "new").exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("damage", ["cut", "garbage", "gone"])
def test_a_damaged_metrics_file_is_said_and_training_goes_on(
    undisturbed, tmp_path, capsys, caplog, damage
):
    workdir = copied(undisturbed, tmp_path)
    path, content = workdir / "metrics.jsonl", (workdir / "metrics.jsonl").read_bytes()
    if damage == "cut":
        path.write_bytes(content[: content.index(b'"step": 6')])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content.replace(b'{"step": 9, "train', b'\xff{"step": 9, "train', 1))
    with caplog.at_level("WARNING", logger="absl"):
        state = run.train(tiny(), workdir)
    assert_same_arrays(state, undisturbed[1])
    said = capsys.readouterr().out + caplog.text
    lost = (
        "line 7 is not JSON"
        if damage == "garbage"
        else "to 10, the step of the checkpoint, is lost"
    )
    assert lost in said, said
    after = [row for row in rows(undisturbed[0])[1:] if '"step": 12' in row]
    assert [row for row in rows(workdir) if '"step": 12' in row] == after
    assert metrics.read(path)[0]["versions"]


def test_a_clock_that_goes_backwards_changes_nothing(undisturbed, tmp_path, monkeypatch):
    now, calls = time.time(), []

    def backwards():
        calls.append(1)
        return now - 100 * len(calls)

    monkeypatch.setattr(time, "time", backwards)
    state = run.train(tiny(), tmp_path, checkpoints_in=tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "12").is_dir()
    assert not (tmp_path / "checkpoints").exists()
    assert calls
    assert_same_arrays(state, undisturbed[1])
    assert rows(tmp_path) == rows(undisturbed[0])
    assert status(tmp_path)["seconds"] >= 0


@pytest.mark.slow
def test_a_full_disk_and_a_directory_that_cannot_be_are_one_line_and_lose_nothing(tmp_path):
    process = start(tmp_path, before=("bash", "-c", 'ulimit -f 3 && exec "$@"', "files of 3 KiB"))
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1, output
    # Threads of Orbax may have the last word.
    assert "what was saved is intact: when that is mended, run the same command" in output
    process = start("/proc/nothing/here")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1, output
    assert output.splitlines()[-1].startswith("Error: /proc/nothing")
    process = start(tmp_path)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output


def test_a_half_written_checkpoint_is_ignored(undisturbed, tmp_path):
    workdir = copied(undisturbed, tmp_path)
    checkpoints = workdir / "checkpoints"
    shutil.copytree(checkpoints / "10", checkpoints / "11.orbax-checkpoint-tmp")
    for path in (checkpoints / "11.orbax-checkpoint-tmp").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    state = run.train(tiny(), workdir)
    assert_same_arrays(state, undisturbed[1])
    assert rows(workdir) == rows(undisturbed[0])


def test_other_data_under_the_same_name_are_refused(undisturbed, tmp_path, monkeypatch):
    workdir, load = copied(undisturbed, tmp_path), data.load

    def other(*arguments, **options):
        dataset = load(*arguments, **options)
        return dataset._replace(test=data.Split(*(x[::-1] for x in vars(dataset.test).values())))

    monkeypatch.setattr(data, "load", other)
    with pytest.raises(
        configuration.ConfigurationError, match=r"on other data of data\.name=mnist_5"
    ):
        run.train(tiny(), workdir)
    assert rows(workdir) == rows(undisturbed[0])


def test_a_bucket_without_its_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(configuration.ConfigurationError, match="needs gcsfs: pip install"):
        run.train(tiny(), tmp_path, checkpoints_in="gs://bucket/run")
