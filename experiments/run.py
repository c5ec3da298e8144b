"""Trains the models of one configuration and draws their figures.

  python experiments/run.py --config=experiments/configs/quickstart.py

Any field of the configuration can be set: --config.optimizer.lr=0.01. --config.arms={} trains one
model instead of the arms that the configuration compares. The same command resumes an interrupted
run where it was last saved; Ctrl-C and SIGTERM save first.

Written to --workdir, for each arm in a folder of its own: config.json, metrics.jsonl, status.json,
checkpoints/ and tensorboard/; and beside these folders the figures, which compare the arms.

Compiled programs are kept in $JAX_COMPILATION_CACHE_DIR, by default ~/.cache/orthojax/xla.
"""

import collections
import contextlib
import os
import signal
from pathlib import Path

# OpenBLAS, with which jax solves on CPUs, otherwise spins for cores that another program holds: on
# two busy cores, 50 small solves a step took seven times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
from absl import app, flags
from ml_collections import config_flags

from experiments import command_line, configuration, data, figures, metrics, parallel, training
from experiments.checkpoints import Checkpoints

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file to run.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where all files go; by default runs/<name of the configuration>."
)


def main(_):
    config_name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]).stem
    workdir = Path(_WORKDIR.value or f"runs/{config_name}")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update(
            "jax_compilation_cache_dir", str(Path("~/.cache/orthojax/xla").expanduser())
        )
    try:
        run(_CONFIG.value, workdir)
    except configuration.ConfigurationError as error:
        command_line.exit_with(error)
    except metrics.Diverged as error:
        command_line.exit_with(f"diverged: {error}", code=1)
    except metrics.Interrupted as error:
        command_line.exit_with(
            f"{error}; run the same command to resume.", 128 + error.signal_number
        )
    except KeyboardInterrupt:  # Not during training.
        command_line.exit_with("stopped; run the same command to resume.", 130)


def run(config, workdir):
    """Trains each arm of `config` in its own folder of `workdir`, then draws them together."""
    arms = configuration.arms(config)
    diverged = None
    for name, arm in arms.items():
        try:
            print(f"{name or config.model.name}: {workdir / name}", flush=True)
            train(arm, workdir / name)
        except metrics.Diverged as error:  # The other arms still tell something.
            diverged = metrics.Diverged(f"{name}: {error}" if name else str(error))
    drawn = figures.draw({name: workdir / name / "metrics.jsonl" for name in arms}, workdir)
    print(f"Figures: {', '.join(map(str, drawn))}")
    print(f"Metrics: {', '.join(str(workdir / name / 'metrics.jsonl') for name in arms)}")
    if diverged:
        raise diverged


def train(config, workdir):
    """Trains one model in `workdir`, on from its newest checkpoint; returns the final state.

    Raises:
      ConfigurationError: a value cannot be right, or `workdir` belongs to another run.
      Diverged: a measurement is not finite; the checkpoints are of finite states only.
      Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    workdir = Path(workdir)
    dataset = configuration.load_data(config)
    configuration.check_workdir(workdir, config)

    devices = parallel.PARALLEL[config.parallel]()
    model = training.make_model(config, dataset)
    configuration.check_rules(config, jax.eval_shape(model.init)[0])
    schedule, optimizer = training.make_schedule(config), training.make_optimizer(config)

    train_step = devices.compile_step(
        lambda axis: training.make_train_step(model, optimizer, config.log_every, axis)
    )
    evaluate = training.make_evaluate(model, devices.split)
    measure = training.make_measure(config.constraint.rules)

    def evaluation(state):
        batches = data.eval_batches(dataset.test, config.eval_batch_size)
        return evaluate(state, batches) | measure(state.params)

    init = jax.jit(lambda: training.init_state(model, optimizer), out_shardings=devices.replicated)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.replicated),
        jax.eval_shape(init),
    )
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", config))
        restored = checkpoints.restore(shapes)
        state = init() if restored is None else restored
        step = int(state.step)
        log = stack.enter_context(metrics.Log(workdir, config, step))
        stop = stack.enter_context(stop_signals())

        if step == 0:
            log.write(0, evaluation(state))
        else:
            log.say(f"Resuming from step {step}.")
        state = devices.spread(state)
        waiting = collections.deque()
        while step < config.steps:
            batch = data.batch(
                dataset.train, config.batch_size, config.seed, step, config.data.augment
            )
            state, loss = train_step(state, *devices.put(*batch))
            step += 1
            waiting.append(loss)
            if len(waiting) > devices.run_ahead:
                waiting.popleft().block_until_ready()
            log.advance(step)

            last, stopping = step == config.steps, bool(stop)
            logging = last or step % config.log_every == 0
            saving = last or step % config.checkpoint_every == 0 or stopping
            if logging or saving:
                averages = training.averages(devices.gather(state.metrics))
                log.check(step, averages)  # No checkpoint of a state that is not finite.
            # All rows before the checkpoint: a resumed run does not write them again.
            if logging:
                log.write(step, averages | {"learning_rate": float(schedule(step - 1))})
            if last or step % config.eval_every == 0:
                log.write(step, evaluation(devices.gather(state)))
            if saving:
                checkpoints.save(step, devices.gather(state))
            if stopping:
                break
        checkpoints.wait()
        if stop:
            raise metrics.Interrupted(stop[0], step)
    return devices.gather(state)


@contextlib.contextmanager
def stop_signals():
    """Yields a list to which the first SIGINT or SIGTERM is added; a second one acts as usual."""
    received = []

    def note(number, _):
        received.append(number)
        signal.signal(number, usual[number])

    usual = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, action in usual.items():
            signal.signal(number, action)


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse_flags)
