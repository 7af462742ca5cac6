"""PPO: advantages by definition, the clipped losses by hand, and time limits that end no return."""

import types

import numpy as np
import pytest
import torch
from conftest import only, scalars
from test_losses import assert_caught, assert_slope, layer

import ppo_continuous as ppo

STEPS, ENVS, OBS, ACT, BATCH = 12, 2, 3, 2, 8
LOW, HIGH = np.array([-1.0, -5.0]), np.array([3.0, 6.0])


# ---- Advantages ----
def random_rollout():
    """Return a rollout with terminations and time limits in both environments, V(s) and V(s')."""
    rng = np.random.default_rng(0)
    terminations, truncations = np.zeros((2, STEPS, ENVS), bool)
    terminations[[3, 8], [0, 1]] = True
    truncations[[7, 2], [0, 1]] = True
    rewards, values, next_values = rng.normal(size=(3, STEPS, ENVS))
    dones = terminations | truncations
    next_values[:-1][~dones[:-1]] = values[1:][~dones[:-1]]  # within an episode s' is the next s
    rollout = types.SimpleNamespace(rewards=rewards, terminations=terminations, dones=dones)
    return rollout, values, next_values


def episode_from(rollout, t, env):
    """Yield the steps of the rollout from t to the end of the episode or of the rollout."""
    for k in range(t, STEPS):
        yield k
        if rollout.dones[k, env]:
            return


def value_after(rollout, next_values, k, env):
    return 0.0 if rollout.terminations[k, env] else next_values[k, env]


def sum_of_td_errors(rollout, values, next_values, γ, λ):
    """Handout, Eq. 4: A_t = Σ (γλ)^(k-t) (r_k + γ V(s_{k+1}) - V(s_k)), written as two loops."""
    advantages = np.zeros((STEPS, ENVS))
    for env in range(ENVS):
        for t in range(STEPS):
            for k in episode_from(rollout, t, env):
                after = value_after(rollout, next_values, k, env)
                δ = rollout.rewards[k, env] + γ * after - values[k, env]
                advantages[t, env] += (γ * λ) ** (k - t) * δ
    return advantages


def mixture_of_n_step_estimates(rollout, values, next_values, γ, λ):
    """Handout, Eq. 3: (1-λ) Σ_n λ^(n-1) (n-step return - V), the last n taking the rest."""
    advantages = np.zeros((STEPS, ENVS))
    for env in range(ENVS):
        for t in range(STEPS):
            steps = list(episode_from(rollout, t, env))
            rewards = 0.0
            for n, k in enumerate(steps, start=1):
                rewards += γ ** (n - 1) * rollout.rewards[k, env]
                estimate = rewards + γ**n * value_after(rollout, next_values, k, env)
                weight = λ ** (n - 1) * (1 if n == len(steps) else 1 - λ)
                advantages[t, env] += weight * (estimate - values[t, env])
    return advantages


def check_advantages(script):
    rollout, values, next_values = random_rollout()
    for λ in 0.0, 0.7, 1.0:
        args = script.Args(gamma=0.9, gae_lambda=λ)
        ours = script.estimate_advantages(rollout, rollout.rewards, values, next_values, args)
        np.testing.assert_allclose(
            ours, sum_of_td_errors(rollout, values, next_values, 0.9, λ), atol=1e-12
        )


def test_mixture_of_n_step_estimates_is_the_sum_of_td_errors():
    """The handout's Eq. 3 and Eq. 4 are the same number."""
    for λ in 0.0, 0.3, 0.95, 1.0:
        mixture = mixture_of_n_step_estimates(*random_rollout(), 0.9, λ)
        np.testing.assert_allclose(mixture, sum_of_td_errors(*random_rollout(), 0.9, λ), atol=1e-12)


def test_regression_target_is_the_empirical_return_at_lambda_1():
    """Handout, Eq. 2: with λ = 1, A + V is Σ γ^k r up to the termination."""
    rollout, values, next_values = random_rollout()
    args = ppo.Args(gamma=0.9, gae_lambda=1.0)
    advantages = ppo.estimate_advantages(rollout, rollout.rewards, values, next_values, args)
    returns = advantages + values
    expected = sum(0.9**k * rollout.rewards[k, 0] for k in range(4))  # terminates at step 3
    assert returns[0, 0] == pytest.approx(expected)


