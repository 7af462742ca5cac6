"""The notebook's actor-critic: its losses by hand, both estimators, its schedule."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import only
from test_losses import (
    BIAS,
    SCALE,
    arrays,
    assert_caught,
    assert_gradient_in,
    assert_slope,
    layer,
    setup,
)
from test_svg0 import noise

import ac_reparam_continuous as ac

RUN = only([ac.__name__])


# ---- Losses by hand ----
def numpy_q(net, obs, actions):
    x = np.tanh(layer(np.concatenate([obs, (actions - BIAS) / SCALE], 1), net.fc1))
    return layer(np.tanh(layer(x, net.fc2)), net.fc3)[:, 0]


def numpy_policy(actor, obs):
    """Return mean and standard deviation of u; an action is tanh(u) · scale + bias."""
    x = np.tanh(layer(np.tanh(layer(obs, actor.fc1)), actor.fc2))
    return layer(x, actor.fc_mu), np.exp(actor.log_std.detach().double().numpy())


def numpy_log_prob(actor, obs, u):
    """The log density of tanh(u): that of u over the slope of tanh there."""
    mean, std = numpy_policy(actor, obs)
    normal = -0.5 * ((u - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    return (normal - np.log(1 - np.tanh(u) ** 2)).sum(1)


def check_critic_loss_value(script):
    """One sample from the current policy at s', valued by the target network."""
    nets, data, args = setup(script)
    obs, actions, next_obs, dones, rewards = arrays(data)
    mean, std = numpy_policy(nets.actor, next_obs)
    next_actions = np.tanh(mean + std * noise(3)) * SCALE + BIAS
    values = numpy_q(nets.qf1_target, next_obs, next_actions)
    y = rewards + args.gamma * (1 - dones) * values
    torch.manual_seed(3)
    loss = script.critic_loss(nets, data, args)[0].item()
    assert loss == pytest.approx(((numpy_q(nets.qf1, obs, actions) - y) ** 2).mean(), rel=1e-5)


def check_critic_gradient(script):
    """No gradient reaches the policy or the target network."""
    nets, data, args = setup(script)
    script.critic_backward(nets.requires_grad_(True), data, args)
    assert_gradient_in(nets, "qf1")


def check_pathwise_gradient(script):
    """The slope of -E[Q(s, a(θ, z)) - α log π] with the noise z held fixed."""
    nets, data, args = setup(script, entropy_coef=0.2)
    (obs, *_), z = arrays(data), noise(3)

    def loss(nets):
        mean, std = numpy_policy(nets.actor, obs)
        u = mean + std * z
        q = numpy_q(nets.qf1, obs, np.tanh(u) * SCALE + BIAS)
        return -(q - 0.2 * numpy_log_prob(nets.actor, obs, u)).mean()

    torch.manual_seed(3)
    script.actor_backward(nets, data, args)
    for weight in "actor.fc1.weight", "actor.fc_mu.bias", "actor.log_std":
        assert_slope(nets, weight, loss)
    assert_gradient_in(nets, "actor")


def check_score_gradient(script):
    """The slope of -E[log π(a|s) (Q(s, a) - α log π(a|s))], all but the first factor held fixed."""
    nets, data, args = setup(script, entropy_coef=0.2, estimator="score")
    obs, *_ = arrays(data)
    mean, std = numpy_policy(nets.actor, obs)
    u = mean + std * noise(3)
    q = numpy_q(nets.qf1, obs, np.tanh(u) * SCALE + BIAS)
    q = q - 0.2 * numpy_log_prob(nets.actor, obs, u)
    torch.manual_seed(3)
    script.actor_backward(nets, data, args)
    for weight in "actor.fc1.weight", "actor.fc_mu.bias", "actor.log_std":
        assert_slope(nets, weight, lambda nets: -(numpy_log_prob(nets.actor, obs, u) * q).mean())


CHECKS = [
    check_critic_loss_value,
    check_critic_gradient,
    check_pathwise_gradient,
    check_score_gradient,
]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(check):
    check(ac)


