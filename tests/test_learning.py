"""A problem with a known optimum is solved by one script of each kind; the rest are siblings."""

import gymnasium as gym
import numpy as np
from conftest import Regulator, only

REPLAY = {"learning_starts": 200, "buffer_size": 1000, "batch_size": 64, "tau": 0.05}
PPO = {"total_timesteps": 5000, "num_envs": 10, "num_steps": 50, "num_minibatches": 8}
REINFORCE = {"total_timesteps": 8000, "num_envs": 40, "num_steps": 5, "max_grad_norm": 0.5}
SETTINGS = {
    "ddpg_continuous": REPLAY | {"total_timesteps": 500, "learning_rate": 2e-3},
    "sac_continuous": REPLAY | {"total_timesteps": 600, "learning_rate": 1e-3},
    "ppo_continuous": PPO | {"update_epochs": 10, "learning_rate": 3e-3},
    "reinforce_continuous": REINFORCE | {"learning_rate": 4e-3},
}


def optimal_cost_per_x2():
    """Return P with -P x² as the best return of an episode that starts in x (Riccati recursion)."""
    a, b, q, r = Regulator.A, Regulator.B, Regulator.Q, Regulator.R
    p = 0.0
    for _ in range(Regulator.HORIZON):
        p = q + a * a * p - (a * b * p) ** 2 / (r + b * b * p)
    return p


@only(SETTINGS)
def test_linear_quadratic_problem_is_solved_to_within_5_percent(quick, script):
    """Over the last evaluation's episodes, whose initial states are known by their seeds."""
    episodes, seed = 20, 1
    settings = SETTINGS[script.__name__] | {"checkpoint_interval": 0, "eval_interval": 0}
    _, result = quick(env_id="toy/Regulator-v0", seed=seed, eval_episodes=episodes, **settings)
    envs = gym.make_vec("toy/Regulator-v0", episodes, "sync")
    seeds = np.random.SeedSequence([seed, 0, 1]).generate_state(episodes)
    obs, _ = envs.reset(seed=seeds.tolist())
    cost = -result["eval_mean"] / (optimal_cost_per_x2() * (obs**2).mean())
    assert 0.9999 <= cost <= 1.05
