"""The run: what it leaves, how it stops, and that it can't be lost."""

import io
import itertools
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import DDPG, TAGS, same, scalars, weights

pytestmark = DDPG


class Death(Exception):
    """What ends a run in the middle."""


def contents(run_dir):
    return {path: path.read_bytes() for path in run_dir.rglob("*")}


def checkpoint_step(run_dir):
    return torch.load(run_dir / "checkpoint.pt", weights_only=True)["progress"]["step"]


def refused(capsys, run, code=2, **settings):
    """Return the error line of a run that must exit with `code`."""
    with pytest.raises(SystemExit) as stop:
        run(**settings)
    error = capsys.readouterr().err
    assert stop.value.code == code
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def signal_at(step, script, monkeypatch, signum=signal.SIGTERM, late=False):
    """Have the process get a signal in the step that makes it `step` steps, or right after it."""
    real = script.Run.step

    def stepped(run, actions):
        if run.global_step + 1 == step and not late:
            signal.raise_signal(signum)
            if signum == signal.SIGTERM:  # which who supervises may repeat
                signal.raise_signal(signum)
        came = real(run, actions)
        if run.global_step == step and late:
            signal.raise_signal(signum)
        return came

    monkeypatch.setattr(script.Run, "step", stepped)


# ---- What it leaves ----
def test_files_say_what_the_run_was(quick, script, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # but it is not to be used
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)  # the simulator is another one
    run_dir, result = quick(learning_starts=10**6, cuda=False)
    points = scalars(run_dir)
    assert result["eval_episodes"] == 2
    assert result["eval_mean"] == pytest.approx(points["eval/episodic_return"][-1].value)
    assert result["eval_std"] == pytest.approx(points["eval/episodic_return_std"][-1].value)
    assert result["seconds"] > 0
    assert result["SPS"] == pytest.approx(300 / result["seconds"])
    about = json.loads((run_dir / "args.json").read_text())
    assert set(vars(script.Args())) < set(about)
    assert about["script"] == f"{script.__name__}.py"
    assert [*about["versions"]] == ["gymnasium", "numpy", "stable_baselines3", "torch"]
    assert about["versions"]["torch"].startswith("2.")
    assert (about["device"], about["torch_threads"]) == ("cpu", 1)
    assert "git_commit" in about


def test_commit_of_changed_code_is_said_to_be_dirty(quick, script, monkeypatch, tmp_path):
    git = "git -c user.name=x -c user.email=x"
    commit = f"git init -q && touch x.py && git add . && {git} commit -qm x && {git} tag -am v1 v1"
    subprocess.run(f"{commit} && echo 1 > x.py", shell=True, cwd=tmp_path, check=True)
    monkeypatch.setattr(script, "__file__", str(tmp_path / "x.py"))
    about = json.loads((quick(total_timesteps=10)[0] / "args.json").read_text())
    assert re.fullmatch("[0-9a-f]{40}-dirty", about["git_commit"])


def test_existing_folder_is_never_overwritten(quick, capsys):
    run_dir, _ = quick(run_name="x", learning_starts=10**6)
    before = contents(run_dir)
    assert "--resume" in refused(capsys, quick, run_name="x", seed=9)
    assert contents(run_dir) == before


def test_default_names_are_unique_and_safe(quick):
    names = {quick(total_timesteps=10, exp_name="a b")[0].name for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith("toy-Count-v0__a-b__") for name in names)


def test_folder_that_cannot_be_written(quick, capsys, tmp_path):
    (tmp_path / "runs").write_text("in the way")
    assert "runs" in refused(capsys, quick)


