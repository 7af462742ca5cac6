# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "pandas==2.3.3", "scipy==1.17.1", "matplotlib==3.11.2",
#     "tensorboard==2.21.0", "tyro==1.0.17", "tqdm==4.70.1"]
# ///
"""Learning curves of many runs, a table, a comparison of the scripts.

    python plot.py runs
    python plot.py results/curves.csv --panels Hopper-v4 Walker2d-v4

- Runs of one script and environment are the seeds of one curve; an argument of
  the algorithm that differs makes a curve of each value, named after it.
- An unfinished run counts as far as it got: to leave it out favours luck.
- A band of fewer than five runs is their range; they are not compared.
"""

import json
import sys
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
import tyro
from matplotlib import rc_context, ticker
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tqdm import tqdm

import stats
from stats import ALGORITHMS, MIN_SEEDS, RETURN

# what may differ between the seeds of a curve, and what args.json has besides arguments
SAME = {"exp_name", "env_id", "max_episode_steps", "seed", "run_name", "resume", "total_timesteps"}
SAME |= {"cuda", "torch_threads", "compile", "checkpoint_interval", "eval_interval"}
SAME |= {"eval_episodes", "versions", "device", "git_commit"}
RUN = ["script", "variant", "env_id", "max_episode_steps", "seed"]  # columns that name a run
POINT = ["step", "hours", "mean", "std"]  # and those of a point
LOOK = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}
LOOK |= {"grid.alpha": 0.3, "legend.frameon": False, "lines.linewidth": 1.6, "savefig.dpi": 200}
LOOK |= {"legend.title_fontsize": 8, "savefig.bbox": "tight", "svg.hashsalt": "plot"}
LOOK |= {"text.parse_math": False}  # a $ in a name is a $


# ---- Config ----
@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[Path, ...]]  # run folders, folders of those, or curves.csv
    out: Path = Path("plots")  # folder for figures, data, table.csv (with published returns)
    tag: tuple[str, ...] = (RETURN,)  # what to draw, TensorBoard's tags
    panels: tuple[str, ...] = ()  # environments to draw, all if none is named
    table_steps: tuple[int, ...] = (100_000, 300_000, 1_000_000)  # steps of the table's rows


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
            hours = round(before + (event.wall_time - events[0].wall_time) / 3600, 5)  # to 0.04 s
            scalars += [(v.tag, event.step, hours, v.simple_value) for v in event.summary.value]
    types = {"tag": str, "step": int, "hours": float, "value": float}
    return pd.DataFrame(scalars, columns=list(types)).astype(types)


def select(scalars: pd.DataFrame, tag: str) -> pd.DataFrame:
    """Return the points of a tag, with as few digits as name a float32: a small CSV."""
    values = scalars[(scalars.tag == tag) & np.isfinite(scalars.value)]
    if values.empty:
        raise ValueError(f"no {tag} in its event files")
    points = values.groupby("step").agg(hours=("hours", "last"), mean=("value", "mean"))
    points["std"] = scalars[scalars.tag == f"{tag}_std"].groupby("step").value.last()
    points[["mean", "std"]] = np.float32(points[["mean", "std"]]).astype(str).astype(float)
    return points.reset_index().assign(tag=tag)


def read_run(run_dir: Path, tags) -> pd.DataFrame:
    """Return a run's points, each with RUN and the arguments that may make another curve of it."""
    own = json.loads((run_dir / "args.json").read_text())
    script = own["exp_name"].removesuffix("_continuous").strip() or "(none)"
    name = {"script": script, "env_id": str(own["env_id"]), "seed": int(own["seed"])}
    name["max_episode_steps"] = str(own.get("max_episode_steps") or "")
    # a learning rate that falls to 0 at the end depends on where the end is
    same = SAME - {"total_timesteps"} if own.get("anneal_lr") else SAME
    name |= {f"--{key}": str(own[key]).removesuffix(".0") for key in own if key not in same}
    scalars = read_scalars(run_dir)
    points = [select(scalars, tag) for tag in tags]
    result = run_dir / "result.json"
    if not result.exists() or json.loads(result.read_text())["step"] > scalars.step.max():
        say(f"{run_dir} is not finished, or damaged: used up to step {points[0].step.max()}")
    return pd.concat(points).assign(variant="", **name)


