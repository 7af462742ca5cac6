"""Statistics of many runs: interquartile mean, its interval, table, comparison of the scripts.

As in Agarwal et al. 2021, arXiv:2108.13264, and their rliable: interquartile mean over seeds,
percentile intervals of the stratified bootstrap. Standard deviations divide by n - 1.

The runs come as the rows of one tag in the DataFrame that plot.py reads, data[data.tag == tag]: a
row for each point, with the columns tag, panel (the environment), script, curve, seed, step, hours
and mean.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, trim_mean

MIN_SEEDS = 3  # for an interval
NUMBERS = ["mean", "std", "iqm", "low", "high"]  # columns of the table
PUBLISHED = Path(__file__).parent / "results" / "published.csv"


# ---- One curve ----
def iqm(scores, axis=-1):
    """Interquartile mean: a quarter of the scores, rounded down, is cut from each side."""
    return trim_mean(scores, 0.25, axis=axis)


def interval(*samples, statistic=iqm):
    """Return the ends of a statistic's 95 % interval; each sample (..., seeds) is one stratum."""
    how = {"method": "percentile", "n_resamples": 2_000, "vectorized": True, "axis": -1}
    return bootstrap(samples, statistic, rng=0, **how).confidence_interval


def at(curve: pd.DataFrame, x, axis: str = "step") -> pd.DataFrame:
    """Return (x, seeds): means interpolated at these steps or hours; NaN where a run has none."""
    table = {}
    for seed, run in curve.groupby("seed"):
        table[seed] = np.interp(x, run[axis], run["mean"], left=np.nan, right=np.nan)
    return pd.DataFrame(table, index=x)


def summarize(scores: pd.DataFrame) -> pd.DataFrame:
    """Return number, mean, std, IQM and its interval of the seeds in each row of (x, seeds)."""
    table = pd.DataFrame({"seeds": scores.count(axis=1), "mean": scores.mean(axis=1)})
    table = table.assign(std=scores.std(axis=1), iqm=np.nan, low=np.nan, high=np.nan)
    for seeds, rows in scores[table.seeds > 0].groupby(table.seeds):
        there = rows.to_numpy()[rows.notna()].reshape(-1, seeds)
        table.loc[rows.index, "iqm"] = iqm(there)
        if seeds >= MIN_SEEDS:
            table.loc[rows.index, ["low", "high"]] = np.transpose(interval(there))
    return table


# ---- Table ----
def read_published() -> dict[tuple[str, str, int], str]:
    """Return {(script, environment without its version, steps): what others report}."""
    table = pd.read_csv(PUBLISHED)
    table["same"] = np.where(table.settings == "same", ", our default settings", "")
    form = "{source} {mean:.0f} ± {std:.0f} ({env}, {seeds} seeds{same})"
    text = table.assign(env=table.env.str[-2:]).agg(form.format_map, axis=1)
    return text.groupby([table.algo, table.env.str[:-3], table.steps]).agg("; ".join).to_dict()


def tabulate(data: pd.DataFrame, table_steps) -> pd.DataFrame:
    """Return the statistics and what is published for each environment, step and curve.

    A seed that has not got to a step is left out there; "(last)" is each seed's last evaluation.
    """
    returns = (data.tag == "eval/episodic_return").all()
    published = read_published() if returns and PUBLISHED.exists() else {}
    tables = []
    for (panel, script, name), curve in data.groupby(["panel", "script", "curve"]):
        last = curve.groupby("seed")[["step", "mean"]].last()
        ends = sorted({last.step.min(), last.step.max()})
        steps = [step for step in sorted(set(table_steps)) if [step] != ends]
        table = summarize(pd.concat([at(curve, steps), last[["mean"]].T]))
        names = *(f"{step:,}" for step in steps), " to ".join(f"{e:,}" for e in ends) + " (last)"
        table = table.assign(environment=panel, step=[*steps, ends[-1]], steps=names, script=name)
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


# ---- Comparison ----
def comparable(data: pd.DataFrame) -> tuple[dict[str, int], dict[str, list[np.ndarray]]]:
    """Return {environment: step} and {curve: [its seeds' scores there, for each environment]}.

    The curves are those with MIN_SEEDS seeds in the environment that has most such curves, the
    environments those where all of them have; the step is the last that every seed has reached.
    Scores are 0 for the worst and 1 for the best run in an environment.
    """
    full = data.groupby(["panel", "curve"]).seed.nunique().unstack() >= MIN_SEEDS
    curves = full.columns[full.loc[full.sum(axis=1).idxmax()]]
    steps, scores = {}, {curve: [] for curve in curves}
    for panel in full.index[full[curves].all(axis=1)]:
        runs = data[(data.panel == panel) & data.curve.isin(curves)].groupby(["curve", "seed"])
        step = runs.step.max().min()
        if step < runs.step.min().max():  # a run has no evaluation yet where another ends
            continue
        steps[panel] = step
        last = pd.Series({name: np.interp(step, run.step, run["mean"]) for name, run in runs})
        last = (last - last.min()) / (last.max() - last.min() or 1)
        for curve in curves:
            scores[curve].append(last[curve].to_numpy())
    return steps, scores


def profile(*above, axis=-1):
    """Share of the runs above τ, which each (..., seeds) says, averaged over environments."""
    return np.mean([seeds.mean(axis) for seeds in above], axis=0)


def improvement(*scores, axis=-1):
    """P(X > Y), ties half, averaged over environments: scores of X in each, then those of Y."""
    half = len(scores) // 2
    pairs = zip(scores[:half], scores[half:], strict=True)
    signs = [np.sign(x[..., None] - y[..., None, :]) for x, y in pairs]
    return np.mean([0.5 + sign.mean((-2, -1)) / 2 for sign in signs], axis=0)
