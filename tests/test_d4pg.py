"""D4PG: projection and losses by hand, broken copies; test_train.py has its n-step targets."""

import numpy as np
import pytest
import torch
from conftest import only
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from test_losses import (
    BATCH,
    BIAS,
    SCALE,
    arrays,
    assert_caught,
    assert_gradient_in,
    assert_slope,
    layer,
    numpy_actor,
    setup,
)
from test_runs import signal_at

import d4pg_continuous as d4pg

ATOMS = np.linspace(-12.5, 12.5, 51)  # half a unit apart, exactly so in float32


def d4pg_setup(script, **settings):
    """Return networks whose targets differ, a batch of windows of several lengths, and Args."""
    nets, data, args = setup(script, **{"v_min": -12.5, "v_max": 12.5, "gamma": 0.5} | settings)
    rewards = torch.tensor([[1.3], [-0.7], [14.0], [0.0], [2.5], [-9.0]])
    discounts = 0.9 ** torch.tensor([[5.0], [2.0], [5.0], [1.0], [5.0], [3.0]])
    return nets, data._replace(rewards=rewards, discounts=discounts), args


def by_loops(returns, probabilities, atoms):
    """Bellemare et al. 2017, Alg. 1, and all to one atom where a return falls on it."""
    result, spacing = np.zeros_like(probabilities), atoms[1] - atoms[0]
    for n in range(len(returns)):
        for j in range(len(atoms)):
            place = (min(max(returns[n, j], atoms[0]), atoms[-1]) - atoms[0]) / spacing
            below, above = int(np.floor(place)), int(np.ceil(place))
            if below == above:
                result[n, below] += probabilities[n, j]
            else:
                result[n, below] += probabilities[n, j] * (above - place)
                result[n, above] += probabilities[n, j] * (place - below)
    return result


def softmax(x):
    x = np.exp(x - x.max(1, keepdims=True))
    return x / x.sum(1, keepdims=True)


def numpy_z(net, obs, actions):
    x = np.maximum(layer(np.concatenate([obs, (actions - BIAS) / SCALE], 1), net.fc1), 0)
    return softmax(layer(np.maximum(layer(x, net.fc2), 0), net.fc3))


def numpy_q(net, obs, actions):
    return numpy_z(net, obs, actions) @ ATOMS


def numpy_target(nets, data):
    """The target's distribution: its returns are R + γ^k (1-d) z, with γ^k that of the sample."""
    _, _, obs, dones, rewards = arrays(data)
    returns = rewards[:, None] + data.discounts.double().numpy() * (1 - dones[:, None]) * ATOMS
    actions = numpy_actor(nets.target_actor, obs)
    return by_loops(returns, numpy_z(nets.qf1_target, obs, actions), ATOMS)


def numpy_loss(nets, data, target):
    obs, actions, *_ = arrays(data)
    return -(target * np.log(numpy_z(nets.qf1, obs, actions))).sum(1).mean()


def check_projection(script):
    """Random returns, all on atoms, all beyond the edges; the mass stays 1."""
    rng, atoms = np.random.default_rng(0), torch.tensor(ATOMS)
    probabilities = softmax(rng.normal(size=(BATCH, 51)))
    anywhere = rng.uniform(-20, 20, (BATCH, 51))
    on_atoms = rng.choice(ATOMS, (BATCH, 51))
    beyond = rng.choice([-13.0, 12.6, 1e6, -1e6], (BATCH, 51))
    for returns in anywhere, on_atoms, beyond, np.tile(ATOMS, (BATCH, 1)):
        projected = script.project(torch.tensor(returns), torch.tensor(probabilities), atoms)
        np.testing.assert_allclose(
            projected, by_loops(returns, probabilities, ATOMS), rtol=1e-9, atol=1e-15
        )
        np.testing.assert_allclose(projected.sum(1), 1, rtol=0, atol=1e-14)
    assert projected.numpy() == pytest.approx(probabilities)


def check_critic_loss_value(script):
    nets, data, args = d4pg_setup(script)
    expected = numpy_loss(nets, data, numpy_target(nets, data))
    loss, metrics = script.critic_loss(nets, data, args)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    obs, actions, *_ = arrays(data)
    np.testing.assert_allclose(metrics["qf1_values"], numpy_q(nets.qf1, obs, actions), rtol=1e-4)