def read_csv(path: Path, tags) -> list[pd.DataFrame]:
    """Return the points of each run in a curves.csv."""
    own, parts = ["step", "hours", *(f"{tag}{end}" for tag in tags for end in ("", "_std"))], []
    types = dict.fromkeys(RUN, str) | dict.fromkeys(own, float) | {"seed": int}
    options = {"keep_default_na": False, "na_values": dict.fromkeys(own[2:], ["nan"])}
    data = pd.read_csv(path, usecols=[*types], dtype=types, index_col=False, **options)
    for tag in tags:
        points = data.rename(columns={tag: "mean", f"{tag}_std": "std"})[[*RUN, *POINT]]
        points = points.dropna(subset="mean").astype({"step": int})
        if points.duplicated([*RUN, "step"]).any():
            raise ValueError("a run has a step twice")
        parts.append(points.assign(tag=tag))
    return [run for _, run in pd.concat(parts).groupby(RUN)]


def read(args: Args) -> pd.DataFrame:
    """Return the points of all runs: tag, RUN, POINT and the names of panel and curve."""
    paths, runs, files = [], [], []
    for path in args.runs:
        found = sorted(path.glob("args.json")) or sorted(path.glob("*/args.json"))
        paths += [file.parent for file in found] or [path]
    for path in tqdm(paths, unit=" runs", disable=None):
        try:
            if path.is_dir():
                runs.append(read_run(path, args.tag))
            else:
                files += read_csv(path, args.tag)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if not path.is_dir():
                fail(f"cannot read {path}: {error}")
            say(f"{path} is passed over: {type(error).__name__}: {error}")
    if runs:  # a file does not say all arguments: its curves stay apart
        files = [run.assign(variant=run.variant + " (CSV)") for run in files]
    if not runs + files:
        where = " ".join(map(str, args.runs))
        fail(f"nothing to plot in {where}" if where else "name a folder of runs")
    data = pd.concat([run.assign(run=i) for i, run in enumerate(runs + files)], ignore_index=True)
    # name the arguments that differ between the runs of a script in one task
    arguments = sorted(column for column in data if column.startswith("--"))
    own = data[data.run < len(runs)]  # a run of before an argument was there has none
    differ = own.groupby(["script", "env_id", "max_episode_steps"])[arguments].nunique(False) > 1
    for key in differ.columns[differ.any()]:
        split = own.index[own.script.map(differ[key].groupby("script").any())]
        data.loc[split, "variant"] += f" {key[2:]}=" + own[key].fillna("(none)")
    data["variant"] = data.variant.str.strip()
    ends = data.groupby([*RUN, "run"]).step.max().sort_values(kind="stable").reset_index()
    for name in ends[ends.duplicated(RUN)][RUN].itertuples(index=False):
        say(f"{' '.join(str(x) for x in name if x)} is there twice: the longer or last one counts")
    data = data[data.run.isin(ends.drop_duplicates(RUN, keep="last").run)]
    limit = data.max_episode_steps.replace("(.+)", r", episodes of \1 steps", regex=True)
    curve = (data.script + " " + data.variant).str.strip()
    curve += " " + data.tag if len(args.tag) > 1 else ""
    data = data.assign(panel=data.env_id + limit, curve=curve)
    return data.sort_values([*RUN, "step"], ignore_index=True)