# ---- Evaluation ----
def test_evaluation_logs_mean_standard_deviation_and_discounted_return(quick):
    """Environment 0 trains, the other two evaluate: an episode ends early, and another begins."""
    run_dir, result = quick(gamma=0.9, eval_interval=0, learning_starts=10**6)
    returns, discounted = [], []
    for name, length in (1, 7), (2, 5):
        rewards = [100 * name + 10 + t for t in range(1, length + 1)]
        returns.append(sum(rewards))
        discounted.append(sum(0.9**t * reward for t, reward in enumerate(rewards)))
    deviation = abs(returns[1] - returns[0]) / math.sqrt(2)  # of two: it divides by n - 1
    assert result["eval_mean"] == sum(returns) / 2
    assert result["eval_std"] == pytest.approx(deviation)
    last = {tag: events[-1].value for tag, events in scalars(run_dir).items()}
    assert last["eval/episodic_return_std"] == pytest.approx(deviation)
    assert last["eval/discounted_return"] == pytest.approx(sum(discounted) / 2)


@pytest.mark.filterwarnings("ignore:.*The reward is a NaN value")
def test_evaluation_of_rewards_that_are_not_numbers_ends(quick, capsys, tmp_path):
    error = refused(capsys, quick, 1, env_id="toy/NanElsewhere-v0", run_name="nan")
    assert error == "error: eval/episodic_return is not finite at step 100 of runs/nan\n"
    assert not (tmp_path / "runs" / "nan" / "result.json").exists()


class Endless:
    """Many environments at once, all free of charge, whose episodes never end."""

    single_action_space = SimpleNamespace(low=np.full(1, -1.0), high=np.ones(1))

    def __init__(self, num_envs):
        self.obs, self.false, self.steps = np.zeros((num_envs, 1)), np.zeros(num_envs, bool), 0
        self.num_envs = num_envs

    def reset(self, **_):
        return self.obs, {}

    def step(self, actions):
        self.steps += 1
        assert self.steps * len(actions) <= 1_000_000
        return self.obs, np.ones(len(actions)), self.false, self.false, {}


def test_evaluation_without_an_end_is_cut(script):
    actor = torch.nn.Identity()
    actor.action_scale = torch.ones(1)
    scores = script.evaluate(actor, script.Args(env_id="Endless-v0"), Endless(1000))
    assert (scores["episodic_return"] == 1000).all()


# ---- Seeds ----
def first_observations(script, seed):
    """Return what an evaluation of ten episodes starts from."""
    seen = []

    def actor(obs):
        seen.append(obs.squeeze(1).tolist())
        return obs

    actor.action_scale = torch.ones(1)
    args = script.Args(env_id="toy/Regulator-v0", seed=seed)
    script.evaluate(actor, args, script.make_envs(args, 10))
    return seen[0]


def test_evaluations_of_different_seeds_share_no_initial_state(script):
    states = [state for seed in range(1, 6) for state in first_observations(script, seed)]
    assert len(set(states)) == 50
    assert first_observations(script, 1) == first_observations(script, 1)


def test_no_two_generators_give_the_same_numbers(script):
    """Not the environments' and the action space's, not NumPy's and PyTorch's, in two segments.

    Initial states are uniform in (-1, 1), actions in (-2, 2).
    """
    gym_numbers, mersenne_numbers = first_observations(script, 1), []
    with script.Run(script.Args(env_id="toy/Regulator-v0", num_envs=4)) as run:
        for run.global_step in 0, 100:
            gym_numbers += run.begin_segment().flatten().tolist()
            gym_numbers += (run.envs.action_space.sample() / 2).flatten().tolist()
            mersenne_numbers += np.random.randint(2**31, size=10).tolist()
            mersenne_numbers += torch.randint(2**31, (10,)).tolist()
    assert len({round(x, 5) for x in gym_numbers}) == 10 + 2 * (4 + 4)
    assert len(set(mersenne_numbers)) == 2 * (10 + 10)


