"""Every loss against NumPy, finite differences and the handout; broken copies must be caught."""

import types
from copy import deepcopy

import numpy as np
import pytest
import torch
from conftest import DETERMINISTIC, ROOT
from stable_baselines3.common.type_aliases import ReplayBufferSamples

import ddpg_continuous as ddpg
import td3_continuous as td3

OBS, ACT, BATCH = 3, 2, 6
LOW, HIGH = np.array([-1.0, -5.0]), np.array([3.0, 6.0])
SCALE, BIAS = (HIGH - LOW) / 2, (HIGH + LOW) / 2


def setup(script, **settings):
    """Return networks whose targets differ from them, a batch with some terminations, and Args."""
    args = script.Args()
    vars(args).update({"policy_noise": 0.0, "gamma": 0.9} | settings)
    torch.manual_seed(0)
    nets = script.Networks(OBS, ACT, LOW, HIGH, args)
    with torch.no_grad():
        for parameter in nets.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    data = ReplayBufferSamples(
        torch.randn(BATCH, OBS),
        torch.rand(BATCH, ACT) * 4 - 1,
        torch.randn(BATCH, OBS),
        torch.tensor([[0.0], [1.0], [0.0], [0.0], [1.0], [0.0]]),
        torch.randn(BATCH, 1),
    )
    return nets, data, args


def arrays(data):
    """Return s, a, s', d and r of a batch in float64, the last two without their dimension of 1."""
    obs, actions, next_obs, dones, rewards = (tensor.double().numpy() for tensor in data[:5])
    return obs, actions, next_obs, dones[:, 0], rewards[:, 0]


def layer(x, linear):
    weight, bias = (parameter.detach().double().numpy() for parameter in linear.parameters())
    return x @ weight.T + bias


def numpy_q(net, obs, actions):
    x = np.concatenate([obs, (actions - BIAS) / SCALE], 1)
    x = np.maximum(layer(x, net.fc1), 0)
    return layer(np.maximum(layer(x, net.fc2), 0), net.fc3)[:, 0]


def numpy_actor(net, obs):
    x = np.maximum(layer(np.maximum(layer(obs, net.fc1), 0), net.fc2), 0)
    return np.tanh(layer(x, net.fc_mu)) * SCALE + BIAS


def critics(nets):
    """Return pairs of a critic and its target, one or two."""
    names = [name for name in ("qf1", "qf2") if hasattr(nets, name)]
    return [(getattr(nets, name), getattr(nets, f"{name}_target")) for name in names]


def numpy_next_values(nets, data, noise=0.0):
    """Return what each target critic makes of the target actor's action: a row for each."""
    obs = arrays(data)[2]
    actions = np.clip(numpy_actor(nets.target_actor, obs) + noise, LOW, HIGH)
    return np.array([numpy_q(target, obs, actions) for _, target in critics(nets)])


def numpy_target(nets, data, gamma, noise=0.0):
    _, _, _, dones, rewards = arrays(data)
    return rewards + gamma * (1 - dones) * numpy_next_values(nets, data, noise).min(0)


def numpy_critic_loss(nets, data, y):
    obs, actions, *_ = arrays(data)
    return sum(((numpy_q(net, obs, actions) - y) ** 2).mean() for net, _ in critics(nets))


def assert_slope(nets, name, function, step=1e-5):
    """The steepest entry of a weight's gradient is how a function changes with it, in float64."""
    grad, exact = nets.get_parameter(name).grad, deepcopy(nets).double()
    assert grad is not None, "no gradient"
    index = np.unravel_index(grad.abs().argmax().item(), grad.shape)
    values = []
    for change in step, -2 * step:
        exact.get_parameter(name).data[index] += change
        values.append(function(exact))
    assert grad[index].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


def assert_gradient_in(nets, *parts):
    """Every parameter of these networks has a gradient, no other has one."""
    for name, parameter in nets.named_parameters():
        assert (parameter.grad is not None) == (name.split(".")[0] in parts), name


# Checks: true of a script, and broken by the mutants below.
def check_critic_loss_value(script):
    """And of twins each is the lower for some samples."""
    nets, data, args = setup(script)
    lower = numpy_next_values(nets, data).argmin(0)[data.dones[:, 0] == 0]
    assert len(set(lower)) == len(critics(nets))
    expected = numpy_critic_loss(nets, data, numpy_target(nets, data, args.gamma))
    assert script.critic_loss(nets, data, args)[0].item() == pytest.approx(expected, rel=1e-5)


def check_critic_gradient(script):
    """Finite differences move the critic alone: a gradient through the target would differ."""
    nets, data, args = setup(script)
    script.critic_backward(nets.requires_grad_(True), data, args)
    y, names = numpy_target(nets, data, args.gamma), ["qf1", "qf2"][: len(critics(nets))]
    for name in names:
        for weight in f"{name}.fc3.weight", f"{name}.fc1.weight":
            assert_slope(nets, weight, lambda nets: numpy_critic_loss(nets, data, y))
    assert_gradient_in(nets, *names)


