"""Trains the models of one configuration and draws their figures.

  python experiments/run.py --config=experiments/configs/quickstart.py

Any field of the configuration can be set: --config.optimizer.lr=0.01. --config.arms={} trains one
model instead of the arms that the configuration compares. The same command resumes an interrupted
run where it was last saved, on as many devices as there are now; Ctrl-C and SIGTERM save first. A
run that SIGTERM has stopped, as on preemption, ends with code 75: run me again.

On several hosts, start the same command on each (--distributed); see docs/scaling.md.

Written to --workdir, for each arm in a folder of its own: config.json, metrics.jsonl, status.json,
checkpoints/ and tensorboard/; and beside these folders the figures, which compare the arms.

Compiled programs are kept in $JAX_COMPILATION_CACHE_DIR, by default ~/.cache/orthojax/xla.
"""

import collections
import contextlib
import errno
import os
import re
import signal
import time
from pathlib import Path

# OpenBLAS, with which jax solves on CPUs, otherwise spins for cores that another program holds: on
# two busy cores, 50 small solves a step took seven times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# On few cores jax can wait for ever for itself within one program, e.g. in a QR of a stack of
# kernels for each of several seeds: more threads than cores. Measured with jax 0.10 on two cores.
os.environ.setdefault("PJRT_NPROC", "32")

import jax
import numpy as np
from absl import app, flags
from etils import epath
from ml_collections import config_flags

from experiments import (
    beginning,
    command_line,
    configuration,
    data,
    depth_figures,
    evaluation,
    figures,
    fitting,
    low_rank,
    low_rank_figures,
    metrics,
    optimizers,
    processes,
    results,
    studies,
    training,
)
from experiments.checkpoints import Checkpoints

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file to run.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where all files go; by default runs/<name of the configuration>."
)
_CHECKPOINTS = flags.DEFINE_string(
    "checkpoints", None, "Where checkpoints go, e.g. gs://bucket/run; by default into --workdir."
)
_DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS)


def _of_a_disk(error):
    """What is wrong with a disk or a directory, if `error` says so; else None."""
    if isinstance(error, OSError) and (error.filename or error.errno in _DISK_ERRORS):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    # TensorStore, which writes checkpoints, raises other errors.
    found = re.search(r'local file "(.*?)".*os_error_code=\'(\d+)\'', str(error), re.DOTALL)
    if found and int(found[2]) in _DISK_ERRORS:
        return f"{found[1]}: {os.strerror(int(found[2]))}"
    return None


def main(_):
    config_name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]).stem
    workdir = Path(_WORKDIR.value or f"runs/{config_name}")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update(
            "jax_compilation_cache_dir", str(Path("~/.cache/orthojax/xla").expanduser())
        )
    try:
        processes.initialize()
        with processes.alone_in(workdir):
            run(_CONFIG.value, workdir, _CHECKPOINTS.value)
    except configuration.ConfigurationError as error:
        command_line.exit_with(error)
    except metrics.Diverged as error:
        command_line.exit_with(f"diverged: {error}", code=1)
    except metrics.Interrupted as error:
        code = 130 if error.signal_number == signal.SIGINT else processes.RUN_ME_AGAIN
        command_line.exit_with(f"{error}; run the same command to resume.", code)
    except KeyboardInterrupt:  # Not during training.
        command_line.exit_with("stopped; run the same command to resume.", 130)
    except Exception as error:
        reason = _of_a_disk(error)
        if reason is None:
            raise
        command_line.exit_with(
            f"{reason}; what was saved is intact: when that is mended, run the same command to "
            "resume.",
            code=1,
        )