# ---- Figures ----
def styles(curves) -> dict[str, dict]:
    """Return how to draw each curve: the first of a script in its own line, the rest in others."""
    own, looks = ALGORITHMS[["colour", "line"]].T.to_dict("list"), {}
    unused = [own[script] for script in own if script not in {c.split()[0] for c in curves}]
    others = cycle([["#000000", ""], ["#777777", "5 1.5"], *unused])
    for curve in stats.ordered(curves):
        script = curve.split()[0]
        if curve.endswith("(CSV)") and script in ALGORITHMS.index:
            color, line = ALGORITHMS.colour[script], "1 3"
        else:
            color, line = own.pop(script, None) or next(others)
        looks[curve] = {"color": color, "ls": (0, [float(x) for x in line.split()] or None)}
    return looks


def caption(data: pd.DataFrame) -> str:
    """Say what lines and bands are, and what the bands are worth."""
    ends = data.groupby(["curve", "panel", "seed"]).step.max().unstack()
    late = ends.ge(0.95 * ends.max(axis=1), axis=0)  # there to the end of the line
    seeds, bands = pd.concat([ends.count(axis=1), late.sum(axis=1)]), []
    if seeds.between(2, MIN_SEEDS - 1).any():
        bands.append("from worst to best run (of 3: holds the median of all runs in 3 of 4 cases)")
    if (seeds >= MIN_SEEDS).any():
        bands.append("95 % bootstrap interval of 5 or more (of 5: right in 9 of 10 cases)")
    text = "each averaged over 5 % of the steps"
    number = " to ".join(map(str, sorted({seeds.min(), seeds.max()})))
    line = f"line: interquartile mean of {number} runs, {text}, thin where runs are missing"
    return f"{line}; band: {', or '.join(bands)}" if bands else f"runs, {text}"


def draw_curve(ax, curve: pd.DataFrame, look: dict, width: float) -> None:
    """Draw the IQM of runs, averaged over so many steps, and its band. Width 0 has markers."""
    lines = stats.summarize(stats.smooth(curve, width))
    one = len(lines) == 1  # a point and a bar
    dots = {"marker": "o", "ms": 3} if one or width == 0 else {}
    ax.fill_between(lines.index, lines.low, lines.high, color=look["color"], alpha=0.15, lw=4 * one)
    whole = lines.seeds == curve.seed.nunique()
    end = lines.index[whole].max()
    if lines.index[-1] - end < width:  # all end as good as together
        lines, whole = lines.loc[:end], whole.loc[:end]
    inside = whole & whole.shift(1, fill_value=True) & whole.shift(-1, fill_value=True)
    ax.plot(lines.iqm.mask(inside), lw=0.6, **look)
    ax.plot(lines.iqm.where(whole), **look, **dots)


