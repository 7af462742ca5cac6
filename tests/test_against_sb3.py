"""Our updates are those of Stable-Baselines3: same weights and batches in, same weights out."""

import importlib

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC, TD3
from torch import optim

UPDATES = 40


def copy_weights(modules: list, sequential: torch.nn.Sequential) -> None:
    """Load the linear layers of one of SB3's networks into ours."""
    linear = [layer for layer in sequential if isinstance(layer, torch.nn.Linear)]
    for ours, theirs in zip(modules, linear, strict=True):
        ours.load_state_dict(theirs.state_dict())


def load_sb3(nets, model) -> None:
    for ours, theirs in (nets.actor, model.actor), (nets.target_actor, model.actor_target):
        copy_weights([ours.fc1, ours.fc2, ours.fc_mu], theirs.mu)
    for target, critic in ("", model.critic), ("_target", model.critic_target):
        for i, q_network in enumerate(critic.q_networks, start=1):
            ours = getattr(nets, f"qf{i}{target}")
            copy_weights([ours.fc1, ours.fc2, ours.fc3], q_network)


def fill(rb, env):
    """Put 300 random transitions into a replay buffer; return the dimensions of its spaces."""
    rng = np.random.default_rng(0)
    obs_dim, act_dim = env.observation_space.shape[0], env.action_space.shape[0]
    for _ in range(300):
        obs, next_obs = rng.normal(size=(2, 1, obs_dim))
        action, reward = rng.uniform(-1, 1, (1, act_dim)), rng.normal(size=1)
        rb.add(obs, next_obs, action, reward, rng.random(1) < 0.2, [{}])
    return obs_dim, act_dim


@pytest.mark.filterwarnings("ignore:.*precision lowered")
@pytest.mark.parametrize(
    ("name", "n_critics", "policy_noise"), [("ddpg_continuous", 1, 0.0), ("td3_continuous", 2, 0.2)]
)
def test_updates_equal_those_of_sb3(name, n_critics, policy_noise):
    script = importlib.import_module(name)
    args = script.Args(policy_noise=policy_noise, batch_size=64)
    env = gym.wrappers.DtypeObservation(gym.make("InvertedDoublePendulum-v5"), np.float32)
    # its actions lie in [-1, 1], as SB3 stores them
    model = TD3(
        "MlpPolicy",
        env,
        learning_rate=args.learning_rate,
        buffer_size=1000,
        batch_size=args.batch_size,
        policy_delay=args.policy_frequency,
        target_policy_noise=policy_noise,
        target_noise_clip=args.noise_clip,
        policy_kwargs={"net_arch": [256, 256], "n_critics": n_critics},
        device="cpu",
        seed=1,
    )
    rb = model.replay_buffer
    obs_dim, act_dim = fill(rb, env)
    bounds = env.action_space.low, env.action_space.high
    nets = script.Networks(obs_dim, act_dim, *bounds, args)
    load_sb3(nets, model)
    critics = [getattr(nets, f"qf{i + 1}") for i in range(n_critics)]
    q_parameters = [parameter for critic in critics for parameter in critic.parameters()]
    q_optimizer = optim.Adam(q_parameters, lr=args.learning_rate, fused=True)
    actor_optimizer = optim.Adam(nets.actor.parameters(), lr=args.learning_rate, fused=True)
    model.learn(0)  # sets up SB3's logger
    model.policy.set_training_mode(True)
    for step in range(1, UPDATES + 1):
        np.random.seed(step)
        torch.manual_seed(step)
        model.train(gradient_steps=1, batch_size=args.batch_size)

        np.random.seed(step)
        torch.manual_seed(step)
        data = rb.sample(args.batch_size)
        q_optimizer.zero_grad()
        script.critic_backward(nets, data, args)
        q_optimizer.step()
        if step % args.policy_frequency == 0:
            actor_optimizer.zero_grad()
            script.actor_backward(nets, data, args)
            actor_optimizer.step()
            script.polyak_update(nets.actor, nets.target_actor, args.tau)
            for i, critic in enumerate(critics, start=1):
                script.polyak_update(critic, getattr(nets, f"qf{i}_target"), args.tau)

    ours = {name: value.clone() for name, value in nets.state_dict().items()}
    load_sb3(nets, model)
    for name, theirs in nets.state_dict().items():
        torch.testing.assert_close(ours[name], theirs, rtol=1e-4, atol=2e-6, msg=name)


