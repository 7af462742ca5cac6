"""What every script shows for itself; test_runs.py tests the section that they share."""

import dataclasses
import functools
import json
import signal

import numpy as np
import pytest
import torch
from conftest import OWN, TABLE, TAGS, only, same, scalars, weights


def test_short_run_changes_every_parameter_and_logs_every_tag(quick, script):
    run_dir, result = quick()
    script.set_random_seed(1)
    before = script.Networks(
        3, 2, np.array([-1.0, -5.0]), np.array([1.0, 5.0]), script.Args()
    ).state_dict()
    after = weights(run_dir)
    fixed = {name for name in before if "action_" in name or "atoms" in name}
    assert {name for name in before if torch.equal(before[name], after[name])} == fixed
    points = scalars(run_dir)
    assert set(points) == TAGS | TABLE[script.__name__][1]
    assert all(np.isfinite([event.value for event in events]).all() for events in points.values())
    assert [event.step for event in points["eval/episodic_return"]] == [100, 200, 300]
    assert result == json.loads((run_dir / "result.json").read_text())
    assert result["step"] == 300


def test_same_seed_same_weights_other_seed_other_weights(quick):
    first, again, other = (
        weights(quick(run_name=name, seed=seed)[0]) for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert same(first, again)
    assert not same(first, other)


def test_killed_three_times_and_resumed_ends_in_the_same_weights(start, script, tmp_path):
    """Before the first checkpoint, at one, and between two."""
    whole, killed = tmp_path / "runs" / "whole", tmp_path / "runs" / "killed"
    for name, die_at in ("whole", 1000), ("killed", 50), ("killed", 100), ("killed", 250):
        process = start(die_at, run_name=name, resume=True)
        process.join()
        assert process.exitcode == (0 if name == "whole" else -signal.SIGKILL)
    process = start(run_name="killed", resume=True)
    process.join()
    assert process.exitcode == 0
    assert same(weights(killed), weights(whole))
    mine, theirs = scalars(killed), scalars(whole)
    for tag in theirs.keys() - {"charts/SPS"}:
        points = [[(e.step, e.value) for e in events[tag]] for events in (mine, theirs)]
        assert points[0] == points[1], tag


# other values of arguments, where half of the value, one more or the opposite would not do
CHANGES = {
    "buffer_size": 120,
    "checkpoint_interval": 50,
    "max_episode_steps": 3,
    "entropy_coef": 0.1,
    "estimator": "score",
    "clip_coef": 0.01,
    "ent_coef": 0.1,
    "target_kl": 1e-9,
    "v_min": 10.0,
    "baseline": "none",
}
# what else has to be set for an argument to matter
WITH = {
    "policy_noise": {"policy_noise": 0.3},
    "noise_clip": {"policy_noise": 0.3},
    "policy_frequency": {"updates_per_iteration": 4},
    "alpha": {"autotune": False},
}
# what changes no weights, or is tested elsewhere
REST = {
    *("exp_name", "seed", "cuda", "torch_threads", "compile", "run_name", "resume"),
    "num_workers",
    *("eval_interval", "eval_episodes", "env_id", "total_timesteps"),
}


def changed(name, value):
    if name in CHANGES:
        return CHANGES[name]
    if isinstance(value, float):
        return value / 2
    return not value if isinstance(value, bool) else value + 1


def test_every_argument_takes_effect(quick, script):
    """The weights of a short run are not those of the same run without the change."""
    names = [field.name for field in dataclasses.fields(script.Args) if field.name not in REST]

    @functools.cache
    def after(**settings):
        return weights(quick(total_timesteps=150, eval_interval=0, **settings)[0])

    idle = []
    for name in names:
        needed = {k: v for k, v in WITH.get(name, {}).items() if k in names}
        before = vars(script.Args()) | OWN[script.__name__] | {"checkpoint_interval": 100} | needed
        if same(after(**needed), after(**needed | {name: changed(name, before[name])})):
            idle.append(name)
    assert idle == []


@only([f"{name}_continuous" for name in ("ddpg", "td3", "svg0", "sac", "naf", "d4pg")])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_one_critic_update_for_each_step_and_for_some_of_them_of_the_rest(
    quick, script, monkeypatch, num_envs
):
    """Critic : actor : each target = `policy_frequency` : 1 : 1, however many environments."""
    names = "critic_loss", "actor_loss", "polyak_update"
    calls = {name: 0 for name in names if hasattr(script, name)}  # NAF has no actor

    def counted(name, function):
        def call(*args):
            calls[name] += 1
            return function(*args)

        return call

    for name in calls:
        monkeypatch.setattr(script, name, counted(name, getattr(script, name)))
    run_dir, result = quick(num_envs=num_envs)
    updates = result["step"] - OWN[script.__name__]["learning_starts"]
    targets = {name.split(".")[0] for name in weights(run_dir) if "target" in name}
    assert calls["critic_loss"] == updates
    delayed = updates // script.Args().policy_frequency
    assert calls.get("actor_loss", delayed) == delayed
    assert calls["polyak_update"] == len(targets) * delayed


def test_losses_with_their_gradients_are_one_graph(quick, monkeypatch):
    """So that --compile can compile them; the C++ compiler, which takes its time, is left out."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    plain, traced = (quick(total_timesteps=150, compile=value)[0] for value in (False, True))
    assert same(weights(plain), weights(traced))


@only(["ddpg_continuous"])
def test_compiled_losses_train(quick):
    _, result = quick(compile=True, total_timesteps=150)
    assert result["step"] == 150


def test_help_explains_every_argument(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.tyro.cli(script.Args, args=["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(script.Args):
        assert f"--{field.name.replace('_', '-')}" in text