# ---- Death and signals ----
def test_dead_at_any_file_it_writes_and_resumed_ends_in_the_same_weights(
    quick, script, monkeypatch
):
    """Three environments; the process dies before the nth file is replaced, for each n in turn."""
    settings = {"env_id": "InvertedPendulum-v4", "num_envs": 3, "total_timesteps": 200}
    whole, _ = quick(run_name="whole", **settings)
    real = script.save
    for n in itertools.count(1):
        left = [n]

        def save(path, content, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise Death
            real(path, content)

        monkeypatch.setattr(script, "save", save)
        try:
            quick(run_name=f"n{n}", **settings)
            break
        except Death:
            monkeypatch.setattr(script, "save", real)
        run_dir, _ = quick(run_name=f"n{n}", resume=True, **settings)
        assert same(weights(run_dir), weights(whole))
    assert n > 5


def wait_for_file(path, process):
    for _ in range(1200):
        time.sleep(0.05)
        assert process.is_alive(), process.exitcode
        if path.exists():
            return
    raise TimeoutError(path)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signal_saves_where_the_run_stands(
    quick, script, monkeypatch, capsys, tmp_path, signum, code
):
    signal_at(150, script, monkeypatch, signum)
    with pytest.raises(SystemExit, match=f"^{code}$"):
        quick(run_name="x", checkpoint_interval=0)
    command = f"python {script.__name__}.py --resume --run-name x"
    assert capsys.readouterr().out.endswith(f"stopped at step 150; to go on: {command}\n")
    run_dir = tmp_path / "runs" / "x"
    assert checkpoint_step(run_dir) == 150
    assert not (run_dir / "result.json").exists()
    _, result = quick(run_name="x", checkpoint_interval=0, resume=True)
    assert result["step"] == 300
    points = scalars(run_dir)
    for tag in TAGS:
        steps = [event.step for event in points[tag]]
        assert steps == sorted(set(steps)), tag


class Gone(io.TextIOBase):
    """What stdout is when its reader has ended."""

    def write(self, _):
        raise BrokenPipeError


def test_signal_saves_when_the_reader_of_the_output_has_ended(quick, script, monkeypatch, tmp_path):
    """A terminal's Ctrl-C also ends the `tee` of `| tee log`."""
    signal_at(150, script, monkeypatch, signal.SIGINT)
    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(SystemExit, match="^130$"):
        quick(run_name="x", eval_interval=10)
    assert checkpoint_step(tmp_path / "runs" / "x") == 150


def test_second_interrupt_quits_at_once(start, tmp_path):
    """The first one waits for the end of a step, which here takes an hour."""
    process = start(env_id="toy/Sleepy-v0", run_name="hurry", checkpoint_interval=0)
    wait_for_file(tmp_path / "asleep", process)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)
    process.join(10)
    assert process.exitcode == -signal.SIGINT
    assert checkpoint_step(tmp_path / "runs" / "hurry") == 0


def test_ctrl_c_after_sigterm_is_pythons_own(script):
    before = signal.getsignal(signal.SIGINT)
    with script.Run(script.Args(env_id="toy/Count-v0")) as run:
        run.stops = []
        run.stop(signal.SIGTERM, None)
    assert signal.signal(signal.SIGINT, before) == signal.SIG_DFL


@pytest.mark.parametrize("enough", [150, 100])
def test_run_stopped_at_its_last_step_gets_its_evaluation(
    quick, script, monkeypatch, tmp_path, enough
):
    """It was to be longer; its evaluation was not due where it stopped."""
    signal_at(150, script, monkeypatch)
    with pytest.raises(SystemExit, match="^75$"):
        quick(run_name="x")
    _, result = quick(run_name="x", resume=True, total_timesteps=enough)
    assert (result["step"], result["eval_step"]) == (150, 150)
    assert math.isfinite(result["eval_mean"])
    assert result == json.loads((tmp_path / "runs" / "x" / "result.json").read_text())


def die(*_):
    raise Death


ENDS = {"finished": 0, "not finite": 1, "refused": 2, "stopped": 75, "exception": None}


def test_a_signal_in_the_last_step_ends_nothing(quick, script, monkeypatch):
    signal_at(300, script, monkeypatch)
    run_dir, result = quick()
    assert result["step"] == 300
    assert (run_dir / "result.json").exists()


