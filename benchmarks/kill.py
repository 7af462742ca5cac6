"""Kill runs at random moments and resume them: every one must end in the weights of a whole run.

    python benchmarks/kill.py --kills 200 --scripts ddpg,sac,d4pg,ac_reparam,ppo,a2c

Each script trains 2,000 steps of Hopper-v4 once without a kill. Then a run of the same seed gets
SIGKILL within the time that this took, again and again, until it has finished; then the next one
does. Two scripts are tried at once. It exits with 1 if one bit differs.
"""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

ROOT = Path(__file__).parent.parent
SHORT = "--env-id Hopper-v4 --total-timesteps 2000 --checkpoint-interval 250 --eval-interval 250"
REPLAY = "--learning-starts 400 --buffer-size 1250 --batch-size 32"  # the buffer wraps


@dataclass
class Args:
    scripts: str = "ddpg,sac,d4pg,ac_reparam,ppo,a2c"  # without _continuous.py
    kills: int = 200  # in all
    seed: int = 0  # of the moments


def start(script: str, folder: Path, name: str) -> subprocess.Popen:
    path = ROOT / f"{script}_continuous.py"
    replay = REPLAY if "learning_starts" in path.read_text() else "--num-steps 128"
    options = f"{SHORT} {replay} --eval-episodes 2 --resume --run-name {name}".split()
    with open(folder / f"{name}.log", "a") as log:
        return subprocess.Popen(
            [sys.executable, path, *options], cwd=folder, stdout=log, stderr=log
        )


def weights(folder: Path, name: str) -> list[torch.Tensor]:
    """All tensors of the last checkpoint: networks, optimizers, replay buffer."""
    checkpoint = torch.load(folder / "runs" / name / "checkpoint.pt", weights_only=True)
    return [leaf for leaf in torch.utils._pytree.tree_leaves(checkpoint) if torch.is_tensor(leaf)]


def try_script(script: str, kills: int, rng: random.Random) -> int:
    """Return how many runs ended in other bits than the whole one."""
    folder, differ, runs = Path(tempfile.mkdtemp()), 0, 0
    began = time.perf_counter()
    if start(script, folder, "whole").wait():
        raise RuntimeError(f"{script}: {folder}/whole.log")
    whole, left, longest = weights(folder, "whole"), kills, time.perf_counter() - began
    while left > 0:
        runs += 1
        while True:
            process = start(script, folder, f"killed-{runs}")
            try:
                code = process.wait(rng.uniform(0, longest) if left else None)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                left -= 1
                continue
            if code:
                raise RuntimeError(f"{script}: {folder}/killed-{runs}.log")
            break
        pairs = zip(whole, weights(folder, f"killed-{runs}"), strict=True)
        differ += not all(torch.equal(one, other) for one, other in pairs)
    print(f"{script}: {kills} kills in {runs} runs, {differ} ended in other bits", flush=True)
    shutil.rmtree(folder)
    return differ


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    scripts = args.scripts.split(",")
    kills = [len(range(i, args.kills, len(scripts))) for i in range(len(scripts))]
    rngs = [random.Random(f"{args.seed} {script}") for script in scripts]
    with ThreadPoolExecutor(2) as pool:
        raise SystemExit(sum(pool.map(try_script, scripts, kills, rngs)) > 0)
