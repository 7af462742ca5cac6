"""Statistics of many runs: interquartile mean, interval, table, comparison.

    data = plot.read(plot.Args((Path("runs"),)))
    print(stats.tabulate(data, [100_000, 1_000_000]))

As in Agarwal et al. 2021, arXiv:2108.13264, and their rliable, with percentile
intervals of the stratified bootstrap. With fewer than MIN_SEEDS runs these are
worth little: an interval is then the range, and nothing is compared. Standard
deviations divide by n - 1. The data have a row for each point, with the columns
tag, panel (the environment), script, curve, seed, step, hours and mean.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, trim_mean

RETURN = "eval/episodic_return"
MIN_SEEDS = 5  # for a bootstrap interval, and for a comparison
NUMBERS = ["mean", "std", "iqm", "low", "high"]  # columns of the table
NUMBER = r"(?<==)(-?\d+\.?\d*(?:e[-+]?\d+)?)"  # an argument's, in the name of a curve
ROOT = Path(__file__).parent
PUBLISHED = ROOT / "results" / "published.csv"
WORTH = "In one task, 20 % of equal pairs seem to differ with 3 runs, 10 % with 5, 6 % with 10."
# a row an algorithm: the script it comes from, its family, its names, its line in figures
ALGORITHMS = pd.read_csv(ROOT / "docs" / "algorithms.csv", index_col=0, keep_default_na=False)


# ---- One curve ----
def iqm(scores, axis=-1):
    """Interquartile mean: a quarter of the scores, rounded down, is cut from each side."""
    return trim_mean(scores, 0.25, axis=axis)


def interval(*samples, statistic=iqm):
    """Return the ends of a statistic's 95 % interval; each sample (..., seeds) is one stratum."""
    how = {"method": "percentile", "n_resamples": 2_000, "vectorized": True, "axis": -1}
    return bootstrap(samples, statistic, rng=0, **how).confidence_interval


def at(data: pd.DataFrame) -> pd.DataFrame:
    """Return (steps, runs): means, interpolated; NaN before a run's first and after its last."""
    points = data.pivot(index="step", columns=["curve", "seed"], values="mean")
    return points.interpolate("index", limit_area="inside")


def near(curve: pd.DataFrame, steps) -> pd.DataFrame:
    """Return (steps, seeds): each run's point nearest to a step; NaN if that is over 5 % away."""
    how = {"method": "nearest", "tolerance": np.array(steps) / 20}
    runs = curve.set_index("step").groupby("seed")["mean"]
    return pd.DataFrame({seed: run.reindex(steps, **how) for seed, run in runs}, index=steps)


def smooth(curve: pd.DataFrame, width: float) -> pd.DataFrame:
    """Return (at most 200 steps, runs): each run averaged over so many steps."""
    points = at(curve)
    times = points.set_axis(pd.to_timedelta(points.index, unit="us"))
    means = times.rolling(pd.Timedelta(width + 1, "us"), center=True, min_periods=1).mean()
    means = means.set_axis(points.index).where(points.notna())
    return means.iloc[np.unique(np.linspace(0, len(means) - 1, 200).astype(int))]


def summarize(scores: pd.DataFrame) -> pd.DataFrame:
    """Return number, mean, std, IQM and its interval of the seeds in each row of (steps, seeds)."""
    table = pd.DataFrame({"seeds": scores.count(axis=1), "mean": scores.mean(axis=1)})
    table = table.assign(std=scores.std(axis=1), iqm=np.nan, low=np.nan, high=np.nan)
    for seeds, rows in scores[table.seeds > 0].groupby(table.seeds):
        there = rows.to_numpy()[rows.notna()].reshape(-1, seeds)
        table.loc[rows.index, "iqm"] = iqm(there)
        if seeds >= MIN_SEEDS:
            table.loc[rows.index, ["low", "high"]] = np.transpose(interval(there))
        elif seeds > 1:
            table.loc[rows.index, ["low", "high"]] = np.transpose([there.min(1), there.max(1)])
    return table


