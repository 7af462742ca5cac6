"""SVG(0): its losses and gradients by hand; the policy, as in SAC and ac_reparam."""

import numpy as np
import pytest
import torch
from test_losses import (
    ACT,
    BATCH,
    BIAS,
    SCALE,
    arrays,
    assert_gradient_in,
    assert_slope,
    layer,
    numpy_critic_loss,
    numpy_q,
    setup,
)

import ac_reparam_continuous as ac_reparam
import sac_continuous as sac
import svg0_continuous as svg0


def noise(seed):
    """Return z as a policy draws it after this seed: once, for each row and dimension."""
    torch.manual_seed(seed)
    return torch.normal(torch.zeros(BATCH, ACT), torch.ones(BATCH, ACT)).double().numpy()


def numpy_sample(actor, obs, z):
    """a = tanh(m(s) + σz) in the bounds."""
    x = np.maximum(layer(np.maximum(layer(obs, actor.fc1), 0), actor.fc2), 0)
    u = layer(x, actor.fc_mu) + np.exp(actor.log_std.detach().double().numpy()) * z
    return np.tanh(u) * SCALE + BIAS


def check_critic_loss_value(script):
    """One sample of the slow copy of the policy at s', valued by the slow copy of the critic."""
    nets, data, args = setup(script)
    _, _, obs, dones, rewards = arrays(data)
    values = numpy_q(nets.qf1_target, obs, numpy_sample(nets.target_actor, obs, noise(3)))
    expected = numpy_critic_loss(nets, data, rewards + args.gamma * (1 - dones) * values)
    torch.manual_seed(3)
    assert script.critic_loss(nets, data, args)[0].item() == pytest.approx(expected, rel=1e-5)


def check_critic_gradient(script):
    """No gradient reaches a policy or a target network."""
    nets, data, args = setup(script)
    script.critic_backward(nets.requires_grad_(True), data, args)
    assert_gradient_in(nets, "qf1")


def check_actor_gradient(script):
    """The slope of -E[Q(s, a(θ, z))] with the noise z held fixed, in the actor alone."""
    nets, data, args = setup(script)
    (obs, *_), z = arrays(data), noise(3)
    torch.manual_seed(3)
    script.actor_backward(nets, data, args)
    for weight in "actor.fc1.weight", "actor.fc_mu.bias", "actor.log_std":
        assert_slope(
            nets, weight, lambda n: -numpy_q(n.qf1, obs, numpy_sample(n.actor, obs, z)).mean()
        )
    assert_gradient_in(nets, "actor")


CHECKS = [check_critic_loss_value, check_critic_gradient, check_actor_gradient]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(check):
    check(svg0)


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
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


# ---- The policy ----
POLICIES = pytest.mark.parametrize("script", [svg0, ac_reparam, sac], ids=lambda s: s.__name__)


def make_actor(script, mean, log_std):
    """Return an actor for one-dimensional states and actions from -1 to 3."""
    torch.manual_seed(0)
    actor = script.Actor(1, 1, torch.tensor([2.0]), torch.tensor([1.0]))
    with torch.no_grad():
        actor.fc_mu.bias.add_(mean)
        (actor.fc_log_std.bias if script is sac else actor.log_std).add_(log_std)
    return actor


@POLICIES
@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (1.5, -1.0), (-0.7, 0.2)])
def test_density_integrates_to_one_within_the_bounds(script, mean, log_std):
    """They are ±1, in units of half the action range; by the trapezoidal rule."""
    a = torch.linspace(-1, 1, 40_001)[1:-1, None]
    with torch.no_grad():
        policy = make_actor(script, mean, log_std).distribution(torch.zeros(1, 1))
        assert torch.trapezoid(policy.log_prob(a).exp(), a[:, 0]).item() == pytest.approx(1, 2e-3)


@POLICIES
def test_deterministic_action_is_the_sample_of_a_policy_without_spread(script):
    actor, obs = make_actor(script, 0.4, -20.0), torch.linspace(-3, 3, 7)[:, None]
    sample = actor.sample(obs)
    torch.testing.assert_close(actor(obs), sample[0] if script is sac else sample)