def check_edges(script):
    """What is logged as an alarm is the target's mass on the outermost atoms."""
    nets, data, args = d4pg_setup(script)
    _, metrics = script.critic_loss(nets, data, args)
    target = numpy_target(nets, data)
    assert target[2, -1] > 0.5
    assert target[5, 0] > 0.1
    np.testing.assert_allclose(metrics["v_min_mass"].detach(), target[:, 0], rtol=1e-4)
    np.testing.assert_allclose(metrics["v_max_mass"].detach(), target[:, -1], rtol=1e-4)


def check_critic_gradient(script):
    """Finite differences move the critic alone; nothing reaches the actors and the target."""
    nets, data, args = d4pg_setup(script)
    script.critic_backward(nets.requires_grad_(True), data, args)
    target = numpy_target(nets, data)
    for weight in "qf1.fc3.weight", "qf1.fc1.weight":
        assert_slope(nets, weight, lambda nets: numpy_loss(nets, data, target))
    assert_gradient_in(nets, "qf1")


def check_actor_gradient(script):
    """The actor climbs the mean of the distribution, Σ_i p_i z_i; the critic gets no gradient."""
    nets, data, args = d4pg_setup(script)
    script.actor_backward(nets, data, args)
    obs, *_ = arrays(data)
    for weight in "actor.fc_mu.weight", "actor.fc1.weight":
        assert_slope(
            nets, weight, lambda nets: -numpy_q(nets.qf1, obs, numpy_actor(nets.actor, obs)).mean()
        )
    assert_gradient_in(nets, "actor")


CHECKS = [
    check_projection,
    check_critic_loss_value,
    check_edges,
    check_critic_gradient,
    check_actor_gradient,
]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(check):
    check(d4pg)


MUTANTS = {
    "action as it is": ("(a - self.action_bias) / self.action_scale", "a", "critic_loss_value"),
    "edges of the prediction": ("next_z[:, 0]", "logits.softmax(-1)[:, 0]", "edges"),
    "edges swapped": ("next_z[:, -1]", "next_z[:, 0]", "edges"),
    "logits for probabilities in the mean": (
        "(self.logits(x, a).softmax(-1) * self.atoms)",
        "(self.logits(x, a) * self.atoms)",
        "actor_gradient",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_copy_is_caught(name):
    assert_caught(d4pg, *MUTANTS[name], CHECKS)


def test_mass_stays_one_in_float32():
    returns = torch.randn(1000, 51) * 300
    atoms = torch.linspace(-50, 500, 51)
    projected = d4pg.project(returns, torch.rand(1000, 51).softmax(1), atoms)
    assert projected.sum(1).numpy() == pytest.approx(1, abs=1e-5)
    assert (projected >= 0).all()


def test_one_step_and_a_wide_support_give_ddpgs_target_in_expectation():
    """The gradient of the cross-entropy in the last bias is p - target, a sample at a time."""
    nets, data, args = d4pg_setup(d4pg, v_min=-250.0, v_max=250.0)
    discount = torch.full((1, 1), 0.9)
    for n in range(BATCH):
        one = ReplayBufferSamples(*[x[n : n + 1] for x in data[:5]], discount)
        nets.zero_grad()
        d4pg.critic_backward(nets, one, args)
        with torch.no_grad():
            z = nets.qf1.logits(one.observations, one.actions).softmax(-1)[0]
            mean = ((z - nets.qf1.fc3.bias.grad) * nets.qf1.atoms).sum()
            next_actions = nets.target_actor(one.next_observations)
            next_q = nets.qf1_target(one.next_observations, next_actions)
            y = one.rewards[0, 0] + 0.9 * (1 - one.dones[0, 0]) * next_q[0]  # DDPG's line
        torch.testing.assert_close(mean, y, rtol=1e-4, atol=1e-4)


@only(["d4pg_continuous"])
@pytest.mark.parametrize("late", [False, True])
def test_windows_end_at_a_stop(quick, script, monkeypatch, late):
    """A signal cuts the episodes at a step that is no boundary; what follows is another episode.

    One that comes after a step cuts them at the next.
    """
    signal_at(132 - late, script, monkeypatch, late=late)
    with pytest.raises(SystemExit, match="^75$"):
        quick(run_name="x")
    rb = torch.load("runs/x/checkpoint.pt", weights_only=True)["rb"]
    assert len(rb["timeouts"]) == 132
    assert rb["timeouts"][[99, 131]].all()
