# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "pandas==2.3.3", "scipy==1.17.1", "matplotlib==3.11.2",
#     "tensorboard==2.21.0", "tyro==1.0.17", "tqdm==4.70.1"]
# ///
"""Learning curves of many runs with 95 % intervals, a table and a comparison of the scripts.

    python plot.py runs

Runs of one script and environment are the seeds of one curve. An argument outside SAME that differs
between them splits it, and is named with each curve of the script. A run is interpolated between
its evaluations, never continued after its last; an unfinished run counts too, since to leave it out
would favour what went well. Hours are those of training, without pauses and lost work.
The critic's Q is averaged over the replay buffer, the discounted return of the evaluations beside
it over first states: compare how they move. Statistics and table are made by stats.py.
"""

import json
import sys
from dataclasses import dataclass
from itertools import combinations, cycle
from pathlib import Path
from textwrap import fill
from typing import Literal

import numpy as np
import pandas as pd
import tyro
from matplotlib import rc_context, ticker
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tqdm import tqdm

import stats

# what may differ between the seeds of a curve, and what args.json has besides arguments
SAME = {"exp_name", "env_id", "max_episode_steps", "seed", "run_name", "resume", "total_timesteps"}
SAME |= {"cuda", "torch_threads", "compile", "async_envs", "checkpoint_interval", "eval_interval"}
SAME |= {"eval_episodes", "capture_video", "versions", "device", "git_commit", "script"}
RUN = ["script", "variant", "env_id", "max_episode_steps", "seed"]  # columns that name a run
POINT = ["step", "hours", "mean", "std"]  # and those of a point
RETURN = "eval/episodic_return"
CRITIC = {"losses/qf1_values": "Q(s, a)", "eval/discounted_return": "discounted return"}
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
    tag: str = RETURN  # what to draw, a TensorBoard tag
    x: Literal["step", "hours"] = "step"  # horizontal axis: environment steps or hours of training
    log_x: bool = False  # make the horizontal axis logarithmic
    bin_steps: int = 10_000  # steps over which tags other than eval/* are averaged
    table_steps: tuple[int, ...] = (100_000, 300_000, 1_000_000)  # rows of the table


# ---- Reading ----
def say(message: str) -> None:
    tqdm.write(message, file=sys.stderr)


def fail(message: str):
    """Exit with one line and code 2: input that no figure can be made of."""
    say("error: " + " ".join(message.split()))
    raise SystemExit(2)


def read_scalars(run_dir: Path) -> pd.DataFrame:
    """Return tag, step, hours and value of each scalar, without what a resumed run undid."""
    paths, scalars = run_dir.glob("events.out.tfevents.*"), []
    files = [list(LegacyEventFileLoader(str(path)).Load()) for path in paths]
    for events in sorted(filter(None, files), key=lambda events: events[0].wall_time):
        begin = min((e.step for e in events if e.HasField("session_log")), default=np.inf)
        scalars = [scalar for scalar in scalars if scalar[1] < begin]
        before = scalars[-1][2] if scalars else 0.0
        for event in events:
            hours = before + (event.wall_time - events[0].wall_time) / 3600
            scalars += [(v.tag, event.step, hours, v.simple_value) for v in event.summary.value]
    types = {"tag": str, "step": int, "hours": float, "value": float}
    return pd.DataFrame(scalars, columns=list(types)).astype(types)


def select(scalars: pd.DataFrame, tag: str, bin_steps: int) -> pd.DataFrame:
    """Return the points of a tag, with as few digits as name a float32 and 0.04 s: a small CSV."""
    values = scalars[(scalars.tag == tag) & np.isfinite(scalars.value)]
    width = 1 if tag.startswith("eval/") else bin_steps
    ends = (np.ceil(values.step / width) * width).clip(upper=values.step.max()).astype(int)
    columns = {"hours": ("hours", "last"), "mean": ("value", "mean"), "std": ("value", "std")}
    points = values.groupby(ends).agg(**columns).round({"hours": 5})
    if tag.startswith("eval/"):
        stds = scalars[scalars.tag == f"{tag}_std"].groupby("step").value.last()
        points["std"] = points.index.map(stds)
    points[["mean", "std"]] = np.float32(points[["mean", "std"]]).astype(str).astype(float)
    return points.reset_index().assign(tag=tag)


def read_run(run_dir: Path, args: Args) -> pd.DataFrame:
    """Return a run's points, each with RUN and the arguments that may make another curve of it."""
    own = json.loads((run_dir / "args.json").read_text())
    name = {"script": own["exp_name"].removesuffix("_continuous"), "env_id": str(own["env_id"])}
    name |= {"max_episode_steps": str(own.get("max_episode_steps") or ""), "seed": int(own["seed"])}
    # a learning rate that falls to 0 at the end depends on where the end is
    same = SAME - {"total_timesteps"} if own.get("anneal_lr") else SAME
    name |= {f"--{key}": str(own[key]) for key in own if key not in same}
    scalars = read_scalars(run_dir)
    points = [select(scalars, tag, args.bin_steps) for tag in dict.fromkeys([args.tag, *CRITIC])]
    if points[0].empty:
        raise ValueError(f"no {args.tag} in its event files")
    result = run_dir / "result.json"
    if not result.exists() or json.loads(result.read_text())["step"] > scalars.step.max():
        say(f"{run_dir} is not finished, or damaged: used up to step {points[0].step.max()}")
    return pd.concat(points).assign(variant="", **name)