def check_actor_gradient(script):
    """The gradient is -E[∇_a Q ∇_θ μ], computed with both factors apart."""
    nets, data, args = setup(script)
    script.actor_backward(nets, data, args)
    actions = nets.actor(data.observations)
    at = actions.detach().requires_grad_()
    (slope,) = torch.autograd.grad(nets.qf1(data.observations, at).sum(), at)
    by_hand = torch.autograd.grad(actions, list(nets.actor.parameters()), -slope / BATCH)
    for parameter, expected in zip(nets.actor.parameters(), by_hand, strict=True):
        torch.testing.assert_close(parameter.grad, expected)

    obs, *_ = arrays(data)
    for weight in "actor.fc_mu.weight", "actor.fc1.weight":
        assert_slope(
            nets, weight, lambda nets: -numpy_q(nets.qf1, obs, numpy_actor(nets.actor, obs)).mean()
        )


def check_polyak(script):
    """θ' ← τθ + (1-τ)θ' for every parameter, and θ itself stays."""
    for tau in 0.1, 0.5:
        nets, _, _ = setup(script)
        before = deepcopy(nets)
        script.polyak_update(nets.qf1, nets.qf1_target, tau)
        for name, θ in before.qf1.named_parameters():
            expected = tau * θ + (1 - tau) * before.qf1_target.get_parameter(name)
            torch.testing.assert_close(nets.qf1_target.get_parameter(name), expected)
            assert torch.equal(nets.qf1.get_parameter(name), θ)
        # a graph over all updates would grow, and fill the memory, for as long as the run
        assert all(parameter.grad_fn is None for parameter in nets.qf1_target.parameters())


def check_target_smoothing(script):
    """Noise for each sample and dimension, clipped, then scaled; the action stays in bounds."""
    nets, data, args = setup(script, policy_noise=0.6, noise_clip=0.5)
    nets.target_actor.fc_mu.bias.data.copy_(torch.tensor([2.0, 0.0]))  # one near its bound
    torch.manual_seed(7)
    loss = script.critic_loss(nets, data, args)[0].item()
    torch.manual_seed(7)
    noise = 0.6 * torch.randn_like(data.actions).numpy()
    clipped = np.clip(noise, -0.5, 0.5) * SCALE
    actions = numpy_actor(nets.target_actor, data.next_observations.numpy()) + clipped
    inside, counts = (actions > LOW) & (actions < HIGH), data.dones.numpy() == 0
    assert (counts & inside & (np.abs(noise) > 0.5)).any(), "nothing to clip"
    assert (counts & ~inside).any(), "nothing leaves the bounds"
    expected = numpy_critic_loss(nets, data, numpy_target(nets, data, args.gamma, clipped))
    assert loss == pytest.approx(expected, rel=1e-5)


def check_actor_update_leaves_no_gradient_in_the_critic(script):
    nets, data, args = setup(script)
    script.actor_backward(nets, data, args)
    assert_gradient_in(nets, "actor")


CHECKS = [
    check_critic_loss_value,
    check_critic_gradient,
    check_actor_gradient,
    check_polyak,
    check_target_smoothing,
    check_actor_update_leaves_no_gradient_in_the_critic,
]


@DETERMINISTIC
@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(script, check):
    check(script)


# What is broken so that test_train.py can't see it, how, and the check that has to notice.
MUTANTS = {
    "action as it is": ("(a - self.action_bias) / self.action_scale", "a", "critic_loss_value"),
    "action not centred": ("(a - self.action_bias)", "a", "critic_loss_value"),
    "no detach": (
        "with torch.no_grad():\n        next_state",
        "if True:\n        next_state",
        "critic_gradient",
    ),
    "one value a batch": (".squeeze(-1)", "", "critic_loss_value"),
    "gradient of every parameter": (
        "backward(inputs=list(nets.actor.parameters()))",
        "backward()",
        "no_gradient",
    ),
    "Polyak in the autograd graph": ("@torch.no_grad()\ndef polyak", "def polyak", "polyak"),
}


def assert_caught(script, old, new, check, checks=CHECKS):
    """Break the script's networks or losses and run the named check, which must fail."""
    source = (ROOT / f"{script.__name__}.py").read_text()
    losses = source[source.index("# ---- Networks ----") : source.index("# ---- Training ----")]
    assert losses.count(old) == 1, f"the mutant does not fit: {old}"
    mutant = types.ModuleType("mutant")
    mutant.__dict__.update(vars(script))
    exec(losses.replace(old, new), mutant.__dict__)
    (function,) = [function for function in checks if check in function.__name__]
    with pytest.raises(AssertionError):
        function(mutant)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", MUTANTS)
def test_broken_copy_is_caught(name):
    assert_caught(ddpg, *MUTANTS[name])


def test_actor_gradient_is_that_of_regression_to_one_gradient_step():
    """Handout, Eq. 7 to 10: ½ E[(μ(s) - a*)²] at a* = μ(s) + ∇_a Q has the gradient of -E[Q]."""
    nets, data, args = setup(ddpg)
    parameters = list(nets.actor.parameters())
    descent = torch.autograd.grad(ddpg.actor_loss(nets, data, args)[0], parameters)
    actions = nets.actor(data.observations).detach().requires_grad_()
    (slope,) = torch.autograd.grad(nets.qf1(data.observations, actions).sum(), actions)
    improved = actions.detach() + slope
    regression = 0.5 * ((nets.actor(data.observations) - improved) ** 2).sum(1).mean()
    regression_gradient = torch.autograd.grad(regression, parameters)
    for expected, same in zip(descent, regression_gradient, strict=True):
        torch.testing.assert_close(same, expected)


def test_td3_smooths_by_default_and_ddpg_does_not():
    assert (ddpg.Args().policy_noise, td3.Args().policy_noise) == (0.0, 0.2)