@pytest.mark.parametrize("end", ENDS)
def test_however_train_ends_it_lets_go_at_once(quick, script, monkeypatch, tmp_path, end):
    """Of the signals, the lock and TensorBoard's thread, while the traceback is still at hand."""
    settings = {"run_name": "x", "resume": True}
    if end == "not finite":
        settings["env_id"] = "toy/TooMuch-v0"
    elif end == "refused":
        quick(**settings)
        settings["seed"] = 9
    elif end == "stopped":
        signal_at(150, script, monkeypatch)
    elif end == "exception":
        monkeypatch.setattr(script, "critic_loss", die)

    def handler(*_):
        pass

    script.tqdm(disable=True)  # whose first bar starts a thread that stays
    signals, threads = (signal.SIGINT, signal.SIGTERM), threading.active_count()
    before = [signal.signal(signum, handler) for signum in signals]
    try:
        with pytest.raises((SystemExit, Death)) as stop:  # noqa: PT012
            quick(**settings)
            raise SystemExit(0)
        assert getattr(stop.value, "code", None) == ENDS[end]
        assert [signal.getsignal(signum) for signum in signals] == [handler, handler]
    finally:
        for signum, old in zip(signals, before, strict=True):
            signal.signal(signum, old)
    with script.FileLock(tmp_path / "runs" / "x" / "lock", timeout=0):
        pass
    assert threading.active_count() == threads


# ---- Going on ----
def test_finished_run_returns_at_once_and_can_be_extended(quick):
    settings = {"env_id": "InvertedPendulum-v4", "run_name": "x"}
    run_dir, result = quick(**settings)
    before = contents(run_dir)
    assert quick(resume=True, **settings)[1] == result
    assert contents(run_dir) == before
    assert quick(resume=True, **settings | {"total_timesteps": 200})[1] == result
    assert contents(run_dir) == before
    checkpoint = torch.load(run_dir / "checkpoint.pt", weights_only=True)
    checkpoint["progress"]["seconds"] += 1000
    torch.save(checkpoint, run_dir / "checkpoint.pt")
    copied = shutil.copytree(run_dir, run_dir.with_name("copy"))
    longer = quick(resume=True, total_timesteps=500, **settings)[1]
    assert (longer["step"], longer["SPS"]) == (500, 500 / longer["seconds"])
    assert longer["seconds"] > result["seconds"] + 1000
    quick(resume=True, total_timesteps=500, **settings | {"run_name": "copy"})
    assert same(weights(run_dir), weights(copied))
    whole, _ = quick(total_timesteps=500, **settings | {"run_name": "whole"})
    assert same(weights(run_dir), weights(whole))


def test_a_start_that_went_wrong_can_be_mended(quick, script, monkeypatch):
    """At step 0 a checkpoint holds what the seed makes anew: nothing of it is loaded."""
    with monkeypatch.context() as patch:
        patch.setattr(script, "critic_loss", die)
        with pytest.raises(Death):
            quick(run_name="x", checkpoint_interval=0)

    class Wider(script.Networks):
        def __init__(self, *words):
            super().__init__(*words)
            self.new_target = torch.nn.Linear(2, 2)

    monkeypatch.setattr(script, "Networks", Wider)
    assert quick(run_name="x", checkpoint_interval=0, resume=True)[1]["step"] == 300


def test_run_that_ended_between_two_checkpoints_goes_on_from_its_end(quick, capsys):
    run_dir, _ = quick(run_name="x", total_timesteps=250, learning_starts=10**6)
    assert checkpoint_step(run_dir) == 250
    _, result = quick(run_name="x", resume=True, total_timesteps=400, learning_starts=10**6)
    assert result["step"] == 400
    assert "steps 250 to 400 on cpu" in capsys.readouterr().out
    steps = [event.step for event in scalars(run_dir)["eval/episodic_return"]]
    assert steps == [100, 200, 250, 300, 400]


def test_extended_run_that_dies_is_not_finished(quick, script, monkeypatch):
    """The result of the shorter run goes before training does."""
    run_dir, _ = quick(run_name="x")
    monkeypatch.setattr(script, "critic_loss", die)
    with pytest.raises(Death):
        quick(run_name="x", resume=True, total_timesteps=500)
    assert not (run_dir / "result.json").exists()


def without(*names):
    return lambda run_dir: [(run_dir / name).unlink() for name in names]


def cut(name, size):
    return lambda run_dir: (run_dir / name).write_bytes((run_dir / name).read_bytes()[:size])


