"""PPO: advantages by definition, the clipped losses by hand, and time limits that end no return."""

import copy
import types

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_environments import EPISODE, NAME, TIME, ends
from test_losses import assert_caught, finite_difference, steepest
from test_runs import weights

import ppo_continuous as ppo

RUN = pytest.mark.parametrize("script", [ppo.__name__], indirect=True)
STEPS, ENVS, OBS, ACT, BATCH = 12, 2, 3, 2, 8
LOW, HIGH = np.array([-1.0, -5.0]), np.array([3.0, 5.0])


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
def setup(**settings):
    """Return networks, a batch whose ratios lie on both sides of the clip, and Args."""
    torch.manual_seed(0)
    nets = ppo.Networks(OBS, ACT, LOW, HIGH).double()
    with torch.no_grad():
        for parameter in nets.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        obs, actions = torch.randn(BATCH, OBS).double(), torch.randn(BATCH, ACT).double()
        log_probs = nets.actor.distribution(obs).log_prob(actions).sum(-1)
        log_probs -= torch.tensor([0.5, -0.5, 0.5, -0.5, 0.1, -0.1, 0.05, 0.0])
        values = nets.critic(obs) + torch.linspace(-0.6, 0.6, BATCH)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0, -2.0, 0.5, 3.0]).double()
    data = ppo.Batch(obs, actions, log_probs, values, advantages, torch.randn(BATCH).double())
    return nets, data, ppo.Args(**settings)


def numpy_mlp(net, x):
    for i in 0, 2, 4:
        x = x @ net[i].weight.detach().numpy().T + net[i].bias.detach().numpy()
        x = np.tanh(x) if i < 4 else x
    return x


