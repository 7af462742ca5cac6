# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "scipy==1.17.1", "matplotlib==3.11.2", "tensorboard==2.21.0",
#     "tyro==1.0.17", "tqdm==4.70.1"]
# ///
"""Learning curves of many runs with 95 % intervals, a table and a comparison of the scripts.

Statistics as in Agarwal et al. 2021, arXiv:2108.13264, and their rliable: interquartile mean over
seeds, percentile intervals of the stratified bootstrap. Standard deviations divide by n - 1.

1. Runs of one script and environment are the seeds of one curve. An argument that differs between
   them and is not one of SAME splits the curve, and is named with every curve that has it;
   `max_episode_steps` splits the panel. Of two runs with the same seed the longer one counts.
2. A run is interpolated linearly between its evaluations, never continued after its last. A curve
   is dotted where some of its seeds have not got that far. Fewer than MIN_SEEDS have no interval;
   that of three is their range.
3. A run that is not finished counts up to its last evaluation, and stderr names it: to leave it out
   would favour those that went well. One without an evaluation is passed over.
4. Hours are those of training, without pauses and without work that was lost.
5. Tags other than eval/* are averaged over bins of `bin_steps` steps, each put at its end.

Written to `out`: curves, table, and the data as curves.csv, which can be given instead of the runs
or beside others. It does not know all arguments of its runs, so they never join the curves of runs
that are read from their folders. Also, where the runs allow it:
- overestimation: the critic's Q of the replay buffer's actions beside the discounted return of the
  evaluations. They average over different states: compare how they move.
- comparison: of scripts with MIN_SEEDS seeds in the same environments (see `comparable`), if any
  two of them can be told apart: the 95 % interval of P(X > Y) leaves out 0.5.

    python plot.py runs
"""

import csv
import json
import re
import struct
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import combinations, cycle, groupby
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
import tyro
from google.protobuf.message import DecodeError
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from scipy import stats
from tensorboard.compat.proto.event_pb2 import Event
from tqdm import tqdm

# what may differ between the seeds of a curve, and what args.json has besides arguments
SAME = {"exp_name", "env_id", "max_episode_steps", "seed", "run_name", "resume", "total_timesteps"}
SAME |= {"cuda", "torch_threads", "compile", "async_envs", "checkpoint_interval", "eval_interval"}
SAME |= {"eval_episodes", "capture_video", "versions", "device", "git_commit", "threads", "script"}
MIN_SEEDS = 3  # for an interval
STEP, HOURS, MEAN = range(3)  # columns of a run's points
NAMES = {"eval/episodic_return": "evaluation return"}
NAMES |= {"charts/episodic_return": "return of training episodes"}
VALUES = {"losses/qf1_values": "Q(s, a)", "eval/discounted_return": "discounted return"}
PUBLISHED = Path(__file__).parent / "results" / "published.csv"
# Okabe and Ito's colours, which the colour-blind can tell apart; the markers do so in grey
STYLES = {"ddpg": ("#0072B2", "o"), "td3": ("#D55E00", "s"), "ppo": ("#009E73", "^")}
STYLES |= {"ac_reparam": ("#CC79A7", "D"), "svg0": ("#56B4E9", "P"), "sac": ("#E69F00", "v")}
STYLES |= {"d4pg": ("#882255", "d"), "naf": ("#117733", "p")}
STYLES |= {"a2c": ("#332288", "h"), "reinforce": ("#999933", "<"), "a3c": ("#AA4499", ">")}
OTHER_STYLES = [("#000000", "X"), ("#999999", "*"), ("#0072B2", "<"), ("#D55E00", ">")]
LOOK = {"font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}
LOOK |= {"grid.alpha": 0.3, "legend.frameon": False, "savefig.dpi": 150, "svg.hashsalt": "plot"}
LOOK |= {"savefig.bbox": "tight"}  # a long legend is not cut


# ---- Config ----
@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[Path, ...]]  # run folders, folders of those, or curves.csv
    out: Path = Path("plots")  # folder for the figures, the table and the data
    tag: str = "eval/episodic_return"  # what to draw, a TensorBoard tag
    x: Literal["step", "hours"] = "step"  # horizontal axis: environment steps or hours of training
    log_x: bool = False  # make the horizontal axis logarithmic
    bin_steps: int = 10_000  # steps over which tags other than eval/* are averaged
    table_steps: tuple[int, ...] = (100_000, 300_000, 1_000_000)  # rows of the table