def flip(run_dir):
    """In the middle, which is in an array: PyTorch would load it."""
    data = bytearray((run_dir / "checkpoint.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (run_dir / "checkpoint.pt").write_bytes(data)


def foreign(run_dir):
    torch.save({"something": torch.zeros(3)}, run_dir / "checkpoint.pt")


def of_another_script(run_dir):
    """A2C's arguments are all among PPO's, and so are its networks."""
    about = json.loads((run_dir / "args.json").read_text())
    (run_dir / "args.json").write_text(json.dumps(about | {"script": "other.py"}))


def lacks_gamma(run_dir):
    about = json.loads((run_dir / "args.json").read_text())
    del about["gamma"]
    (run_dir / "args.json").write_text(json.dumps(about))


def lacks_an_optimizer(run_dir):
    checkpoint = torch.load(run_dir / "checkpoint.pt", weights_only=True)
    del checkpoint["actor_optimizer"]
    torch.save(checkpoint, run_dir / "checkpoint.pt")


MORE = {"total_timesteps": 500}
# what happened to a finished run of 300 steps, with what it is resumed, what the error says
REFUSED = {
    "another seed": (without(), {"seed": 9}, "seed 1"),
    "another script": (of_another_script, MORE, "has script other.py, not"),
    "an argument that is new": (lacks_gamma, MORE, "has gamma (not known), not 0.99"),
    "other arguments": (
        without(),
        MORE | {"gamma": 0.5, "eval_interval": 50},
        "has eval_interval 100, not 50; gamma 0.99, not 0.5",
    ),
    "only args.json": (
        without("result.json", "checkpoint.pt"),
        {"env_id": "toy/OneSided-v0"},
        "Count",
    ),
    "no checkpoint": (without("checkpoint.pt"), MORE, "No such file"),
    "cut checkpoint": (cut("checkpoint.pt", 1000), MORE, "checkpoint.pt"),
    "empty checkpoint": (cut("checkpoint.pt", 0), MORE, "checkpoint.pt"),
    "foreign checkpoint": (foreign, MORE, "checkpoint.pt"),
    "an optimizer that is new": (lacks_an_optimizer, MORE, "KeyError: 'actor_optimizer'"),
    "cut args.json": (cut("args.json", 100), MORE, "args.json"),
    "cut result.json": (cut("result.json", 10), MORE, "result.json"),
    "flipped byte": (flip, MORE, "checkpoint.pt"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_resume_changes_no_file(quick, capsys, what):
    run_dir, _ = quick(run_name="x", learning_starts=10**6)
    happened, settings, word = REFUSED[what]
    happened(run_dir)
    before = contents(run_dir)
    settings = {"resume": True, "learning_starts": 10**6} | settings
    error = refused(capsys, quick, run_name="x", **settings)
    assert word in error
    assert "total_timesteps" not in error
    assert contents(run_dir) == before


def test_a_buffers_other_arrays_are_saved_whole(quick, script, monkeypatch):
    class Counts(script.ReplayBuffer):
        def __init__(self, size, *spaces, **options):
            super().__init__(size, *spaces, **options)
            self.tree, self.calls = np.zeros(2 * size), np.array(0)

        def add(self, *transition):
            super().add(*transition)
            self.tree[-1] += 1
            self.calls += 1

    monkeypatch.setattr(script, "ReplayBuffer", Counts)
    for steps in 100, 150:
        quick(run_name="x", resume=True, total_timesteps=steps)
    rb = torch.load("runs/x/checkpoint.pt", weights_only=True)["rb"]
    assert (rb["tree"].shape, rb["tree"][-1], rb["calls"]) == ((2000,), 150, 150)
    assert len(rb["rewards"]) == 150


def test_what_could_not_be_loaded_again_ends_the_run_at_its_start(
    quick, script, monkeypatch, capsys, tmp_path
):
    class Counting(script.Networks):
        def get_extra_state(self):
            return np.float64(1)

    monkeypatch.setattr(script, "Networks", Counting)
    assert "checkpoint.pt: UnpicklingError" in refused(capsys, quick, 1, run_name="x")
    assert not list(tmp_path.glob("runs/x/*.pt*"))


def test_second_process_in_a_folder_is_refused(quick, script, capsys, tmp_path):
    run_dir, _ = quick(run_name="mine", learning_starts=10**6)
    before = contents(run_dir)
    with script.FileLock(tmp_path / "runs" / "mine" / "lock"):
        error = refused(capsys, quick, 3, run_name="mine", resume=True, total_timesteps=400)
    assert error.startswith("error: cannot lock runs/mine (is another process training in it?): ")
    assert contents(run_dir) == before


def test_a_run_holds_its_lock(quick, script, monkeypatch):
    def stepped(run, actions):
        with pytest.raises(TimeoutError), script.FileLock(run.dir / "lock", timeout=0):
            pass
        raise Death

    monkeypatch.setattr(script.Run, "step", stepped)
    with pytest.raises(Death):
        quick()


# ---- What goes wrong ----
def test_a_file_is_on_the_disk_before_it_replaces_the_old_one(script, monkeypatch, tmp_path):
    order = []
    monkeypatch.setattr(os, "fsync", lambda file: order.append("fsync"))
    monkeypatch.setattr(script.Path, "replace", lambda *_: order.append("replace"))
    script.save(tmp_path / "x.json", {})
    assert order == ["fsync", "replace"]


def test_full_disk_while_saving_leaves_the_last_good_checkpoint(quick, script, capsys):
    run_dir, _ = quick(run_name="x", learning_starts=10**6)
    path = run_dir / "checkpoint.pt"
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        large = {"path": path, "content": {"large": torch.zeros(1_000_000)}}
        error = refused(capsys, script.save, 1, **large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.startswith("error: cannot write runs/x/checkpoint.pt")
    assert path.read_bytes() == before
    assert not list(run_dir.glob("*.tmp"))  # of args.json it would block the run's name


def test_reward_that_is_not_finite_stops_the_run(quick, capsys, tmp_path):
    """Before it is in a checkpoint, which would stop each resumed run as well."""
    settings = {"env_id": "toy/TooMuch-v0", "run_name": "nan", "checkpoint_interval": 50}
    error = refused(capsys, quick, 1, **settings, eval_interval=0)
    assert error == "error: reward is not finite at step 151 of runs/nan\n"
    assert checkpoint_step(tmp_path / "runs" / "nan") == 150


@pytest.mark.parametrize("what", ["reset", "step"])
def test_observation_that_is_not_finite_stops_the_run(
    quick, script, monkeypatch, capsys, tmp_path, what
):
    """Before it is in a checkpoint."""
    real, calls = getattr(script.gym.vector.SyncVectorEnv, what), []

    def spoilt(envs, *actions, **how):
        obs, *rest = real(envs, *actions, **how)
        calls.append("seed" not in how)
        return np.where(sum(calls) > 10, np.nan, obs), *rest

    monkeypatch.setattr(script.gym.vector.SyncVectorEnv, what, spoilt)
    error = refused(capsys, quick, 1, run_name="nan", eval_interval=0, checkpoint_interval=10)
    step = int(re.fullmatch(r"error: observation is not finite at step (\d+) of .*\n", error)[1])
    assert 0 < step - checkpoint_step(tmp_path / "runs" / "nan") <= 10


def test_actions_and_metrics_that_are_not_finite_stop_the_run(quick, script, monkeypatch, capsys):
    settings = {"eval_interval": 0, "checkpoint_interval": 0}
    with monkeypatch.context() as patch:
        patch.setattr(script, "critic_backward", lambda *_: {"qf1_loss": torch.tensor(np.nan)})
        error = refused(capsys, quick, 1, run_name="metric", **settings)
    assert error == "error: losses/qf1_loss is not finite at step 300 of runs/metric\n"
    monkeypatch.setattr(script.Actor, "forward", lambda actor, x: torch.full((len(x), 2), np.nan))
    error = refused(capsys, quick, 1, run_name="action", **settings)
    assert error == "error: action is not finite at step 100 of runs/action\n"
