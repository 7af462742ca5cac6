"""The run: what it leaves, how it stops, and that it can't be lost."""

import dataclasses
import importlib
import itertools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from ctypes.util import find_library

import numpy as np
import pytest
import torch
from conftest import DETERMINISTIC, OWN, QUICK, ROOT, SCRIPTS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAGS = {
    *("charts/episodic_return", "charts/episodic_length", "charts/SPS"),
    *("eval/episodic_return", "eval/episodic_return_std"),
}
CRITIC = {"losses/qf1_loss", "losses/qf1_values", "losses/actor_loss"}
OWN_TAGS = {
    "ddpg_continuous": CRITIC,
    "td3_continuous": CRITIC | {"losses/qf2_loss", "losses/qf2_values"},
    "ac_reparam_continuous": CRITIC | {"losses/policy_std"},
    "ppo_continuous": {
        *("losses/policy_loss", "losses/value_loss", "losses/entropy", "losses/approx_kl"),
        *("losses/clipfrac", "losses/explained_variance", "charts/learning_rate"),
    },
}
# a run that other processes can start
PROCESS = QUICK | {
    "env_id": "InvertedPendulum-v4",
    "total_timesteps": 1200,
    "checkpoint_interval": 400,
    "eval_interval": 100,
}
PROCESS_OWN = {
    "ac_reparam_continuous": {"steps_per_iteration": 50, "updates_per_iteration": 50},
    "ppo_continuous": {"update_epochs": 50},
}


def weights(run_dir):
    return torch.load(run_dir / "model.pt", weights_only=True)


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def scalars(run_dir):
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0}).Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


def start(script, cwd, *flags, env=None, **settings):
    """Start the script in a process of its own."""
    own = OWN[script.__name__] | PROCESS_OWN.get(script.__name__, {})
    settings = PROCESS | own | settings
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [sys.executable, str(ROOT / f"{script.__name__}.py"), *words, *flags]
    pipe = subprocess.PIPE
    env = os.environ | (env or {})
    return subprocess.Popen(command, cwd=cwd, stdout=pipe, stderr=pipe, text=True, env=env)


def wait_for_step(run_dir, step, process):
    """Wait until the run's event file has a point at `step` or later."""
    for _ in range(600):
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
        if run_dir.exists() and (run_dir / "model.pt").exists():
            points = scalars(run_dir).get("eval/episodic_return", [])
            if points and points[-1].step >= step:
                return
    raise TimeoutError(f"no step {step}")


def wait_for_file(path, process):
    for _ in range(600):
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
        if path.exists():
            return
    raise TimeoutError(path)


def test_short_run_changes_every_parameter_and_logs_every_tag(quick, script):
    run_dir, result = quick()
    script.set_random_seed(1)
    before = script.Networks(3, 2, np.array([-1.0, -5.0]), np.array([1.0, 5.0])).state_dict()
    after = weights(run_dir)
    fixed = {name for name in before if "action_" in name}
    assert {name for name in before if torch.equal(before[name], after[name])} == fixed
    points = scalars(run_dir)
    assert set(points) == TAGS | OWN_TAGS[script.__name__]
    assert all(np.isfinite([event.value for event in events]).all() for events in points.values())
    assert [event.step for event in points["eval/episodic_return"]] == [100, 200, 300]
    assert result == json.loads((run_dir / "result.json").read_text())
    assert result["step"] == 300
    assert result["eval_episodes"] == 2
    assert result["eval_mean"] == pytest.approx(points["eval/episodic_return"][-1].value)
    assert result["eval_std"] == pytest.approx(points["eval/episodic_return_std"][-1].value)
    assert result["seconds"] > 0
    assert result["SPS"] == pytest.approx(300 / result["seconds"])
    about = json.loads((run_dir / "args.json").read_text())
    assert {field.name for field in dataclasses.fields(script.Args)} < set(about)
    assert about["versions"]["torch"].startswith("2.")
    assert about["device"] == "cpu"
    assert about["threads"] == 1
    assert "git_commit" in about


def test_model_gives_the_last_evaluation_again(quick, script):
    run_dir, result = quick(env_id="InvertedPendulum-v4")
    args = script.Args(**(QUICK | {"env_id": "InvertedPendulum-v4"}))
    nets = script.Networks(4, 1, np.array([-3.0]), np.array([3.0]))
    nets.load_state_dict(weights(run_dir))
    for _ in range(2):
        assert script.evaluate(nets.actor, args, 2).mean() == result["eval_mean"]


