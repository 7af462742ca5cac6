"""A3C: one worker is A2C; several share all that learns, and live and die as one."""

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK, ROOT, same
from test_runs import checkpoint_step

import a2c_continuous as a2c
import a3c_continuous as a3c

RUN = pytest.mark.parametrize("script", [a3c.__name__], indirect=True)
REAL = {"env_id": "InvertedPendulum-v4"}


# ---- One worker ----
def checkpoint_after(script, updates, num_envs, **settings):
    """Train for that many updates in the present folder and return the checkpoint."""
    settings = QUICK | REAL | {"num_envs": num_envs, "num_steps": 5} | settings
    settings |= {"total_timesteps": 5 * num_envs * updates, "learning_rate": 2e-3}
    args = script.Args(**settings)
    script.train(args)
    return torch.load(Path("runs", args.run_name, "checkpoint.pt"), weights_only=True)


def check_one_worker_is_a2c(script):
    """Weights, statistics and RMSprop's averages; across evaluations and ends of segments."""
    for updates, num_envs in (1, 1), (30, 1), (10, 3):
        theirs = checkpoint_after(a2c, updates, num_envs)
        ours = checkpoint_after(script, updates, num_envs, num_workers=1)
        assert same(ours["nets"], theirs["nets"])
        averages = [checkpoint["optimizer"]["state"] for checkpoint in (ours, theirs)]
        assert averages[0].keys() == averages[1].keys()
        assert all(same(averages[0][i], averages[1][i]) for i in averages[0])


def test_one_worker_is_a2c_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_one_worker_is_a2c(a3c)