def read_csv(path: Path, tag: str) -> list[pd.DataFrame]:
    """Return the points of each run in a curves.csv."""
    header = [*RUN, "step", "hours", tag, f"{tag}_std"]
    types = dict.fromkeys(RUN, str) | dict.fromkeys(header[5:], float) | {"seed": int}
    options = {"index_col": False, "keep_default_na": False, "na_values": {header[-1]: ["nan"]}}
    data = pd.read_csv(path, usecols=header, dtype=types, **options)[header]
    data.columns = [*RUN, *POINT]
    data = data.astype({"step": int})
    return [run.assign(tag=tag) for _, run in data.groupby(RUN)]


def read(args: Args) -> pd.DataFrame:
    """Return the points of all runs: tag, RUN, POINT and the names of panel and curve."""
    paths, runs, files = [], [], []
    for path in args.runs:
        found = sorted(path.glob("args.json")) or sorted(path.glob("*/args.json"))
        paths += [file.parent for file in found] or [path]
    for path in tqdm(paths, unit=" runs", disable=None):
        try:
            if path.is_dir():
                runs.append(read_run(path, args))
            else:
                files += read_csv(path, args.tag)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if not path.is_dir():
                fail(f"cannot read {path}: {error}")
            say(f"{path} is passed over: {type(error).__name__}: {error}")
    if runs:  # a file does not say all arguments: its curves stay apart
        files = [run.assign(variant=run.variant + " (CSV)") for run in files]
    if not runs + files:
        fail(f"nothing to plot in {' '.join(map(str, args.runs)) or 'no folder'}")
    data = pd.concat([run.assign(run=i) for i, run in enumerate(runs + files)], ignore_index=True)
    # name the arguments that differ between the runs of a script in one task
    arguments = sorted(column for column in data if column.startswith("--"))
    differ = data.groupby(["script", "env_id", "max_episode_steps"])[arguments].nunique() > 1
    for key in differ.columns[differ.any()]:
        split = data.script.map(differ[key].groupby("script").any()) & data[key].notna()
        data.loc[split, "variant"] += f" {key[2:]}=" + data[key]
    data["variant"] = data.variant.str.strip()
    ends = data.groupby([*RUN, "run"]).step.max().sort_values(kind="stable").reset_index()
    for name in ends[ends.duplicated(RUN)][RUN].itertuples(index=False):
        say(f"{' '.join(str(x) for x in name if x)} is there twice: the longer one counts")
    data = data[data.run.isin(ends.drop_duplicates(RUN, keep="last").run)]
    limit = data.max_episode_steps.replace("(.+)", r", episodes of \1 steps", regex=True)
    curve = (data.script + " " + data.variant).str.strip()
    data = data.assign(panel=data.env_id + limit, curve=curve)
    return data.sort_values([*RUN, "step"], ignore_index=True)


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
    lines = stats.summarize(stats.at(curve, x, axis))
    alone = {"markevery": 1} if len(x) == 1 else {}
    ax.fill_between(x, lines.low, lines.high, color=color, alpha=0.2, lw=4 if alone else 0)
    for _, run in curve.groupby("seed") if 1 < seeds < stats.MIN_SEEDS else []:
        ax.plot(run[axis], run["mean"], color=color, lw=0.8, alpha=0.6)
    ax.plot(lines.iqm.where(lines.seeds == seeds), color=color, lw=2)
    ax.plot(lines.iqm, ls=":", **look | alone)