CHANGES = {
    "learning_rate": 1e-3,
    "buffer_size": 120,
    "gamma": 0.9,
    "tau": 0.1,
    "batch_size": 17,
    "exploration_noise": 0.2,
    "learning_starts": 90,
    "policy_frequency": 3,
    "policy_noise": 0.4,
    "noise_clip": 0.1,
    "checkpoint_interval": 50,
    "max_episode_steps": 3,
    "num_envs": 2,
    "steps_per_iteration": 7,
    "updates_per_iteration": 2,
    "entropy_coef": 0.1,
    "estimator": "score",
    "num_steps": 25,
    "anneal_lr": False,
    "gae_lambda": 0.5,
    "num_minibatches": 2,
    "update_epochs": 2,
    "norm_adv": False,
    "clip_coef": 0.01,
    "clip_vloss": False,
    "ent_coef": 0.1,
    "vf_coef": 1.0,
    "max_grad_norm": 0.1,
    "target_kl": 1e-9,
}
# what changes no weights, or is tested elsewhere
REST = {
    *("exp_name", "seed", "cuda", "torch_threads", "compile", "run_name", "resume"),
    *("eval_interval", "eval_episodes", "capture_video", "env_id", "total_timesteps"),
}


def arguments():
    """Yield each script with each of its arguments that a change of the weights must show."""
    for name in SCRIPTS:
        fields = [field.name for field in dataclasses.fields(importlib.import_module(name).Args)]
        for field in fields:
            if field not in REST:
                yield pytest.param(name, field, id=f"{name}-{field}")


@pytest.mark.parametrize(("script", "argument"), list(arguments()), indirect=["script"])
def test_every_argument_takes_effect(quick, script, argument):
    """The weights of a short run are not those of the same run without the change."""
    settings = {"total_timesteps": 150, "eval_interval": 0}
    if "policy_noise" in vars(script.Args()):
        settings["policy_noise"] = 0.3
    if "updates_per_iteration" in vars(script.Args()):
        settings["updates_per_iteration"] = 4  # of one, no share can be left out
    changed = {argument: CHANGES[argument]}
    assert not same(*(weights(quick(**settings | more)[0]) for more in ({}, changed)))


