"""Write the tables of results/curves.csv into the pages that show them: python docs/tables.py.

README.md: the evaluations at the last step that all runs of a script have reached. docs/results.md:
those at three steps, with others', then results/apart.csv's.
The page of a script: those of each seed.
"""

import re
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import plot  # noqa: E402
import stats  # noqa: E402

BODIES = ["HalfCheetah-v4", "Hopper-v4", "Walker2d-v4"]
STEPS = [100_000, 300_000, 1_000_000]


def short(step: int) -> str:
    step = float(f"{step:.3g}")
    return f"{step / 1e6:g}M" if step >= 1e6 else f"{step / 1e3:g}k"


def span(numbers) -> str:
    return " to ".join(str(n) for n in sorted({min(numbers), max(numbers)}))


def cell(row) -> str:
    """Return mean ± std of a row of the table; one run has no std, and no row at all is empty."""
    form = ".0f" if abs(row["mean"]) >= 100 else ".1f"
    texts = [f"{x:{form}}" for x in (row["mean"], row["std"]) if x == x]
    return " ± ".join(texts)


def markdown(head: list[str], left: int, rows: list[list[str]]) -> str:
    """Return a table; so many columns are aligned to the left, the others to the right."""
    lines = [head, ["---"] * left + ["--:"] * (len(head) - left), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def by_script(data) -> str:
    """Return a row a script, at the last step that all of its runs in BODIES have reached."""
    data, rows = data[data.panel.isin(BODIES)], []
    speeds = (ROOT / "docs" / "performance.md").read_text("utf-8")  # steps a second
    for script, known in stats.ALGORITHMS.iterrows():
        names = [f"[`{script}_continuous.py`](docs/{script}.md)", known.reference]
        for curve in stats.ordered(data.curve[data.script == script]):
            runs = data[data.curve == curve]
            end = runs.groupby(["panel", "seed"]).step.max().min()
            table = stats.tabulate(runs, [end])
            table = table[table.steps == end].set_index("environment")
            cells = [cell(row) for _, row in table.reindex(BODIES).iterrows()]
            speed = re.search(rf"(?m)^\| {re.escape(known.title)}[ ,].*?\| (\d+)", speeds)
            hours = f"{1e6 / float(speed[1]) / 3600:.2g}" if speed else ""
            rows.append([*names, *cells, short(end), span(table.seeds), hours])
    bodies = [body.removesuffix("-v4") for body in BODIES]
    return markdown(["script", "paper", *bodies, "steps", "runs", "hours"], 2, rows)


def by_step(data, beside: bool) -> str:
    """Return a table an environment: a column a step, below each script what others publish."""
    text = ""
    for environment, table in stats.tabulate(data, STEPS).groupby("environment"):
        steps, rows = sorted(set(table.steps)), []
        for curve, own in table.groupby("script", observed=True):
            own = own.set_index("steps")
            cells = [cell(row) for _, row in own.reindex(steps).iterrows()]
            runs = "one run" if own.seeds.max() == 1 else f"{span(own.seeds)} runs"
            rows.append([f"**{stats.title(curve)}**, {runs}", *cells])
            others = stats.published(curve, environment, steps) if beside else {}
            rows += [[source, *cells] for source, cells in others.items()]
        text += markdown([environment, *map(short, steps)], 1, rows) + "\n"
    return text.removesuffix("\n")


def by_seed(runs) -> str:
    """Return a row an environment: evaluations at the last step that all of a curve have reached.

    They are those of each seed, mean ± std of these, and that of the seeds' means of the last five,
    if these are at most half of all.
    """
    seeds, rows = sorted(set(runs.seed)), []
    for (panel, curve), own in runs.groupby(["panel", "curve"]):
        end = own.groupby("seed").step.max().min()
        own = own[own.step <= 1.005 * end].sort_values("step").groupby("seed")["mean"]
        last = own.last()
        five = own.apply(lambda scores: scores.tail(5).mean()).where(own.size() > 9)
        cells = [f"{x:.0f}" if x == x else "" for x in last.reindex(seeds)]
        both = [cell(scores.agg(["mean", "std"])) for scores in (last, five)]
        name = f"{panel}, {curve.partition(' ')[2]}".removesuffix(", ")
        rows.append([name, short(end), *cells, *both])
    head = ["environment", "steps", *(f"seed {seed}" for seed in seeds), "mean ± std", "last five"]
    return markdown(head, 1, rows)


def pages() -> dict[Path, str]:
    """Return each page with its tables renewed, between <!-- table --> and <!-- /table -->."""
    data, apart = [
        plot.read(plot.Args((ROOT / "results" / name,))) for name in ("curves.csv", "apart.csv")
    ]
    results = [by_step(data, True), by_step(apart, False)]
    tables = {ROOT / "README.md": [by_script(data)], ROOT / "docs" / "results.md": results}
    data = pd.concat([data, apart[~apart.script.isin(data.script)]])
    tables |= {ROOT / "docs" / f"{name}.md": [by_seed(own)] for name, own in data.groupby("script")}
    renewed = {}
    for page, parts in tables.items():
        marked, new = r"(?<=<!-- table -->\n).*?(?=<!-- /table -->)", iter(parts)
        text = page.read_text("utf-8")
        renewed[page] = re.sub(marked, lambda _, new=new: next(new), text, flags=re.DOTALL)
    return renewed


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, "utf-8")
