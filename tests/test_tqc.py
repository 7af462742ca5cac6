"""TQC: quantile loss, truncated target and actor by hand; broken copies must be caught."""

import numpy as np
import pytest
import torch
from test_losses import BIAS, SCALE, arrays, assert_caught, assert_gradient_in, assert_slope, layer
from test_sac import TEMPERATURES, numpy_sample, sac_setup
from test_svg0 import noise

import tqc_continuous as tqc


def numpy_quantiles(net, obs, actions):
    x = np.concatenate([obs, (actions - BIAS) / SCALE], 1)
    x = np.maximum(layer(np.maximum(layer(x, net.fc1), 0), net.fc2), 0)
    return layer(x, net.fc3)


def numpy_quantile_loss(quantiles, targets):
    """Mean over samples, quantiles and targets, one pair at a time."""
    losses = []
    for row, ys in zip(quantiles, targets, strict=True):
        for m, θ in enumerate(row):
            for u in ys - θ:
                huber = u**2 / 2 if abs(u) <= 1 else abs(u) - 0.5
                losses.append(abs((m + 0.5) / 25 - (u < 0)) * huber)
    return np.mean(losses)


def spread(script, **settings):
    """SAC's setup with quantiles far apart, so that both pieces of Huber's loss are met."""
    nets, data, args = sac_setup(script, **settings)
    with torch.no_grad():
        for net in nets.qf1, nets.qf2, nets.qf1_target, nets.qf2_target:
            net.fc3.weight.mul_(15)
    return nets, data, args


def numpy_targets(nets, data, args, alpha):
    _, _, obs, dones, rewards = arrays(data)
    actions, log_prob = numpy_sample(nets.actor, obs, noise(3))
    both = [numpy_quantiles(net, obs, actions) for net in (nets.qf1_target, nets.qf2_target)]
    kept = np.sort(np.concatenate(both, 1), 1)[:, : 50 - 2 * args.drop]
    values = kept - alpha * log_prob[:, None]
    return rewards[:, None] + args.gamma * (1 - dones[:, None]) * values


def numpy_critic_loss(nets, data, targets):
    obs, actions, *_ = arrays(data)
    predicted = [numpy_quantiles(net, obs, actions) for net in (nets.qf1, nets.qf2)]
    return sum(numpy_quantile_loss(quantiles, targets) for quantiles in predicted)


def check_critic_loss_value(script):
    """Of both critics' quantiles the largest go, 2 · `drop`; α tuned and fixed."""
    for drop in 0, 2, 24:
        for settings, alpha in TEMPERATURES:
            nets, data, args = spread(script, drop=drop, **settings)
            expected = numpy_critic_loss(nets, data, numpy_targets(nets, data, args, alpha))
            torch.manual_seed(3)
            loss, metrics = script.critic_loss(nets, data, args)
            assert loss.item() == pytest.approx(expected, rel=1e-5)
            values = nets.qf1(data.observations, data.actions)
            assert metrics["qf1_values"].mean().item() == pytest.approx(values.mean().item())


def check_critic_gradient(script):
    """Both critics learn, by finite differences; policy, temperature and targets do not."""
    nets, data, args = spread(script)
    targets = numpy_targets(nets, data, args, TEMPERATURES[0][1])
    torch.manual_seed(3)
    script.critic_backward(nets.requires_grad_(True), data, args)
    for weight in "qf1.fc3.weight", "qf2.fc1.weight":
        assert_slope(nets, weight, lambda nets: numpy_critic_loss(nets, data, targets))
    assert_gradient_in(nets, "qf1", "qf2")


def check_actor_gradient(script):
    """The slope of E[α log π - mean of all quantiles], none left out, in the actor alone."""
    nets, data, args = spread(script)
    (obs, *_), z, alpha = arrays(data), noise(3), TEMPERATURES[0][1]

    def loss(nets):
        actions, log_prob = numpy_sample(nets.actor, obs, z)
        values = [numpy_quantiles(net, obs, actions).mean(1) for net in (nets.qf1, nets.qf2)]
        return (alpha * log_prob - np.mean(values, 0)).mean()

    torch.manual_seed(3)
    metrics = script.actor_backward(nets, data, args)
    assert metrics["actor_loss"].item() == pytest.approx(loss(nets), rel=1e-5)
    for weight in "actor.fc1.weight", "actor.fc_log_std.bias":
        assert_slope(nets, weight, loss)
    assert_gradient_in(nets, "actor", "log_alpha")


CHECKS = [check_critic_loss_value, check_critic_gradient, check_actor_gradient]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(check):
    check(tqc)


MUTANTS = {
    "action as it is": ("(a - self.action_bias) / self.action_scale", "a", "critic_loss_value"),
    "sum of the quantiles": ("(x, a).mean(-1)", "(x, a).sum(-1)", "actor_gradient"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_copy_is_caught(name):
    assert_caught(tqc, *MUTANTS[name], CHECKS)


def test_quantiles_of_a_sample_are_found():
    """Gradient descent on the loss finds the quantiles of its targets, far apart for Huber's 1."""
    targets = 100 * torch.arange(1000.0).unsqueeze(0)
    quantiles = torch.full((1, 25), 5e4, requires_grad=True)
    for _ in range(100):
        (gradient,) = torch.autograd.grad(tqc.quantile_loss(quantiles, targets), quantiles)
        quantiles.data -= 1e6 * gradient
    expected = 1e5 * (np.arange(25) + 0.5) / 25
    np.testing.assert_allclose(quantiles.detach()[0], expected, atol=200)
