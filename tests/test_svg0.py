"""SVG(0): its losses and gradients by hand, its policy's density, broken copies."""

import numpy as np
import pytest
import torch
from test_losses import (
    ACT,
    BATCH,
    HIGH,
    LOW,
    assert_caught,
    finite_difference,
    layer,
    numpy_q,
    setup,
    steepest,
)

import svg0_continuous as svg0

SCALE, BIAS = (HIGH - LOW) / 2, (HIGH + LOW) / 2


def noise(seed):
    """Return z as a policy draws it after this seed: once, for each row and dimension."""
    torch.manual_seed(seed)
    zeros = torch.zeros(BATCH, ACT).double()
    return torch.normal(zeros, zeros + 1).numpy()


def numpy_sample(actor, obs, z):
    """a = tanh(m(s) + σz) in the bounds."""
    x = np.maximum(layer(np.maximum(layer(obs, actor.fc1), 0), actor.fc2), 0)
    u = layer(x, actor.fc_mu) + np.exp(actor.log_std.detach().numpy()) * z
    return np.tanh(u) * SCALE + BIAS


def check_critic_loss_value(script):
    """One sample of the slow copy of the policy at s', valued by the slow copy of the critic."""
    nets, data, args = setup(script)
    obs, rewards, dones = (x.numpy() for x in (data.next_observations, data.rewards, data.dones))
    values = numpy_q(nets.qf1_target, obs, numpy_sample(nets.target_actor, obs, noise(3)))
    y = rewards[:, 0] + args.gamma * (1 - dones[:, 0]) * values
    q = numpy_q(nets.qf1, data.observations.numpy(), data.actions.numpy())
    torch.manual_seed(3)
    loss = script.critic_loss(nets, data, args)[0].item()
    assert loss == pytest.approx(((q - y) ** 2).mean(), rel=1e-9)


def check_critic_gradient(script):
    """No gradient reaches a policy or a target network."""
    nets, data, args = setup(script)
    frozen = [nets.actor, nets.target_actor, nets.qf1_target]
    for net in frozen:
        net.requires_grad_(True)
    script.critic_backward(nets, data, args)
    assert all(parameter.grad is None for net in frozen for parameter in net.parameters())
    assert all(parameter.grad is not None for parameter in nets.qf1.parameters())


def check_actor_gradient(script):
    """The slope of -E[Q(s, a(θ, z))] with the noise z held fixed, in the actor alone."""
    nets, data, args = setup(script)
    actor, obs, z = nets.actor, data.observations.numpy(), noise(3)
    torch.manual_seed(3)
    script.actor_backward(nets, data, args)
    for weight in actor.fc1.weight, actor.fc_mu.bias, actor.log_std:
        index = steepest(weight)
        slope = finite_difference(
            weight, index, lambda: -numpy_q(nets.qf1, obs, numpy_sample(actor, obs, z)).mean()
        )
        assert weight.grad[index].item() == pytest.approx(slope, rel=1e-4)
    assert all(parameter.grad is None for parameter in nets.qf1.parameters())


CHECKS = [check_critic_loss_value, check_critic_gradient, check_actor_gradient]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(check):
    check(svg0)


MUTANTS = {
    "no detach": ("with torch.no_grad():", "if True:", "critic_gradient"),
    "no terminal mask": ("1 - data.dones.flatten()", "1", "loss_value"),
    "online critic as target": ("nets.qf1_target(data", "nets.qf1(data", "loss_value"),
    "online actor as target": ("nets.target_actor.dist", "nets.actor.dist", "loss_value"),
    "mode in the target": (
        "nets.target_actor.distribution(data.next_observations).rsample()",
        "nets.target_actor(data.next_observations)",
        "loss_value",
    ),
    "no gradient through the sample": (
        "distribution(data.observations).rsample()",
        "distribution(data.observations).sample()",
        "actor_gradient",
    ),
    "mode for sample": (
        "nets.actor.distribution(data.observations).rsample()",
        "nets.actor(data.observations)",
        "actor_gradient",
    ),
    "actor descends Q": ("actor_loss = -nets", "actor_loss = nets", "actor_gradient"),
    "gradient of every parameter": (
        "backward(inputs=list(nets.actor.parameters()))",
        "backward()",
        "actor_gradient",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_copy_is_caught(name):
    assert_caught(svg0, *MUTANTS[name], CHECKS)


def test_gradient_tends_to_ddpgs_as_the_spread_shrinks():
    """With σ → 0 the policy is its median, and SVG(0) is the deterministic policy gradient."""
    nets, data, args = setup(svg0)
    parameters = list(nets.actor.fc_mu.parameters())
    with torch.no_grad():
        nets.actor.log_std.fill_(-20)
    loss, _ = svg0.actor_loss(nets, data, args)
    ours = torch.autograd.grad(loss, parameters)
    loss = -nets.qf1(data.observations, nets.actor(data.observations)).mean()
    for gradient, expected in zip(ours, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)
