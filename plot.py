# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "pandas==2.3.3", "scipy==1.17.1", "matplotlib==3.11.2",
#     "tensorboard==2.21.0", "tyro==1.0.17", "tqdm==4.70.1"]
# ///
"""Learning curves of many runs with 95 % intervals, a table and a comparison of the scripts.

Statistics as in Agarwal et al. 2021, arXiv:2108.13264, and their rliable: interquartile mean over
seeds, percentile intervals of the stratified bootstrap. Standard deviations divide by n - 1.

1. Runs of one script and environment are the seeds of one curve. An argument outside SAME that
   differs between them splits it, and is named with each curve of the script; more than two are
   named in the table alone. Of two runs with the same seed the longer one counts.
2. A run is interpolated linearly between its evaluations, never continued after its last.
3. An unfinished run counts up to its last evaluation: to leave it out would favour what went well.
4. Hours are those of training, without pauses and without work that was lost.
5. Tags other than eval/* are averaged over bins of `bin_steps` steps, each put at its end.

Written to `out`: curves, table, and the data as curves.csv, which can be given instead of the runs
or beside others, whose curves its runs never join: it does not know all their arguments. Also:
- overestimation: the critic's Q of the replay buffer's actions beside the discounted return of the
  evaluations. They average over different states: compare how they move.
- comparison of scripts with MIN_SEEDS seeds in the same environments, if any two of them can be
  told apart: the 95 % interval of P(X > Y) leaves out 0.5.

    python plot.py runs
"""

import json
import struct
import sys
from dataclasses import dataclass, replace
from itertools import combinations, cycle, product
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import Literal

import matplotlib
import numpy as np
import pandas as pd
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
CURVE = ["script", "variant", "env_id", "max_episode_steps"]  # the columns that name a curve,
RUN = [*CURVE, "seed"]  # a run,
POINT = ["step", "hours", "mean", "std"]  # and the values of a point
NUMBERS = ["mean", "std", "iqm", "low", "high"]  # of the table
NAMES = {"eval/episodic_return": "evaluation return"}
NAMES |= {"charts/episodic_return": "return of training episodes"}
CRITIC = {"losses/qf1_values": "Q(s, a)", "eval/discounted_return": "discounted return"}
PUBLISHED = Path(__file__).parent / "results" / "published.csv"
# Okabe and Ito's colours, which the colour-blind can tell apart; the markers do so in grey
COLORS = "#0072B2 #D55E00 #009E73 #CC79A7 #56B4E9 #E69F00 #882255 #117733 #332288 #999933 #AA4499"
SCRIPTS = "ddpg td3 ppo ac_reparam svg0 sac d4pg naf a2c reinforce a3c"
STYLES = dict(zip(SCRIPTS.split(), zip(COLORS.split(), "os^DPvdph<>", strict=True), strict=True))
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
def fail(message: str):
    """Exit with one line and code 2: input that no figure can be made of."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)


def say(message: str) -> None:
    tqdm.write(message, file=sys.stderr)


def read_events(path: Path):
    """Yield the events of a file up to its end, or to the record that a kill cut short.

    A TFRecord is the length of its data (uint64), 4 bytes of checksum, the data, 4 of checksum.
    TensorBoard's own loader computes the checksums in Python: 10 s of CPU time for 30 runs of 1M
    steps, this one 0.6 s, where the whole command takes 10 s.
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


def read_scalars(run_dir: Path) -> pd.DataFrame:
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
    scalars = pd.DataFrame(scalars, columns=["tag", "step", "hours", "value"])
    return scalars.astype({"step": int, "hours": float, "value": float})


def select(scalars: pd.DataFrame, tag: str, bin_steps: int) -> pd.DataFrame:
    """Return the points of a tag, with as few digits as name a float32 and 0.04 s: a small CSV."""
    points = scalars[(scalars.tag == tag) & np.isfinite(scalars.value)]
    if tag.startswith("eval/"):
        stds = scalars[scalars.tag == f"{tag}_std"].groupby("step").value.last()
        points = points.assign(mean=points.value, std=points.step.map(stds))
    else:
        ends = (np.ceil(points.step / bin_steps) * bin_steps).clip(upper=points.step.max())
        columns = {"hours": ("hours", "last"), "mean": ("value", "mean"), "std": ("value", "std")}
        points = points.groupby(ends.astype(int)).agg(**columns).reset_index()
    points = points[POINT].round({"hours": 5})
    points[["mean", "std"]] = np.float32(points[["mean", "std"]]).astype(str).astype(float)
    return points.assign(tag=tag)


