"""How much of its time a trained HalfCheetah is on its back.

A torso turned by more than a quarter turn is on its back. One line a run: its return, the share.

    python benchmarks/upside_down.py runs/NAME ...
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
import evaluate  # noqa: E402


def share(run_dir: Path) -> tuple[float, float]:
    """Return the mean return of a run's evaluation and the share of its steps upside down."""
    down = []
    with evaluate.open_run(run_dir, evaluate.Args((run_dir,))) as (play, envs, _):
        step = envs.step

        def watched_step(actions):
            down.append([np.cos(env.unwrapped.data.qpos[2]) < 0 for env in envs.envs])
            return step(actions)

        envs.step = watched_step
        returns = play()["episodic_return"]
    return float(returns.mean()), float(np.mean(down))


if __name__ == "__main__":
    if not sys.argv[1:]:
        raise SystemExit(__doc__)
    for name in sys.argv[1:]:
        mean, down = share(Path(name))
        print(f"{name}: return {mean:.0f}, upside down {100 * down:.0f} % of the time")
