import pytest
from runs import LOW_RANK, arrays, experiment, rows, status, tiny
from experiments import metrics, run, figures
import time
ARMS = {
    "dense": {"face": "none"},
    "OIALR": {},
    "latent": {"face": "latent"},
    "from the start": {"delay": 0.0, "max_drop": 1.0, "every": 0},
    "at the end": {"delay": 1.0, "rank_rule": "budget", "rank_value": 0.3, "max_drop": 1.0, "floor": 0.0},
    "grow": {"grow": 2},
    "all": {"control": "all", "every": 0},
    "diagonal": {"control": "diagonal", "every": 0},
    "galore": {"control": "galore", "rank_value": 4.0, "every": 3},
}

@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("forked")
    arms = {name: {"oialr": changes} if changes else {} for name, changes in ARMS.items()}
    t=time.time()
    run.run(experiment(LOW_RANK, arms=arms, fork_at=4), workdir)
    print(time.time()-t, time.process_time())
    return workdir

def test_x(forked):
    for a in ARMS:
        print(a)
        for r in (forked/a/"timing.jsonl").read_text().splitlines(): print("  ",r)
        for r in metrics.read(forked/a/"metrics.jsonl")[1]:
            if "low_rank" in r: print(r)
    import jax
    print(jax.tree.map(lambda x: x.shape, arrays(forked/"all", 6)))
    print(jax.tree.map(lambda x: x.shape, arrays(forked/"galore", 6)["opt_state"]))
    print((forked/"results.csv").read_text())
    assert 0