MUTANTS = {
    "gradient assigned once": (
        "                param.grad = copy.grad\n",
        "                if param.grad is None: param.grad = copy.grad\n",
    ),
    "gradients pile up": ("            nets.zero_grad()\n", ""),
    "acts with the first weights": ("nets.load_state_dict(shared.nets.state_dict())", "pass"),
    "saves the weights before the update": (
        "nets.load_state_dict(shared.nets.state_dict())  # what is evaluated and saved",
        "",
    ),
    "statistics of the copy": ("shared.nets.actor.obs_norm", "nets.actor.obs_norm"),
    "scale of the copy": ("shared.nets.return_normalizer.up", "nets.return_normalizer.up"),
    "scale before this rollout": (
        "nets.return_normalizer.load_state_dict(shared.nets.return_normalizer.state_dict())",
        "pass",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_copy_is_caught(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, (old, new) = (ROOT / "a3c_continuous.py").read_text(), MUTANTS[name]
    assert old in source, f"the mutant does not fit: {old}"
    mutant = types.ModuleType("mutant")
    mutant.__file__ = a3c.__file__
    exec(compile(source.replace(old, new), a3c.__file__, "exec"), mutant.__dict__)
    with pytest.raises(AssertionError):
        check_one_worker_is_a2c(mutant)


# ---- Several ----
@pytest.mark.parametrize("resumed", [False, True])
def test_all_that_workers_share_is_in_shared_memory(resumed):
    """The averages before there was an update, too, and those of a checkpoint."""
    nets = a3c.Networks(3, 2, -np.ones(2), np.ones(2))
    optimizer = torch.optim.RMSprop(nets.parameters())
    if resumed:
        sum(parameter.sum() for parameter in nets.parameters()).backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    shared = a3c.Shared(nets, optimizer, torch.zeros(2, dtype=torch.int64))
    a3c.share_memory(shared)
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


def test_workers_draw_other_numbers(monkeypatch):
    """Each from a seed of its own, and others after a resumption."""
    seeds = []

    def recorded(number, run, nets, obs, shared, others):
        seeds.append((run.args.seed, run.envs.envs[0].unwrapped.np_random_seed))
        run.close()

    monkeypatch.setattr(a3c, "work", recorded)
    nets = a3c.Networks(4, 1, -3 * np.ones(1), 3 * np.ones(1))
    for number, step in (1, 0), (2, 0), (1, 100):
        args = a3c.Args(**REAL, seed=1)
        a3c.other_worker(number, args, a3c.Shared(nets, None, torch.tensor([step, 0])))
    assert len(set(seeds)) == 3
    assert seeds[0][0] == seeds[2][0] != seeds[1][0]
    assert 1 not in {seed for seed, _ in seeds}


@pytest.mark.parametrize("orphan", [False, True])
def test_worker_ends_with_the_run_and_in_time_with_its_parent(monkeypatch, orphan):
    """One that starts late finds the run over; one whose parent died stops after a rollout."""
    iterations = []
    parent = types.SimpleNamespace(is_alive=lambda: iterations.append(1) or not orphan)
    monkeypatch.setattr(a3c.multiprocessing, "parent_process", lambda: parent)
    nets = a3c.Networks(4, 1, -3 * np.ones(1), 3 * np.ones(1))
    optimizer = torch.optim.RMSprop(nets.parameters())
    args = a3c.Args(**REAL, total_timesteps=100)
    if orphan:
        shared = a3c.Shared(nets, optimizer, torch.tensor([0, 0]))
        with pytest.raises(SystemExit):
            a3c.other_worker(1, args, shared)
        assert shared.steps.tolist() == [0, args.num_steps]
    else:
        a3c.other_worker(1, args, a3c.Shared(nets, optimizer, torch.tensor([100, 0])))
    assert len(iterations) == orphan


@RUN
def test_worker_that_dies_ends_the_run_and_the_checkpoint_stays(
    quick, monkeypatch, capsys, tmp_path
):
    processes, start_others, step = [], a3c.start_others, a3c.Run.step

    def recorded(run, shared):
        processes.extend(start_others(run, shared))
        return processes

    def fatal(run, actions):
        if run.global_step == 150:
            processes[0].kill()
            processes[0].join()
        return step(run, actions)

    monkeypatch.setattr(a3c, "start_others", recorded)
    monkeypatch.setattr(a3c.Run, "step", fatal)
    with pytest.raises(SystemExit, match="^1$"):
        quick(num_workers=2, num_envs=1, run_name="x", **REAL)
    error = capsys.readouterr().err
    assert error == "error: a worker died: --resume goes on from the last checkpoint\n"
    assert checkpoint_step(tmp_path / "runs" / "x") == 100


def running(pid):
    """Tell whether a process runs: neither gone nor dead and not yet waited for."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def catches(pid, signum):
    """Tell whether a process has a handler for a signal."""
    status = Path("/proc", str(pid), "status").read_text()
    return bool(int(status.split("SigCgt:")[1].split()[0], 16) >> (signum - 1) & 1)


def workers_of(process, number):
    """Return the ids of its workers, once all are started and the process heeds signals again."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while True:
        time.sleep(0.05)
        assert running(process.pid), "the run is over"
        pids = [int(pid) for pid in children.read_text().split()]
        pids = [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        if len(pids) == number and catches(process.pid, signal.SIGTERM):
            return pids


def wait_until_gone(pid):
    for _ in range(1200):
        if not running(pid):
            return
        time.sleep(0.05)
    raise TimeoutError(pid)


NEEDS_PROC = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="processes are found by /proc"
)


@NEEDS_PROC
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_script_with_a_signal_to_all_of_its_processes(tmp_path, signum, code):
    """As Slurm and a terminal send it: the run saves, and its workers end without a word."""
    words = ["--env-id", "InvertedPendulum-v4", "--run-name", "x", "--eval-interval", "0"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "a3c_continuous.py", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = workers_of(process, 1)
    os.killpg(process.pid, signum)
    output, error = process.communicate()
    assert process.returncode == code
    assert "to go on, add --resume --run-name x" in output
    assert error == ""
    assert not any(running(pid) for pid in workers)
    assert checkpoint_step(tmp_path / "runs" / "x") > 0


@NEEDS_PROC
@RUN
def test_kill_9_leaves_no_worker_behind_and_the_run_goes_on(start, tmp_path):
    settings = {"num_workers": 2, "run_name": "x", "resume": True, "checkpoint_interval": 100}
    process = start(**settings, total_timesteps=10**6)
    (worker,) = workers_of(process, 1)
    while not (tmp_path / "runs" / "x" / "checkpoint.pt").exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    wait_until_gone(worker)
    step = checkpoint_step(tmp_path / "runs" / "x") + 100
    process = start(**settings, total_timesteps=step)
    process.join()
    assert process.exitcode == 0
    assert json.loads((tmp_path / "runs" / "x" / "result.json").read_text())["step"] >= step


@RUN
def test_what_workers_cannot_have_is_refused(quick, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        quick(async_envs=True)
    assert "--async-envs" in capsys.readouterr().err
