"""PPO or A2C against Stable-Baselines3's at equal work.

python benchmarks/speed_on_policy.py [a2c_continuous] [--compile]

Equal work: the script's own defaults, networks of 64 and 64 with tanh, observations and rewards
normalised (SB3: `VecNormalize`), one thread. The time of a step is marginal, (long run - short
run) / (difference in steps), so that imports, start-up, compiling and the last evaluation cancel.
It is the processor's time, to which other processes add less; the two take turns in one process.
"""

import contextlib
import importlib
import io
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import gymnasium as gym
import stable_baselines3 as sb3
import torch
import tyro
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize


@dataclass
class Options:
    script: tyro.conf.Positional[str] = "ppo_continuous"  # the script to measure, without .py
    env_id: str = "Hopper-v4"  # id of the environment
    compile: bool = False  # measure the script with its --compile
    steps: int = 8_192  # steps by which the long runs exceed the short ones
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
        start = time.process_time()
        module.train(args)
        return time.process_time() - start


def run_sb3(module, options, timesteps):
    """Do the same work with SB3 and return its seconds."""
    start, args = time.process_time(), module.Args()
    torch.set_num_threads(1)
    algorithm, own = sb3.A2C, {}
    if options.script == "ppo_continuous":
        algorithm, own = sb3.PPO, dict(n_epochs=args.update_epochs)
        own |= dict(batch_size=args.num_envs * args.num_steps // args.num_minibatches)
        own |= dict(clip_range=args.clip_coef, clip_range_vf=args.clip_coef)
    env = make_vec_env(options.env_id, n_envs=args.num_envs, seed=1)
    nets = dict(net_arch=[64, 64], activation_fn=torch.nn.Tanh)
    algorithm(
        "MlpPolicy", VecNormalize(env, gamma=args.gamma), learning_rate=args.learning_rate,
        n_steps=args.num_steps, gae_lambda=args.gae_lambda, ent_coef=args.ent_coef,
        vf_coef=args.vf_coef, max_grad_norm=args.max_grad_norm, policy_kwargs=nets, device="cpu",
        seed=1, **own,
    ).learn(timesteps)  # fmt: skip
    return time.process_time() - start


def main(options: Options):
    warnings.filterwarnings("ignore", ".*is out of date")
    gym.logger.min_level = gym.logger.ERROR
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    module = importlib.import_module(options.script)
    short = 2_048

    def marginal(function):
        long = short + options.steps
        seconds = function(module, options, long) - function(module, options, short)
        return seconds / options.steps

    run(module, options, short)  # what only a first run does, compiling above all
    times = [(marginal(run), marginal(run_sb3)) for _ in range(options.repeats)]
    ours, theirs = (median(column) * 1e6 for column in zip(*times, strict=True))
    ratios = [b / a for a, b in times]
    name = f"{options.script}, {options.env_id}" + ", compiled" * options.compile
    print(f"| {name} | µs a step | SB3 | ratio, median | least | largest |")
    print("|---|--:|--:|--:|--:|--:|")
    figures = f"{median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f}"
    print(f"| 1 thread | {ours:.0f} | {theirs:.0f} | {figures} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
