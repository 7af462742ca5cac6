"""PPO against Stable-Baselines3's at equal work: python benchmarks/speed_ppo.py [--compile].

Equal work: one environment, rollouts of 2048 steps, 10 passes in minibatches of 64, networks of 64
and 64 with tanh, Adam, observations and rewards normalised (SB3: `VecNormalize`), one thread. The
time of a step is marginal, (long run - short run) / (difference in steps), so that imports,
start-up, compiling and the last evaluation cancel; the two take turns in one process.
"""

import contextlib
import io
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import gymnasium as gym
import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

ROLLOUT = 2048


@dataclass
class Options:
    env_id: str = "Hopper-v4"  # id of the environment
    compile: bool = False  # measure the script with its --compile
    rollouts: int = 4  # rollouts by which the long runs exceed the short ones
    repeats: int = 5  # pairs of measurements; the table shows medians


def run(module, options, timesteps):
    """Run the script's own `train` in a temporary folder and return its seconds."""
    fixed = dict(cuda=False, torch_threads=1, eval_interval=0, eval_episodes=1)
    args = module.Args(
        env_id=options.env_id,
        total_timesteps=timesteps,
        compile=options.compile,
        checkpoint_interval=0,
        **fixed,
    )
    silent = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), silent:
        start = time.perf_counter()
        module.train(args)
        return time.perf_counter() - start


def run_sb3(options, timesteps):
    """Do the same work with SB3 and return its seconds."""
    start = time.perf_counter()
    torch.set_num_threads(1)
    env = VecNormalize(make_vec_env(options.env_id, n_envs=1, seed=1), gamma=0.99)
    nets = dict(net_arch=[64, 64], activation_fn=torch.nn.Tanh)
    PPO(
        "MlpPolicy", env, learning_rate=3e-4, n_steps=ROLLOUT, batch_size=64, n_epochs=10,
        clip_range=0.2, clip_range_vf=0.2, policy_kwargs=nets, device="cpu", seed=1,
    ).learn(timesteps)  # fmt: skip
    return time.perf_counter() - start


def main(options: Options):
    warnings.filterwarnings("ignore", ".*is out of date")
    gym.logger.min_level = gym.logger.ERROR
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import ppo_continuous as module

    def marginal(run_to):
        return (run_to(ROLLOUT * (1 + options.rollouts)) - run_to(ROLLOUT)) / (
            ROLLOUT * options.rollouts
        )

    run(module, options, ROLLOUT)  # what only a first run does, compiling above all
    times = []
    for _ in range(options.repeats):
        ours = marginal(lambda steps: run(module, options, steps))
        times.append((ours, marginal(lambda steps: run_sb3(options, steps))))
    ours, theirs = (median(column) * 1e6 for column in zip(*times, strict=True))
    ratios = [b / a for a, b in times]
    name = f"ppo_continuous, {options.env_id}" + ", compiled" * options.compile
    print(f"| {name} | µs a step | SB3's PPO | ratio, median | least | largest |")
    print("|---|--:|--:|--:|--:|--:|")
    figures = f"{median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f}"
    print(f"| 1 thread | {ours:.0f} | {theirs:.0f} | {figures} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