def draw_curves(data: pd.DataFrame, ylabel: str) -> Figure:
    """Draw a panel for each environment, of more than six curves a row for each family.

    If each panel has a single run, it is drawn as it is, with a marker at each evaluation.
    """
    look, family = styles(set(data.curve)), data.script.map(ALGORITHMS.family)
    columns, rows, cells = min(3, data.panel.nunique()), 0, []
    families = sorted(set(family.dropna())) if len(look) > 6 else []
    for name in families or [""]:
        panels = data[family.isna() | (family == name)] if name else data
        panels = list(panels.groupby("panel"))
        cells += [(columns * rows + i, name, *panel) for i, panel in enumerate(panels, 1)]
        rows += -(-len(panels) // columns)
    width, height = [(6, 2.8), (7, 2.6), (8.3, 2.2)][columns - 1]
    figure = Figure((width, height * rows + 0.8), layout="constrained")
    alone = len(data.drop_duplicates(RUN)) == data.panel.nunique() and {*data.tag} == {RETURN}
    for place, name, title, panel in cells:
        ax = figure.add_subplot(rows, columns, place)
        for curve in stats.ordered(panel.curve):
            own = panel[panel.curve == curve]
            draw_curve(ax, own, look[curve], 0 if alone else own.step.max() / 20)
        ax.set_title(alone * f"{stats.title(curve)}, " + title.replace(", ep", "\nep"), fontsize=9)
        ax.set_xlabel("environment steps" if place > columns * (rows - 1) else "")
        ax.set_ylabel(f"{name}\n{ylabel}" if columns == 1 or place % columns == 1 else "")
        ax.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        ax.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    if not alone:
        lines = [Line2D([], [], label=stats.title(curve), **own) for curve, own in look.items()]
        place = {"loc": "outside lower center", "alignment": "left", "ncols": 2 * columns}
        figure.legend(handles=lines, title=fill(caption(data), int(16 * width)), **place)
    return figure


def draw_comparison(steps: dict, scores: dict) -> Figure:
    """Draw for each script P(a run of it is above one of the script that it comes from)."""
    first, *rest = scores
    figure = Figure((6, 0.4 * len(rest) + 1.3), layout="constrained")
    ax, names = figure.subplots(), []
    for y, name in enumerate(rest):
        parent = ALGORITHMS.parent.get(name.split()[0])
        other = next((curve for curve in scores if curve.split()[0] == parent), first)
        both = *scores[name], *scores[other]
        ends = stats.interval(*both, statistic=stats.improvement)
        ax.plot(ends, [y, y], color="#0072B2", lw=8, alpha=0.4, solid_capstyle="butt")
        ax.plot(stats.improvement(*both), y, "o", color="#0072B2")
        names.append(f"{stats.title(name)} > {stats.title(other)}")
    ax.axvline(0.5, color="black", lw=1, ls="--", zorder=0)
    ax.set(xlim=(-0.05, 1.05), ylim=(len(rest), -1), yticks=range(len(rest)), yticklabels=names)
    where = ", ".join(f"{environment} at {step:,} steps" for environment, step in steps.items())
    note = f"P(X > Y) for a run of each, and its 95 % interval; {where}. {stats.WORTH}"
    ax.set_xlabel(fill(note, 100), fontsize=8)
    return figure


def main(args: Args) -> None:
    """Read the runs, write the figures and the data, print the table."""
    args.tag = tuple(dict.fromkeys(args.tag or (RETURN,)))
    everything = read(args)
    panels = set(everything.panel)
    if unknown := {*args.panels} - panels:
        fail(f"no panel {', '.join(sorted(unknown))}, only {'; '.join(sorted(panels))}")
    data = everything[everything.panel.isin(args.panels or panels)]
    table = stats.tabulate(everything, args.table_steps)
    with rc_context(LOOK):
        ylabel = "evaluation return" if args.tag == (RETURN,) else ", ".join(args.tag)
        figures = {"curves": draw_curves(data, ylabel)}
        steps, scores = stats.comparable(data[data.tag == args.tag[0]])
        if steps and len(scores) > 1:
            figures["comparison"] = draw_comparison(steps, scores)
        try:
            args.out.mkdir(parents=True, exist_ok=True)
            for old in "comparison.png", "comparison.svg":  # of other runs
                (args.out / old).unlink(missing_ok=True)
            for name, figure in figures.items():
                figure.savefig(args.out / f"{name}.png")
                figure.savefig(args.out / f"{name}.svg", metadata={"Date": None})
            points = everything.pivot(index=[*RUN, "step", "hours"], columns="tag")[["mean", "std"]]
            points.columns = [tag + "_std" * (name == "std") for name, tag in points.columns]
            points.to_csv(args.out / "curves.csv", na_rep="nan")
            table.to_csv(args.out / "table.csv", index=False, na_rep="nan")
        except OSError as error:
            fail(f"cannot write {args.out}: {error}")
    print(table[table.columns[:-1]].to_string(index=False, float_format="{:.1f}".format, na_rep=""))
    if "comparison" not in figures and data.groupby(RUN).ngroups > data.panel.nunique():
        need = f"two scripts need {MIN_SEEDS} runs each in one task, and a step that all have"
        print(f"no comparison: {need}. {stats.WORTH}")
    print(f"{data.groupby(RUN).ngroups} run(s): {', '.join(figures)} and table in {args.out}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
