"""What the README and docs/results.md show is what results/ holds; what an interval is worth."""

import re
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import tables
from conftest import ROOT
from matplotlib.testing.compare import compare_images

import plot
import stats

RESULTS = ROOT / "results"


# ---- Pages ----
def test_pages_have_the_tables_that_the_data_make():
    """Where they have not: python docs/tables.py."""
    pages = tables.pages()
    for page, text in pages.items():
        assert text == page.read_text(), page.name
    marks = {page.stem: text.count("<!-- table -->") for page, text in pages.items()}
    assert marks == dict.fromkeys(marks, 1) | {"results": 2}


def test_tables_are_what_the_data_say(tmp_path, monkeypatch):
    """By hand, from a file with two scripts, one of which has got further."""
    returns = defaultdict(list)
    lines = ["script,variant,env_id,max_episode_steps,seed,step,hours,"]
    lines[0] += "eval/episodic_return,eval/episodic_return_std"
    rng = np.random.default_rng(0)
    for script, last in ("td3", 300_000), ("ppo", 1_000_448):
        for body in tables.BODIES:
            for seed in 1, 2, 3:
                for step in 100_000, 300_000, 1_000_448:
                    if step <= last or (script, body) == ("td3", "Hopper-v4"):
                        value = rng.normal(2000, 500)
                        lines.append(f"{script},,{body},,{seed},{step},1,{value},0")
                        returns[script, body, step].append(value)
    for seed, last in (1, 100_000), (2, 200_000):  # nobody knows how fast
        steps = range(0, last + 1, 2_000)
        lines += [f"sac,,Hopper-v4,,{seed},{n},1,{n / 200 + 200 * seed},0" for n in steps]
    (tmp_path / "results").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "results" / "curves.csv").write_text("\n".join(lines))
    apart = lines[0], "td3,,Walker2d-v4,,1,300000,1,700,0"
    (tmp_path / "results" / "apart.csv").write_text("\n".join(apart))
    for name in "README.md", "docs/results.md", "docs/ppo.md", "docs/sac.md", "docs/td3.md":
        (tmp_path / name).write_text("a\n<!-- table -->\nold\n<!-- /table -->\nb\n")
    results = tmp_path / "docs" / "results.md"
    results.write_text(2 * results.read_text())
    (tmp_path / "docs" / "performance.md").write_text("| TD3 | 500 | 1 |\n| PPO | 1000 | 1 |\n")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    readme, results, ppo, sac, _ = tables.pages().values()

    def cell(*key):
        return f"{np.mean(returns[key]):.0f} ± {np.std(returns[key], ddof=1):.0f}"

    ends = ("td3", 300_000, "300k | 3 | 0.56"), ("ppo", 1_000_448, "1M | 3 | 0.28")
    for script, step, end in ends:
        cells = [cell(script, body, step) for body in tables.BODIES]
        (line,) = re.findall(rf"^\| \[`{script}_continuous.py`.*$", readme, re.MULTILINE)
        assert line.endswith(f" | {' | '.join(cells)} | {end} |")
    scores = returns["ppo", "Walker2d-v4", 1_000_448]
    cells = *(f"{x:.0f}" for x in scores), cell("ppo", "Walker2d-v4", 1_000_448)
    assert f"| Walker2d-v4 | 1M | {' | '.join(cells)} | " in ppo
    assert re.search(r"docs/sac.md\) .* \|  \| 800 ± 141 \|  \| 100k \| 2 \|  \|\n", readme)
    assert "| Hopper-v4 | 100k | 700 | 900 | 800 ± 141 | 780 ± 141 |\n" in sac
    assert "`](docs/td3.md) | Fujimoto et al. 2018 |" in readme
    assert re.match(r"a\n<!-- table -->\n\| script .*\n<!-- /table -->\nb\n$", readme, re.DOTALL)
    results, apart = results.split("b\n", 1)
    table = "| Walker2d-v4 | 300k |\n| --- | --: |\n| **TD3**, one run | 700 |\n"
    assert apart == f"a\n<!-- table -->\n{table}<!-- /table -->\nb\n"  # and nothing published
    blocks = dict(zip(tables.BODIES, results.split("\n\n"), strict=True))
    for body, block in blocks.items():
        assert f"| {body} | 100k | 300k | 1M |\n" in block
        cells = [cell("ppo", body, step) for step in (100_000, 300_000, 1_000_448)]
        assert f"| **PPO**, 3 runs | {' | '.join(cells)} |\n" in block
        last = cell("td3", body, 1_000_448) if body == "Hopper-v4" else ""
        cells = [cell("td3", body, step) for step in (100_000, 300_000)]
        assert f"| **TD3**, 3 runs | {' | '.join(cells)} | {last} |\n| CleanRL (" in block


