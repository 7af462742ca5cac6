"""SAC: density, target, both losses and the temperature by hand."""

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
from test_svg0 import noise

import ac_reparam_continuous as ac_reparam
import sac_continuous as sac
import tqc_continuous as tqc

LOG_ALPHA = -0.7
# settings, and the α that they mean
TEMPERATURES = ({}, np.exp(LOG_ALPHA)), ({"autotune": False, "alpha": 0.3}, 0.3)


def sac_setup(script, **settings):
    nets, data, args = setup(script, **settings)
    with torch.no_grad():
        nets.log_alpha.fill_(LOG_ALPHA)
        nets.actor.fc_log_std.bias.add_(torch.tensor([-0.5, 0.3]))
    return nets, data, args


def numpy_sample(actor, obs, z):
    """Return actions and the log density of tanh(u): that of u over the slope of tanh there."""
    x = np.maximum(layer(np.maximum(layer(obs, actor.fc1), 0), actor.fc2), 0)
    log_std = np.clip(layer(x, actor.fc_log_std), -20, 2)
    u = layer(x, actor.fc_mu) + np.exp(log_std) * z
    normal = -0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)
    log_prob = (normal - np.log(1 - np.tanh(u) ** 2)).sum(1)
    return np.tanh(u) * SCALE + BIAS, log_prob


def check_critic_loss_value(script):
    """y = r + γ(1-d) (min Q' - α log π) at one sample of the current policy; α tuned and fixed."""
    for settings, alpha in TEMPERATURES:
        nets, data, args = sac_setup(script, **settings)
        _, _, obs, dones, rewards = arrays(data)
        actions, log_prob = numpy_sample(nets.actor, obs, noise(3))
        values = [numpy_q(net, obs, actions) for net in (nets.qf1_target, nets.qf2_target)]
        y = rewards + args.gamma * (1 - dones) * (np.minimum(*values) - alpha * log_prob)
        torch.manual_seed(3)
        loss = script.critic_loss(nets, data, args)[0].item()
        assert loss == pytest.approx(numpy_critic_loss(nets, data, y), rel=1e-5)


def check_critic_gradient(script):
    """Both critics learn; policy, temperature and targets do not."""
    nets, data, args = sac_setup(script)
    script.critic_backward(nets.requires_grad_(True), data, args)
    assert_gradient_in(nets, "qf1", "qf2")


def check_actor_gradient(script):
    """The slope of E[α log π - min Q] with the noise z held fixed, in the actor alone."""
    for settings, alpha in TEMPERATURES:
        nets, data, args = sac_setup(script, **settings)
        (obs, *_), z = arrays(data), noise(3)

        def loss(nets, obs=obs, z=z, alpha=alpha):
            actions, log_prob = numpy_sample(nets.actor, obs, z)
            values = [numpy_q(net, obs, actions) for net in (nets.qf1, nets.qf2)]
            return (alpha * log_prob - np.minimum(*values)).mean()

        torch.manual_seed(3)
        metrics = script.actor_backward(nets, data, args)
        assert metrics["actor_loss"].item() == pytest.approx(loss(nets), rel=1e-5)
        for weight in "actor.fc1.weight", "actor.fc_mu.bias", "actor.fc_log_std.bias":
            assert_slope(nets, weight, loss)
        assert_gradient_in(nets, "actor", *(["log_alpha"] if args.autotune else []))


def check_temperature_gradient(script):
    """∂J/∂log α = -α E[log π + H̄], H̄ = -dim(A): α grows where the entropy is below H̄."""
    nets, data, args = sac_setup(script)
    _, log_prob = numpy_sample(nets.actor, arrays(data)[0], noise(3))
    torch.manual_seed(3)
    script.actor_backward(nets, data, args)
    expected = -np.exp(LOG_ALPHA) * (log_prob - ACT).mean()
    assert nets.log_alpha.grad.item() == pytest.approx(expected, rel=1e-5)


CHECKS = [
    check_critic_loss_value,
    check_critic_gradient,
    check_actor_gradient,
    check_temperature_gradient,
]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(check):
    check(sac)


# ---- The policy ----
@pytest.mark.parametrize("script", [sac, tqc])
def test_a_fixed_temperature_compiles(script):
    """The parameter of a tuned one is not in its graph."""
    nets, data, args = sac_setup(script, autotune=False)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        torch.compile(script.actor_backward, fullgraph=True, backend="eager")(nets, data, args)
    assert_gradient_in(nets, "actor")


@pytest.mark.parametrize("script", [sac, tqc, ac_reparam])
def test_log_probability_does_not_overflow(script):
    """Deep in the saturation of tanh, 1 - tanh(u)² is 0 in float32, the log-probability finite."""
    actor = script.Actor(3, ACT, torch.ones(ACT), torch.zeros(ACT))
    with torch.no_grad():
        actor.fc_mu.bias.fill_(30.0)
    assert (1 - torch.tanh(torch.tensor(30.0)) ** 2) == 0
    policy = actor.distribution(torch.zeros(BATCH, 3))
    log_prob = policy.log_prob(policy.rsample())
    assert log_prob.isfinite().all()
    assert (log_prob > 50).all()
    gradients = torch.autograd.grad(log_prob.sum(), list(actor.fc_mu.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("script", [sac, tqc])
def test_spread_stays_within_its_bounds(script):
    actor = script.Actor(3, ACT, torch.ones(ACT), torch.zeros(ACT))
    for bias, expected in (100.0, 2.0), (-100.0, -20.0):
        with torch.no_grad():
            actor.fc_log_std.bias.fill_(bias)
            spread = actor.distribution(torch.zeros(1, 3)).base_dist.base_dist.scale
        torch.testing.assert_close(spread.log(), torch.full((1, ACT), expected))
