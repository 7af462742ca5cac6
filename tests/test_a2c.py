"""A2C: its losses by hand, and its gradient as that of PPO's first minibatch."""

import pytest
import torch
from conftest import only
from test_ppo import (
    arrays,
    check_advantages,
    numpy_critic_loss,
    numpy_entropy,
    numpy_log_probs,
    setup,
)

import a2c_continuous as a2c
import ppo_continuous as ppo


def numpy_actor_loss(nets, data, args):
    data = arrays(data)
    objective = (data.advantages * numpy_log_probs(nets, data)).mean()
    return -objective - args.ent_coef * numpy_entropy(nets)


def check_losses(script):
    nets, data, args = setup(script, ent_coef=0.1)
    for loss, expected in (
        (script.actor_loss(nets, data, args)[0], numpy_actor_loss(nets, data, args)),
        (script.critic_loss(nets, data, args)[0], numpy_critic_loss(nets, data)),
    ):
        assert loss.item() == pytest.approx(expected, rel=1e-5)


CHECKS = [check_advantages, check_losses]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(check):
    check(a2c)


def test_gradient_is_that_of_ppos_first_minibatch():
    """At the weights that acted the ratio is 1, ε cuts nothing, and ∇ρ = ∇ log π.

    PPO's gradient is held to finite differences in test_ppo.py.
    """
    nets, data, args = setup(a2c, ent_coef=0.1)
    a2c.losses_backward(nets, data, args)
    theirs, _, args = setup(ppo, norm_adv=False, ent_coef=0.1)  # of the same weights
    policy = theirs.actor.distribution(data.observations)
    log_probs = policy.log_prob(data.actions).sum(-1).detach()
    ppo.losses_backward(theirs, ppo.Batch(**data._asdict(), log_probs=log_probs), args)
    for ours, expected in zip(nets.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)


@only([a2c.__name__])
def test_rollout_of_one_step_trains(quick):
    """The smallest that there is: nothing divides by a variance of one number."""
    _, result = quick(num_envs=1, num_steps=1, total_timesteps=20)
    assert result["step"] == 20