def test_same_seed_same_weights_other_seed_other_weights(quick):
    first, again, other = (
        weights(quick(run_name=name, seed=seed)[0]) for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert same(first, again)
    assert not same(first, other)


def test_evaluation_does_not_change_training(quick):
    settings = {"env_id": "InvertedPendulum-v4"}
    often = quick(run_name="a", eval_interval=20, eval_episodes=3, **settings)[0]
    once = quick(run_name="b", eval_interval=0, eval_episodes=1, **settings)[0]
    assert same(weights(often), weights(once))


@DETERMINISTIC
@pytest.mark.parametrize("num_envs", [1, 3])
def test_one_critic_update_for_each_step_and_half_as_many_for_the_rest(
    quick, script, monkeypatch, num_envs
):
    """Critic : actor : targets = 2 : 1 : 1, whatever the number of environments."""
    calls = dict.fromkeys(("critic_loss", "actor_loss", "update_targets"), 0)

    def counted(name, function):
        def call(*args):
            calls[name] += 1
            return function(*args)

        return call

    for name in calls:
        monkeypatch.setattr(script, name, counted(name, getattr(script, name)))
    _, result = quick(num_envs=num_envs, total_timesteps=300)
    updates = result["step"] - OWN[script.__name__]["learning_starts"]
    assert calls["critic_loss"] == updates
    assert calls["actor_loss"] == calls["update_targets"] == updates // 2


def test_killed_five_times_and_resumed_ends_in_the_same_weights(script, tmp_path):
    whole = start(script, tmp_path, run_name="whole")
    assert whole.wait() == 0, whole.communicate()
    run_dir = tmp_path / "runs" / "killed"
    for step in 100, 300, 400, 700, 900:
        process = start(script, tmp_path, "--resume", run_name="killed")
        wait_for_step(run_dir, step, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    process = start(script, tmp_path, "--resume", run_name="killed")
    assert process.wait() == 0, process.communicate()
    assert same(weights(run_dir), weights(tmp_path / "runs" / "whole"))
    mine, theirs = scalars(run_dir), scalars(tmp_path / "runs" / "whole")
    for tag in (TAGS | OWN_TAGS[script.__name__]) - {"charts/SPS"}:
        points = [[(e.step, e.value) for e in events[tag]] for events in (mine, theirs)]
        assert points[0] == points[1], tag


def test_dead_at_any_file_it_writes_and_resumed_ends_in_the_same_weights(
    quick, script, monkeypatch
):
    """Three environments; the process dies before the nth file is replaced, for each n in turn."""
    settings = {"env_id": "InvertedPendulum-v4", "num_envs": 3}
    whole, _ = quick(run_name="whole", **settings)
    real = script.save
    for n in itertools.count(1):
        left = [n]

        def save(path, content, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise MemoryError("dead")
            real(path, content)

        monkeypatch.setattr(script, "save", save)
        try:
            quick(run_name=f"n{n}", **settings)
            break
        except MemoryError:
            monkeypatch.setattr(script, "save", real)
        run_dir, _ = quick(run_name=f"n{n}", resume=True, **settings)
        assert same(weights(run_dir), weights(whole))
    assert n > 5


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signal_saves_where_the_run_stands(script, tmp_path, signum, code):
    settings = {"run_name": "stopped", "checkpoint_interval": 0, "total_timesteps": 1_000_000}
    process, run_dir = start(script, tmp_path, **settings), tmp_path / "runs" / "stopped"
    wait_for_file(run_dir / "model.pt", process)
    process.send_signal(signum)
    out, error = process.communicate()
    assert (process.returncode, error) == (code, "")
    assert "--resume --run-name stopped" in out
    step = torch.load(run_dir / "checkpoint.pt", weights_only=True)["progress"]["step"]
    assert f"stopped at step {step}" in out
    assert step >= 100
    assert not (run_dir / "result.json").exists()
    settings["total_timesteps"] = step + 50
    process = start(script, tmp_path, "--resume", **settings)
    assert process.wait() == 0, process.communicate()
    assert json.loads((run_dir / "result.json").read_text())["step"] == step + 50
    points = scalars(run_dir)
    for tag in TAGS:
        steps = [event.step for event in points[tag]]
        assert steps == sorted(set(steps)), tag


def test_second_interrupt_quits_at_once(script, tmp_path):
    """The first one waits for the end of a step, which here takes an hour."""
    settings = {"env_id": "conftest:toy/Sleepy-v0", "run_name": "hurry", "checkpoint_interval": 0}
    process = start(script, tmp_path, env={"PYTHONPATH": str(ROOT / "tests")}, **settings)
    try:
        wait_for_file(tmp_path / "asleep", process)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == -signal.SIGINT
    finally:
        process.kill()
        process.communicate()
    assert not (tmp_path / "runs" / "hurry" / "checkpoint.pt").exists()


def test_second_process_in_a_folder_is_refused(quick, script, capsys, tmp_path):
    quick(run_name="mine")
    lock = script.FileLock(tmp_path / "runs" / "mine" / "lock")
    with lock, pytest.raises(SystemExit) as stop:
        quick(run_name="mine", resume=True, total_timesteps=400)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: another process is training in runs/mine\n"


def test_finished_run_returns_at_once_and_can_be_extended(quick, script):
    settings = {"env_id": "InvertedPendulum-v4", "run_name": "x"}
    if "anneal_lr" in vars(script.Args()):
        settings["anneal_lr"] = False  # it depends on the length of the run
    run_dir, result = quick(**settings)
    written = (run_dir / "result.json").stat().st_mtime_ns
    assert quick(resume=True, **settings)[1] == result
    assert (run_dir / "result.json").stat().st_mtime_ns == written
    assert quick(resume=True, total_timesteps=500, **settings)[1]["step"] == 500
    whole, _ = quick(total_timesteps=500, **settings | {"run_name": "whole"})
    assert same(weights(run_dir), weights(whole))


def test_extended_run_that_dies_is_not_finished(quick, script, monkeypatch):
    """The result of the shorter run goes before training does."""
    run_dir, _ = quick(run_name="x")

    def die(*_):
        raise MemoryError("dead")

    monkeypatch.setattr(script, "critic_loss", die)
    with pytest.raises(MemoryError):
        quick(run_name="x", resume=True, total_timesteps=500)
    assert not (run_dir / "result.json").exists()


def refused(capsys, run, **settings):
    """Return the error line of a run that must exit with 2."""
    with pytest.raises(SystemExit) as stop:
        run(**settings)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_existing_folder_is_never_overwritten(quick, capsys):
    run_dir, _ = quick(run_name="x")
    before = weights(run_dir)
    assert "--resume" in refused(capsys, quick, run_name="x", seed=9)
    assert same(weights(run_dir), before)


def test_default_names_are_unique_and_safe(quick):
    names = {quick(total_timesteps=10)[0].name for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith("toy-Count-v0__") for name in names)


def test_changed_arguments_are_all_named(quick, capsys):
    quick(run_name="x")
    settings = {"resume": True, "total_timesteps": 500, "gamma": 0.5, "eval_interval": 50}
    error = refused(capsys, quick, run_name="x", **settings)
    assert "gamma 0.99" in error
    assert "eval_interval 100" in error
    assert "total_timesteps" not in error


def test_folder_that_cannot_be_written(quick, capsys, tmp_path):
    (tmp_path / "runs").write_text("in the way")
    assert "runs" in refused(capsys, quick)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty"])
def test_unreadable_checkpoint_is_an_error_and_stays(quick, capsys, damage):
    run_dir, _ = quick(run_name="x")
    path = run_dir / "checkpoint.pt"
    if damage == "foreign":
        torch.save({"something": torch.zeros(3)}, path)
    else:
        path.write_bytes(path.read_bytes()[: 1000 if damage == "truncated" else 0])
    before = path.read_bytes()
    error = refused(capsys, quick, run_name="x", resume=True, total_timesteps=500)
    assert "checkpoint.pt" in error
    assert path.read_bytes() == before


def test_full_disk_while_saving_leaves_the_last_good_checkpoint(quick, script, tmp_path, capsys):
    run_dir, _ = quick(run_name="x")
    path = run_dir / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SystemExit) as stop:
            script.save(path, {"large": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err
    assert stop.value.code == 1
    assert error.startswith("error: cannot write runs/x/checkpoint.pt")
    assert error.count("\n") == 1
    assert torch.load(path, weights_only=True)["progress"] == state["progress"]
    assert not list(run_dir.glob("*.tmp"))


def test_loss_that_is_not_finite_stops_the_run(quick, capsys):
    with pytest.raises(SystemExit) as stop:
        quick(env_id="toy/NanLater-v0", run_name="nan")
    error = capsys.readouterr().err
    assert stop.value.code == 1
    assert re.fullmatch(r"error: \w+ is not finite at step (1[5-9]\d|200) of runs/nan\n", error)


def all_of_replay(script):
    """Return settings by which a batch is sure to hold each transition."""
    return {"batch_size": 5000} if hasattr(script, "ReplayBuffer") else {}


def test_loss_that_is_not_finite_at_the_last_step_is_no_result(quick, script, tmp_path):
    """The reward of step 151, the last one, is not a number."""
    settings = all_of_replay(script)
    with pytest.raises(SystemExit) as stop:
        quick(env_id="toy/NanLater-v0", run_name="nan", total_timesteps=151, **settings)
    assert stop.value.code == 1
    run_dir = tmp_path / "runs" / "nan"
    assert not (run_dir / "result.json").exists()
    assert all(tensor.isfinite().all() for tensor in weights(run_dir).values())


def test_loss_that_is_not_finite_never_reaches_the_model(quick, script, tmp_path):
    """The reward of step 151 is not a number, and an evaluation comes right after it."""
    settings = all_of_replay(script) | {"checkpoint_interval": 0}
    if "policy_frequency" in vars(script.Args()):
        settings["policy_frequency"] = 1
    with pytest.raises(SystemExit) as stop:
        quick(env_id="toy/NanLater-v0", run_name="nan", eval_interval=151, **settings)
    assert stop.value.code == 1
    assert not (tmp_path / "runs" / "nan" / "model.pt").exists()


def test_loss_that_is_not_finite_leaves_the_last_good_checkpoint(quick, tmp_path):
    with pytest.raises(SystemExit):
        quick(env_id="toy/NanLater-v0", run_name="nan")
    state = torch.load(tmp_path / "runs" / "nan" / "checkpoint.pt", weights_only=True)
    assert state["progress"]["step"] == 100
    assert all(tensor.isfinite().all() for tensor in state["nets"].values())


def test_terminal_stays_quiet_and_the_folder_clean(script, tmp_path):
    process = start(script, tmp_path, env_id="HalfCheetah-v4", total_timesteps=120, run_name="x")
    out, error = process.communicate()
    assert (process.returncode, out, error) == (0, "", "")
    assert os.listdir(tmp_path) == ["runs"]


def test_help_explains_every_argument(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.tyro.cli(script.Args, args=["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(script.Args):
        assert f"--{field.name.replace('_', '-')}" in text


def test_compiled_losses_train_too(quick):
    _, result = quick(compile=True, total_timesteps=150)
    assert result["step"] == 150


@pytest.mark.skipif(find_library("EGL") is None, reason="no headless OpenGL (EGL) here")
def test_capture_video_writes_the_last_evaluation(quick):
    run_dir, _ = quick(env_id="InvertedPendulum-v4", capture_video=True, eval_interval=0)
    assert [path.name for path in run_dir.glob("videos/*")] == ["step-300-episode-0.mp4"]
    assert (run_dir / "videos" / "step-300-episode-0.mp4").stat().st_size > 1000
