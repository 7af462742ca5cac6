"""How fast a script trains, against Stable-Baselines3, SBX and CleanRL at equal work.

    python benchmarks/speed.py td3_continuous --compile
    python benchmarks/speed.py a3c_continuous

All train at the same time on one core, each in a process with one thread. What counts is its own
processor time, start-up and compiling left out; ratio: how many times as fast the script is.
`a3c_continuous` is compared with itself: two workers, one, two runs. See docs/performance.md.
"""

import importlib.util
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median, quantiles

import gymnasium as gym
import numpy as np
import torch
import tyro
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[1]
RANDOM_STEPS = 1_000  # of the off-policy scripts, before they learn
FOREVER = 10_000_000  # steps; a contestant is stopped long before
IN_ALL = "ddpg_continuous", "td3_continuous", "sac_continuous", "ppo_continuous"  # SB3 has A2C too


@dataclass
class Args:
    script: tyro.conf.Positional[str] = "ddpg_continuous"  # the script to measure, without .py
    env_id: str = "HalfCheetah-v4"  # id of the environment
    compile: bool = False  # measure the script with its --compile; without it is "eager"
    cleanrl: Path | None = None  # a folder with CleanRL (git clone github.com/vwxyzjn/cleanrl)
    steps: int = 500  # environment steps of a measurement, or more: whole iterations
    repeats: int = 7  # measurements, at least 2; the table shows medians and quartiles


def fail(message: str, code: int = 2):
    """Exit with one line: code 2 for bad input, 1 for what went wrong."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)


# ---- Contestants: each trains until it is stopped ----
def settings(script, env_id, **changes):
    """Return the script's Args, with its defaults in all that is not about a run's start and end.

    The actor and the targets are updated as often as in SB3: by DDPG at every update.
    """
    module = importlib.import_module(script)
    own = {"policy_frequency": 1} if script == "ddpg_continuous" else {}
    own |= {"learning_starts": RANDOM_STEPS} if hasattr(module.Args, "learning_starts") else {}
    own |= dict(env_id=env_id, total_timesteps=FOREVER, cuda=False, checkpoint_interval=0)
    return module.Args(eval_interval=0, eval_episodes=1, **own, **changes)


def run_script(script, env_id, compile):
    importlib.import_module(script).train(settings(script, env_id, compile=compile))


def run_library(name, script, env_id):
    """Do the script's work with SB3 or SBX, which take the same arguments."""
    args, stem = settings(script, env_id), script.removesuffix("_continuous")
    same = dict(learning_rate=args.learning_rate, gamma=args.gamma, device="cpu", seed=1)
    env = make_vec_env(env_id, n_envs=args.num_envs, seed=1)
    if stem in ("ppo", "a2c"):
        width, env = 64, VecNormalize(env, gamma=args.gamma)
        same |= dict(n_steps=args.num_steps, gae_lambda=args.gae_lambda, ent_coef=args.ent_coef)
        same |= dict(vf_coef=args.vf_coef, max_grad_norm=args.max_grad_norm)
    else:
        width, shape = 256, env.action_space.shape
        same |= dict(batch_size=args.batch_size, tau=args.tau, buffer_size=args.buffer_size)
        same |= dict(learning_starts=RANDOM_STEPS, train_freq=1, gradient_steps=1)
    if stem == "ppo":
        batch_size = args.num_envs * args.num_steps // args.num_minibatches
        same |= dict(n_epochs=args.update_epochs, batch_size=batch_size)
        same |= dict(clip_range=args.clip_coef)
    if stem in ("ddpg", "td3"):
        same["action_noise"] = NormalActionNoise(np.zeros(shape), np.full(shape, 0.1))
    algorithm = getattr(importlib.import_module(name), stem.upper())
    nets = dict(net_arch=[width, width])  # ReLU and tanh are the defaults of both
    algorithm("MlpPolicy", env, policy_kwargs=nets, **same).learn(FOREVER, log_interval=None)


def run_cleanrl(folder, script, env_id):
    """Do the script's work with CleanRL's, whose SAC makes two updates of the actor at a time."""
    step, transform = gym.vector.SyncVectorEnv.step, gym.wrappers.TransformObservation

    def old_step(self, actions):  # before Gymnasium 1.0 a reset came with the last step
        result = step(self, actions)
        result[4]["final_observation"] = result[0]
        return result

    gym.vector.SyncVectorEnv.step = old_step
    gym.wrappers.TransformObservation = lambda env, function: transform(env, function, None)
    path = folder / "cleanrl" / f"{script}_action.py"
    sys.argv = [str(path), f"--env-id={env_id}", f"--total-timesteps={FOREVER}", "--no-cuda"]
    if script != "ppo_continuous":
        sys.argv.append(f"--learning-starts={RANDOM_STEPS}")
    if script == "ddpg_continuous":
        sys.argv.append("--policy-frequency=1")  # all other defaults are the script's
    sys.path.insert(0, str(folder))  # for its cleanrl_utils
    runpy.run_path(str(path), run_name="__main__")


