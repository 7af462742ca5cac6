"""A2C: its losses by hand, its gradient as that of PPO's first minibatch, one update a rollout."""

import numpy as np
import pytest
import torch
from test_losses import assert_caught, finite_difference, steepest
from test_ppo import ACT, BATCH, HIGH, LOW, OBS, check_advantages, numpy_mlp

import a2c_continuous as a2c
import ppo_continuous as ppo

RUN = pytest.mark.parametrize("script", [a2c.__name__], indirect=True)
ADVANTAGES = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0, -2.0, 0.5, 3.0]).double()


def setup(script=a2c, **settings):
    """Return networks, the parts of a batch, and Args."""
    torch.manual_seed(0)
    nets = script.Networks(OBS, ACT, LOW, HIGH).double()
    with torch.no_grad():
        for parameter in nets.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    parts = {
        "observations": torch.randn(BATCH, OBS).double(),
        "actions": torch.randn(BATCH, ACT).double(),
        "advantages": ADVANTAGES,
        "returns": torch.randn(BATCH).double(),
    }
    return nets, parts, script.Args(**settings)


def numpy_log_probs(nets, obs, actions):
    log_std = nets.actor.log_std.detach().numpy()
    z = (actions - numpy_mlp(nets.actor.mu, obs)) / np.exp(log_std)
    return (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(1)


def numpy_actor_loss(nets, parts, args):
    obs, actions, advantages = (
        parts[name].numpy() for name in ("observations", "actions", "advantages")
    )
    entropy = (nets.actor.log_std.detach().numpy() + 0.5 * np.log(2 * np.pi * np.e)).sum()
    objective = (advantages * numpy_log_probs(nets, obs, actions)).mean()
    return -objective - args.ent_coef * entropy


def numpy_critic_loss(nets, parts):
    values = numpy_mlp(nets.critic.net, parts["observations"].numpy())[:, 0]
    return 0.5 * ((values - parts["returns"].numpy()) ** 2).mean()


def check_losses(script):
    nets, parts, args = setup(script, ent_coef=0.1)
    data = script.Batch(**parts)
    expected = numpy_actor_loss(nets, parts, args), numpy_critic_loss(nets, parts)
    assert script.actor_loss(nets, data, args)[0].item() == pytest.approx(expected[0])
    assert script.critic_loss(nets, data, args)[0].item() == pytest.approx(expected[1])


def check_gradient(script):
    nets, parts, args = setup(script, ent_coef=0.1)
    script.backward(nets, script.Batch(**parts), args)

    def total():
        return numpy_actor_loss(nets, parts, args) + 0.5 * numpy_critic_loss(nets, parts)

    for weight in nets.actor.mu[0].weight, nets.actor.log_std, nets.critic.net[0].weight:
        index = steepest(weight)
        slope = finite_difference(weight, index, total)
        assert weight.grad[index].item() == pytest.approx(slope, rel=1e-4)


CHECKS = [check_advantages, check_losses, check_gradient]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(check):
    check(a2c)


MUTANTS = {
    "time limit ends the return": ("(1 - rollout.terminations)", "(1 - rollout.dones)", "adv"),
    "no end of an episode": ("(1 - rollout.dones)", "(1 - 0 * rollout.dones)", "adv"),
    "descends": ("-(data.advantages * log_probs)", "(data.advantages * log_probs)", "losses"),
    "probability for its logarithm": ("* log_probs)", "* log_probs.exp())", "losses"),
    "density of one dimension": ("(data.actions).sum(-1)", "(data.actions)[:, 0]", "losses"),
    "entropy shunned": ("- args.ent_coef", "+ args.ent_coef", "losses"),
    "no ½": ("0.5 * errors", "errors", "losses"),
    "critic's weight forgotten": ("args.vf_coef * value_loss", "value_loss", "gradient"),
    "no gradient of the actor": ("(loss + args", "(loss.detach() + args", "gradient"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_copy_is_caught(name):
    assert_caught(a2c, *MUTANTS[name], CHECKS)


def test_gradient_is_that_of_ppos_first_minibatch():
    """At the weights that acted the ratio is 1, ε cuts nothing, and ∇ρ = ∇ log π."""
    nets, parts, args = setup(ent_coef=0.1)
    a2c.backward(nets, a2c.Batch(**parts), args)
    theirs = ppo.Networks(OBS, ACT, LOW, HIGH).double()
    theirs.load_state_dict(nets.state_dict())
    policy = theirs.actor.distribution(parts["observations"])
    old = {"log_probs": policy.log_prob(parts["actions"]).sum(-1).detach()}
    old["values"] = theirs.critic(parts["observations"]).detach()
    args = ppo.Args(norm_adv=False, ent_coef=0.1)
    ppo.backward(theirs, ppo.Batch(**parts, **old), args)
    for ours, expected in zip(nets.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)


@RUN
def test_one_update_with_all_of_each_rollout(quick, monkeypatch):
    """And its policy is the one that acted: the advantages are not those of older weights."""
    batches, updates = [], []
    real, step = a2c.backward, torch.optim.RMSprop.step

    def recorded(nets, data, args):
        with torch.no_grad():
            values = nets.critic(data.observations)
            torch.testing.assert_close(data.advantages, data.returns - values)
        batches.append(data)
        return real(nets, data, args)

    monkeypatch.setattr(a2c, "backward", recorded)
    monkeypatch.setattr(torch.optim.RMSprop, "step", lambda o: (updates.append(1), step(o)))
    quick(num_envs=3, num_steps=5)
    assert [len(data.returns) for data in batches] == [15] * 20
    assert len(updates) == 20


@RUN
def test_rollout_of_one_step_is_an_actor_critic_with_td_errors(quick, monkeypatch):
    """The smallest rollout that there is; nothing divides by a variance of one."""
    real, steps = a2c.make_batch, []

    def recorded(nets, rollout, args, device):
        batch = real(nets, rollout, args, device)
        with torch.no_grad():
            scale = (nets.return_normalizer.var.item() + 1e-8) ** 0.5
            obs, next_obs = rollout.observations[0], rollout.next_observations[0]
            v, next_v = (
                nets.critic(nets.actor.obs_normalizer(torch.tensor(x))) for x in (obs, next_obs)
            )
        reward = (rollout.rewards[0] / scale).clip(-10, 10)
        delta = reward + args.gamma * ~rollout.terminations[0] * next_v.numpy() - v.numpy()
        np.testing.assert_allclose(batch.advantages, delta, rtol=1e-4, atol=1e-5)
        steps.append(rollout.terminations[0, 0])
        return batch

    monkeypatch.setattr(a2c, "make_batch", recorded)
    quick(num_envs=1, num_steps=1)
    assert len(steps) == 300
    assert 0 < sum(steps) < 300