def test_committed_data_make_the_committed_files(tmp_path):
    """Where they do not, the first command of docs/results.md makes them."""
    page = (ROOT / "docs" / "results.md").read_text()
    words = re.search(r"^python plot\.py (.*) --out results$", page, re.MULTILINE)[1].split()
    assert words[0] == "results/curves.csv"
    args = plot.tyro.cli(plot.Args, args=[str(ROOT / words[0]), *words[1:], "--out", str(tmp_path)])
    plot.main(args)
    for name in "curves.csv", "table.csv":
        assert (tmp_path / name).read_bytes() == (RESULTS / name).read_bytes(), name
    figures = {path.name for path in tmp_path.glob("*.png")}
    for name in figures:
        # text is drawn a little differently elsewhere
        assert compare_images(RESULTS / name, tmp_path / name, tol=2) is None
    assert ("comparison.png" in figures) == (RESULTS / "comparison.png").exists()
    assert ("comparison.png" in figures) == ("comparison.png)" in page)


# ---- What an interval is worth ----
PAIRS = 400


@pytest.fixture(scope="module")
def worth():
    """Return {runs: (band, its share of true values, share of equal pairs told apart)}."""
    page, number = (ROOT / "docs" / "results.md").read_text(), r" (\d+) % \|"
    found = re.findall(rf"^\| (\d+) \| (.*) \|{number}{number}$", page, re.MULTILINE)
    return {int(n): (band, int(a) / 100, int(b) / 100) for n, band, a, b in found}


def test_table_of_intervals_has_all_that_plot_py_draws(worth):
    assert [*worth] == [2, 3, 4, 5, 10]
    for runs, (band, *_) in worth.items():
        assert band == ("worst to best run" if runs < stats.MIN_SEEDS else "bootstrap interval")
    shares = re.findall(r"(\d+) % (?:of equal pairs seem to differ )?with (\d+)", stats.WORTH)
    assert {int(n): int(share) / 100 for share, n in shares} == {n: worth[n][2] for n in (3, 5, 10)}
    seeds = [*range(3), *range(5)]
    data = pd.DataFrame({"curve": [*"aaabbbbb"], "panel": "", "seed": seeds, "step": 1})
    legend, median = plot.caption(data), "of 3: holds the median of all runs in 3 of 4"
    for runs, words in (3, median), (5, "of 5: right in 9 of 10"):
        share = re.search(rf"{words} cases", legend)[0].split()
        assert worth[runs][1] == int(share[-4]) / int(share[-2])


@pytest.mark.parametrize("runs", [3, 5])
def test_interval_is_worth_what_the_page_says(worth, runs):
    """Simulated pairs of equal scripts; three standard errors of 400 pairs are 7 points."""
    rng = np.random.default_rng(runs)
    x, y = rng.normal(size=(2, PAIRS, runs))
    table = stats.summarize(pd.DataFrame(x))
    held = np.mean((table.low < 0) & (table.high > 0))
    assert held == pytest.approx(worth[runs][1], abs=0.07)
    apart = []
    for pair in zip(x, y, strict=True):
        low, high = stats.interval(*pair, statistic=stats.improvement)
        apart.append(not low <= 0.5 <= high)
    assert np.mean(apart) == pytest.approx(worth[runs][2], abs=0.05)