# ---- Measurement ----
def contend(folder, core, barrier, seconds, env_id, first, block, function, arguments):
    """Train, and read the process's clock at environment step `first` and every `block` from there.

    There each waits for the slowest, so that all begin a block together, and stops at the last.
    """
    os.sched_setaffinity(0, {core})
    folder.mkdir()
    os.chdir(folder)
    log = os.open("log", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    env_class = type(gym.make(env_id).unwrapped)
    original, count = env_class.step, 0

    def step(self, action):
        nonlocal count
        index, rest = divmod(count - first, block)
        if index >= 0 and rest == 0:
            seconds[index] = time.process_time()
            if index == len(seconds) - 1:
                raise SystemExit
            barrier.wait(timeout=3_600)
        count += 1
        return original(self, action)

    env_class.step = step
    try:
        function(*arguments)
        raise RuntimeError("it ended before it was measured")
    finally:
        barrier.abort()  # or the others would wait


def compare(contestants, env_id, first, block, repeats):
    """Return the seconds a step of each contestant, (contestants, repeats).

    A contestant is a function that trains until it is stopped, with its arguments, by name.
    """
    context, processes, clocks = multiprocessing.get_context("spawn"), [], []
    barrier, core = context.Barrier(len(contestants)), max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        for name, (function, *arguments) in contestants.items():
            clocks.append(context.Array("d", repeats + 1, lock=False))
            rest = core, barrier, clocks[-1], env_id, first, block, function, arguments
            processes.append(context.Process(target=contend, args=(Path(folder, name), *rest)))
            processes[-1].start()
        for process in processes:
            process.join()
        for name, process in zip(contestants, processes, strict=True):
            last = Path(folder, name, "log").read_text().strip().split("\n")[-1]
            if process.exitcode and "BrokenBarrierError" not in last:  # that is another's fault
                fail(f"{name} failed: {last or process.exitcode}", code=1)
    if not np.all(clocks):
        fail("a contestant was not done in time: take fewer --steps", code=1)
    return np.diff(clocks) / block


def measure(args):
    """Return the unit and each contestant's name, times of a step and ratios to the script's."""
    script, own = args.script, (args.script, args.env_id)
    contestants = {"script": (run_script, *own, args.compile)}
    if args.compile:
        contestants["eager"] = run_script, *own, False
    if script in (*IN_ALL, "a2c_continuous"):
        contestants["SB3"] = run_library, "stable_baselines3", *own
    if script in IN_ALL and importlib.util.find_spec("sbx"):
        contestants["SBX"] = run_library, "sbx", *own
    elif script in IN_ALL:
        print("SBX is missing: pip install sbx-rl")
    if script in IN_ALL and args.cleanrl:
        contestants["CleanRL"] = run_cleanrl, args.cleanrl.resolve(), *own
    elif script in IN_ALL:
        print("CleanRL is missing: git clone https://github.com/vwxyzjn/cleanrl, --cleanrl cleanrl")
    one = settings(*own)
    iteration = getattr(one, "steps_per_iteration", getattr(one, "num_steps", 1)) * one.num_envs
    first, block = (ceil(n / iteration) * iteration for n in (RANDOM_STEPS + 500, args.steps))
    times = compare(contestants, args.env_id, first, block, args.repeats)
    return "µs a step", contestants, times * 1e6, times / times[0]


# ---- A3C against itself, by the clock on the wall ----
def a3c_speed(args, runs, workers):
    """Return the sum over `runs` at once of steps a second, when all workers have long started."""
    words = f"--env-id {args.env_id} --num-workers {workers} --eval-interval 0 --eval-episodes 1"
    words += f" --total-timesteps {40 * args.steps * workers} --checkpoint-interval 0"
    words += " --compile" * args.compile
    command = [sys.executable, ROOT / "a3c_continuous.py", *words.split()]
    with tempfile.TemporaryDirectory() as folder:
        where = dict(cwd=folder, stdout=subprocess.DEVNULL)
        names = [f"run-{i}" for i in range(runs)]
        started = [subprocess.Popen([*command, "--run-name", name], **where) for name in names]
        if any([process.wait() for process in started]):
            fail("a3c_continuous failed, see above", code=1)
        logs = [EventAccumulator(f"{folder}/runs/{name}").Reload() for name in names]
    speeds = [[event.value for event in log.Scalars("charts/SPS")] for log in logs]
    return sum(median(values[len(values) // 2 :]) for values in speeds)


def measure_a3c(args):
    """Return the unit and the names, speeds and ratios of one worker and of two."""
    kinds = {"1 worker": (1, 1), "2 workers": (1, 2), "2 runs at once": (2, 1)}
    rounds = [[a3c_speed(args, *kind) for kind in kinds.values()] for _ in range(args.repeats)]
    speeds = np.array(rounds).T
    return "steps a second", kinds, speeds, speeds / speeds[0]


def main(args: Args):
    gym.logger.min_level = gym.logger.ERROR  # nothing about v4, which is the user's choice
    sys.path.insert(0, str(ROOT))
    scripts = sorted(path.stem for path in ROOT.glob("*_continuous.py"))
    if args.script not in scripts:
        fail(f"there is no script {args.script}, but {', '.join(scripts)}")
    if args.steps < 1 or args.repeats < 2:
        fail("--steps must be at least 1 and --repeats at least 2")
    if args.cleanrl and not (args.cleanrl / "cleanrl").is_dir():
        fail(f"{args.cleanrl} has no folder cleanrl")
    if not hasattr(os, "sched_setaffinity"):
        fail("only Linux lets a process choose its core")
    try:
        gym.make(args.env_id).close()
    except Exception as error:
        fail(f"cannot make {args.env_id}: {error}")
    unit, *columns = (measure_a3c if args.script == "a3c_continuous" else measure)(args)
    title = f"{args.script}, {args.env_id}" + ", compiled" * args.compile
    print(f"| {title} | {unit} | ratio | quartiles |\n|---|--:|--:|--:|")
    for name, values, ratios in zip(*columns, strict=True):
        low, middle, high = quantiles(ratios, n=4, method="inclusive")
        print(f"| {name} | {median(values):.0f} | {middle:.2f} | {low:.2f}, {high:.2f} |")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