# ---- Table ----
def ordered(curves) -> list[str]:
    """Return the curves in the order of the table of algorithms, then by name, then by numbers."""
    place = {script: i for i, script in enumerate(ALGORITHMS.index)}

    def key(curve):
        name, *numbers = re.split(NUMBER, curve)
        return place.get(curve.split()[0], len(place)), name, [*map(float, numbers[::2])], curve

    return sorted(set(curves), key=key)


def title(curve: str) -> str:
    script, *variant = curve.split(" ", 1)
    return " ".join([ALGORITHMS.title.get(script, script), *variant])


def published(script: str, environment: str, steps) -> dict[str, list[str]]:
    """Return {source: mean ± std at each step, interpolated}; v1 to v4 of a task are one task."""
    table, beyond, found = pd.read_csv(PUBLISHED), {"left": np.nan, "right": np.nan}, {}
    table = table[(table.algo == script) & (table.env.str[:-3] == environment.removesuffix("-v4"))]
    for (source, env, seeds, how), rows in table.groupby(["source", "env", "seeds", "settings"]):
        same = ", our default settings" if how == "same" else ""
        lines = [np.interp(steps, rows.steps, rows[name], **beyond) for name in ("mean", "std")]
        cells = [f"{a:.0f} ± {b:.0f}" if a == a else "" for a, b in zip(*lines, strict=True)]
        found[f"{source} ({env[-2:]}, {seeds} seeds{same})"] = cells
    return found


def tabulate(data: pd.DataFrame, table_steps) -> pd.DataFrame:
    """Return the statistics of each environment and curve at each step, and what is published.

    A seed without a point near the step is left out there. If the last step that all seeds of a
    curve have reached is near none of the table's, it is added.
    """
    tables, returns = [], (data.tag == RETURN).all()
    for (panel, script, name), curve in data.groupby(["panel", "script", "curve"]):
        end = curve.groupby("seed").step.max().min()
        steps = {*table_steps} | {end} - {end for s in table_steps if abs(end - s) <= s / 20}
        table = summarize(near(curve, sorted(steps))).rename_axis("steps").reset_index()
        others = published(script, panel, table.steps).items() if returns else []
        texts = [[f"{who} {cells[i]}" for who, cells in others if cells[i]] for i in table.index]
        table = table.assign(environment=panel, script=name, published=[*map("; ".join, texts)])
        tables.append(table[table.seeds > 0])
    table = pd.concat(tables)
    table[NUMBERS] = table[NUMBERS].map(lambda x: float(f"{x:.7g}"))
    table.script = pd.Categorical(table.script, ordered(table.script))
    table = table.sort_values(["environment", "script", "steps"])
    return table[["environment", "steps", "script", "seeds", *NUMBERS, "published"]]


# ---- Comparison ----
def comparable(data: pd.DataFrame) -> tuple[dict[str, int], dict[str, list[np.ndarray]]]:
    """Return {environment: step} and {curve: [its seeds' scores there, for each environment]}.

    The curves are those with MIN_SEEDS seeds in the environment that has most such curves, the
    environments those where all of them have; the step is the last that every seed has reached.
    """
    full = data.groupby(["panel", "curve"]).seed.nunique().unstack() >= MIN_SEEDS
    curves = full.columns[full.loc[full.sum(axis=1).idxmax()]]
    steps, scores = {}, {curve: [] for curve in ordered(curves)}
    for panel in full.index[full[curves].all(axis=1)]:
        points = at(data[(data.panel == panel) & data.curve.isin(curves)]).dropna()
        if len(points):
            steps[panel] = points.index[-1]
            for curve in curves:
                scores[curve].append(points.iloc[-1][curve].to_numpy())
    return steps, scores


def improvement(*scores, axis=-1):
    """P(X > Y), ties half, averaged over environments: scores of X in each, then those of Y."""
    half = len(scores) // 2
    pairs = zip(scores[:half], scores[half:], strict=True)
    signs = [np.sign(x[..., None] - y[..., None, :]) for x, y in pairs]
    return np.mean([0.5 + sign.mean((-2, -1)) / 2 for sign in signs], axis=0)
