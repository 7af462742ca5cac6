"""SAC: density, target, both losses and the temperature by hand; broken copies must be caught."""

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
from test_svg0 import noise

import sac_continuous as sac

SCALE, BIAS = (HIGH - LOW) / 2, (HIGH + LOW) / 2
LOG_ALPHA = -0.7


def sac_setup(script, **settings):
    nets, data, args = setup(script, **settings)
    with torch.no_grad():
        nets.log_alpha.fill_(LOG_ALPHA)
        nets.actor.fc_log_std.bias.add_(torch.tensor([-0.5, 0.3]))
    return nets, data, args


def numpy_sample(actor, obs, z):
    """Return actions and log π(a|s), the Gaussian density of u over the slope of the squashing."""
    x = np.maximum(layer(np.maximum(layer(obs, actor.fc1), 0), actor.fc2), 0)
    log_std = np.clip(layer(x, actor.fc_log_std), -20, 2)
    u = layer(x, actor.fc_mu) + np.exp(log_std) * z
    normal = -0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)
    log_prob = (normal - np.log(SCALE * (1 - np.tanh(u) ** 2))).sum(1)
    return np.tanh(u) * SCALE + BIAS, log_prob


def check_critic_loss_value(script):
    """y = r + γ(1-d) (min Q' - α log π) at one sample of the current policy; α tuned and fixed."""
    for settings, alpha in ({}, np.exp(LOG_ALPHA)), ({"autotune": False, "alpha": 0.3}, 0.3):
        nets, data, args = sac_setup(script, **settings)
        obs = data.next_observations.numpy()
        actions, log_prob = numpy_sample(nets.actor, obs, noise(3))
        values = [numpy_q(net, obs, actions) for net in (nets.qf1_target, nets.qf2_target)]
        soft_values = np.minimum(*values) - alpha * log_prob
        y = data.rewards.numpy()[:, 0] + args.gamma * (1 - data.dones.numpy()[:, 0]) * soft_values
        obs, actions = data.observations.numpy(), data.actions.numpy()
        errors = [numpy_q(net, obs, actions) - y for net in (nets.qf1, nets.qf2)]
        torch.manual_seed(3)
        loss = script.critic_loss(nets, data, args)[0].item()
        assert loss == pytest.approx(np.mean(np.square(errors)) * 2, rel=1e-9)


def check_critic_gradient(script):
    """Both critics learn; policy, temperature and targets do not."""
    nets, data, args = sac_setup(script)
    frozen = [nets.actor, nets.qf1_target, nets.qf2_target]
    for net in frozen:
        net.requires_grad_(True)
    script.critic_backward(nets, data, args)
    assert all(parameter.grad is None for net in frozen for parameter in net.parameters())
    assert nets.log_alpha.grad is None
    for net in nets.qf1, nets.qf2:
        assert all(parameter.grad is not None for parameter in net.parameters())


def check_actor_gradient(script):
    """The slope of E[α log π - min Q] with the noise z held fixed, in the actor alone."""
    for settings, alpha in ({}, np.exp(LOG_ALPHA)), ({"autotune": False, "alpha": 0.3}, 0.3):
        nets, data, args = sac_setup(script, **settings)
        actor, obs, z = nets.actor, data.observations.numpy(), noise(3)

        def loss(nets=nets, obs=obs, z=z, alpha=alpha):
            actions, log_prob = numpy_sample(nets.actor, obs, z)
            values = [numpy_q(net, obs, actions) for net in (nets.qf1, nets.qf2)]
            return (alpha * log_prob - np.minimum(*values)).mean()

        torch.manual_seed(3)
        metrics = script.actor_backward(nets, data, args)
        assert metrics["actor_loss"].item() == pytest.approx(loss(), rel=1e-9)
        for weight in actor.fc1.weight, actor.fc_mu.bias, actor.fc_log_std.bias:
            index = steepest(weight)
            slope = finite_difference(weight, index, loss)
            assert weight.grad[index].item() == pytest.approx(slope, rel=1e-4)
        critics = [*nets.qf1.parameters(), *nets.qf2.parameters()]
        assert all(parameter.grad is None for parameter in critics)


def check_temperature_gradient(script):
    """∂J/∂log α = -α E[log π + H̄], H̄ = -dim(A): α grows where the entropy is below H̄."""
    nets, data, args = sac_setup(script)
    _, log_prob = numpy_sample(nets.actor, data.observations.numpy(), noise(3))
    torch.manual_seed(3)
    script.actor_backward(nets, data, args)
    expected = -np.exp(LOG_ALPHA) * (log_prob - ACT).mean()
    assert nets.log_alpha.grad.item() == pytest.approx(expected, rel=1e-9)
    nets, data, args = sac_setup(script, autotune=False)
    script.actor_backward(nets, data, args)
    assert nets.log_alpha.grad is None


CHECKS = [
    check_critic_loss_value,
    check_critic_gradient,
    check_actor_gradient,
    check_temperature_gradient,
]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(check):
    check(sac)