# ---- Reading ----
class Run(NamedTuple):
    script: str
    variant: str
    env_id: str
    max_episode_steps: str
    seed: int
    points: np.ndarray  # (evaluations, 4): step, hours, mean, std
    values: dict[str, np.ndarray] = {}  # points of the tags VALUES, if the run has both

    def at(self, x, axis=STEP):
        """Return the mean at these steps or hours, interpolated; NaN where the run has none."""
        return np.interp(x, self.points[:, axis], self.points[:, MEAN], np.nan, np.nan)


def fail(message: str):
    """Exit with one line and code 2: input that no figure can be made of."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)


def say(message: str) -> None:
    tqdm.write(message, file=sys.stderr)


def read_events(path: Path):
    """Yield the events of a file up to its end, or to the record that a kill cut short.

    A TFRecord is the length of its data (uint64), 4 bytes of checksum, the data, 4 of checksum;
    TensorBoard's own readers take ten times as long.
    """
    content, start = path.read_bytes(), 0
    while start + 12 <= len(content):
        end = start + 12 + struct.unpack_from("<Q", content, start)[0]
        if end + 4 > len(content):
            return
        try:
            yield Event.FromString(content[start + 12 : end])
        except DecodeError:
            return say(f"{path} is damaged: read up to byte {start}")
        start = end + 4


def read_scalars(run_dir: Path) -> list[tuple[str, int, float, float]]:
    """Return tag, step, hours and value of each scalar in a run's event files."""
    files, scalars = [list(read_events(p)) for p in run_dir.glob("events.out.tfevents.*")], []
    for events in sorted(filter(None, files), key=lambda events: events[0].wall_time):
        for event in events:
            if event is events[0] or event.HasField("session_log"):
                if event.HasField("session_log"):  # what a kill undid comes again
                    scalars = [scalar for scalar in scalars if scalar[1] < event.step]
                start, before = event.wall_time, scalars[-1][2] if scalars else 0.0
            hours = before + (event.wall_time - start) / 3600
            scalars += [(v.tag, event.step, hours, v.simple_value) for v in event.summary.value]
    return scalars


def average(points: np.ndarray, width: int) -> np.ndarray:
    """Average points over bins of `width` steps, each put at its end, the last at the run's."""
    bins, averages = np.ceil(points[:, STEP] / width), []
    for i in np.unique(bins):
        part = points[bins == i]
        step, values = min(i * width, points[-1, STEP]), part[:, MEAN]
        std = values.std(ddof=1) if len(values) > 1 else np.nan
        averages.append((step, part[-1, HOURS], values.mean(), std))
    return np.array(averages).reshape(-1, 4)


def select(scalars, tag: str, bin_steps: int) -> np.ndarray:
    """Return the points of a tag, with as few digits as name a float32 and 0.04 s: a small CSV."""
    stds = {step: value for name, step, _, value in scalars if name == f"{tag}_std"}
    points = [(*p, stds.get(p[0], np.nan)) for name, *p in scalars if name == tag]
    points = [point for point in points if np.isfinite(point[MEAN])]
    points = np.array(points).reshape(-1, 4)
    if not tag.startswith("eval/"):
        points = average(points, bin_steps)
    points[:, HOURS] = points[:, HOURS].round(5)
    points[:, MEAN:] = np.float32(points[:, MEAN:]).astype(str).astype(float)
    return points