def numpy_actor_loss(nets, data, args):
    obs, actions, log_probs, _, advantages, _ = (x.numpy() for x in data)
    log_std = nets.actor.log_std.detach().numpy()
    z = (actions - numpy_mlp(nets.actor.mu, obs)) / np.exp(log_std)
    new = (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(1)
    ratio = np.exp(new - log_probs)
    if args.norm_adv:
        advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
    surrogate = np.minimum(
        ratio * advantages, np.clip(ratio, 1 - args.clip_coef, 1 + args.clip_coef) * advantages
    )
    entropy = (log_std + 0.5 * np.log(2 * np.pi * np.e)).sum()
    return -surrogate.mean() - args.ent_coef * entropy


def numpy_critic_loss(nets, data, args):
    obs, _, _, old, _, returns = (x.numpy() for x in data)
    values = numpy_mlp(nets.critic.net, obs)[:, 0]
    errors = (values - returns) ** 2
    if args.clip_vloss:
        clipped = old + np.clip(values - old, -args.clip_coef, args.clip_coef)
        errors = np.maximum(errors, (clipped - returns) ** 2)
    return 0.5 * errors.mean()


def check_losses(script):
    for norm_adv, clip_vloss in (True, True), (False, False):
        nets, data, args = setup(norm_adv=norm_adv, clip_vloss=clip_vloss, ent_coef=0.1)
        expected = numpy_actor_loss(nets, data, args), numpy_critic_loss(nets, data, args)
        assert script.actor_loss(nets, data, args)[0].item() == pytest.approx(expected[0])
        assert script.critic_loss(nets, data, args)[0].item() == pytest.approx(expected[1])


def check_gradient(script):
    nets, data, args = setup(ent_coef=0.1)
    script.backward(nets, data, args)

    def total():
        return numpy_actor_loss(nets, data, args) + 0.5 * numpy_critic_loss(nets, data, args)

    for weight in nets.actor.mu[0].weight, nets.actor.log_std, nets.critic.net[0].weight:
        index = steepest(weight)
        slope = finite_difference(weight, index, total)
        assert weight.grad[index].item() == pytest.approx(slope, rel=1e-4)


CHECKS = [check_advantages, check_losses, check_gradient]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(check):
    check(ppo)


MUTANTS = {
    "time limit ends the return": ("(1 - rollout.terminations)", "(1 - rollout.dones)", "adv"),
    "no end of an episode": ("(1 - rollout.dones)", "(1 - 0 * rollout.dones)", "adv"),
    "λ runs on through a time limit": ("- rollout.dones)", "- rollout.terminations)", "adv"),
    "no discount in λ": ("decay = args.gamma * args", "decay = args", "adv"),
    "maximum": ("torch.min(ratio", "torch.max(ratio", "losses"),
    "not clipped": ("clipped * advantages", "ratio * advantages", "losses"),
    "ratio upside down": ("log_ratio.exp()", "(-log_ratio).exp()", "losses"),
    "density of one dimension": ("(data.actions).sum(-1)", "(data.actions)[:, 0]", "losses"),
    "entropy shunned": ("- args.ent_coef", "+ args.ent_coef", "losses"),
    "advantages not normalised": ("if args.norm_adv:", "if False:", "losses"),
    "value clip forgotten": ("if args.clip_vloss:", "if False:", "losses"),
    "value clip the wrong way": ("torch.max(errors", "torch.min(errors", "losses"),
    "no ½": ("0.5 * errors", "errors", "losses"),
    "critic's weight forgotten": ("args.vf_coef * value_loss", "value_loss", "gradient"),
    "the handout's log π": (
        "clipped * advantages).mean()",
        "clipped * advantages).mul(log_probs).mean()",
        "losses",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_copy_is_caught(name):
    assert_caught(ppo, *MUTANTS[name], CHECKS)


def test_handout_surrogate_is_misprinted():
    """At ratio 1 the surrogate has the policy gradient A ∇log π; times log π it has not (Eq. 1)."""
    nets, data, _ = setup()
    obs, actions, parameters = data.observations, data.actions, list(nets.actor.mu.parameters())

    def gradient(objective):
        return torch.cat([g.flatten() for g in torch.autograd.grad(objective, parameters)])

    log_prob = nets.actor.distribution(obs).log_prob(actions).sum(-1)
    policy_gradient = gradient((data.advantages * log_prob).mean())
    at_ratio_1 = data._replace(log_probs=log_prob.detach())
    args = ppo.Args(norm_adv=False)
    loss = ppo.actor_loss(nets, at_ratio_1, args)[0]
    torch.testing.assert_close(-gradient(loss), policy_gradient)

    log_prob = nets.actor.distribution(obs).log_prob(actions).sum(-1)
    ratio = (log_prob - log_prob.detach()).exp()
    as_printed = gradient((ratio * data.advantages * log_prob).mean())
    assert torch.cosine_similarity(as_printed, policy_gradient, dim=0) < 0.9


# ---- Rollouts ----
@pytest.fixture
def rollouts(monkeypatch):
    """Record each rollout and what the losses were given of it."""
    seen = types.SimpleNamespace(rollouts=[], rewards=[], batches=[], log_ratios=[])
    estimate, loss = ppo.estimate_advantages, ppo.actor_loss

    def recorded_estimate(rollout, rewards, *rest):
        seen.rollouts.append(copy.deepcopy(rollout))  # the loop fills the same one again
        seen.rewards.append(rewards)
        seen.batches.append([])
        return estimate(rollout, rewards, *rest)

    def recorded_loss(nets, data, args):
        with torch.no_grad():
            new = nets.actor.distribution(data.observations).log_prob(data.actions).sum(-1)
        seen.batches[-1].append(data)
        seen.log_ratios.append((new - data.log_probs).abs().max().item())
        return loss(nets, data, args)

    monkeypatch.setattr(ppo, "estimate_advantages", recorded_estimate)
    monkeypatch.setattr(ppo, "actor_loss", recorded_loss)
    return seen


@RUN
@pytest.mark.parametrize("num_envs", [1, 3])
def test_rollouts_are_what_happened(quick, rollouts, num_envs):
    """Across truncation (5 steps), termination (7 steps) and the ends of segments."""
    quick(num_envs=num_envs, checkpoint_interval=150)
    every = types.SimpleNamespace()
    for name in "observations", "next_observations", "terminations", "dones":
        parts = [getattr(rollout, name) for rollout in rollouts.rollouts]
        setattr(every, name, np.concatenate(parts))
    for env in range(num_envs):
        obs, next_obs = every.observations[:, env], every.next_observations[:, env]
        terminates, length = ends(obs)
        assert (obs[:, NAME] == env).all()
        assert (next_obs[:, :TIME] == obs[:, :TIME]).all()
        assert (next_obs[:, TIME] == obs[:, TIME] + 1).all()
        ended = next_obs[:, TIME] == length
        assert (every.terminations[:, env] == (ended & terminates)).all()
        assert (every.dones[:, env] == ended).all()
        new = obs[1:, TIME] == 0
        boundary = np.arange(1, len(obs)) * num_envs % 150 == 0
        assert boundary.sum() == (1 if num_envs == 1 else len(obs) // 50 - 1)
        assert (new == (ended[:-1] | boundary)).all()


@RUN
def test_rewards_are_scaled_by_the_spread_of_discounted_returns(quick, rollouts):
    quick(total_timesteps=50, gamma=0.8)
    (rollout,) = rollouts.rollouts
    raw = 10 * rollout.next_observations[:, 0, EPISODE] + rollout.next_observations[:, 0, TIME]
    returns, discounted = [], 0.0
    for reward, done in zip(raw, rollout.dones[:, 0], strict=True):
        discounted = 0.8 * discounted + reward
        returns.append(discounted)
        discounted *= not done
    scaled = (raw / np.std(returns)).clip(-10, 10)
    np.testing.assert_allclose(rollouts.rewards[0][:, 0], scaled, rtol=1e-2)


@RUN
def test_first_minibatch_has_ratio_1(quick, rollouts):
    """The action is stored before it is clipped; updates then move the ratio."""
    quick(env_id="toy/OneSided-v0")
    actions = np.concatenate([rollout.actions for rollout in rollouts.rollouts])
    assert (np.abs(actions) > 1).any(), "nothing was clipped"
    first = [i for i in range(0, len(rollouts.log_ratios), 12)]  # 3 epochs of 4 minibatches
    assert len(first) == 6
    assert max(rollouts.log_ratios[i] for i in first) < 1e-5
    assert min(rollouts.log_ratios[i + 11] for i in first) > 1e-5


@RUN
def test_each_epoch_is_a_partition_of_the_rollout(quick, rollouts):
    quick(total_timesteps=50)
    (batches,) = rollouts.batches
    assert [len(data.returns) for data in batches] == [13, 13, 12, 12] * 3
    epochs = [torch.cat([data.returns for data in batches[i : i + 4]]) for i in (0, 4, 8)]
    assert not torch.equal(epochs[0], epochs[1])
    for epoch in epochs[1:]:
        assert torch.equal(epoch.sort().values, epochs[0].sort().values)


@RUN
def test_statistics_are_those_of_all_observations_and_in_the_model(quick, rollouts):
    run_dir, _ = quick(num_envs=3)
    state = weights(run_dir)
    obs = np.concatenate([rollout.observations.reshape(-1, 3) for rollout in rollouts.rollouts])
    assert state["actor.obs_normalizer.count"] == pytest.approx(300, rel=1e-5)
    np.testing.assert_allclose(state["actor.obs_normalizer.mean"], obs.mean(0), rtol=1e-4)
    np.testing.assert_allclose(state["actor.obs_normalizer.var"], obs.var(0), rtol=1e-4, atol=1e-4)


@RUN
def test_episodes_of_all_four_environments_are_logged(quick, rollouts):
    run_dir, _ = quick(num_envs=4, num_steps=25)
    lengths = [
        event.value
        for event in EventAccumulator(str(run_dir)).Reload().Scalars("charts/episodic_length")
    ]
    expected = []
    for rollout in rollouts.rollouts:
        expected += rollout.next_observations[:, :, TIME][rollout.dones].tolist()
    assert lengths == expected
    names = {name for r in rollouts.rollouts for name in r.observations[:, :, NAME][r.dones]}
    assert names == {0, 1, 2, 3}


class Endless(gym.Env):
    """Reward 1 at every step and no end of its own; a time limit cuts it."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}


gym.register("toy/Endless-v0", Endless, max_episode_steps=5)


@RUN
def test_value_looks_past_a_time_limit(quick):
    """Reward 1 for ever is worth 1/(1-γ), whatever the limit that cuts the episodes."""
    run_dir, _ = quick(
        env_id="toy/Endless-v0",
        gamma=0.9,
        total_timesteps=6000,
        num_steps=100,
        update_epochs=10,
        learning_rate=1e-2,
        clip_vloss=False,
        checkpoint_interval=0,
        eval_interval=0,
    )
    nets = ppo.Networks(1, 1, -np.ones(1), np.ones(1))
    nets.load_state_dict(weights(run_dir))
    with torch.no_grad():
        value = nets.critic(nets.actor.obs_normalizer(torch.zeros(1, 1))).item()
    in_rewards = value * nets.return_normalizer.var.item() ** 0.5
    assert in_rewards == pytest.approx(1 / (1 - 0.9), rel=0.03)


# ---- Arguments ----
def test_learning_rate_falls_linearly(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"num_steps": 50, "num_minibatches": 2, "update_epochs": 1, "eval_interval": 50}
    ppo.train(ppo.Args(env_id="toy/Count-v0", total_timesteps=200, run_name="x", **settings))
    events = EventAccumulator("runs/x").Reload().Scalars("charts/learning_rate")
    assert [event.value for event in events] == pytest.approx(
        [3e-4 * (1 - i / 4) for i in range(4)]
    )


def test_defaults_are_cleanrls():
    args = vars(ppo.Args())
    expected = {
        "env_id": "Hopper-v4",
        "total_timesteps": 1_000_000,
        "learning_rate": 3e-4,
        "num_envs": 1,
        "num_steps": 2048,
        "anneal_lr": True,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "num_minibatches": 32,
        "update_epochs": 10,
        "norm_adv": True,
        "clip_coef": 0.2,
        "clip_vloss": True,
        "ent_coef": 0.0,
        "vf_coef": 0.5,
        "max_grad_norm": 0.5,
        "target_kl": None,
    }
    assert {name: args[name] for name in expected} == expected


def test_weights_start_orthogonal():
    nets = ppo.Networks(11, 3, -np.ones(3), np.ones(3))
    last = nets.actor.mu[4].weight
    torch.testing.assert_close(last @ last.T, 1e-4 * torch.eye(3))
    hidden = nets.critic.net[2].weight
    torch.testing.assert_close(hidden @ hidden.T, 2 * torch.eye(64), atol=1e-5, rtol=1e-5)
    assert not nets.actor.mu[2].bias.any()


@RUN
@pytest.mark.parametrize(
    "settings", [{"num_minibatches": 26}, {"gae_lambda": 1.1}, {"num_steps": 0}]
)
def test_unusable_number_is_refused(quick, capsys, settings):
    with pytest.raises(SystemExit) as stop:
        quick(**settings)
    assert stop.value.code == 2
    assert next(iter(settings)).replace("_", "-") in capsys.readouterr().err
