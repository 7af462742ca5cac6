"""Every loss against NumPy, finite differences and the handout; broken copies must be caught."""

import importlib
import types
from copy import deepcopy

import numpy as np
import pytest
import torch
from conftest import ROOT
from stable_baselines3.common.type_aliases import ReplayBufferSamples

OBS, ACT, BATCH = 3, 2, 6
LOW, HIGH = np.array([-1.0, -5.0]), np.array([3.0, 5.0])


def setup(script, **settings):
    """Return networks whose targets differ from them, a batch with some terminations, and Args."""
    torch.manual_seed(0)
    nets = script.Networks(OBS, ACT, LOW, HIGH).double()
    with torch.no_grad():
        for parameter in nets.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    data = ReplayBufferSamples(
        torch.randn(BATCH, OBS).double(),
        torch.rand(BATCH, ACT).double() * 4 - 1,
        torch.randn(BATCH, OBS).double(),
        torch.tensor([[0.0], [1.0], [0.0], [0.0], [1.0], [0.0]]).double(),
        torch.randn(BATCH, 1).double(),
    )
    return nets, data, script.Args(**({"policy_noise": 0.0, "gamma": 0.9} | settings))


def layer(x, linear):
    return x @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()


def numpy_q(net, obs, actions):
    x = np.maximum(layer(np.concatenate([obs, actions], 1), net.fc1), 0)
    return layer(np.maximum(layer(x, net.fc2), 0), net.fc3)[:, 0]


def numpy_actor(net, obs):
    x = np.maximum(layer(np.maximum(layer(obs, net.fc1), 0), net.fc2), 0)
    return np.tanh(layer(x, net.fc_mu)) * (HIGH - LOW) / 2 + (HIGH + LOW) / 2


def critics(nets):
    """Return pairs of a critic and its target, one or two."""
    names = [name for name in ("qf1", "qf2") if hasattr(nets, name)]
    return [(getattr(nets, name), getattr(nets, f"{name}_target")) for name in names]


def numpy_target(nets, data, gamma, noise=0.0):
    obs, rewards, dones = (
        tensor.numpy() for tensor in (data.next_observations, data.rewards, data.dones)
    )
    actions = np.clip(numpy_actor(nets.target_actor, obs) + noise, LOW, HIGH)
    values = np.min([numpy_q(target, obs, actions) for _, target in critics(nets)], axis=0)
    return rewards[:, 0] + gamma * (1 - dones[:, 0]) * values


# Checks: true of a script, and broken by the mutants below.
def check_critic_loss_value(script):
    nets, data, args = setup(script)
    y = numpy_target(nets, data, args.gamma)
    obs, actions = data.observations.numpy(), data.actions.numpy()
    expected = sum(((numpy_q(net, obs, actions) - y) ** 2).mean() for net, _ in critics(nets))
    assert script.critic_loss(nets, data, args)[0].item() == pytest.approx(expected, rel=1e-9)


def check_critic_gradient(script):
    """Finite differences move the critic alone: a gradient through the target would differ."""
    nets, data, args = setup(script)
    nets.target_actor.requires_grad_(True)
    nets.qf1_target.requires_grad_(True)
    script.critic_loss(nets, data, args)[0].backward()
    weight = nets.qf1.fc3.weight
    y = numpy_target(nets, data, args.gamma)
    obs, actions = data.observations.numpy(), data.actions.numpy()
    for i in 0, 17, 200:
        losses = []
        for step in 1e-5, -2e-5:
            weight.data[0, i] += step
            losses.append(((numpy_q(nets.qf1, obs, actions) - y) ** 2).mean())
        weight.data[0, i] += 1e-5
        slope = (losses[0] - losses[1]) / 2e-5
        assert weight.grad[0, i].item() == pytest.approx(slope, rel=1e-4, abs=1e-8)
    frozen = [*nets.target_actor.parameters(), *nets.qf1_target.parameters()]
    assert all(parameter.grad is None for parameter in [*frozen, *nets.actor.parameters()])


