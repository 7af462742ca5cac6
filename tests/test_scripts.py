"""What every script shows for itself; test_runs.py tests the section that they share."""

import dataclasses
import inspect
import json
import signal

import numpy as np
import pytest
import torch
from conftest import DDPG, OFF_POLICY, OWN, TABLE, TAGS, only, same, scalars, weights
from test_losses import setup
from test_train import make_args


def test_short_run_changes_every_parameter_and_logs_every_tag(quick, script):
    run_dir, result = quick(total_timesteps=200)
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
    assert [event.step for event in points["eval/episodic_return"]] == [100, 200]
    assert result == json.loads((run_dir / "result.json").read_text())
    assert result["step"] == 200


def assert_same_run(mine, theirs):
    """In its weights and in all that was logged, but for the speed."""
    assert same(weights(mine), weights(theirs))
    mine, theirs = scalars(mine), scalars(theirs)
    for tag in theirs.keys() - {"charts/SPS"}:
        points = [[(e.step, e.value) for e in events[tag]] for events in (mine, theirs)]
        assert points[0] == points[1], tag


def test_run_that_died_and_goes_on_is_as_if_nothing_had_happened(quick, script, monkeypatch):
    """It goes on from step 100, with a replay buffer that is full and begins again at its front."""
    settings = {"env_id": "InvertedPendulum-v4", "total_timesteps": 150, "checkpoint_interval": 50}
    if "buffer_size" in OWN[script.__name__]:
        settings |= {"buffer_size": 80, "learning_starts": 91}
    whole, _ = quick(run_name="whole", **settings)
    step = script.Run.step

    def die(run, actions):
        assert run.global_step < 110, "it dies"
        return step(run, actions)

    monkeypatch.setattr(script.Run, "step", die)
    with pytest.raises(AssertionError, match="it dies"):
        quick(run_name="died", **settings)
    monkeypatch.setattr(script.Run, "step", step)
    died, _ = quick(run_name="died", resume=True, **settings)
    assert_same_run(died, whole)


@DDPG
def test_killed_and_resumed_ends_in_the_same_weights(start, tmp_path):
    """Between two checkpoints."""
    whole, killed = tmp_path / "runs" / "whole", tmp_path / "runs" / "killed"
    for name, die_at in ("whole", 1000), ("killed", 250):
        process = start(die_at, run_name=name, resume=True)
        process.join()
        assert process.exitcode == (0 if name == "whole" else -signal.SIGKILL)
    process = start(run_name="killed", resume=True)
    process.join()
    assert process.exitcode == 0
    assert_same_run(killed, whole)


# what the loops of test_train.py leave as it is: it changes no weights, or has tests of its own
REST = {
    *("exp_name", "cuda", "torch_threads", "compile", "resume", "max_episode_steps", "num_workers"),
}


def test_every_argument_is_another_in_the_plain_loop(script):
    """In which a script that ignores one learns something else."""
    name, default = script.__name__.removesuffix("_continuous"), vars(script.Args())
    loops = [vars(make_args(script, name, num_envs)) for num_envs in (1, 3)]
    same = {key for key in default if all(loop[key] == default[key] for loop in loops)}
    assert same - REST == set()


def test_losses_with_their_gradients_are_one_graph(quick, monkeypatch):
    """So that --compile can compile them; the C++ compiler, which takes its time, is left out."""
    compiled, real = [], torch.compile

    def trace(function, **how):
        assert how == {"fullgraph": True}
        compiled.append(function)
        return real(function, **how, backend="eager")

    monkeypatch.setattr(torch, "compile", trace)
    plain, traced = (
        quick(total_timesteps=110, eval_interval=0, compile=value)[0] for value in (False, True)
    )
    assert compiled
    assert same(weights(plain), weights(traced))


@OFF_POLICY
def test_what_a_loss_tells_is_what_it_is(script):
    """Q of the batch, the losses that were added, the policy's σ, entropy and α."""
    own = {"autotune": False} if "autotune" in vars(script.Args()) else {}
    nets, data, args = setup(script, **own)
    data = data._replace(discounts=torch.full((len(data.rewards), 1), 0.9))
    loss, told = script.critic_loss(nets, data, args)
    for name in {"qf1", "qf2"} & {name for name, _ in nets.named_children()}:
        q = getattr(nets, name)(data.observations, data.actions)
        assert told[f"{name}_values"].mean().item() == pytest.approx(q.mean().item())
    losses = [value for name, value in told.items() if name.endswith("_loss")]
    assert sum(losses).item() == pytest.approx(loss.item())
    if not hasattr(script, "actor_loss"):  # NAF
        return
    torch.manual_seed(3)
    loss, told = script.actor_loss(nets, data, args)
    assert told["actor_loss"].item() == pytest.approx(loss.item())
    if "policy_std" in told:
        assert told["policy_std"].mean().item() == pytest.approx(
            nets.actor.log_std.exp().mean().item()
        )
    if own:
        torch.manual_seed(3)
        _, log_prob = nets.actor.sample(data.observations)
        assert told["entropy"].mean().item() == pytest.approx(-log_prob.mean().item())
        args.autotune = True
        nets.log_alpha.data.fill_(-0.7)
        assert script.actor_loss(nets, data, args)[1]["alpha"].item() == pytest.approx(np.exp(-0.7))


@OFF_POLICY
def test_losses_are_of_the_networks_device(script):
    """On "meta", where nothing is computed: a tensor on the CPU is an error, as on a GPU."""
    nets, data, args = setup(script)
    data = data._replace(discounts=data.rewards)
    data = type(data)(*[None if part is None else part.to("meta") for part in data])
    for name in "critic_backward", "actor_backward":
        if hasattr(script, name):
            getattr(script, name)(nets.to("meta"), data, args)


@only(["naf_continuous"])
def test_compiled_losses_train(quick):
    """Of the script that has one loss, since each takes the C++ compiler seconds."""
    _, result = quick(compile=True, total_timesteps=150)
    assert result["step"] == 150


def test_every_argument_is_explained(script):
    """By the comment behind it, which --help prints."""
    lines = inspect.getsource(script.Args).splitlines()
    for field in dataclasses.fields(script.Args):
        (line,) = (line for line in lines if line.startswith(f"    {field.name}: "))
        assert "  # " in line, line
