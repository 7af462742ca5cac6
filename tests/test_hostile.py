"""What an environment, a disk, a terminal or a scheduler can do to a run, and does not."""

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import DDPG, OFF_POLICY, OWN, QUICK, ROOT, Count, only, same, scalars, weights
from stable_baselines3.common.monitor import Monitor
from test_runs import Death, contents, die, refused

import evaluate


class Talkative(Count):
    """Its infos change their kinds and lengths; it succeeds in each episode of 7 steps."""

    def info(self):
        contacts = np.zeros(self.time % 3 + 1)
        kinds = "text", None, {"a": {"b": contacts}}, 1.0, [contacts], object()
        return {"contacts": contacts, "nested": {"x": contacts}, "any": kinds[self.time % 6]}

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], self.info()

    def step(self, action):
        *transition, _ = super().step(action)
        return *transition, self.info() | {"is_success": np.array([self.time == 7])}


class Meddling(Count):
    """Changes the action that it gets, and looks for a goal in any options."""

    def reset(self, *, seed=None, options=None):
        assert options is None or options["goal"]
        return super().reset(seed=seed)

    def step(self, action):
        stepped = super().step(action)
        action *= 0.5
        return stepped


class Wanderer(Count):
    """Changes the working folder, and can't be closed."""

    def reset(self, *, seed=None, options=None):
        os.chdir("/")
        return super().reset(seed=seed)

    def close(self):
        raise RuntimeError("it is jammed")


class Boolean(Count):
    observation_space = gym.spaces.Box(0, 1, (3,), bool)

    def obs(self):
        return np.array([self.time % 2, self.time > 3, True], bool)