MUTANTS = {
    "squashed twice": ("Normal(self.fc_mu(x)", "Normal(torch.tanh(self.fc_mu(x))", "pathwise"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_copy_is_caught(name):
    assert_caught(ac, *MUTANTS[name], CHECKS)


# ---- Both estimators ----
def test_estimators_agree_with_each_other_and_with_the_closed_form():
    """Q(s, a) = -(u - 1)² with a = tanh(u): J = -(μ-1)² - σ², ∂J/∂μ = -2(μ-1), ∂J/∂log σ = -2σ²."""
    actor, mean, std = ac.Actor(1, 1, torch.ones(1), torch.zeros(1)), 0.3, 0.8
    with torch.no_grad():
        actor.fc_mu.weight.zero_()
        actor.fc_mu.bias.fill_(mean)
        actor.log_std.fill_(np.log(std))
    nets = SimpleNamespace(actor=actor, qf1=lambda obs, a: -((torch.atanh(a) - 1) ** 2).sum(-1))
    data = SimpleNamespace(observations=torch.zeros(128, 1))
    torch.manual_seed(0)
    exact = np.array([2 * (mean - 1), 2 * std**2])
    estimates = {}
    for estimator in "pathwise", "score":
        args, rows = ac.Args(estimator=estimator), []
        for _ in range(100):
            loss, _ = ac.actor_loss(nets, data, args)
            rows.append(torch.cat(torch.autograd.grad(loss, [actor.fc_mu.bias, actor.log_std])))
        estimates[estimator] = torch.stack(rows).numpy()
    error = {name: rows.std(0) / len(rows) ** 0.5 for name, rows in estimates.items()}
    centre = {name: rows.mean(0) for name, rows in estimates.items()}
    for name in estimates:
        assert (np.abs(centre[name] - exact) < 4 * error[name]).all(), name
    ratio = estimates["score"].var(0) / estimates["pathwise"].var(0)
    print(f"variance of score over pathwise: mean {ratio[0]:.1f}, log std {ratio[1]:.1f}")
    assert (ratio > 2).all()


# ---- The schedule ----
@pytest.fixture
def order(monkeypatch):
    """Record, and do without, what happens: s a step stored, c, a critic and actor, t target."""
    events = []
    monkeypatch.setattr(ac, "critic_backward", lambda *_: events.append("c") or {})
    monkeypatch.setattr(ac, "actor_backward", lambda *_: events.append("a") or {})
    monkeypatch.setattr(ac, "polyak_update", lambda *_: events.append("t"))
    add = ac.ReplayBuffer.add
    monkeypatch.setattr(ac.ReplayBuffer, "add", lambda *a: events.append("s") or add(*a))
    return events


@RUN
def test_each_iteration_is_collection_and_then_updates(quick, order):
    """Iterations of 50 steps, 20 updates after each; none on the random data of the first 110.

    120 environments end two or three iterations in a single step, and their updates follow. The
    run is stopped and goes on within an iteration, at 240 steps.
    """
    settings = {"steps_per_iteration": 50, "updates_per_iteration": 20, "num_envs": 120}
    settings |= {"run_name": "x", "learning_starts": 110, "checkpoint_interval": 0}
    quick(total_timesteps=240, **settings)
    quick(total_timesteps=480, resume=True, **settings)
    *bursts, rest = "".join(order).split("cat" * 20)
    assert set("".join(bursts) + rest) == {"s"}
    ends = 120 * np.cumsum([len(burst) for burst in bursts])
    first_steps = [120 * math.ceil(end / 120) for end in range(160, 481, 50)]
    assert ends.tolist() == first_steps


def test_defaults_are_the_notebooks():
    args = vars(ac.Args())
    expected = {
        "max_episode_steps": 200,
        "gamma": 0.99,
        "batch_size": 256,
        "buffer_size": 1_000_000,
        "learning_rate": 3e-4,
        "tau": 5e-3,
        "entropy_coef": 0.0,
        "steps_per_iteration": 1000,
        "updates_per_iteration": 1000,
        "total_timesteps": 105_000,
        "learning_starts": 5_000,
        "policy_frequency": 1,
        "estimator": "pathwise",
    }
    assert {name: args[name] for name in expected} == expected
    assert not ac.Actor(3, 2, torch.ones(2), torch.zeros(2)).log_std.any()
