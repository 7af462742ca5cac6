"""REINFORCE: returns by definition, a one-step problem in closed form, the handout's listing."""

import numpy as np
import pytest
import torch
from conftest import weights
from test_a2c import check_losses, numpy_actor_loss, numpy_critic_loss, setup
from test_environments import EPISODE, TIME, ends
from test_losses import assert_caught, finite_difference, steepest
from test_ppo import numpy_mlp

import reinforce_continuous as reinforce

RUN = pytest.mark.parametrize("script", [reinforce.__name__], indirect=True)
BASELINES = ["none", "mean", "value"]
GAMMA = 0.9


# ---- Returns ----
def two_episodes(script):
    """Return a rollout of 9 rows, of which two episodes are whole.

    Environment 0: 4 steps to a termination, then part of another episode. Environment 1: 6 steps to
    a time limit. What is below is left of an earlier rollout.
    """
    rng = np.random.default_rng(0)
    rollout = script.Rollout(9, 2, 3, 2)
    for name in "observations", "next_observations", "actions", "rewards":
        array = getattr(rollout, name)
        array[:] = rng.normal(size=array.shape)
    for env, length in (0, 4), (1, 6):
        rollout.next_observations[: length - 1, env] = rollout.observations[1:length, env]
        rollout.dones[length - 1, env] = True
    rollout.terminations[3, 0] = True
    rollout.terminations[7], rollout.dones[7] = True, True
    return rollout


def returns_by_definition(rollout, after_limit):
    """R_t = Σ_k γ^k r_{t+k} to the end of the episode; after a time limit it goes on as said."""
    found = {}
    for env, length, after in (0, 4, 0.0), (1, 6, after_limit):
        rewards = rollout.rewards[:length, env]
        for t in range(length):
            discounted = sum(GAMMA ** (k - t) * rewards[k] for k in range(t, length))
            found[t, env] = discounted + GAMMA ** (length - t) * after
    return found


