"""A3C with two workers against one, and against two runs at once: python benchmarks/speed_a3c.py.

Steps a second are the median of the second half of what a run logs as `charts/SPS`, when all
workers have long been started. Two independent runs show what the machine's cores can give.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import tyro
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SCRIPT = Path(__file__).resolve().parents[1] / "a3c_continuous.py"


@dataclass
class Options:
    env_id: str = "Hopper-v4"  # id of the environment
    workers: int = 2  # workers, and runs at once
    steps: int = 40_000  # steps of each worker
    repeats: int = 3  # measurements of each kind, in turn; the table shows medians


def speeds(options, runs, workers):
    """Return the steps a second of that many runs at once."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, SCRIPT, "--env-id", options.env_id, "--eval-interval", "0"]
        command += ["--checkpoint-interval", "0", "--eval-episodes", "1"]
        command += ["--num-workers", str(workers)]
        command += ["--total-timesteps", str(options.steps * workers)]
        processes = []
        for i in range(runs):
            words = [*command, "--run-name", str(i)]
            processes.append(subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL))
        assert [process.wait() for process in processes] == [0] * runs
        found = []
        for i in range(runs):
            events = EventAccumulator(f"{folder}/runs/{i}").Reload().Scalars("charts/SPS")
            found.append(median(event.value for event in events[len(events) // 2 :]))
    return found


def main(options: Options):
    n, rows = options.workers, []
    for _ in range(options.repeats):
        one, team = speeds(options, 1, 1)[0], speeds(options, 1, n)[0]
        apart = sum(speeds(options, n, 1))
        rows.append((one, team, apart, team / one, team / apart))
    one, team, apart, gain, share = (median(column) for column in zip(*rows, strict=True))
    print(f"| {options.env_id} | steps a second | of 1 worker | of {n} runs |")
    print("|---|--:|--:|--:|")
    print(f"| 1 worker | {one:.0f} | 1 | |")
    print(f"| {n} workers | {team:.0f} | {gain:.2f} | {share:.2f} |")
    print(f"| {n} runs at once | {apart:.0f} | {apart / one:.2f} | 1 |")


if __name__ == "__main__":
    main(tyro.cli(Options))