def draw_curves(data: pd.DataFrame, look: dict, args: Args, ylabel: str) -> Figure:
    """Draw a panel for each environment, and the legend in the grid's next cell."""
    panels = data.groupby("panel")
    columns = 2 if len(panels) in (1, 3) else 3
    rows = len(panels) // columns + 1
    figure = Figure((4.4 * columns, 3.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax, (title, panel) in zip(axes, panels, strict=False):
        for name, curve in panel.groupby("curve"):
            draw_curve(ax, curve, look[name], args.x)
        if args.log_x:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
            ax.xaxis.set_minor_formatter(ticker.NullFormatter())
        ax.xaxis.set_major_formatter(ticker.EngFormatter(sep="") if args.x == "step" else "{x:g}")
        ax.set_xlabel("environment steps" if args.x == "step" else "hours of training")
        ax.set_ylabel(ylabel)
        ends = panel.groupby("curve")[args.x].max()
        shorter = ", ".join(ends.index[ends < ends.max() / 2])
        shorter = shorter and "\n" + fill(f"shorter runs: {shorter}", 40)
        ax.set_title(title.replace(", ", "\n") + shorter, fontsize=12)
    for ax in axes[len(panels) :]:
        ax.axis("off")
    legend = axes[len(panels)]
    for name, seeds in data.groupby(["curve", "panel"]).seed.nunique().groupby("curve"):
        number = " to ".join(str(n) for n in sorted({seeds.min(), seeds.max()}))
        label = f"{name}, {number} seed{'s' if seeds.max() > 1 else ''}"
        legend.plot([], [], label=fill(label, 40), **look[name])
    note = "line: interquartile mean; band: its 95 % bootstrap interval; thin: each seed, if fewer "
    note += f"than {stats.MIN_SEEDS}; dotted: some seeds have not got that far"
    legend.legend(loc="center", title=fill(note, 40), title_fontsize=10, fontsize=10)
    return figure


def draw_overestimation(critics: pd.DataFrame, look: dict, args: Args) -> Figure:
    """Draw the critic's Q, with hollow markers, beside the discounted return of evaluations."""
    both = {f"{name} discounted return": own for name, own in look.items()}
    for name, own in look.items():
        both[f"{name} Q(s, a)"] = own | {"mfc": "white", "mec": own["color"]}
    critics = critics.assign(curve=critics.curve + " " + critics.tag.map(CRITIC))
    return draw_curves(critics, both, args, "discounted value")


def draw_comparison(steps: dict, scores: dict, look: dict) -> Figure:
    """Draw the shares of runs above each score, and P(a run of X is above one of Y)."""
    pairs = list(combinations(scores, 2))
    figure = Figure((12.8, max(4.8, 0.3 * len(pairs))), layout="constrained")
    where = ", ".join(f"{environment} at {step:,}" for environment, step in steps.items())
    figure.suptitle(fill(f"{where} steps; bands and bars: 95 % intervals", 110), fontsize=11)
    left, right = figure.subplots(1, 2)
    taus = np.linspace(0, 1, 201)
    for name, environments in scores.items():
        above = [(seeds > taus[:, None]).astype(float) for seeds in environments]  # (τ, seeds)
        left.step(taus, stats.profile(*above), where="post", label=name, **look[name])
        ends, color = stats.interval(*above, statistic=stats.profile), look[name]["color"]
        left.fill_between(taus, *ends, step="post", color=color, alpha=0.2, lw=0)
    left.set(xlabel="score τ (0: worst run, 1: best, of each environment)", ylabel="share above τ")
    left.legend(fontsize=10)
    for y, (first, second) in enumerate(pairs):
        both = *scores[first], *scores[second]
        ends = stats.interval(*both, statistic=stats.improvement)
        right.plot(ends, [y, y], color="#0072B2", lw=8, alpha=0.4)
        right.plot(stats.improvement(*both), y, "o", color="#0072B2")
    right.axvline(0.5, color="black", lw=1, ls="--", zorder=0)
    right.set(xlabel="P(X > Y)", xlim=(-0.05, 1.05), ylim=(len(pairs), -1))
    right.set_yticks(range(len(pairs)), [f"{first} > {second}" for first, second in pairs])
    return figure


def main(args: Args) -> None:
    """Read the runs and write the figures, the table and the data."""
    if args.bin_steps < 1:
        fail(f"--bin-steps must be at least 1, not {args.bin_steps}")
    everything = read(args)
    data = everything[everything.tag == args.tag]
    critics = everything[everything.tag.isin(list(CRITIC))]
    critics = critics[critics.groupby(RUN).tag.transform("nunique") == len(CRITIC)]
    look, table = styles(set(data.curve)), stats.tabulate(data, args.table_steps)
    steps, scores = stats.comparable(data)
    with rc_context(LOOK):
        ylabel = "evaluation return" if args.tag == RETURN else args.tag
        figures = {"curves": draw_curves(data, look, args, ylabel)}
        if len(critics):
            figures["overestimation"] = draw_overestimation(critics, look, args)
        if steps and len(scores) > 1:
            figures["comparison"] = draw_comparison(steps, scores, look)
        try:
            args.out.mkdir(parents=True, exist_ok=True)
            for name, figure in figures.items():
                figure.savefig(args.out / f"{name}.png")
                figure.savefig(args.out / f"{name}.svg", metadata={"Date": None})
            header = {"mean": args.tag, "std": f"{args.tag}_std"}
            points = data[[*RUN, *POINT]].rename(columns=header)
            points.to_csv(args.out / "curves.csv", index=False, na_rep="nan")
            table.to_csv(args.out / "table.csv", index=False, na_rep="nan")
            (args.out / "table.md").write_text(stats.markdown(table), encoding="utf-8")
        except OSError as error:
            fail(f"cannot write {args.out}: {error}")
    print(f"{data.groupby(RUN).ngroups} run(s): {', '.join(figures)} and table in {args.out}")


if __name__ == "__main__":
    main(tyro.cli(Args))