def check_returns(script):
    """Of the whole episodes alone, by time and then environment; A = R - b."""
    for baseline in BASELINES:
        nets, _, args = setup(script, gamma=GAMMA, baseline=baseline)
        nets, rollout = nets.float(), two_episodes(script)
        data = script.make_batch(nets, rollout, args, "cpu")
        values = numpy_mlp(nets.critic.net, rollout.observations)[..., 0]
        last = numpy_mlp(nets.critic.net, rollout.next_observations[5, 1])[0]
        found = returns_by_definition(rollout, last if baseline == "value" else 0.0)
        at = sorted(found)
        returns = np.array([found[i] for i in at])
        baselines = np.zeros(len(at))
        if baseline == "mean":
            baselines += np.mean(returns)
        if baseline == "value":
            baselines += [values[i] for i in at]
        assert data.observations.tolist() == pytest.approx(
            np.array([rollout.observations[i] for i in at], np.float32)
        )
        np.testing.assert_allclose(data.returns, returns, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(data.advantages, returns - baselines, rtol=1e-4, atol=1e-5)


# ---- Losses ----
def check_gradient(script):
    """Of the critic only if it is the baseline."""
    for baseline in "none", "value":
        nets, parts, args = setup(script, baseline=baseline)
        script.backward(nets, script.Batch(**parts), args)
        learn = [nets.actor.mu[0].weight, nets.actor.log_std]
        if baseline == "value":
            learn.append(nets.critic.net[0].weight)
        else:
            assert all(parameter.grad is None for parameter in nets.critic.parameters())
        for weight in learn:
            index = steepest(weight)
            slope = finite_difference(
                weight,
                index,
                lambda nets=nets, parts=parts, args=args: (
                    numpy_actor_loss(nets, parts, args) + 0.5 * numpy_critic_loss(nets, parts)
                ),
            )
            assert weight.grad[index].item() == pytest.approx(slope, rel=1e-4)


# ---- A problem of one step ----
# a ~ N(μ, σ²), r = 3 - (a - c)²/4: J = 3 - ((μ - c)² + σ²)/4
MU, SIGMA, C = 0.3, 0.7, 1.0
VALUE = 3 - ((MU - C) ** 2 + SIGMA**2) / 4
SLOPE = {"mu": -(MU - C) / 2, "log_std": -(SIGMA**2) / 2}


def estimates(script, baseline, repeats, episodes):
    """Return estimates of (∂J/∂μ, ∂J/∂log σ), each from that many episodes: (repeats, 2)."""
    torch.set_num_threads(1)
    nets, rng = script.Networks(1, 1, -np.ones(1), np.ones(1)), np.random.default_rng(1)
    with torch.no_grad():
        for last, bias in (nets.actor.mu[4], MU), (nets.critic.net[4], VALUE):
            last.weight.zero_()
            last.bias.fill_(bias)
        nets.actor.log_std.fill_(np.log(SIGMA))
    rollout = script.Rollout(1, episodes, 1, 1)
    rollout.terminations[:] = rollout.dones[:] = True
    args = script.Args(baseline=baseline)
    found = []
    for _ in range(repeats):
        rollout.actions[:] = rng.normal(MU, SIGMA, (1, episodes, 1))
        rollout.rewards[:] = 3 - (rollout.actions[..., 0] - C) ** 2 / 4
        nets.zero_grad()
        script.backward(nets, script.make_batch(nets, rollout, args, "cpu"), args)
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
        ((of_mu, of_log_std),) = estimates(script, baseline, 1, 100_000)
        assert of_mu == pytest.approx(SLOPE["mu"], abs=0.05)
        assert of_log_std == pytest.approx(SLOPE["log_std"], abs=0.06)


CHECKS = [check_returns, check_losses, check_gradient, check_one_step_gradient]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(check):
    check(reinforce)


MUTANTS = {
    "time limit ends the return": ("(1 - rollout.terminations)", "(1 - rollout.dones)", "returns"),
    "no end of an episode": ("(1 - rollout.dones)", "(1 - 0 * rollout.dones)", "returns"),
    "no discount": ("decay = args.gamma * (1", "decay = (1", "returns"),
    "the second episode, too": ("cumsum(0) - self.dones == 0", "cumsum(0) >= 0", "returns"),
    "without the last step": ("cumsum(0) - self.dones == 0", "cumsum(0) == 0", "returns"),
    "critic for no baseline": ('if args.baseline != "value":', "if False:", "returns"),
    "mean not subtracted": ('if args.baseline == "mean":', "if False:", "returns"),
    "mean always subtracted": ('if args.baseline == "mean":', "if True:", "returns"),
    "mean of other episodes, too": ("advantages[used].mean()", "advantages.mean()", "returns"),
    "descends": ("-(data.advantages * log_probs)", "(data.advantages * log_probs)", "one_step"),
    "probability for its logarithm": ("* log_probs)", "* log_probs.exp())", "one_step"),
    "density of one dimension": ("(data.actions).sum(-1)", "(data.actions)[:, 0]", "losses"),
    "critic always learns": ('if args.baseline == "value":', "if True:", "check_gradient"),
    "critic never learns": ('if args.baseline == "value":', "if False:", "check_gradient"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_copy_is_caught(name):
    assert_caught(reinforce, *MUTANTS[name], CHECKS)


def test_baseline_takes_most_of_the_variance_away():
    """Measured over 400 estimates from 32 episodes each, against the closed form."""
    measured = {}
    for baseline in BASELINES:
        of_mu = estimates(reinforce, baseline, 400, 32)[:, 0]
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
    nets, pi = nets.float(), nets.actor.distribution
    data = reinforce.make_batch(nets, two_episodes(reinforce), args, "cpu")
    loss, parameters = 0, list(nets.actor.parameters())
    for s, a, q in zip(data.observations, data.actions, data.returns, strict=True):
        loss -= q * pi(s).log_prob(a).sum()
    cloning = torch.autograd.grad(loss, parameters)
    ours = torch.autograd.grad(reinforce.actor_loss(nets, data, args)[0], parameters)
    for gradient, expected in zip(ours, cloning, strict=True):
        torch.testing.assert_close(gradient * len(data.returns), expected)


# ---- Rollouts ----
@RUN
@pytest.mark.parametrize("num_envs", [1, 3])
def test_batch_is_one_whole_episode_of_each_environment(quick, monkeypatch, num_envs):
    """Of the present policy: all environments start anew with each batch."""
    batches, real = [], reinforce.make_batch

    def recorded(nets, rollout, *rest):
        used = rollout.first_episodes()
        obs, next_obs = rollout.observations, rollout.next_observations
        batches.append([(obs[used[:, i], i], next_obs[used[:, i], i]) for i in range(num_envs)])
        return real(nets, rollout, *rest)

    monkeypatch.setattr(reinforce, "make_batch", recorded)
    quick(num_envs=num_envs, num_steps=20)
    assert len(batches) > 10
    for batch in batches:
        for obs, next_obs in batch:
            _, length = ends(obs[0])
            assert obs[:, TIME].tolist() == list(range(int(length)))
            assert next_obs[-1, TIME] == length
            assert len(set(obs[:, EPISODE])) == 1


@RUN
def test_episode_is_cut_after_num_steps(quick, monkeypatch):
    sizes, real = [], reinforce.backward

    def recorded(nets, data, args):
        sizes.append(len(data.returns))
        return real(nets, data, args)

    monkeypatch.setattr(reinforce, "backward", recorded)
    quick(num_steps=6)
    assert set(sizes) == {5, 6}


@RUN
@pytest.mark.parametrize("baseline", BASELINES)
def test_each_baseline_trains(quick, baseline):
    """A critic that is no baseline stays as it was."""
    run_dir, result = quick(baseline=baseline)
    reinforce.set_random_seed(1)
    before = reinforce.Networks(3, 2, -np.ones(2), np.ones(2)).state_dict()
    after = weights(run_dir)
    assert result["step"] == 300
    assert not torch.equal(before["actor.mu.0.weight"], after["actor.mu.0.weight"])
    idle = torch.equal(before["critic.net.0.weight"], after["critic.net.0.weight"])
    assert idle == (baseline != "value")