def check_actor_gradient(script):
    """The gradient is -E[∇_a Q ∇_θ μ], computed with both factors apart."""
    nets, data, args = setup(script)
    script.backward(script.actor_loss, list(nets.actor.parameters()), nets, data, args)
    actions = nets.actor(data.observations)
    at = actions.detach().requires_grad_()
    (slope,) = torch.autograd.grad(nets.qf1(data.observations, at).sum(), at)
    by_hand = torch.autograd.grad(actions, list(nets.actor.parameters()), -slope / BATCH)
    for parameter, expected in zip(nets.actor.parameters(), by_hand, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def check_polyak(script):
    nets, _, _ = setup(script)
    before = deepcopy(nets)
    script.update_targets(nets, 0.1)
    pairs = [("actor", "target_actor")]
    pairs += [(f"qf{i + 1}", f"qf{i + 1}_target") for i in range(len(critics(nets)))]
    for net, target in pairs:
        old = getattr(before, target).parameters()
        moved = getattr(nets, target).parameters()
        for θ, θ_old, θ_new in zip(getattr(before, net).parameters(), old, moved, strict=True):
            torch.testing.assert_close(θ_new, 0.1 * θ + 0.9 * θ_old)


def check_actor_update_leaves_no_gradient_in_the_critic(script):
    nets, data, args = setup(script)
    script.backward(script.actor_loss, list(nets.actor.parameters()), nets, data, args)
    assert all(parameter.grad is None for parameter in nets.qf1.parameters())
    assert all(parameter.grad is not None for parameter in nets.actor.parameters())


CHECKS = [
    check_critic_loss_value,
    check_critic_gradient,
    check_actor_gradient,
    check_polyak,
    check_actor_update_leaves_no_gradient_in_the_critic,
]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(script, check):
    check(script)


MUTANTS = {
    "no detach": ("with torch.no_grad():\n        # a'", "if True:\n        # a'", 1),
    "no terminal mask": ("not_done = 1 - data.dones.flatten()", "not_done = 1", 0),
    "online critic as target": ("nets.qf1_target(data", "nets.qf1(data", 0),
    "online actor as target": ("nets.target_actor(data", "nets.actor(data", 0),
    "no discount": ("args.gamma * not_done", "not_done", 0),
    "actor descends Q": ("actor_loss = -nets", "actor_loss = nets", 2),
    "actor ignores its state": ("nets.actor(data.observations))", "data.actions)", 2),
    "sum for mean": (".mean()", ".sum()", 2),
    "gradient of every parameter": ("backward(inputs=parameters)", "backward()", 4),
    "swapped Polyak": ("nets.sources, tau)", "nets.sources, 1 - tau)", 3),
    "Polyak of the actor alone": (
        "(nets.targets, nets.sources",
        "(nets.targets[:6], nets.sources[:6]",
        3,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_copy_is_caught(script, name):
    old, new, check = MUTANTS[name]
    source = (ROOT / f"{script.__name__}.py").read_text()
    losses = source[source.index("# ---- Losses ----") : source.index("# ---- Evaluation ----")]
    assert losses.count(old) == 1, f"the mutant does not fit: {old}"
    mutant = types.ModuleType("mutant")
    mutant.__dict__.update(vars(script))
    exec(losses.replace(old, new), mutant.__dict__)
    with pytest.raises((AssertionError, RuntimeError)):
        CHECKS[check](mutant)


def test_actor_gradient_is_that_of_regression_to_one_gradient_step(script):
    """Handout, Eq. 7 to 10: ½ E[(μ(s) - a*)²] at a* = μ(s) + ∇_a Q has the gradient of -E[Q]."""
    nets, data, _ = setup(script)
    parameters = list(nets.actor.parameters())
    actions = nets.actor(data.observations)
    objective = nets.qf1(data.observations, actions).mean()
    ascent = torch.autograd.grad(objective, parameters, retain_graph=True)
    (slope,) = torch.autograd.grad(nets.qf1(data.observations, actions).sum(), actions)
    improved = (nets.actor(data.observations) + slope).detach()
    regression = 0.5 * ((nets.actor(data.observations) - improved) ** 2).sum(1).mean()
    for up, down in zip(ascent, torch.autograd.grad(regression, parameters), strict=True):
        torch.testing.assert_close(down, -up)


def test_smoothing_noise_is_drawn_for_each_sample_and_dimension_clipped_and_scaled(script):
    nets, data, args = setup(script, policy_noise=0.4, noise_clip=0.5)
    torch.manual_seed(7)
    loss = script.critic_loss(nets, data, args)[0].item()
    torch.manual_seed(7)
    noise = np.clip(0.4 * torch.randn_like(data.actions).numpy(), -0.5, 0.5)
    assert (np.abs(noise) == 0.5).any()
    assert len(np.unique(noise[np.abs(noise) < 0.5])) > ACT
    y = numpy_target(nets, data, args.gamma, noise * (HIGH - LOW) / 2)
    obs, actions = data.observations.numpy(), data.actions.numpy()
    expected = sum(((numpy_q(net, obs, actions) - y) ** 2).mean() for net, _ in critics(nets))
    assert loss == pytest.approx(expected, rel=1e-9)


def test_q_has_one_value_a_sample(script):
    nets, data, _ = setup(script)
    assert nets.qf1(data.observations, data.actions).shape == (BATCH,)


def test_td3_takes_the_minimum_over_the_twins_for_each_sample():
    """One twin is lower for some samples, the other for the rest: the minimum mixes them."""
    script = importlib.import_module("td3_continuous")
    nets, data, args = setup(script)
    obs = data.next_observations
    values = [net(obs, nets.target_actor(obs)) for net in (nets.qf1_target, nets.qf2_target)]
    with torch.no_grad():
        nets.qf2_target.fc3.bias += (values[0] - values[1]).median()
    lower = nets.qf1_target(obs, nets.target_actor(obs)) < nets.qf2_target(
        obs, nets.target_actor(obs)
    )
    assert 0 < lower.sum() < BATCH
    check = numpy_target(nets, data, args.gamma)
    predicted = [
        numpy_q(n, data.observations.numpy(), data.actions.numpy()) for n, _ in critics(nets)
    ]
    expected = sum(((values - check) ** 2).mean() for values in predicted)
    assert script.critic_loss(nets, data, args)[0].item() == pytest.approx(expected, rel=1e-9)


def test_td3_smooths_by_default_and_ddpg_does_not():
    noise = {
        n: importlib.import_module(n).Args().policy_noise
        for n in ("ddpg_continuous", "td3_continuous")
    }
    assert noise == {"ddpg_continuous": 0.0, "td3_continuous": 0.2}