def read_run(run_dir: Path, args: Args) -> tuple[dict, dict, pd.DataFrame]:
    """Return a run's name, its arguments and its points; a ValueError says why there are none."""
    try:
        own = json.loads((run_dir / "args.json").read_text())
        name = {"script": own["exp_name"].removesuffix("_continuous"), "env_id": str(own["env_id"])}
        limit = str(own.get("max_episode_steps") or "")
        name |= {"max_episode_steps": limit, "seed": int(own["seed"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its args.json can't be used, {error!r}") from None
    # a learning rate that falls to 0 at the end depends on where the end is
    same = SAME - {"total_timesteps"} if own.get("anneal_lr") else SAME
    scalars = read_scalars(run_dir)
    points = [select(scalars, tag, args.bin_steps) for tag in dict.fromkeys([args.tag, *CRITIC])]
    if points[0].empty:
        raise ValueError(f"no {args.tag} in event files")
    if not (run_dir / "result.json").exists():
        say(f"{run_dir} is not finished: used up to step {points[0].step.iloc[-1]}")
    return name, {key: str(own[key]) for key in own if key not in same}, pd.concat(points)


def name_variants(found: list[tuple[dict, dict, pd.DataFrame]]) -> list[pd.DataFrame]:
    """Return the points with RUN; `variant` has what differs between runs of its script."""
    if not found:
        return []
    keys = pd.DataFrame([name for name, *_ in found]).drop(columns="seed")
    arguments = pd.DataFrame([own for _, own, _ in found])
    differ = arguments.groupby([keys[key] for key in keys]).nunique() > 1
    differ, runs = differ.groupby("script").any(), []
    for name, own, data in found:
        free = [f"{key}={own[key]}" for key in sorted(own) if differ.loc[name["script"], key]]
        runs.append(data.assign(**name, variant=" ".join(free)))
    return runs


def read_csv(path: Path, tag: str) -> pd.DataFrame:
    """Return the points of a curves.csv; a ValueError says what is wrong with it."""
    text = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    if list(text) != (header := [*RUN, "step", "hours", tag, f"{tag}_std"]):
        raise ValueError(f"its first line is not {','.join(header)}")
    text.columns = [*RUN, *POINT]
    data = text.astype(dict.fromkeys(POINT, float))
    cut = text.isna().any(axis=1) | ~np.isfinite(data[POINT[:3]]).all(axis=1)
    for run in data[cut].itertuples():
        raise ValueError(f"{run.script} seed {run.seed} has a row cut off or not finite")
    return data.astype({"seed": int, "step": int}).assign(tag=tag)


def read(args: Args) -> pd.DataFrame:
    """Return the points of the runs that were asked for, sorted: tag, RUN, POINT and labels."""
    folders, files, found = [], [], []
    for path in args.runs:
        try:
            if path.is_dir():
                inner = sorted(path.glob("[!.]*/"))
                folders += inner if inner and not (path / "args.json").exists() else [path]
            else:
                files.append(read_csv(path, args.tag))
        except (OSError, ValueError) as error:
            fail(f"cannot read {path}: {error}")
    for folder in tqdm(folders, unit=" runs", disable=None):
        try:
            found.append(read_run(folder, args))
        except (OSError, ValueError) as error:
            say(f"{folder} is passed over: {error}")
    sources = name_variants(found)
    own = {tuple(run[CURVE].iloc[0]) for run in sources}
    for file in files:
        mixed = [name in own for name in file[CURVE].itertuples(index=False, name=None)]
        file.loc[mixed, "variant"] = (file.variant + " (CSV)").str.strip()
    sources += [file for file in files if len(file)]
    if not sources:
        fail(f"nothing to plot in {' '.join(map(str, args.runs)) or 'no folder'}")
    data = pd.concat([source.assign(source=i) for i, source in enumerate(sources)])
    ends = data[data.tag == args.tag].groupby([*RUN, "source"], as_index=False).step.max()
    ends = ends.sort_values(["step", "source"]).drop(columns="step")
    for name in ends[ends.duplicated(RUN)][RUN].itertuples(index=False):
        say(f"{' '.join(str(x) for x in name if x)} is there twice: the longer one counts")
    data = data.merge(ends.drop_duplicates(RUN, keep="last"))
    return label(data.sort_values(RUN, kind="stable", ignore_index=True))


def label(data: pd.DataFrame) -> pd.DataFrame:
    """Add the names of panel, of curve (in figures: short) and of curve with all its arguments."""
    limit = data.max_episode_steps
    limit = limit.where(limit == "", ", episodes of " + limit + " steps")
    number = data.groupby("script").variant.transform(lambda names: pd.factorize(names)[0] + 1)
    short = data.script + " (variant " + number.astype(str) + ")"
    few = data.variant.str.count("=") <= 2
    full = (data.script.where(few, short) + " " + data.variant).str.strip()
    return data.assign(panel=data.env_id + limit, curve=full.where(few, short), full=full)


# ---- Statistics ----
def iqm(scores, axis=-1):
    """Interquartile mean: a quarter of the scores, rounded down, is cut from each side."""
    return stats.trim_mean(scores, 0.25, axis=axis)


def interval(*samples, statistic=iqm):
    """Return the ends of a statistic's 95 % interval; each sample (..., seeds) is one stratum."""
    how = {"method": "percentile", "n_resamples": 2_000, "vectorized": True, "axis": -1}
    return stats.bootstrap(samples, statistic, rng=0, **how).confidence_interval


def at(curve: pd.DataFrame, x, axis: str = "step") -> pd.DataFrame:
    """Return (x, seeds): means interpolated at these steps or hours; NaN where a run has none."""
    table = curve.groupby([axis, "seed"])["mean"].last().unstack()
    table = table.reindex(table.index.union(x)).interpolate(method="index", limit_area="inside")
    return table.reindex(x)


def summarize(scores: pd.DataFrame) -> pd.DataFrame:
    """Return number, mean, std, IQM and its interval of the seeds in each row of (x, seeds)."""
    mean, std = scores.mean(axis=1), scores.std(axis=1)
    table = pd.DataFrame({"seeds": scores.count(axis=1), "mean": mean, "std": std})
    table[["iqm", "low", "high"]] = np.nan
    for seeds in set(table.seeds) - {0}:
        rows = table.seeds == seeds
        there = scores[rows].to_numpy()
        there = there[~np.isnan(there)].reshape(-1, seeds)
        table.loc[rows, "iqm"] = iqm(there)
        if seeds >= MIN_SEEDS:
            table.loc[rows, ["low", "high"]] = np.transpose(interval(there))
    return table


def comparable(data: pd.DataFrame) -> tuple[dict[str, float], dict[str, list[np.ndarray]]]:
    """Return {environment: step} and {curve: [its seeds' scores there, for each environment]}.

    Of all sets of curves and environments in which each curve has MIN_SEEDS seeds everywhere, the
    largest; the step is the last that every seed has reached.
    """
    full = data.groupby(["panel", "curve"]).seed.nunique().unstack() >= MIN_SEEDS
    sets = [list(full.columns[full.loc[a] & full.loc[b]]) for a, b in product(full.index, repeat=2)]
    sets = [curves for curves in sets if len(curves) > 1]
    curves = max(sets, key=lambda s: len(s) * full[s].all(axis=1).sum(), default=[])
    steps, scores = {}, {curve: [] for curve in curves}
    for panel, block in data[data.curve.isin(curves)].groupby("panel"):
        step = block.groupby(["curve", "seed"]).step.max().min()
        there = [at(block[block.curve == curve], [step]).to_numpy()[0] for curve in curves]
        if full.loc[panel, curves].all() and not np.isnan(np.concatenate(there)).any():
            steps[panel] = step
            for curve, seeds in zip(curves, there, strict=True):
                scores[curve].append(seeds)
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
def styles(curves) -> dict[str, dict]:
    """Return how to draw each curve: the first of a script in its colour, the rest in others."""
    free, others, looks = dict(STYLES), cycle(OTHER_STYLES), {}
    for i, curve in enumerate(sorted(curves)):
        color, marker = free.pop(curve.split()[0], None) or next(others)
        looks[curve] = {"color": color, "marker": marker, "markevery": (0.03 * i, 0.15)}
        looks[curve] |= {"lw": 2, "markersize": 7, "mec": "white"}
    return looks


def draw_curve(ax, curve: pd.DataFrame, look: dict, axis: str) -> None:
    """Draw the IQM, solid as far as all seeds go, its interval, and the seeds if they are two."""
    x, seeds, color = np.unique(curve[axis]), curve.seed.nunique(), look["color"]
    if axis == "hours":  # no two runs share one
        x = np.unique(np.linspace(x[0], x[-1], 200))
    lines = summarize(at(curve, x, axis))
    alone = {"markevery": 1} if len(x) == 1 else {}
    ax.fill_between(x, lines.low, lines.high, color=color, alpha=0.2, lw=4 if alone else 0)
    for _, run in curve.groupby("seed") if 1 < seeds < MIN_SEEDS else []:
        ax.plot(run[axis], run["mean"], color=color, lw=0.8, alpha=0.6)
    ax.plot(x, lines.iqm.where(lines.seeds == seeds), color=color, lw=2)
    ax.plot(x, lines.iqm, ls=":", **look | alone)


def draw_curves(data: pd.DataFrame, look: dict, args: Args) -> Figure:
    """Draw a panel for each environment, and the legend in the grid's next cell."""
    panels = data.groupby("panel")
    columns = 2 if len(panels) in (1, 3) else 3
    rows = ceil((len(panels) + 1) / columns)
    figure = Figure((4.4 * columns, 3.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax, (title, panel) in zip(axes, panels, strict=False):
        for name, curve in panel.groupby("curve"):
            draw_curve(ax, curve, look[name], args.x)
        if args.log_x:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            ax.xaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_formatter(EngFormatter(sep="") if args.x == "step" else "{x:g}")
        ax.set_xlabel("environment steps" if args.x == "step" else "hours of training")
        ax.set_ylabel(NAMES.get(args.tag, args.tag))
        ends = panel.groupby("curve")[args.x].max()
        short = ", ".join(ends.index[ends < ends.max() / 2])
        short = short and "\n" + fill(f"shorter runs: {short}", 40)
        ax.set_title(title.replace(", ", "\n") + short, fontsize=12)
    lines, seeds = {}, data.groupby(["curve", "panel"]).seed.nunique()
    for name, numbers in seeds.groupby("curve"):
        number = " to ".join(str(n) for n in sorted({numbers.min(), numbers.max()}))
        plural = "s" if numbers.max() > 1 else ""
        lines[fill(f"{name}, {number} seed{plural}", 40)] = Line2D([], [], **look[name])
    note = "line: interquartile mean; band: its 95 % bootstrap interval; "
    note += f"thin: each seed, if fewer than {MIN_SEEDS}; dotted: some seeds have not got that far"
    if data.curve.str.contains("(variant ", regex=False).any():
        note += "; variants: see the table"
    for ax in axes[len(panels) :]:
        ax.axis("off")
    small = {"title": fill(note, 40), "title_fontsize": 10, "fontsize": 10}
    axes[len(panels)].legend(lines.values(), lines, loc="center", **small)
    return figure


def of_critics(data: pd.DataFrame) -> pd.DataFrame:
    """Return the points of the tags CRITIC, of the runs that have both."""
    data = data[data.tag.isin([*CRITIC])]
    return data[data.groupby(RUN).tag.transform("nunique") == len(CRITIC)]


def draw_overestimation(critics: pd.DataFrame, look: dict, args: Args) -> Figure:
    """Draw what the critic expects, with hollow markers, beside what the policy then gets."""
    both = {}
    for name, own in look.items():
        both[f"{name} Q(s, a)"] = own | {"mfc": "white", "mec": own["color"]}
        both[f"{name} discounted return"] = own
    critics = critics.assign(curve=critics.curve + " " + critics.tag.map(CRITIC))
    return draw_curves(critics, both, replace(args, tag="discounted value"))


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
    for name, environments in scores.items():
        above = [
            (seeds > every.min() + taus[:, None] * np.ptp(every)).astype(float)  # (τ, seeds)
            for seeds, every in zip(environments, together, strict=True)
        ]
        left.step(taus, profile(*above), where="post", label=name, **look[name])
        ends, color = interval(*above, statistic=profile), look[name]["color"]
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
def read_published() -> dict[tuple[str, str, int], str]:
    """Return {(script, environment without its version, steps): what others report}."""
    table = pd.read_csv(PUBLISHED)
    same = table.settings.where(table.settings == "same", "").replace("same", ", same settings")
    numbers = table["mean"].map(" {:.0f} ± ".format) + table["std"].map("{:.0f}".format)
    version = table.env.str[-2:] + ", " + table.seeds.astype(str) + " seeds" + same
    text = table.source + numbers + " (" + version + ")"
    return text.groupby([table.algo, table.env.str[:-3], table.steps]).agg("; ".join).to_dict()


def tabulate(data: pd.DataFrame, args: Args) -> pd.DataFrame:
    """Return the statistics and what is published for each environment, step and curve.

    A step between two evaluations is interpolated, and a seed that has not got there is left out.
    The row of each seed's last evaluation is marked "(last)". `std` is over seeds, NaN for one;
    fewer than MIN_SEEDS have NaN for an interval.
    """
    has_published = args.tag == "eval/episodic_return" and PUBLISHED.exists()
    published, tables = read_published() if has_published else {}, []
    for (panel, script, full), curve in data.groupby(["panel", "script", "full"]):
        last = curve.groupby("seed")[["step", "mean"]].last()
        ends = sorted({last.step.min(), last.step.max()})
        steps = [step for step in args.table_steps if [step] != ends]
        table = summarize(pd.concat([at(curve, steps), last[["mean"]].T]))
        names = *(f"{step:,}" for step in steps), " to ".join(f"{e:,}" for e in ends) + " (last)"
        table = table.assign(environment=panel, step=[*steps, ends[-1]], steps=names, script=full)
        keys = [(script, panel[:-3], step) for step in [*steps, ends[0] if len(ends) == 1 else 0]]
        table["published"] = [published.get(key, "") for key in keys]
        tables.append(table[table.seeds > 0])
    table = pd.concat(tables).sort_values(["environment", "step"], kind="stable")
    table[NUMBERS] = table[NUMBERS].map(lambda x: float(f"{x:.7g}"))
    return table[["environment", "steps", "script", "seeds", *NUMBERS, "published"]]


def markdown(table: pd.DataFrame) -> str:
    lines = ["| environment | steps | script | seeds | mean ± std | IQM [95 %] | published |"]
    lines += ["|---|--:|---|--:|--:|--:|---|"]
    for *start, mean, std, middle, low, high, others in table.itertuples(index=False):
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
    everything = read(args)
    data = everything[everything.tag == args.tag]
    critics = of_critics(everything)
    look, (steps, scores), table = styles(set(data.curve)), comparable(data), tabulate(data, args)
    with matplotlib.rc_context(LOOK):
        figures = {"curves": draw_curves(data, look, args)}
        if len(critics):
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
            points = data[[*RUN, *POINT]].rename(
                columns={"mean": args.tag, "std": f"{args.tag}_std"}
            )
            points.to_csv(args.out / "curves.csv", index=False, na_rep="nan")
            table.to_csv(args.out / "table.csv", index=False, na_rep="nan")
            (args.out / "table.md").write_text(markdown(table), encoding="utf-8")
        except OSError as error:
            fail(f"cannot write {args.out}: {error}")
    print(f"{data.groupby(RUN).ngroups} runs: {', '.join(figures)} and table in {args.out}")


if __name__ == "__main__":
    main(tyro.cli(Args))
