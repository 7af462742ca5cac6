"""Returns of Stable-Baselines3 with the settings of our DDPG or TD3, to hold ours against.

python benchmarks/sb3_returns.py ddpg Hopper-v4 300000 1
writes runs/sb3_ddpg__Hopper-v4__1/evaluations.npz

SB3's DDPG is its TD3 with one critic and no smoothing; TD3 is used here because only there can the
actor and the targets be delayed, as `policy_frequency` 2 does.
"""

import argparse
import warnings

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import TD3
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise


def make_model(env: gym.Env, seed: int, algorithm: str) -> TD3:
    """Return SB3's agent with our defaults for "ddpg" or "td3"."""
    n_critics, policy_noise = {"ddpg": (1, 0.0), "td3": (2, 0.2)}[algorithm]
    act_dim = env.action_space.shape[0]
    settings = {
        "learning_rate": 3e-4,
        "buffer_size": 1_000_000,
        "learning_starts": 25_000,
        "batch_size": 256,
        "tau": 0.005,
        "gamma": 0.99,
        "train_freq": 1,
        "gradient_steps": 1,
        "action_noise": NormalActionNoise(np.zeros(act_dim), np.full(act_dim, 0.1)),
        "policy_delay": 2,
        "target_policy_noise": policy_noise,
        "policy_kwargs": {"net_arch": [256, 256], "n_critics": n_critics},
    }
    return TD3("MlpPolicy", env, seed=seed, device="cpu", **settings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("algorithm", choices=["ddpg", "td3"])
    parser.add_argument("env_id")
    parser.add_argument("steps", type=int)
    parser.add_argument("seed", type=int)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", ".*is out of date")
    torch.set_num_threads(1)
    eval_env = Monitor(gym.make(args.env_id))
    eval_env.reset(seed=args.seed + 100)
    evaluations = EvalCallback(
        eval_env,
        n_eval_episodes=10,
        eval_freq=10_000,
        log_path=f"runs/sb3_{args.algorithm}__{args.env_id}__{args.seed}",
        deterministic=True,
        verbose=0,
    )
    model = make_model(gym.make(args.env_id), args.seed, args.algorithm)
    model.learn(args.steps, callback=evaluations)
