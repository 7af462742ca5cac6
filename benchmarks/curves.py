"""Draw docs/curves.png from results/curves.csv: python benchmarks/curves.py [RUN_FOLDER ...].

The evaluations of finished runs, if their folders are given, are put into the files in results/
first, in place of what the same script, environment and seed had there: those of the notebook's
actor-critic, which compares two estimators, into ac_reparam.csv, all others into curves.csv.
"""

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parent.parent
CURVES, ESTIMATORS = (ROOT / "results" / name for name in ("curves.csv", "ac_reparam.csv"))
RUN = {CURVES: ["script", "env_id", "seed"], ESTIMATORS: ["script", "env_id", "estimator", "seed"]}
EVALUATION = ["step", "eval_mean", "eval_std"]
COLORS = {"ddpg_continuous": "#0072B2", "td3_continuous": "#D55E00", "ppo_continuous": "#009E73"}


def read_run(run_dir: Path) -> tuple[Path, list[dict]]:
    """Return the file that a run belongs in and a row for each of its evaluations."""
    args = json.loads((run_dir / "args.json").read_text()) | {"script": None}
    args["script"] = args["exp_name"]
    path = ESTIMATORS if "estimator" in args else CURVES
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0}).Reload()
    means, stds = (events.Scalars(f"eval/episodic_return{suffix}") for suffix in ("", "_std"))
    run = {name: str(args[name]) for name in RUN[path]}
    points = [
        (m.step, round(m.value, 2), round(s.value, 2)) for m, s in zip(means, stds, strict=True)
    ]
    return path, [run | dict(zip(EVALUATION, point, strict=True)) for point in points]


def merge(path: Path, new: list[dict]) -> None:
    """Put rows into a file, in place of the rows of the same runs."""

    def run(row):
        return [row[name] for name in RUN[path]]

    rows = []
    if path.exists():
        with path.open() as file:
            rows = list(csv.DictReader(file))
    renewed = [run(row) for row in new]
    rows = sorted([row for row in rows if run(row) not in renewed] + new, key=run)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, RUN[path] + EVALUATION, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw(rows: list[dict], path: Path) -> None:
    """Draw a panel for each environment: every seed thin, the mean over seeds thick."""
    curves = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        curve = curves[row["env_id"]][row["script"]].setdefault(row["seed"], {})
        curve[int(row["step"])] = float(row["eval_mean"])
    curves = {env_id: scripts for env_id, scripts in curves.items() if len(scripts) > 1}
    figure, axes = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.2), squeeze=False)
    for axis, (env_id, scripts) in zip(axes[0], sorted(curves.items()), strict=True):
        for script, seeds in sorted(scripts.items()):
            for curve in seeds.values():
                axis.plot([*curve], [*curve.values()], color=COLORS[script], alpha=0.35, lw=0.8)
            steps = sorted(set.intersection(*(set(curve) for curve in seeds.values())))
            mean = np.mean([[curve[step] for step in steps] for curve in seeds.values()], axis=0)
            name = script.removesuffix("_continuous").upper()
            label = f"{name}, mean of {len(seeds)} seeds" if len(seeds) > 1 else f"{name}, one seed"
            axis.plot(steps, mean, color=COLORS[script], lw=2, label=label)
        axis.set(title=env_id, xlabel="environment steps", ylabel="evaluation return", xscale="log")
        axis.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:.0f}k")
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    new = defaultdict(list)
    for run_dir in sys.argv[1:]:
        path, rows = read_run(Path(run_dir))
        new[path] += rows
    for path, rows in new.items():
        merge(path, rows)
    with CURVES.open() as file:
        draw(list(csv.DictReader(file)), ROOT / "docs" / "curves.png")