def load_sb3_sac(nets, model) -> None:
    ours, theirs = nets.actor, model.actor
    copy_weights([ours.fc1, ours.fc2], theirs.latent_pi)
    ours.fc_mu.load_state_dict(theirs.mu.state_dict())
    ours.fc_log_std.load_state_dict(theirs.log_std.state_dict())
    for target, critic in ("", model.critic), ("_target", model.critic_target):
        for i, q_network in enumerate(critic.q_networks, start=1):
            net = getattr(nets, f"qf{i}{target}")
            copy_weights([net.fc1, net.fc2, net.fc3], q_network)


@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_updates_equal_those_of_sb3s_sac(monkeypatch):
    """At a fixed temperature: SB3 tunes it by the gradient of log α, the paper and we by that of α.

    The two draw their noise in another order, so both get the same noise for every draw. SB3 halves
    the critics' loss, so Adam's ε is halved for it; a large ε keeps Adam from blowing up rounding.
    Five updates: later on rounding decides for single samples which of two critics is the smaller.
    """
    script = importlib.import_module("sac_continuous")
    args = script.Args(autotune=False, alpha=0.2, batch_size=64)
    env = gym.wrappers.DtypeObservation(gym.make("InvertedDoublePendulum-v5"), np.float32)
    policy = {"net_arch": [256, 256], "optimizer_kwargs": {"eps": 1e-3}}
    same = {"batch_size": 64, "ent_coef": 0.2, "policy_kwargs": policy, "device": "cpu", "seed": 1}
    model = SAC("MlpPolicy", env, learning_rate=1e-3, buffer_size=1000, **same)
    rb = model.replay_buffer
    obs_dim, act_dim = fill(rb, env)

    bounds = env.action_space.low, env.action_space.high
    nets = script.Networks(obs_dim, act_dim, *bounds, args)
    load_sb3_sac(nets, model)
    start = {name: value.clone() for name, value in nets.state_dict().items()}
    q_parameters = [*nets.qf1.parameters(), *nets.qf2.parameters()]
    q_optimizer = optim.Adam(q_parameters, lr=1e-3, eps=2e-3, fused=True)
    actor_optimizer = optim.Adam(nets.actor.parameters(), lr=1e-3, eps=1e-3, fused=True)
    model.learn(0)  # sets up SB3's logger
    for step in range(1, 6):
        noise = torch.randn(64, act_dim)
        draw = "torch.distributions.normal._standard_normal"
        monkeypatch.setattr(draw, lambda *_, z=noise, **__: z)
        np.random.seed(step)
        model.train(gradient_steps=1, batch_size=64)

        np.random.seed(step)
        data = rb.sample(64)
        q_optimizer.zero_grad()
        script.critic_backward(nets, data, args)
        q_optimizer.step()
        actor_optimizer.zero_grad()
        script.actor_backward(nets, data, args)
        actor_optimizer.step()
        script.polyak_update(nets.qf1, nets.qf1_target, args.tau)
        script.polyak_update(nets.qf2, nets.qf2_target, args.tau)

    ours = {name: value.clone() for name, value in nets.state_dict().items()}
    load_sb3_sac(nets, model)
    for name, theirs in nets.state_dict().items():
        torch.testing.assert_close(ours[name], theirs, rtol=1e-4, atol=2e-6, msg=name)
    moved = ours["actor.fc_log_std.weight"] - start["actor.fc_log_std.weight"]
    assert moved.abs().max() > 0.002