# ---- Losses ----
def setup(script, **settings):
    """Return networks, a batch whose ratios lie on both sides of PPO's clip, and Args."""
    args = script.Args(**settings)
    torch.manual_seed(0)
    nets = script.Networks(OBS, ACT, LOW, HIGH, args)
    with torch.no_grad():
        for parameter in nets.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        obs, actions = torch.randn(BATCH, OBS), torch.randn(BATCH, ACT)
        log_probs = nets.actor.distribution(obs).log_prob(actions).sum(-1)
    parts = {
        "observations": obs,
        "actions": actions,
        "log_probs": log_probs - torch.tensor([0.5, -0.5, 0.5, -0.5, 0.1, -0.1, 0.05, 0.0]),
        "advantages": torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0, -2.0, 0.5, 3.0]),
        "returns": torch.randn(BATCH),
    }
    return nets, script.Batch(*[parts[name] for name in script.Batch._fields]), args


def arrays(data):
    """Return the parts of a batch in float64, by name."""
    parts = {name: part.double().numpy() for name, part in data._asdict().items()}
    return types.SimpleNamespace(**parts)


def numpy_mlp(net, x):
    return layer(np.tanh(layer(np.tanh(layer(x, net[0])), net[2])), net[4])


def numpy_log_std(nets):
    return nets.actor.log_std.detach().double().numpy()


def numpy_log_probs(nets, data):
    z = (data.actions - numpy_mlp(nets.actor.mu, data.observations)) / np.exp(numpy_log_std(nets))
    return (-0.5 * z**2 - numpy_log_std(nets) - 0.5 * np.log(2 * np.pi)).sum(1)


def numpy_entropy(nets):
    return (numpy_log_std(nets) + 0.5 * np.log(2 * np.pi * np.e)).sum()


def numpy_actor_loss(nets, data, args):
    """Return the loss and what is logged of it."""
    data = arrays(data)
    advantages, ratio = data.advantages, np.exp(numpy_log_probs(nets, data) - data.log_probs)
    if args.norm_adv:
        advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
    clipped = np.clip(ratio, 1 - args.clip_coef, 1 + args.clip_coef)
    metrics = {
        "policy_loss": -np.minimum(ratio * advantages, clipped * advantages).mean(),
        "entropy": numpy_entropy(nets),
        "approx_kl": (ratio - 1 - np.log(ratio)).mean(),
        "clipfrac": (np.abs(ratio - 1) > args.clip_coef).mean(),
    }
    return metrics["policy_loss"] - args.ent_coef * metrics["entropy"], metrics


def numpy_critic_loss(nets, data):
    data = arrays(data)
    return 0.5 * ((numpy_mlp(nets.critic.net, data.observations)[:, 0] - data.returns) ** 2).mean()


def check_losses(script):
    for norm_adv in True, False:
        nets, data, args = setup(script, norm_adv=norm_adv, ent_coef=0.1)
        expected, logged = numpy_actor_loss(nets, data, args)
        loss, metrics = script.actor_loss(nets, data, args)
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        assert {k: v.item() for k, v in metrics.items()} == pytest.approx(logged, rel=1e-5)
        expected = numpy_critic_loss(nets, data)
        assert script.critic_loss(nets, data, args)[0].item() == pytest.approx(expected, rel=1e-5)


def check_gradient(script):
    nets, data, args = setup(script, ent_coef=0.1)
    script.losses_backward(nets, data, args)

    def total(nets):
        return numpy_actor_loss(nets, data, args)[0] + 0.5 * numpy_critic_loss(nets, data)

    for weight in "actor.mu.0.weight", "actor.log_std", "critic.net.0.weight":
        assert_slope(nets, weight, total)


CHECKS = [check_advantages, check_losses, check_gradient]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(check):
    check(ppo)