MUTANTS = {
    "no detach": ("with torch.no_grad():", "if True:", "critic_gradient"),
    "no terminal mask": ("1 - data.dones.flatten()", "1", "critic_loss_value"),
    "online critic as target": ("nets.qf1_target(data", "nets.qf1(data", "critic_loss_value"),
    "maximum in the target": ("torch.min(qf1_next", "torch.max(qf1_next", "critic_loss_value"),
    "no entropy in the target": (
        "alpha * policy.log_prob(next_state_actions)",
        "0 * alpha",
        "critic_loss_value",
    ),
    "entropy shunned in the target": (
        "min_qf_next_target - alpha",
        "min_qf_next_target + alpha",
        "critic_loss_value",
    ),
    "second critic not trained": ("qf1_loss + qf2_loss,", "qf1_loss,", "critic_loss_value"),
    "fixed α ignored": (
        "nets.log_alpha.exp() if args.autotune else args.alpha",
        "nets.log_alpha.exp()",
        "critic_loss_value",
    ),
    "entropy shunned": ("alpha * log_prob - torch", "-alpha * log_prob - torch", "actor_gradient"),
    "maximum in the objective": ("torch.min(qf1_a", "torch.max(qf1_a", "actor_gradient"),
    "density of u, not of a": (", 1, cache_size=1)", ".detach().sign(), 1, 1)", "actor_gradient"),
    "gradient of every parameter": (
        "backward(inputs=[*nets.actor.parameters(), nets.log_alpha])",
        "backward()",
        "actor_gradient",
    ),
    "temperature of the wrong sign": (
        "alpha_loss = -(nets",
        "alpha_loss = (nets",
        "temperature_gradient",
    ),
    "target entropy of the wrong sign": (
        "- data.actions.shape[1]",
        "+ data.actions.shape[1]",
        "temperature_gradient",
    ),
    "temperature's gradient in the actor": (
        "log_prob.detach() - data",
        "log_prob - data",
        "actor_gradient",
    ),
    "actor's gradient in the temperature": (
        "nets.log_alpha.exp().detach() if",
        "nets.log_alpha.exp() if",
        "temperature_gradient",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_copy_is_caught(name):
    assert_caught(sac, *MUTANTS[name], CHECKS)


# ---- The policy ----
@pytest.mark.parametrize("bias", [(0.0, 0.0), (1.5, -1.0), (-0.7, 0.5)])
def test_density_integrates_to_one_within_the_bounds(bias):
    """In one dimension, for several means and spreads, by the trapezoidal rule."""
    actor = sac.Actor(1, 1, np.array([-1.0]), np.array([3.0])).double()
    with torch.no_grad():
        actor.fc_mu.bias.add_(bias[0])
        actor.fc_log_std.bias.add_(bias[1])
        a = torch.linspace(-1, 3, 400_001).double()[1:-1, None]
        density = actor.distribution(torch.zeros(1, 1).double()).log_prob(a).exp()
    assert torch.trapezoid(density, a[:, 0]).item() == pytest.approx(1, abs=1e-3)


def test_log_probability_does_not_overflow():
    """Deep in the saturation of tanh, 1 - tanh(u)² is 0 in float32, the log-probability finite."""
    actor = sac.Actor(3, ACT, LOW, HIGH)
    with torch.no_grad():
        actor.fc_mu.bias.fill_(30.0)
    policy = actor.distribution(torch.zeros(BATCH, 3))
    actions = policy.rsample()
    assert (1 - torch.tanh(torch.tensor(30.0)) ** 2) == 0
    log_prob = policy.log_prob(actions)
    assert log_prob.isfinite().all()
    assert (log_prob > 50).all()
    gradients = torch.autograd.grad(log_prob.sum(), list(actor.fc_mu.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_spread_stays_within_its_bounds():
    actor = sac.Actor(3, ACT, LOW, HIGH)
    for bias, expected in (100.0, 2.0), (-100.0, -20.0):
        with torch.no_grad():
            actor.fc_log_std.bias.fill_(bias)
            spread = actor.distribution(torch.zeros(1, 3)).base_dist.base_dist.scale
        torch.testing.assert_close(spread.log(), torch.full((1, ACT), expected))


def test_deterministic_action_is_the_squashed_mean():
    nets, data, _ = sac_setup(sac)
    obs = data.observations.numpy()
    x = np.maximum(layer(np.maximum(layer(obs, nets.actor.fc1), 0), nets.actor.fc2), 0)
    expected = np.tanh(layer(x, nets.actor.fc_mu)) * SCALE + BIAS
    np.testing.assert_allclose(nets.actor(data.observations).detach().numpy(), expected)


def test_one_adam_steps_actor_and_temperature_as_two_would():
    """Adam's steps are those of each parameter alone; the gradients do not mix (checks above)."""
    nets, data, args = sac_setup(sac)
    torch.manual_seed(3)
    sac.actor_backward(nets, data, args)
    parameters = [*nets.actor.parameters(), nets.log_alpha]
    together = [parameter.detach().clone().requires_grad_() for parameter in parameters]
    apart = [parameter.detach().clone().requires_grad_() for parameter in parameters]
    for copies in together, apart:
        for copy, parameter in zip(copies, parameters, strict=True):
            copy.grad = parameter.grad.clone()
    torch.optim.Adam(together, lr=0.1).step()
    torch.optim.Adam(apart[:-1], lr=0.1).step()
    torch.optim.Adam(apart[-1:], lr=0.1).step()
    for one, other in zip(together, apart, strict=True):
        assert torch.equal(one, other)