def run(config, workdir, checkpoints=None):
    """Trains each arm of `config`, with each of its seeds, in a folder of its own in `workdir`;
    then draws them together and writes the table of results. Or runs the study of `config`.

    `checkpoints` is a directory, or gs://bucket/..., for all checkpoints, in folders like those in
    `workdir`; by default they lie there.
    """
    if "study" in config:
        studies.run(config, workdir)
        return
    arms = configuration.arms(config)
    seeds = configuration.seeds(config)
    fork_at = config.get("fork_at", 0)
    folders, diverged = {name: [] for name in arms}, None
    together = config.get("vmap_seeds", False)

    def kept(folder):
        """Where the checkpoints of the run in `folder` lie."""
        root = epath.Path(checkpoints or workdir)
        return root / folder.relative_to(workdir) / "checkpoints"

    for seed in () if together else seeds:
        trunk = None
        if fork_at:
            common = configuration.with_seed(configuration.trunk(config), seed)
            folder = _folder(workdir, "trunk", seed)
            trunk = beginning.Trunk(folder, kept(folder), common, fork_at)
            print(f"trunk: {folder}", flush=True)
            train(common, folder, until=fork_at, checkpoints_in=kept(folder))
        for name, arm in arms.items():
            folder = _folder(workdir, name, seed)
            folders[name].append(folder)
            try:
                print(f"{name or config.model.name}: {folder}", flush=True)
                own = configuration.with_seed(arm, seed)
                train(own, folder, trunk=trunk, checkpoints_in=kept(folder))
            except metrics.Diverged as error:  # The other arms still tell something.
                diverged = metrics.Diverged(f"{name}: {error}" if name else str(error))
    for name, arm in arms.items() if together else ():
        folders[name] = [_folder(workdir, name, seed) for seed in seeds]
        try:
            print(f"{name or config.model.name}: {workdir / name}", flush=True)
            folder = workdir / name
            train(arm, folder, seeds=seeds, checkpoints_in=kept(folder))
        except metrics.Diverged as error:
            diverged = metrics.Diverged(f"{name}: {error}" if name else str(error))
    if processes.is_first():
        _report(config, folders, workdir)
    if diverged:
        raise diverged


def _report(config, folders, workdir):
    runs = {name: [folder / "metrics.jsonl" for folder in own] for name, own in folders.items()}
    against = config.get("against", "")
    rows = results.write(folders, workdir, against)
    drawn = figures.draw(runs, workdir) + low_rank_figures.frontier(rows, workdir)
    drawn += depth_figures.against(rows, against, workdir)
    print(results.table(rows))
    print(f"Figures: {', '.join(map(str, drawn))}")
    print(f"Results: {workdir / 'results.csv'}; metrics.jsonl in each of its folders.")


def _folder(workdir, name, seed):
    return workdir / name / (f"seed_{seed}" if seed is not None else "")