class Reach(gym.Env):
    """Be where the action says, in any units: reward -(a/unit - s)²."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, unit=1.0):
        self.unit, self.action_space = unit, gym.spaces.Box(-unit, unit, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.state, {}

    def step(self, action):
        reward = -float(((action / self.unit - self.state) ** 2).sum())
        self.state = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.state, reward, False, False, {}


class Offset(Reach):
    """The same task with a coordinate of five million."""

    def step(self, action):
        obs, *rest = super().step(action)
        return obs.astype(np.float64) + 5e6, *rest

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0].astype(np.float64) + 5e6, {}

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)


gym.register("toy/Talkative-v0", Talkative)
gym.register("toy/Meddling-v0", Meddling)
gym.register("toy/Wanderer-v0", Wanderer)
gym.register("toy/Boolean-v0", Boolean)
gym.register("toy/Monitored-v0", lambda: Monitor(Count()))
gym.register("toy/Recorded-v0", lambda: gym.wrappers.RecordEpisodeStatistics(Count()))
gym.register("toy/Offset-v0", Offset, max_episode_steps=20)


# ---- Environments ----
@DDPG
def test_what_an_environment_says_of_itself_or_does_to_an_action_changes_nothing(quick):
    plain, _ = quick(num_envs=2, total_timesteps=120)
    for kind in "Talkative", "Monitored", "Recorded", "Meddling":
        told, _ = quick(env_id=f"toy/{kind}-v0", num_envs=2, total_timesteps=120)
        assert same(weights(told), weights(plain)), kind
        one, other = (scalars(run)["charts/episodic_length"] for run in (told, plain))
        assert [event.value for event in one] == [event.value for event in other], kind


class TellsOnlySuccess:
    """Two environments; both succeed at once; the second ends later, without a word."""

    single_action_space = SimpleNamespace(low=-np.ones(1), high=np.ones(1))
    num_envs, steps = 2, 0

    def reset(self, **_):
        return np.zeros((2, 1)), {}

    def step(self, actions):
        self.steps += 1
        ends = np.array([self.steps == 1, self.steps == 2])
        infos = {"success": np.ones(2)} if self.steps == 1 else {}
        return np.zeros((2, 1)), np.ones(2), ends, np.zeros(2, bool), infos


@DDPG
def test_success_counts_where_failure_is_not_told(script):
    actor = script.Actor(1, 1, torch.ones(1), torch.zeros(1))
    scores = script.evaluate(actor, script.Args(), TellsOnlySuccess())
    assert scores["success_rate"].tolist() == [1, 0]
    assert scores["episodic_return"].tolist() == [1, 2]


@DDPG
def test_success_is_logged_where_the_environment_tells_it(quick):
    run_dir, result = quick(env_id="toy/Talkative-v0", learning_starts=10**6)
    points = {tag: [event.value for event in events] for tag, events in scalars(run_dir).items()}
    long = [float(length == 7) for length in points["charts/episodic_length"]]
    assert points["charts/success"] == long
    assert 0 < sum(long) < len(long)
    assert points["eval/success_rate"] == [0.5, 0.0, 1.0]  # at first one of two is long, then none
    assert result["eval_success_rate"] == 1.0


@DDPG
def test_environment_may_change_the_folder_and_fail_to_close(quick, tmp_path):
    run_dir, _ = quick(env_id="toy/Wanderer-v0", run_name="x", learning_starts=10**6)
    assert os.getcwd() == "/"
    names = {path.name.split(".out")[0] for path in (tmp_path / run_dir).iterdir()}
    kept = {"args.json", "model.pt", "best_model.pt", "checkpoint.pt", "result.json", "lock"}
    assert names == kept | {"events"}
    evaluate.main(evaluate.Args((tmp_path / run_dir,)))


@DDPG
def test_observations_may_be_booleans(quick):
    assert quick(env_id="toy/Boolean-v0", total_timesteps=120)[1]["step"] == 120


@OFF_POLICY
def test_one_task_in_three_units_ends_in_the_same_weights(quick):
    """Of what is learned every bit: the units are powers of two."""

    def trained(unit):
        name = f"toy/Reach{unit}-v0"
        gym.register(name, Reach, max_episode_steps=20, kwargs={"unit": unit})
        state = weights(quick(env_id=name, total_timesteps=120, eval_interval=0)[0])
        del gym.registry[name]
        return {key: value for key, value in state.items() if "action_" not in key}

    one, large, small = (trained(unit) for unit in (1.0, 1024.0, 2.0**-7))
    assert same(one, large)
    assert same(one, small)


@only([f"{name}_continuous" for name in ("ppo", "a2c", "reinforce", "a3c")])
def test_an_offset_of_observations_does_not_ruin_their_normalisation(quick, script):
    """In training and in evaluation, which used to normalise after rounding to float32."""
    run_dir, _ = quick(env_id="toy/Offset-v0", total_timesteps=400)
    actor = {k.removeprefix("actor."): v for k, v in weights(run_dir).items()}
    assert actor["obs_normalizer.mean"].item() == pytest.approx(5e6, abs=1)
    assert actor["obs_normalizer.var"].item() == pytest.approx(1 / 3, rel=0.5)
    nets = script.Networks(1, 2, -np.ones(2), np.ones(2), script.Args())
    nets.load_state_dict(weights(run_dir))
    seen = []
    hook = nets.actor.mu.register_forward_hook(lambda _, x, y: seen.extend(x[0].flatten().tolist()))
    args = script.Args(env_id="toy/Offset-v0")
    script.evaluate(nets.actor, args, script.make_envs(args, 2))
    hook.remove()
    assert len(set(seen)) == len(seen) == 40  # float32 knows steps of a half there


# ---- Threads, disks, terminals ----
@DDPG
def test_training_in_a_thread(quick):
    results, short = [], {"total_timesteps": 120}
    thread = threading.Thread(target=lambda: results.append(quick(run_name="x", **short)))
    thread.start()
    thread.join()
    ((run_dir, _),) = results
    assert same(weights(run_dir), weights(quick(run_name="y", **short)[0]))


@DDPG
def test_run_that_fails_before_it_began_does_not_block_its_name(quick, script, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(script, "save", die)
        with pytest.raises(Death):
            quick(run_name="x")
    quick(run_name="x", total_timesteps=10)


@DDPG
def test_compiling_without_a_compiler_gets_one_line_at_the_start(quick, capsys, tmp_path):
    from torch._inductor import config, cpp_builder

    cpp_builder.cpp_compiler_search.cache_clear()
    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        error = refused(capsys, quick, compile=True)
    cpp_builder.cpp_compiler_search.cache_clear()
    assert "--compile, which needs a C++ compiler" in error
    assert list(tmp_path.iterdir()) == []


@DDPG
def test_full_disk_at_resume_loses_no_result(quick, script, monkeypatch):
    run_dir, _ = quick(run_name="x", learning_starts=10**6)
    before = contents(run_dir)
    for owner, name in (script.Path, "write_text"), (torch, "save"):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, Mock(side_effect=full_disk()))
            with pytest.raises(SystemExit, match="^1$"):
                quick(run_name="x", resume=True, total_timesteps=400, learning_starts=10**6)
        after = contents(run_dir)
        assert all(after[path] == before[path] for path in before if path.name != "args.json")


def full_disk():
    return OSError(errno.ENOSPC, "No space left on device")


@DDPG
def test_full_disk_under_tensorboard_ends_with_one_line(quick, script, monkeypatch, capfd):
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    def append(*_, **__):
        raise full_disk()

    real = script.Run.end_iteration

    def end_iteration(run, *words):
        if run.global_step == 150:
            monkeypatch.setattr(LocalFileSystem, "append", append)
        return real(run, *words)

    monkeypatch.setattr(script.Run, "end_iteration", end_iteration)
    monkeypatch.setattr(threading, "excepthook", hook := Mock())
    with pytest.raises(SystemExit, match="^1$"):
        quick(run_name="x")
    monkeypatch.undo()
    assert capfd.readouterr().err == "error: OSError: [Errno 28] No space left on device\n"
    hook.assert_called_once()  # Python's prints the traceback of the writer's thread
    assert hook.call_args[0][0].exc_type is OSError


@DDPG
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_checkpoint_is_mapped_not_read_into_memory(script, tmp_path):
    def anonymous():
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0])  # kB

    script.save(tmp_path / "x.pt", {"rb": {"observations": torch.zeros(40_000_000)}})
    before = anonymous()
    content = script.load(tmp_path / "x.pt")
    assert content["rb"]["observations"].sum() == 0
    assert anonymous() - before < 40_000  # of 160,000


@DDPG
def test_no_stdout_and_no_stderr(quick, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert quick(total_timesteps=120)[1]["step"] == 120


@DDPG
def test_what_a_run_prints_where_there_is_no_terminal(script, tmp_path):
    """And nothing but its folder is new; it goes on with what is not given as it was."""
    name = "12e3456"
    settings = QUICK | OWN[script.__name__] | {"run_name": name, "total_timesteps": 200}
    settings |= {"env_id": "HalfCheetah-v4", "max_episode_steps": 20}
    options = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
    command = [sys.executable, ROOT / f"{script.__name__}.py", *options]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
    returned = r"return -?\d+\.\d ± \d+\.\d"
    lines = [
        rf"runs/{name}: HalfCheetah-v4, steps 0 to 200 on cpu",
        rf"step 100: {returned}, \d+ steps/s, (\?|\d\d:\d\d) left",
        rf"step 200: {returned}, \d+ steps/s, 00:00 left",
        rf"runs/{name} is finished at step 200",
        rf"  tensorboard --logdir runs/{name}",
        rf"  python evaluate\.py runs/{name} --video video\.mp4",
    ]
    assert re.fullmatch("\n".join(lines) + "\n", process.stdout), process.stdout
    assert os.listdir(tmp_path) == ["runs"]
    *_, played = [shlex.split(line) for line in process.stdout.splitlines()]
    assert evaluate.tyro.cli(evaluate.Args, args=played[2:]).video.name == "video.mp4"
    typed = [*command[:2], "--resume", "--run-name", name, "--total-timesteps", "400"]
    process = subprocess.run(typed, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert re.search(rf"step 400: {returned}, ", process.stdout)
    assert f"runs/{name} is finished at step 400" in process.stdout


# ---- What users ask for ----
@DDPG
def test_best_evaluation_keeps_its_weights(quick, script, monkeypatch, tmp_path):
    """Across a resume; of two that are equal the later."""
    means = iter([3.0, 1.0, 5.0, 5.0, 2.0, 4.0])

    def evaluate(actor, args, envs):
        returns = np.full(envs.num_envs, next(means))
        return {"episodic_return": returns, "discounted_return": returns}

    monkeypatch.setattr(script, "evaluate", evaluate)
    settings = {"run_name": "x", "eval_interval": 50}
    quick(total_timesteps=200, **settings)
    shutil.copy(tmp_path / "runs" / "x" / "model.pt", tmp_path / "fourth.pt")
    run_dir, result = quick(resume=True, **settings)
    best = torch.load(run_dir / "best_model.pt", weights_only=True)
    assert (result["best_step"], result["best_mean"]) == (200, 5.0)
    assert same(best, torch.load(tmp_path / "fourth.pt", weights_only=True))
    assert not same(best, weights(run_dir))
    assert json.loads((run_dir / "result.json").read_text()) == result


OWN_CHECKS = [
    ("a3c", {"num_workers": 0}, "--num-workers"),
    ("ac_reparam", {"steps_per_iteration": 0}, "--steps-per-iteration"),
    ("d4pg", {"n_steps": 0}, "--n-steps"),
    ("d4pg", {"v_min": 3.0, "v_max": 3.0}, "--v-min must be below --v-max"),
    ("ppo", {"gae_lambda": 1.1}, "--gae-lambda"),
    ("ppo", {"num_minibatches": 26}, "--num-minibatches"),
    ("ppo", {"update_epochs": 0}, "--update-epochs"),
    ("tqc", {"drop": 25}, "--drop must be below 25"),
]


@pytest.mark.parametrize(
    ("script", "settings", "words"),
    [(f"{name}_continuous", *rest) for name, *rest in OWN_CHECKS],
    indirect=["script"],
)
def test_setting_that_no_run_can_use_is_refused(quick, capsys, tmp_path, settings, words):
    assert words in refused(capsys, quick, **settings)
    assert list(tmp_path.iterdir()) == []
