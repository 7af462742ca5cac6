"""Our updates are those of Stable-Baselines3: same weights and batches in, same weights out."""

import importlib

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import TD3
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


@pytest.mark.filterwarnings("ignore:.*precision lowered")
@pytest.mark.parametrize(
    ("name", "n_critics", "policy_noise"),
    [("ddpg_continuous", 1, 0.0), ("ddpg_continuous", 1, 0.3), ("td3_continuous", 2, 0.2)],
)
def test_updates_equal_those_of_sb3(name, n_critics, policy_noise):
    script = importlib.import_module(name)
    args = script.Args(policy_noise=policy_noise, batch_size=64, torch_threads=1)
    torch.set_num_threads(1)
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
    rb, rng = model.replay_buffer, np.random.default_rng(0)
    obs_dim, act_dim = env.observation_space.shape[0], env.action_space.shape[0]
    for _ in range(300):
        obs, next_obs = rng.normal(size=(2, 1, obs_dim))
        action, reward, done = (
            rng.uniform(-1, 1, (1, act_dim)),
            rng.normal(size=1),
            rng.random(1) < 0.2,
        )
        rb.add(obs, next_obs, action, reward, done, [{}])

    nets = script.Networks(obs_dim, act_dim, env.action_space.low, env.action_space.high)
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

    start = script.Networks(obs_dim, act_dim, env.action_space.low, env.action_space.high)
    start.load_state_dict(nets.state_dict())
    load_sb3(nets, model)
    for key, expected in nets.state_dict().items():
        torch.testing.assert_close(start.state_dict()[key], expected, rtol=1e-4, atol=2e-6, msg=key)