def train(config, workdir, until=None, trunk=None, seeds=(), checkpoints_in=None):
    """Trains one model in `workdir`, on from its newest checkpoint; returns the final state.

    Args:
      config: without arms.
      workdir: for all files.
      until: the step at which to stop, for others to go on from; None: after all steps.
      trunk: the `beginning.Trunk` to begin from, unless this run differs from it before its end.
      seeds: if there are any, as many models are trained together, by `jax.vmap`, each with its
        files in a folder seed_<seed>; the state then has a leading axis of models.
      checkpoints_in: a directory for them; by default "checkpoints" in `workdir`.

    Raises:
      ConfigurationError: a value cannot be right, or `workdir` belongs to another run.
      Diverged: a measurement is not finite; the checkpoints are of finite states only, but with
        `seeds` they may hold models that have diverged beside those that go on.
      Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    workdir = Path(workdir)
    dataset = fitting.load_data(config)
    fingerprint = dataset.fingerprint()
    configs = [configuration.with_seed(config, seed) for seed in seeds] or [config]
    folders = [_folder(workdir, "", seed) for seed in seeds] or [workdir]
    for folder, own in zip(folders, configs, strict=True):
        configuration.check_workdir(folder, own)

    model = fitting.make_model(config, dataset)
    params = jax.eval_shape(model.init)[0]
    devices = fitting.make_devices(config, params, seeds)
    fitting.check_rules(config, params)
    fitting.check_profile(config, params)
    method = fitting.make_method(config, model, dataset)
    # The latent face is part of the optimizer.
    change_bases = method is not None and low_rank.face(config) == "factored"
    schedule = optimizers.make_schedule(config, method)
    optimizer = devices.divide(optimizers.make_optimizer(config, method))

    train_step = devices.compile_step(
        lambda axis: evaluation.over_seeds(
            training.make_train_step(config, model, optimizer, axis), seeds
        )
    )
    evaluate = evaluation.make_evaluate(model, devices, seeds)
    measure = evaluation.make_measure(config.constraint.rules, seeds, devices.replicated)
    population = profile = None
    if config.get("population", 0):
        inputs, _ = dataset.train.take(np.arange(min(config.population, len(dataset.train))))
        population = evaluation.make_population(model, inputs, seeds)
    if "profile" in config:
        batch = dataset.train.take(np.arange(config.batch_size))
        profile = evaluation.make_profile(
            model, config.profile.kernels, *batch, seeds, devices.replicated
        )
    measure_stability = low_rank.make_measure_stability(config, devices.replicated)
    basis_gradients = training.make_basis_gradients(model)

    def evaluated(state):
        measured = {}
        for name, split in (("validation", dataset.validation), ("test", dataset.test)):
            if split is not None:
                found = evaluate(state, split, config.eval_batch_size)
                measured |= {f"{name}_{k}": x for k, x in found.items()}
        if population is not None:
            found = evaluate(population(state), dataset.test, config.eval_batch_size)
            measured |= {f"population_{k}": x for k, x in found.items()}
        return measured | measure(state)

    rows = devices.rows(config.batch_size)

    batches = [
        data.Batches(
            dataset, own.batch_size, own.seed, own.data.augment, rows, own.data.get("mixup", 0.0)
        )
        for own in configs
    ]

    def batch_of(step):
        found = [batch(step) for batch in batches]
        return tuple(map(np.stack, zip(*found, strict=True))) if seeds else found[0]

    def changed(step, state):
        """The state after the change of bases after `step` steps, on each device."""
        with clock.changing(step):
            before = devices.whole(devices.gather(state))
            grads = None
            if method.grow and before.bases:
                batch = devices.put_rows(config.batch_size, *batch_of(step))
                grads = devices.whole(basis_gradients(before, *batch))
            after = low_rank.change(config, method, optimizer, step, before, grads)
            after = jax.block_until_ready(devices.put_state(after))
        log.write(step, low_rank.report(config, after))
        return devices.spread(after), low_rank.layout(after) != low_rank.layout(before)

    last_step = config.steps if until is None else until
    with contextlib.ExitStack() as stack:
        for each in batches:
            stack.callback(each.close)
        checkpoints = stack.enter_context(
            Checkpoints(checkpoints_in or workdir / "checkpoints", config, fingerprint)
        )
        start = beginning.Beginning(config, devices, model, method, optimizer, fingerprint, seeds)
        state, behind = start.state(checkpoints, trunk)
        step = int(state.step.max())
        log = stack.enter_context(
            metrics.Logs(folders, configs, step)
            if seeds
            else metrics.Log(workdir, config, step, behind)
        )
        clock = metrics.Clock(folders, behind)
        stop = stack.enter_context(processes.Stop())

        if step and behind is None:
            log.say(f"Resuming from step {step}.")
        program = None
        state = devices.spread(state)
        if change_bases and not state.bases and method.is_due(step):
            state, _ = changed(step, state)
        if step == 0:
            log.write(0, evaluated(devices.gather(state)))
            if profile is not None:
                log.write(0, {"profile": profile(devices.gather(state))})
        waiting = collections.deque()
        while step < last_step and not log.out_of_patience():
            with clock.running(0):
                arguments = state, *devices.put(config.batch_size, *batch_of(step))
            if program is None:
                began = time.perf_counter()
                program = train_step.lower(*arguments).compile()
                clock.compiled(step, time.perf_counter() - began, program)
            with clock.running(1):
                state, loss = (program if devices.takes_compiled else train_step)(*arguments)
                del arguments  # Consumed.
                waiting.append(loss)
                if len(waiting) > devices.run_ahead:
                    waiting.popleft().block_until_ready()
            step += 1
            log.advance(step)

            last, stopping = step == last_step, stop.is_due(step)
            changing = change_bases and method.is_due(step)
            stability = low_rank.stability_every(config)
            measuring = stability and step % stability == 0
            logging = last or step % config.log_every == 0
            evaluating = last or step % config.eval_every == 0
            saving = last or step % config.checkpoint_every == 0 or stopping
            if changing or logging or evaluating or saving or measuring:
                with clock.running(0):
                    loss.block_until_ready()
            if logging or saving or changing:
                averages = training.averages(devices.gather(state.metrics))
                log.check(step, averages)  # No checkpoint or SVD of a state that is not finite.
            # All rows before the checkpoint: a resumed run does not write them again.
            if logging:
                log.write(step, averages | {"learning_rate": float(schedule(step - 1))})
            if measuring:
                measured, values = measure_stability(devices.gather(state))
                log.write(step, values)
                state = devices.spread(measured)
            if changing:
                state, other_shapes = changed(step, state)
                program = None if other_shapes else program
            if evaluating:
                log.write(step, evaluated(devices.gather(state)))
            if profile is not None and (last or step % config.profile.every == 0):
                log.write(step, {"profile": profile(devices.gather(state))})
            if saving or log.out_of_patience():
                gathered = devices.gather(state)
                checkpoints.save(step, gathered, low_rank.layout(gathered))
            if stopping:
                break
        clock.end_phase()
        checkpoints.wait()
        if stop.number is not None:
            raise metrics.Interrupted(stop.number, step)
        if step < last_step:
            log.end(f"stopped early at step {step}")
        if best := log.best():
            log.say(f"best validation: {log.summary(best['step'], best)}")
    processes.wait_for_all("the files of a run")
    if seeds and log.diverged:
        raise log.diverged[0]
    return devices.gather(state)


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse_flags)
