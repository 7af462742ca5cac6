"""benchmarks/speed.py measures a contestant's own work; bad input costs a line."""

import os
import re
import threading
import time

import gymnasium as gym
import numpy as np
import pytest
import speed
import stable_baselines3
from conftest import PROCESSES, ROOT
from test_runs import refused
from torch.utils.tensorboard import SummaryWriter

LINUX = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot choose a core")


@pytest.fixture(autouse=True)
def quick_start(monkeypatch):
    """Contestants are forked from a process that has done the imports."""
    monkeypatch.setattr(speed.multiprocessing, "get_context", lambda kind: PROCESSES)


def work(start, busy, idle):
    """Step Pendulum, each time after `busy` seconds of computing and `idle` of sleep."""

    def compute(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    env = gym.make("Pendulum-v1").unwrapped
    env.reset(seed=1)
    compute(start)
    while True:
        compute(busy)
        time.sleep(idle)
        env.step(np.zeros(1))


def give_up():
    raise ValueError("no such algorithm")


@LINUX
def test_time_of_a_step_is_the_processors_own():
    """Neither start-up counts, nor sleep, nor what the others on the core do."""
    workers = {"one": (work, 0.5, 0.002, 0), "three": (work, 0, 0.006, 0)}
    workers["sleepy"] = work, 0, 0.002, 0.01
    times = speed.compare(workers, "Pendulum-v1", first=10, block=25, repeats=3)
    assert times.shape == (3, 3)
    one, three, sleepy = np.median(times, axis=1)
    assert 0.002 <= one < 0.004
    assert three / one == pytest.approx(3, rel=0.25)
    assert sleepy / one == pytest.approx(1, rel=0.25)


@LINUX
def test_contestant_that_fails_ends_all_and_is_named(capsys):
    workers = {"worker": (work, 0, 0.001, 0), "loser": (give_up,)}
    how = {"env_id": "Pendulum-v1", "first": 10, "block": 25, "repeats": 2}
    error = refused(capsys, speed.compare, 1, contestants=workers, **how)
    assert error == "error: loser failed: ValueError: no such algorithm\n"


def break_off():
    raise threading.BrokenBarrierError


@LINUX
def test_measurement_that_breaks_off_is_no_table(capsys):
    """As when one waits for another longer than an hour: each could be another's fault."""
    with pytest.raises(SystemExit, match="^1$"):
        speed.compare({"one": (break_off,)}, "Pendulum-v1", first=10, block=25, repeats=2)
    assert "take fewer --steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"script": "dqn_continuous"}, "there is no script dqn_continuous"),
        ({"script": "plot"}, "there is no script plot"),
        ({"steps": 0}, "--steps"),
        ({"repeats": 1}, "--repeats"),
        ({"cleanrl": ROOT / "nowhere"}, "nowhere has no folder cleanrl"),
        ({"env_id": "Nowhere-v0"}, "cannot make Nowhere-v0"),
    ],
)
def test_bad_input_costs_one_line(options, message, capsys, monkeypatch):
    monkeypatch.setattr(gym.logger, "min_level", gym.logger.min_level)
    with pytest.raises(SystemExit, match="^2$"):
        speed.main(speed.Args(**options))
    out, err = capsys.readouterr()
    assert re.fullmatch(f"error: .*{re.escape(message)}.*\n", err)
    assert out == ""


@LINUX
@pytest.mark.parametrize("missing", [set(), {"SBX", "CleanRL"}])
def test_table_has_every_contestant_that_there_is(missing, monkeypatch, capsys, tmp_path):
    """And says how to get the others. The ratio is how many times as fast the script is."""
    (tmp_path / "cleanrl").mkdir()

    def compare(contestants, *_):
        return np.array([[1e-3] * 4] + [[2e-3] * 4] * (len(contestants) - 1))

    monkeypatch.setattr(speed, "compare", compare)
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: not missing)
    cleanrl = None if missing else tmp_path
    speed.main(speed.Args("td3_continuous", "Pendulum-v1", compile=True, cleanrl=cleanrl))
    out, names = capsys.readouterr().out, ["eager", "SB3", "SBX", "CleanRL"]
    rows = [(name, "2000", "2.00") for name in names if name not in missing]
    found = re.findall(r"^\| (\w+) \| (\d+) \| (\d+\.\d\d) \|", out, re.MULTILINE)
    assert found == [("script", "1000", "1.00"), *rows]
    assert set(re.findall(r"^(\w+) is missing: ", out, re.MULTILINE)) == missing


@pytest.mark.parametrize("name", [*speed.IN_ALL, "a2c_continuous"])
def test_library_does_the_scripts_work(name, monkeypatch):
    algorithm = getattr(stable_baselines3, name.split("_")[0].upper())
    models = []
    monkeypatch.setattr(algorithm, "learn", lambda self, *_, **__: models.append(self))
    speed.run_library("stable_baselines3", name, "Pendulum-v1")
    (model,), args = models, speed.settings(name, "Pendulum-v1")
    assert (model.learning_rate, model.gamma) == (args.learning_rate, args.gamma)
    if name in ("ppo_continuous", "a2c_continuous"):
        assert (model.n_steps, model.n_envs) == (args.num_steps, args.num_envs)
        assert getattr(model, "clip_range_vf", None) is None
    else:
        assert (model.batch_size, model.tau) == (args.batch_size, args.tau)


def test_script_is_measured_with_its_own_settings(script):
    """But for a run's start and end; and DDPG delays nothing, since SB3's has no setting for it."""
    args = vars(speed.settings(script.__name__, "Pendulum-v1"))
    changed = {name for name, value in vars(script.Args()).items() if args[name] != value}
    ends = {"env_id", "total_timesteps", "checkpoint_interval", "eval_interval", "eval_episodes"}
    own = {"policy_frequency"} if script.__name__ == "ddpg_continuous" else set()
    assert changed <= ends | own | {"cuda", "learning_starts"}
    assert own <= changed


FAKE_A3C = """
import shutil, sys

name, workers = (sys.argv[sys.argv.index(flag) + 1] for flag in ("--run-name", "--num-workers"))
shutil.copytree(f"{sys.path[0]}/log-{workers}", f"runs/{name}")
"""


def test_a3c_speed_is_the_sum_over_runs_that_have_long_started(tmp_path, monkeypatch):
    (tmp_path / "a3c_continuous.py").write_text(FAKE_A3C)
    writer = SummaryWriter(tmp_path / "log-3")
    for step, value in enumerate([1, 1, 30, 30]):
        writer.add_scalar("charts/SPS", value, step)
    writer.close()
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    assert speed.a3c_speed(speed.Args(), runs=2, workers=3) == 60
