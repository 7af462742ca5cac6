"""A3C: its workers share all that learns, and live and die as one; test_train.py has its loop."""

import json
import os
import signal
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import only
from test_runs import checkpoint_step, refused

import a3c_continuous as a3c

RUN = only([a3c.__name__])
REAL = {"env_id": "InvertedPendulum-v4"}


@pytest.fixture(autouse=True)
def handlers():
    """Give back the signals that a worker which is no process ignores."""
    signals = [(signum, signal.getsignal(signum)) for signum in (signal.SIGINT, signal.SIGTERM)]
    yield
    for signum, handler in signals:
        signal.signal(signum, handler)


@pytest.mark.parametrize("resumed", [False, True])
def test_all_that_workers_share_is_in_shared_memory(resumed):
    """The averages before there was an update, too, and those of a checkpoint."""
    nets = a3c.Networks(3, 2, -np.ones(2), np.ones(2), a3c.Args())
    optimizer = torch.optim.RMSprop(nets.parameters())
    if resumed:
        sum(parameter.sum() for parameter in nets.parameters()).backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    shared = a3c.share(nets, optimizer, num_workers=2)
    averages = [value for state in optimizer.state.values() for value in state.values()]
    assert len(averages) == 2 * len(list(nets.parameters()))
    assert all(x.is_shared() for x in [*nets.state_dict().values(), *averages, shared.steps])
    assert any(value.any() for value in averages) == resumed
    parameters = [parameter.clone() for parameter in nets.parameters()]
    sum(parameter.sum() for parameter in nets.parameters()).backward()
    optimizer.step()
    assert all(value.is_shared() for state in optimizer.state.values() for value in state.values())
    changed = zip(parameters, nets.parameters(), strict=True)
    assert all(not torch.equal(before, after) for before, after in changed)


@RUN
def test_nothing_is_computed_with_the_shared_networks(quick, monkeypatch):
    """Others may change them at any moment: a worker acts, estimates and learns with its copy."""
    used, real = set(), a3c.start_others
    act, value = a3c.Actor.distribution, a3c.Critic.forward
    monkeypatch.setattr(a3c.Actor, "distribution", lambda net, x: used.add(net) or act(net, x))
    monkeypatch.setattr(a3c.Critic, "forward", lambda net, x: used.add(net) or value(net, x))
    shared = []
    monkeypatch.setattr(a3c, "start_others", lambda run, s: shared.append(s.nets) or real(run, s))
    quick(num_workers=1)
    (nets,) = shared
    assert len(used) == 2
    assert not used & {nets.actor, nets.critic}


@RUN
def test_second_worker_updates_what_is_shared(quick, monkeypatch):
    """Weights, averages and statistics, here to the end of the run; the first adds one update."""
    seen, start_others = types.SimpleNamespace(), a3c.start_others

    def recorded(run, shared):
        nets = shared.nets.state_dict()
        before = {name: value.clone() for name, value in nets.items()}
        (seen.process,) = start_others(run, shared)
        seen.process.join()
        seen.unchanged = {name for name in before if torch.equal(before[name], nets[name])}
        seen.averages = list(shared.optimizer.state.values())
        assert all(state["step"] == 10 and state["square_avg"].any() for state in seen.averages)
        seen.steps, seen.count = shared.steps, nets["return_normalizer.count"].item()
        return [seen.process]

    monkeypatch.setattr(a3c, "start_others", recorded)
    _, result = quick(num_workers=2, total_timesteps=200, **REAL)
    assert seen.process.exitcode == 0
    assert seen.unchanged == {"actor.action_scale", "actor.action_bias"}
    assert seen.count == pytest.approx(200, rel=1e-5)
    assert seen.steps.tolist() == [20, 200]
    assert result["step"] == 220
    assert all(state["step"] == 11 for state in seen.averages)