def read_run(run_dir: Path, args: Args) -> tuple[dict, np.ndarray, dict]:
    """Return a run's arguments, points and values; a ValueError says why there are none."""
    try:
        own = json.loads((run_dir / "args.json").read_text())
        own |= {"script": own["exp_name"].removesuffix("_continuous"), "env_id": str(own["env_id"])}
        own |= {"limit": str(own.get("max_episode_steps") or ""), "seed": int(own["seed"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its args.json can't be used, {error!r}") from None
    scalars = read_scalars(run_dir)
    points = select(scalars, args.tag, args.bin_steps)
    if not len(points):
        raise ValueError(f"no {args.tag} in event files")
    if not (run_dir / "result.json").exists():
        say(f"{run_dir} is not finished: used up to step {points[-1, STEP]:.0f}")
    values = {tag: select(scalars, tag, args.bin_steps) for tag in VALUES}
    return own, points, values if all(map(len, values.values())) else {}


def name_variants(found: list[tuple[dict, np.ndarray, dict]]) -> list[Run]:
    """Make runs; `variant` has the arguments that differ between any runs of one curve."""

    def free(own):
        # a learning rate that falls to 0 at the end depends on where the end is
        return own.keys() - (SAME - {"total_timesteps"} if own.get("anneal_lr") else SAME)

    groups, runs = defaultdict(lambda: defaultdict(set)), []
    for own, *_ in found:
        for name in free(own):
            groups[own["script"], own["env_id"], own["limit"]][name].add(str(own[name]))
    differ = {name for group in groups.values() for name in group if len(group[name]) > 1}
    for own, *data in found:
        variant = " ".join(f"{name}={own[name]}" for name in sorted(differ & free(own)))
        runs.append(Run(own["script"], variant, own["env_id"], own["limit"], own["seed"], *data))
    return runs


def header(tag: str) -> list[str]:
    return [*Run._fields[:5], "step", "hours", tag, f"{tag}_std"]


def read_csv(path: Path, tag: str) -> list[Run]:
    with path.open(newline="", encoding="utf-8") as file:
        first, *rows = [*csv.reader(file)] or [[]]
    if first != header(tag):
        raise ValueError(f"its first line is not {','.join(header(tag))}")
    runs = [
        Run(*run, int(seed), np.array([row[5:] for row in rows], float))
        for (*run, seed), rows in groupby(rows, key=lambda row: row[:5])
    ]
    for run in runs:
        if run.points.shape[1] != 4 or not np.isfinite(run.points[:, : MEAN + 1]).all():
            raise ValueError(f"{run.script} seed {run.seed} has a row cut off or not finite")
    return runs


def write_csv(path: Path, *rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def read(args: Args) -> list[Run]:
    """Return the runs that were asked for, sorted."""
    folders, runs, found, kept = [], [], [], {}
    for path in args.runs:
        try:
            if path.is_dir():
                inner = sorted(path.glob("[!.]*/"))
                folders += inner if inner and not (path / "args.json").exists() else [path]
            else:
                runs += read_csv(path, args.tag)
        except (OSError, ValueError, TypeError, IndexError, csv.Error) as error:
            fail(f"cannot read {path}: {error}")
    for folder in tqdm(folders, unit=" runs", disable=None):
        try:
            found.append(read_run(folder, args))
        except (ValueError, OSError) as error:
            say(f"{folder} is passed over: {error}")
    own = name_variants(found)
    curves = {run[:4] for run in own}
    for run in runs:
        if run[:4] in curves:
            run = run._replace(variant=f"{run.variant} (CSV)".strip())
        own.append(run)
    for run in own:
        name, other = run[:5], kept.get(run[:5])
        if other:
            say(f"{' '.join(map(str, filter(None, name)))} is there twice: the longer one counts")
        if not other or other.points[-1, STEP] <= run.points[-1, STEP]:
            kept[name] = run
    return [kept[name] for name in sorted(kept)]


def arrange(runs: list[Run]) -> dict[str, dict[str, list[Run]]]:
    """Return the runs by panel and by curve."""
    panels = defaultdict(lambda: defaultdict(list))
    for run in sorted(runs, key=lambda run: (run.env_id, run.max_episode_steps)):
        limit = f", episodes of {run.max_episode_steps} steps" if run.max_episode_steps else ""
        panels[run.env_id + limit][f"{run.script} {run.variant}".strip()].append(run)
    return panels


# ---- Statistics ----
def iqm(scores, axis=-1):
    """Interquartile mean: a quarter of the scores, rounded down, is cut from each side."""
    return stats.trim_mean(scores, 0.25, axis=axis)


def interval(*samples, statistic=iqm):
    """Return the ends of a statistic's 95 % interval; each sample (..., seeds) is one stratum."""
    how = {"method": "percentile", "n_resamples": 2_000, "vectorized": True, "axis": -1}
    return stats.bootstrap(samples, statistic, rng=0, **how).confidence_interval


def aggregate(runs: list[Run], axis: int) -> np.ndarray:
    """Return (5, n): steps or hours, number of seeds that have got there, IQM, its interval."""
    x = np.unique(np.concatenate([run.points[:, axis] for run in runs]))
    if axis == HOURS:  # no two runs share one
        x = np.unique(np.linspace(x[0], x[-1], 200))
    values = np.array([run.at(x, axis) for run in runs])  # (seeds, n)
    there, curve = ~np.isnan(values), np.full((5, len(x)), np.nan)
    curve[:2] = x, there.sum(0)
    for seeds in np.unique(there, axis=1).T:
        here = (seeds == there.T).all(1)
        scores = values[seeds][:, here].T
        if seeds.any():
            curve[2, here] = iqm(scores)
        if seeds.sum() >= MIN_SEEDS:
            curve[3:, here] = interval(scores)
    return curve


def comparable(panels) -> tuple[dict[str, float], dict[str, list[np.ndarray]]]:
    """Return {environment: step} and {curve: [its seeds' scores there, for each environment]}.

    Of all sets of curves and environments in which each curve has MIN_SEEDS seeds everywhere, the
    largest; the step is the last that every seed has reached.
    """
    full = {}
    for panel, curves in panels.items():
        full[panel] = {label for label, runs in curves.items() if len(runs) >= MIN_SEEDS}
    sets = [one & other for one in full.values() for other in full.values() if len(one & other) > 1]
    labels = max(sets, key=lambda s: len(s) * sum(s <= f for f in full.values()), default=set())
    steps, scores = {}, {label: [] for label in sorted(labels)}
    for panel in [panel for panel in panels if labels and labels <= full[panel]]:
        curves = {label: panels[panel][label] for label in scores}
        step = min(run.points[-1, STEP] for runs in curves.values() for run in runs)
        there = {label: np.array([run.at(step) for run in runs]) for label, runs in curves.items()}
        if not np.isnan(np.concatenate([*there.values()])).any():  # none starts after another's end
            steps[panel] = step
            for label, seeds in there.items():
                scores[label].append(seeds)
    return steps, scores


def profile(*above, axis=-1):
    """Share of the runs above τ, which each (..., seeds) says, averaged over environments."""
    return np.mean([seeds.mean(axis) for seeds in above], axis=0)


def improvement(*scores, axis=-1):
    """P(X > Y), ties half, averaged over environments: scores of X in each, then those of Y."""
    half = len(scores) // 2
    pairs = [
        (x[..., None], y[..., None, :]) for x, y in zip(scores[:half], scores[half:], strict=True)
    ]
    return np.mean([((x > y) + 0.5 * (x == y)).mean((-2, -1)) for x, y in pairs], axis=0)


# ---- Figures ----
def styles(panels) -> dict[str, dict]:
    """Return how to draw each curve: the first of a script in its colour, the rest in others."""
    free, others, looks = dict(STYLES), cycle(OTHER_STYLES), {}
    for i, label in enumerate(sorted({label for curves in panels.values() for label in curves})):
        color, marker = free.pop(label.split()[0], None) or next(others)
        looks[label] = {"color": color, "marker": marker, "markevery": (0.03 * i, 0.15)}
        looks[label] |= {"lw": 2, "markersize": 7, "mec": "white"}
    return looks


def draw_curves(panels, look, args: Args) -> Figure:
    """Draw a panel for each environment, and the legend in the grid's next cell."""
    axis, seeds = HOURS if args.x == "hours" else STEP, defaultdict(set)
    columns = 2 if len(panels) in (1, 3) else 3
    rows = ceil((len(panels) + 1) / columns)
    figure = Figure((4.4 * columns, 3.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax, (title, curves) in zip(axes, panels.items(), strict=False):
        ends = {}
        for label, runs in sorted(curves.items()):
            color, (x, there, middle, low, high) = look[label]["color"], aggregate(runs, axis)
            alone = {"markevery": 1} if len(x) == 1 else {}
            ax.fill_between(x, low, high, color=color, alpha=0.2, lw=4 if alone else 0)
            for run in runs if 1 < len(runs) < MIN_SEEDS else []:
                ax.plot(*run.points[:, [axis, MEAN]].T, color=color, lw=0.8, alpha=0.6)
            ax.plot(x, np.where(there == len(runs), middle, np.nan), color=color, lw=2)
            ax.plot(x, middle, ls=":", **look[label] | alone)
            seeds[label].add(len(runs))
            ends[label] = x[-1]
        if args.log_x:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            ax.xaxis.set_minor_formatter(NullFormatter())
        title = title.replace(", ", "\n")
        if short := [label for label in ends if ends[label] < max(ends.values()) / 2]:
            title += "\n" + fill(f"shorter runs: {', '.join(short)}", 40)
        ax.set_title(title, fontsize=12)
        ax.xaxis.set_major_formatter(EngFormatter(sep="") if axis == STEP else "{x:g}")
        ax.set_xlabel("environment steps" if axis == STEP else "hours of training")
        ax.set_ylabel(NAMES.get(args.tag, args.tag))
    lines = {}
    for label, numbers in sorted(seeds.items()):
        number = " to ".join(f"{number}" for number in sorted({min(numbers), max(numbers)}))
        plural = "s" if max(numbers) > 1 else ""
        lines[fill(f"{label}, {number} seed{plural}", 40)] = Line2D([], [], **look[label])
    note = "line: interquartile mean; band: its 95 % bootstrap interval; "
    note += f"thin: each seed, if fewer than {MIN_SEEDS}; dotted: some seeds have not got that far"
    for ax in axes[len(panels) :]:
        ax.axis("off")
    small = {"title": fill(note, 40), "title_fontsize": 10, "fontsize": 10}
    axes[len(panels)].legend(lines.values(), lines, loc="center", **small)
    return figure


def draw_overestimation(runs: list[Run], look, args: Args) -> Figure:
    """Draw what the critic expects, with hollow markers, beside what the policy then gets."""
    panels = arrange(
        run._replace(variant=f"{run.variant} {name}".strip(), points=run.values[tag])
        for run in runs
        for tag, name in VALUES.items()
    )
    both = {f"{label} {name}": own for label, own in look.items() for name in VALUES.values()}
    for label, own in look.items():
        both[f"{label} Q(s, a)"] = own | {"mfc": "white", "mec": own["color"]}
    return draw_curves(panels, both, replace(args, tag="discounted value"))


def decided(scores) -> bool:
    """Tell whether any two scripts can be told apart."""
    pairs = combinations(scores.values(), 2)
    ends = [interval(*first, *second, statistic=improvement) for first, second in pairs]
    return any(low > 0.5 or high < 0.5 for low, high in ends)


def draw_comparison(steps, scores, look) -> Figure:
    """Draw the shares of runs above each score, and P(a run of X is above one of Y)."""
    figure = Figure((12.8, 4.8), layout="constrained")
    where = ", ".join(f"{environment} at {step:,.0f}" for environment, step in steps.items())
    figure.suptitle(fill(f"{where} steps; bands and bars: 95 % intervals", 110), fontsize=11)
    left, right = figure.subplots(1, 2)
    taus = np.linspace(0, 1, 201)
    together = [np.concatenate(seeds) for seeds in zip(*scores.values(), strict=True)]
    for label, by_environment in scores.items():
        above = [
            (seeds > every.min() + taus[:, None] * np.ptp(every)).astype(float)  # (τ, seeds)
            for seeds, every in zip(by_environment, together, strict=True)
        ]
        left.step(taus, profile(*above), where="post", label=label, **look[label])
        ends, color = interval(*above, statistic=profile), look[label]["color"]
        left.fill_between(taus, *ends, step="post", color=color, alpha=0.2, lw=0)
    left.set(xlabel="score τ (0: worst run, 1: best, of each environment)", ylabel="share above τ")
    left.legend(fontsize=10)

    pairs = list(combinations(scores, 2))
    for y, (first, second) in enumerate(pairs):
        both = *scores[first], *scores[second]
        right.plot(interval(*both, statistic=improvement), [y, y], color="#0072B2", lw=8, alpha=0.4)
        right.plot(improvement(*both), y, "o", color="#0072B2")
    right.axvline(0.5, color="black", lw=1, ls="--", zorder=0)
    right.set(xlabel="P(X > Y)", xlim=(-0.05, 1.05), ylim=(len(pairs), -1))
    right.set_yticks(range(len(pairs)), [f"{first} > {second}" for first, second in pairs])
    return figure


# ---- Table ----
COLUMNS = ["environment", "steps", "script", "seeds", "mean", "std", "iqm", "low", "high"]


def read_published() -> dict[tuple[str, str, str], list[str]]:
    """Return {(script, environment without its version, steps): what others report}."""
    published = defaultdict(list)
    with PUBLISHED.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name, version = row["env"].rsplit("-", 1)
            text = f"{row['source']} {float(row['mean']):.0f} ± {float(row['std']):.0f}"
            same = ", same settings" if row["settings"] == "same" else ""
            key = row["algo"], name, f"{int(row['steps']):,}"
            published[key].append(f"{text} ({version}, {row['seeds']} seeds{same})")
    return published


def tabulate(panels, args: Args) -> list[tuple]:
    """Return COLUMNS and what is published for each environment, step and curve.

    A step between two evaluations is interpolated, and a seed that has not got there is left out.
    The row of each seed's last evaluation is marked "(last)". `std` is over seeds, NaN for one;
    fewer than MIN_SEEDS have NaN for an interval.
    """
    has_published = args.tag == "eval/episodic_return" and PUBLISHED.exists()
    published, rows = read_published() if has_published else {}, []
    for panel, curves in panels.items():
        task = re.sub(r"-v\d+$", "", panel)
        for label, runs in curves.items():
            lasts = sorted({int(run.points[-1, STEP]) for run in runs})
            cells = [(s, f"{s:,}", [run.at(s) for run in runs]) for s in args.table_steps]
            cells = [cell for cell in cells if [cell[0]] != lasts]
            ends = " to ".join(f"{step:,}" for step in sorted({lasts[0], lasts[-1]}))
            cells += [(lasts[-1], f"{ends} (last)", [run.points[-1, MEAN] for run in runs])]
            for step, text, scores in cells:
                scores = np.array(scores)[~np.isnan(scores)]
                if len(scores):
                    bounds = interval(scores) if len(scores) >= MIN_SEEDS else (np.nan, np.nan)
                    std = scores.std(ddof=1) if len(scores) > 1 else np.nan
                    numbers = scores.mean(), std, iqm(scores), *bounds
                    numbers = len(scores), *(float(f"{x:.7g}") for x in numbers)
                    others = published.get((runs[0].script, task, text.removesuffix(" (last)")), [])
                    rows.append((step, (panel, text, label, *numbers, "; ".join(others))))
    return [row for _, row in sorted(rows, key=lambda pair: (pair[1][0], pair[0]))]


def markdown(rows: list[tuple]) -> str:
    lines = ["| environment | steps | script | seeds | mean ± std | IQM [95 %] | published |"]
    lines += ["|---|--:|---|--:|--:|--:|---|"]
    for *start, mean, std, middle, low, high, others in rows:
        form = ".0f" if abs(mean) >= 100 else ".2f"
        bounds = "" if np.isnan(low) else f" [{low:{form}}, {high:{form}}]"
        spread = "" if np.isnan(std) else f" ± {std:{form}}"
        cells = *start, f"{mean:{form}}{spread}", f"{middle:{form}}{bounds}", others
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main(args: Args) -> None:
    """Read the runs and write the figures, the table and the data."""
    if args.bin_steps < 1:
        fail(f"--bin-steps must be at least 1, not {args.bin_steps}")
    runs = read(args)
    if not runs:
        fail(f"nothing to plot in {' '.join(map(str, args.runs)) or 'no folder'}")
    panels = arrange(runs)
    look, (steps, scores), table = styles(panels), comparable(panels), tabulate(panels, args)
    with matplotlib.rc_context(LOOK):
        figures = {"curves": draw_curves(panels, look, args)}
        if critics := [run for run in runs if run.values]:
            figures["overestimation"] = draw_overestimation(critics, look, args)
        if decided(scores):
            figures["comparison"] = draw_comparison(steps, scores, look)
        else:
            say(f"no comparison: no two scripts with {MIN_SEEDS} seeds can be told apart")
        try:
            args.out.mkdir(parents=True, exist_ok=True)
            for name, figure in figures.items():
                figure.savefig(args.out / f"{name}.png")
                figure.savefig(args.out / f"{name}.svg", metadata={"Date": None})
            data = [[*run[:5], int(step), *rest] for run in runs for step, *rest in run.points]
            write_csv(args.out / "curves.csv", header(args.tag), *data)
            write_csv(args.out / "table.csv", [*COLUMNS, "published"], *table)
            (args.out / "table.md").write_text(markdown(table), encoding="utf-8")
        except OSError as error:
            fail(f"cannot write {args.out}: {error}")
    print(f"{len(runs)} runs: {', '.join(figures)} and table in {args.out}")


if __name__ == "__main__":
    main(tyro.cli(Args))