MUTANTS = {"clipped from above alone": ("ratio != clipped", "ratio > clipped", "losses")}


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_copy_is_caught(name):
    assert_caught(ppo, *MUTANTS[name], CHECKS)


def test_handout_surrogate_is_misprinted():
    """At ratio 1 the surrogate has the policy gradient A ∇log π; times log π it has not (Eq. 1)."""
    nets, data, args = setup(ppo, norm_adv=False)
    parameters = list(nets.actor.mu.parameters())

    def gradient(objective):
        return torch.cat([g.flatten() for g in torch.autograd.grad(objective, parameters)])

    def log_prob():
        return nets.actor.distribution(data.observations).log_prob(data.actions).sum(-1)

    policy_gradient = gradient((data.advantages * log_prob()).mean())
    at_ratio_1 = data._replace(log_probs=log_prob().detach())
    loss = ppo.actor_loss(nets, at_ratio_1, args)[0]
    torch.testing.assert_close(-gradient(loss), policy_gradient)

    ratio = (log_prob() - log_prob().detach()).exp()
    as_printed = gradient((ratio * data.advantages * log_prob()).mean())
    assert torch.cosine_similarity(as_printed, policy_gradient, dim=0) < 0.9


# ---- Networks ----
def test_weights_start_orthogonal():
    """And every policy with σ = 0.61 of half the action range."""
    nets = ppo.Networks(11, 3, -np.ones(3), np.ones(3), ppo.Args())
    last = nets.actor.mu[4].weight
    torch.testing.assert_close(last @ last.T, 1e-4 * torch.eye(3))
    hidden = nets.critic.net[2].weight
    torch.testing.assert_close(hidden @ hidden.T, 2 * torch.eye(64), atol=1e-5, rtol=1e-5)
    assert not nets.actor.mu[2].bias.any()
    assert (nets.actor.log_std == -0.5).all()


def test_deterministic_action_is_the_mean_in_the_environments_units():
    """Of observations as they are: the actor normalises them."""
    nets, _, _ = setup(ppo)
    seen = np.random.default_rng(0).normal(5, 3, (100, OBS))
    obs = np.concatenate([seen[:4], [[1e6] * OBS]])
    nets.actor.obs_normalizer.update(seen)
    x = ((obs - seen.mean(0)) / seen.std(0)).clip(-10, 10)
    expected = numpy_mlp(nets.actor.mu, x) * (HIGH - LOW) / 2 + (HIGH + LOW) / 2
    found = nets.actor(torch.tensor(obs)).detach()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# ---- Training, beyond what test_train.py shows ----
@only([f"{name}_continuous" for name in ("ppo", "a2c", "reinforce", "a3c")])
def test_what_is_logged_is_the_mean_over_all_updates_of_a_rollout(quick, script, monkeypatch):
    batches, backward, make_batch = [], script.losses_backward, script.make_batch

    def recorded(*args):
        metrics = backward(*args)
        batches[-1][1].append(dict(metrics))
        return metrics

    def kept(*args):
        batches.append((make_batch(*args), []))
        return batches[-1][0]

    monkeypatch.setattr(script, "losses_backward", recorded)
    monkeypatch.setattr(script, "make_batch", kept)
    run_dir, _ = quick(eval_interval=1, eval_episodes=1, total_timesteps=100, learning_rate=0.01)
    points, begun = scalars(run_dir), 0
    assert len(points["charts/SPS"]) == len(batches) > 1
    for i, (batch, history) in enumerate(batches):
        assert len(history) == (12 if script is ppo else 1)  # minibatches, epochs
        for name in history[0]:
            expected = np.mean([metrics[name].item() for metrics in history])
            assert points[f"losses/{name}"][i].value == pytest.approx(expected, abs=1e-6)
        errors, returns = batch.advantages.numpy(), batch.returns.numpy()  # A = R - V
        found = points["losses/explained_variance"][i].value
        assert found == pytest.approx(1 - errors.var() / returns.var(), rel=1e-3, abs=1e-4)
        rate = points["charts/learning_rate"][i]
        assert rate.value == pytest.approx(0.01 * (1 - begun / 100))
        begun = rate.step