def shared_networks(steps):
    """Return what two workers of InvertedPendulum share when the first has taken some steps."""
    nets = a3c.Networks(4, 1, -3 * np.ones(1), 3 * np.ones(1), a3c.Args())
    shared = a3c.share(nets, torch.optim.RMSprop(nets.parameters()), num_workers=2)
    shared.steps[0] = steps
    return shared


def test_workers_draw_other_numbers(monkeypatch):
    """Each from a seed of its own, and others after a resumption."""
    started, seeds, begin_segment = [], [], a3c.Run.begin_segment

    class Process(types.SimpleNamespace):
        start = join = kill = lambda self: None

    context = types.SimpleNamespace(Process=lambda **how: started.append(how) or Process())
    monkeypatch.setattr(a3c.multiprocessing, "get_context", lambda _: context)
    args = a3c.Args(**REAL, num_workers=3, total_timesteps=100)
    run = types.SimpleNamespace(args=args, callback=lambda function: None)
    for args.seed in 2, 1:
        a3c.start_others(run, None)
    *others, first, second = (how["args"][:2] for how in started)
    assert not {mine.seed for mine, _ in others} & {first[0].seed, second[0].seed}

    def recorded(run):
        obs = begin_segment(run)
        seeds.append((run.args.seed, run.envs.envs[0].unwrapped.np_random_seed))
        return obs

    monkeypatch.setattr(a3c.Run, "begin_segment", recorded)
    for args_and_number, steps in (first, 100), (second, 100), (first, 200):  # the run is over
        a3c.train(*args_and_number, shared_networks(steps))
    assert len(set(seeds)) == 3
    assert seeds[0][0] == seeds[2][0] != seeds[1][0]
    assert args.seed not in {seed for seed, _ in seeds}


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_what_is_not_finite_does_not_reach_what_is_shared(monkeypatch, tmp_path, capsys, what):
    """In a further worker, whose steps the first does not see."""
    monkeypatch.chdir(tmp_path)  # MuJoCo may write a warning
    shared, real = shared_networks(0), a3c.make_envs

    class Broken(a3c.gym.Wrapper):
        def step(self, action):
            obs, reward, *rest = self.env.step(action)
            return obs + (np.nan if what == "observation" else 0), reward * np.nan, *rest

    monkeypatch.setattr(a3c, "make_envs", lambda *how: real(*how, wrappers=[Broken]))
    with pytest.raises(SystemExit, match="1"):
        a3c.train(a3c.Args(**REAL, num_workers=2), 1, shared)
    assert f"{what} is not finite" in capsys.readouterr().err
    averages = [value for state in shared.optimizer.state.values() for value in state.values()]
    assert all(x.isfinite().all() for x in [*shared.nets.state_dict().values(), *averages])


@pytest.mark.parametrize(("orphan", "steps"), [(False, [100, 0]), (True, [0, 64])])
def test_worker_ends_with_the_run_and_in_time_with_its_parent(monkeypatch, orphan, steps):
    """One that starts late finds the run over; one whose parent died stops after a rollout."""
    parent = types.SimpleNamespace(is_alive=lambda: False)
    monkeypatch.setattr(a3c.multiprocessing, "parent_process", lambda: parent)
    shared = shared_networks(0 if orphan else 100)
    assert a3c.train(a3c.Args(**REAL, total_timesteps=100), 1, shared) is None
    assert shared.steps.tolist() == steps


def test_worker_begins_where_the_run_is(monkeypatch):
    """Its first step is the shared networks', its learning rate that of the run's steps."""
    parent = types.SimpleNamespace(is_alive=lambda: True)
    monkeypatch.setattr(a3c.multiprocessing, "parent_process", lambda: parent)
    weights, distribution = [], a3c.Actor.distribution

    def recorded(actor, x):
        weights.append(torch.nn.utils.parameters_to_vector(actor.parameters()))
        return distribution(actor, x)

    monkeypatch.setattr(a3c.Actor, "distribution", recorded)
    shared = shared_networks(0)
    first = torch.nn.utils.parameters_to_vector(shared.nets.actor.parameters())
    a3c.train(a3c.Args(**REAL, total_timesteps=100), 1, shared)
    assert torch.equal(weights[0], first)
    assert shared.steps.tolist() == [0, 128]
    assert shared.optimizer.param_groups[0]["lr"] == pytest.approx(0.36 * a3c.Args.learning_rate)


