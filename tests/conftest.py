"""Switches that must be set before jax starts, and the fixtures of all tests."""

import os
from pathlib import Path

# Eight devices on one machine. Without PJRT_NPROC, jax 0.10 deadlocks in collectives on few cores.
# The tests compile much and run little: no optimization.
os.environ.setdefault("PJRT_NPROC", "32")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# jax solves by SciPy's LAPACK, whose threads wait for each other where cores are few.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Compiled programs stay mapped into memory; of such maps a process has no more than 65,530."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """float64, and no silent change of rank: for tests of formulas."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """(workdir, final state) of the tiny run of `runs.py`."""
    from runs import tiny

    from experiments import run

    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, run.train(tiny(), workdir)


@pytest.fixture
def one_device():
    """For eight it takes longer to compile and to save."""
    from oialr_runs import use_devices

    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, 1)
        yield


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """The workdir of the arms `FORKED` of `oialr_runs.py`, from a trunk of 4 of the 16 steps."""
    from oialr_runs import FORKED, arms, use_devices

    from experiments import figures, low_rank_figures, run

    workdir = tmp_path_factory.mktemp("forked")
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, 1)
        # test_figures.py draws.
        patch.setattr(figures, "draw", lambda runs, workdir: [])
        patch.setattr(low_rank_figures, "frontier", lambda rows, workdir: [])
        run.run(arms(FORKED, fork_at=4), workdir)
    return workdir
