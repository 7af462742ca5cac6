"""Draw docs/curves.png from results/curves.csv: python benchmarks/curves.py [RUN_FOLDER ...].

Folders of finished runs, if given, are read into results/curves.csv first.
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
CSV = ROOT / "results" / "curves.csv"
FIELDS = "script", "env_id", "seed", "step", "eval_mean", "eval_std"
COLORS = {"ddpg_continuous": "#0072B2", "td3_continuous": "#D55E00"}


def read_run(run_dir: Path) -> list[tuple]:
    """Return a row of FIELDS for each evaluation of a run."""
    args = json.loads((run_dir / "args.json").read_text())
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0}).Reload()
    means, stds = (events.Scalars(f"eval/episodic_return{suffix}") for suffix in ("", "_std"))
    run = args["exp_name"], args["env_id"], args["seed"]
    pairs = zip(means, stds, strict=True)
    return [(*run, m.step, round(m.value, 2), round(s.value, 2)) for m, s in pairs]


def draw(rows: list[dict], path: Path) -> None:
    """Draw a panel for each environment: every seed thin, the mean over seeds thick."""
    curves = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        curve = curves[row["env_id"]][row["script"]].setdefault(row["seed"], {})
        curve[int(row["step"])] = float(row["eval_mean"])
    figure, axes = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.2), squeeze=False)
    for axis, (env_id, scripts) in zip(axes[0], sorted(curves.items()), strict=True):
        for script, seeds in sorted(scripts.items()):
            for curve in seeds.values():
                axis.plot([*curve], [*curve.values()], color=COLORS[script], alpha=0.35, lw=0.8)
            steps = sorted(set.intersection(*(set(curve) for curve in seeds.values())))
            mean = np.mean([[curve[step] for step in steps] for curve in seeds.values()], axis=0)
            label = f"{script.removesuffix('_continuous').upper()}, mean of {len(seeds)} seeds"
            axis.plot(steps, mean, color=COLORS[script], lw=2, label=label)
        axis.set(title=env_id, xlabel="environment steps", ylabel="evaluation return")
        axis.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:.0f}k")
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    if sys.argv[1:]:
        rows = [row for run in sys.argv[1:] for row in read_run(Path(run))]
        with CSV.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([FIELDS, *rows])
    with CSV.open() as file:
        draw(list(csv.DictReader(file)), ROOT / "docs" / "curves.png")