@pytest.fixture
def processes(monkeypatch):
    """Collect the processes of a run's other workers."""
    started, start_others = [], a3c.start_others

    def recorded(run, shared):
        started.extend(start_others(run, shared))
        return started

    monkeypatch.setattr(a3c, "start_others", recorded)
    return started


def do_at_150(monkeypatch, function):
    """Have something happen in the first worker once there were 150 steps."""
    step, done = a3c.Run.step, []

    def recorded(run, actions):
        if run.global_step >= 150 and not done:
            done.append(function())
        return step(run, actions)

    monkeypatch.setattr(a3c.Run, "step", recorded)


@RUN
def test_worker_that_dies_ends_the_run_and_the_checkpoint_stays(
    quick, processes, monkeypatch, capsys, tmp_path
):
    do_at_150(monkeypatch, lambda: processes[0].kill() or processes[0].join())
    error = refused(capsys, quick, 1, num_workers=3, num_envs=1, run_name="x", **REAL)
    assert error == "error: a worker died: --resume goes on from the last checkpoint\n"
    assert checkpoint_step(tmp_path / "runs" / "x") == 100
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 2


@RUN
def test_run_that_gets_a_signal_saves_and_ends_its_workers(quick, processes, monkeypatch, tmp_path):
    do_at_150(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit, match="^75$"):
        quick(num_workers=2, num_envs=1, run_name="x", **REAL)
    assert checkpoint_step(tmp_path / "runs" / "x") > 150
    assert [process.exitcode for process in processes] == [-signal.SIGKILL]


@RUN
def test_signal_while_workers_are_started_is_no_death_of_theirs(
    quick, monkeypatch, capsys, tmp_path
):
    """A terminal's or Slurm's, which goes to all: they may not ignore it yet."""
    real = a3c.start_others

    def struck(run, shared):
        others = real(run, shared)
        signal.raise_signal(signal.SIGTERM)
        others[0].terminate()
        others[0].join()
        return others

    monkeypatch.setattr(a3c, "start_others", struck)
    with pytest.raises(SystemExit, match="^75$"):
        quick(num_workers=2, run_name="x", **REAL)
    assert checkpoint_step(tmp_path / "runs" / "x") > 0
    assert capsys.readouterr().err == ""


@RUN
def test_training_with_workers_in_a_thread(quick):
    results = []
    thread = threading.Thread(target=lambda: results.append(quick(num_workers=2, **REAL)))
    thread.start()
    thread.join()
    assert results[0][1]["step"] >= 300


def running(pid):
    """Tell whether a process runs: neither gone nor dead and not yet waited for."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ignores(pid, signum):
    status = Path("/proc", str(pid), "status").read_text()
    return bool(int(status.split("SigIgn:")[1].split()[0], 16) >> (signum - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found by /proc")
@RUN
def test_kill_9_leaves_no_worker_behind(start, tmp_path):
    """And a signal that a terminal or Slurm sends to all is for the run alone."""
    process = start(num_workers=2, run_name="x", total_timesteps=10**6)
    while not (tmp_path / "runs" / "x" / "model.pt").exists():
        assert process.is_alive()
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (worker,) = (p for p in children if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes())
    while not (ignores(worker, signal.SIGTERM) and ignores(worker, signal.SIGINT)):
        time.sleep(0.05)
    assert not ignores(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGKILL)
    while running(worker):
        time.sleep(0.05)


@RUN
def test_gpu_is_left_alone(quick, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    run_dir, _ = quick(cuda=True)
    assert json.loads((run_dir / "args.json").read_text())["device"] == "cpu"
