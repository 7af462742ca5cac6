"""REINFORCE: returns by definition, a one-step problem in closed form, the handout's listing."""

import numpy as np
import pytest
import torch
from test_a2c import check_losses, numpy_actor_loss
from test_losses import assert_slope
from test_ppo import numpy_critic_loss, numpy_mlp, setup

import reinforce_continuous as reinforce

BASELINES = ["none", "mean", "value"]
GAMMA = 0.9
LENGTHS = 4, 6, 9


# ---- Returns ----
def three_episodes(script):
    """Return a rollout of 9 rows with the first episodes of three environments.

    The first ends after 4 steps by termination, the second after 6 by a time limit; the third has
    no end within the rows. What is below is of other episodes.
    """
    rng = np.random.default_rng(0)
    rollout = script.Rollout(9, 3, 3, 2)
    for name in "observations", "next_observations", "actions", "rewards":
        array = getattr(rollout, name)
        array[:] = rng.normal(size=array.shape)
    for env, length in enumerate(LENGTHS):
        rollout.next_observations[: length - 1, env] = rollout.observations[1:length, env]
    rollout.dones[[3, 5, 7, 7], [0, 1, 0, 1]] = True
    rollout.terminations[[3, 7, 7], [0, 0, 1]] = True
    return rollout


def returns_by_definition(rollout, last_values):
    """R_t = Σ_k γ^k r_{t+k} to the end of the episode, and γ^k V(s_{t+k}) unless it terminates."""
    found = {}
    for env, (length, value) in enumerate(zip(LENGTHS, last_values, strict=True)):
        rewards = rollout.rewards[:length, env]
        for t in range(length):
            discounted = sum(GAMMA ** (k - t) * rewards[k] for k in range(t, length))
            found[t, env] = discounted + GAMMA ** (length - t) * value
    return found


def check_returns(script):
    """Of the first episodes alone, by time and then environment; A = R - b."""
    for baseline in BASELINES:
        nets, _, args = setup(script, gamma=GAMMA, baseline=baseline)
        rollout = three_episodes(script)
        data = script.make_batch(nets, rollout, args, "cpu")
        values, after = (
            numpy_mlp(nets.critic.net, obs)[..., 0]
            for obs in (rollout.observations, rollout.next_observations)
        )
        known = baseline == "value"
        found = returns_by_definition(rollout, [0.0, known * after[5, 1], known * after[8, 2]])
        at = sorted(found)
        returns = np.array([found[i] for i in at])
        baselines = {"none": 0.0, "mean": returns.mean(), "value": [values[i] for i in at]}
        observations = [rollout.observations[i] for i in at]
        np.testing.assert_allclose(data.observations, observations, rtol=1e-5)
        np.testing.assert_allclose(data.returns, returns, rtol=1e-4, atol=1e-5)
        advantages = returns - baselines[baseline]
        np.testing.assert_allclose(data.advantages, advantages, rtol=1e-4, atol=1e-5)


# ---- Losses ----
def check_gradient(script):
    """Of the critic only if it is the baseline."""
    for baseline in "none", "value":
        nets, data, args = setup(script, baseline=baseline)
        script.losses_backward(nets, data, args)
        weights = ["actor.mu.0.weight", "actor.log_std"]
        if baseline == "value":
            weights.append("critic.net.0.weight")
        else:
            assert all(parameter.grad is None for parameter in nets.critic.parameters())

        def total(nets, data=data, args=args):
            return numpy_actor_loss(nets, data, args) + 0.5 * numpy_critic_loss(nets, data)

        for weight in weights:
            assert_slope(nets, weight, total)


# ---- A problem of one step ----
# a ~ N(μ, σ²), r = 3 - (a - c)²/4: J = 3 - ((μ - c)² + σ²)/4
MU, SIGMA, C = 0.3, 0.7, 1.0
VALUE = 3 - ((MU - C) ** 2 + SIGMA**2) / 4
SLOPE = {"mu": -(MU - C) / 2, "log_std": -(SIGMA**2) / 2}


def estimates(script, baseline, repeats, episodes):
    """Return estimates of (∂J/∂μ, ∂J/∂log σ), each from that many episodes: (repeats, 2)."""
    args, rng = script.Args(baseline=baseline), np.random.default_rng(1)
    nets = script.Networks(1, 1, -np.ones(1), np.ones(1), args)
    with torch.no_grad():
        for last, bias in (nets.actor.mu[4], MU), (nets.critic.net[4], VALUE):
            last.weight.zero_()
            last.bias.fill_(bias)
        nets.actor.log_std.fill_(np.log(SIGMA))
    rollout = script.Rollout(1, episodes, 1, 1)
    rollout.terminations[:] = rollout.dones[:] = True
    found = []
    for _ in range(repeats):
        rollout.actions[:] = rng.normal(MU, SIGMA, (1, episodes, 1))
        rollout.rewards[:] = 3 - (rollout.actions[..., 0] - C) ** 2 / 4
        nets.zero_grad()
        script.losses_backward(nets, script.make_batch(nets, rollout, args, "cpu"), args)
        found.append([-nets.actor.mu[4].bias.grad.item(), -nets.actor.log_std.grad.item()])
    return np.array(found)


def variance_in_closed_form(baseline):
    """Return that of (r - b) ∂log π/∂μ = (r - b) z/σ, a polynomial in z, by quadrature."""
    z, weight = np.polynomial.hermite_e.hermegauss(10)
    weight = weight / weight.sum()
    estimate = (3 - (MU + SIGMA * z - C) ** 2 / 4 - baseline) * z / SIGMA
    return weight @ estimate**2 - (weight @ estimate) ** 2


def check_one_step_gradient(script):
    for baseline in BASELINES:
        ((of_mu, of_log_std),) = estimates(script, baseline, 1, 20_000)
        assert of_mu == pytest.approx(SLOPE["mu"], abs=0.1)
        assert of_log_std == pytest.approx(SLOPE["log_std"], abs=0.1)


CHECKS = [check_returns, check_losses, check_gradient, check_one_step_gradient]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(check):
    check(reinforce)


def test_baseline_takes_most_of_the_variance_away():
    """Measured over 200 estimates from 32 episodes each, against the closed form."""
    measured = {}
    for baseline in BASELINES:
        of_mu = estimates(reinforce, baseline, 200, 32)[:, 0]
        assert of_mu.mean() == pytest.approx(SLOPE["mu"], abs=0.15)
        measured[baseline] = 32 * of_mu.var()
    without, with_value = variance_in_closed_form(0.0), variance_in_closed_form(VALUE)
    assert without > 20 * with_value
    assert measured["none"] == pytest.approx(without, rel=0.25)
    assert measured["value"] == pytest.approx(with_value, rel=0.25)
    assert measured["mean"] == pytest.approx(with_value, rel=0.35)


def test_gradient_is_that_of_the_handouts_q_weighted_cloning():
    """Section 5's loop, with R for Q and s for the a in `policy(a)`; it sums, we average."""
    nets, _, args = setup(reinforce, gamma=GAMMA, baseline="none")
    pi = nets.actor.distribution
    data = reinforce.make_batch(nets, three_episodes(reinforce), args, "cpu")
    loss, parameters = 0, list(nets.actor.parameters())
    for s, a, q in zip(data.observations, data.actions, data.returns, strict=True):
        loss -= q * pi(s).log_prob(a).sum()
    cloning = torch.autograd.grad(loss, parameters)
    ours = torch.autograd.grad(reinforce.actor_loss(nets, data, args)[0], parameters)
    for gradient, expected in zip(ours, cloning, strict=True):
        torch.testing.assert_close(gradient * len(data.returns), expected)
