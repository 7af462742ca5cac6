"""plot.py and stats.py: what is read, statistics against rliable's, the table against the runs."""

import csv
import itertools
import json
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from rliable import library, metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import plot
import stats

ARGS = {"exp_name": "ddpg_continuous", "env_id": "HalfCheetah-v4", "learning_rate": 3e-4}
STEPS = plot.Args.table_steps
EVAL = "eval/episodic_return"
HEADER = f"script,variant,env_id,max_episode_steps,seed,step,hours,{EVAL},{EVAL}_std"


def write(run_dir, values, purge_step=1, seconds=3600, tag=EVAL, **settings):
    """Write a run with these {step: mean}, its points `seconds` apart; return its folder."""
    writer = SummaryWriter(str(run_dir), purge_step=purge_step)
    for i, (step, value) in enumerate(values.items(), 1):
        writer.add_scalar(tag, value, step, walltime=time.time() + i * seconds)
        writer.add_scalar(f"{tag}_std", value / 8, step, walltime=time.time() + i * seconds)
    writer.close()
    own = ARGS | {"seed": 1} | settings
    (run_dir / "args.json").write_text(json.dumps(own))
    result = {"step": max(values, default=0), "eval_mean": [0, *values.values()][-1]}
    (run_dir / "result.json").write_text(json.dumps(result))
    return run_dir


def read(*paths, tag=EVAL, **settings):
    """Return the points of a tag."""
    data = plot.read(plot.Args(tuple(paths), tag=tag, **settings))
    return data[data.tag == tag]


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def by_hand(scores):
    """Interquartile mean without SciPy."""
    cut = len(scores) // 4
    return np.mean(sorted(scores)[cut : len(scores) - cut])


def runs_of(*curves, script="ddpg", env_id="Hopper-v4", variant="", limit=""):
    """Make the points of runs, seeds 1, 2, …, of {step: mean}."""
    points = [
        (script, variant, env_id, limit, seed, step, step / 1e4, value, 0.0)
        for seed, curve in enumerate(curves, 1)
        for step, value in curve.items()
    ]
    data = pd.DataFrame(points, columns=[*plot.RUN, *plot.POINT]).assign(tag=EVAL)
    panel = f"{env_id}, episodes of {limit} steps" if limit else env_id
    return data.assign(panel=panel, curve=f"{script} {variant}".strip())


def look_of(data):
    return plot.styles(set(data.curve))


# ---- Statistics ----
@pytest.mark.parametrize("seeds", [3, 4, 10])
def test_iqm_and_interval_are_rliables(seeds):
    scores = np.random.default_rng(seeds).gamma(2, 500, (seeds, 1))
    np.random.seed(0)
    middle, ends = library.get_interval_estimates(
        {"x": scores}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=2_000
    )
    ours, (low, high) = stats.iqm(scores[:, 0]), stats.interval(scores[:, 0])
    assert ours == pytest.approx(middle["x"][0], rel=1e-12)
    assert [low, high] == pytest.approx(ends["x"][:, 0], abs=0.05 * scores.std())
    # the same resamples give the same ends
    np.random.seed(0)
    resamples = scores[np.array([np.random.choice(seeds, (seeds, 1)) for _ in range(2_000)]), 0]
    same = np.percentile(stats.iqm(resamples[..., 0]), [2.5, 97.5])
    assert same == pytest.approx(ends["x"][:, 0], rel=1e-12)


def test_iqm_and_interval_are_those_of_all_resamples():
    scores = np.array([3.0, -1.0, 10.0, 4.0, 7.0])
    assert stats.iqm(scores) == by_hand(scores) == pytest.approx(14 / 3)
    every = [by_hand(resample) for resample in itertools.product(scores, repeat=5)]
    assert stats.interval(scores) == pytest.approx(np.percentile(every, [2.5, 97.5]), abs=0.4)


def test_interval_of_three_seeds_is_their_range():
    """The least of three is drawn three times in 1 of 27 resamples, more than 2.5 %."""
    assert stats.interval(np.array([5.0, 1.0, 2.0])) == pytest.approx((1, 5), rel=1e-12)


def test_improvement_and_profile_are_rliables():
    x, y = np.random.default_rng(0).normal([[1, 0]], 1, (2, 6, 2)).round(1)  # (seeds, environments)
    y[0] = x[0]  # ties
    assert np.isclose(stats.improvement(*x.T, *y.T), metrics.probability_of_improvement(x, y))
    np.random.seed(0)
    _, ends = library.get_interval_estimates(
        {"xy": (x, y)}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=500
    )
    ours = stats.interval(*x.T, *y.T, statistic=stats.improvement)
    assert ours == pytest.approx(ends["xy"][:, 0], abs=0.06)

    taus = np.linspace(-1, 2, 7)
    middle, ends = library.create_performance_profile({"x": x}, taus, reps=500)
    above = [(env > taus[:, None]).astype(float) for env in x.T]
    assert stats.profile(*above) == pytest.approx(middle["x"])
    assert np.array(stats.interval(*above, statistic=stats.profile)) == pytest.approx(
        ends["x"], abs=0.1
    )


def test_unequal_lengths_share_an_axis():
    runs = runs_of({10: 0, 20: 10, 30: 40}, {10: 2, 30: 6}, {10: 1, 20: 4})
    curve = stats.summarize(stats.at(runs, [10, 20, 30]))
    assert curve.seeds.tolist() == [3, 3, 2]
    assert curve.iqm.tolist() == pytest.approx([1, (10 + 4 + 4) / 3, (40 + 6) / 2])
    assert curve.low.tolist() == pytest.approx([0, 4, np.nan], nan_ok=True)
    assert curve.high.tolist() == pytest.approx([2, 10, np.nan], nan_ok=True)
    # the best and the worst of four don't count
    curve = stats.summarize(stats.at(runs_of({1: -99}, {1: 2}, {1: 4}, {1: 9}), [1]))
    assert curve.iqm.tolist() == [3]


# ---- Reading ----
@pytest.mark.parametrize("script", ["ppo_continuous"], indirect=True)
def test_run_is_read_as_tensorboard_reads_it(quick):
    """A run that a script made: its points, its hours, the table's last row."""
    run_dir, result = quick(seed=3)
    run = read(Path("runs"))
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0}).Reload()
    means, stds = events.Scalars(EVAL), events.Scalars(f"{EVAL}_std")
    assert run.step.tolist() == [mean.step for mean in means] == [100, 200, 300]
    assert run["mean"].tolist() == pytest.approx([mean.value for mean in means], rel=1e-7)
    assert run["std"].tolist() == pytest.approx([std.value for std in stds], rel=1e-7)
    assert 0 < run.hours.iloc[-1] * 3600 <= result["seconds"] + 1
    assert {*zip(run.seed, run.env_id, strict=True)} == {(3, "toy/Count-v0")}
    last = stats.tabulate(run, STEPS).iloc[-1]
    assert last.steps == "300 (last)"
    saved = json.loads((run_dir / "result.json").read_text())
    assert last["mean"] == pytest.approx(saved["eval_mean"])


def test_resumed_run_counts_no_point_twice_and_no_pause(tmp_path):
    write(tmp_path / "run", {10: 1, 20: 2, 30: 3, 40: 4})
    time.sleep(0.01)
    # killed at step 40, resumed from the checkpoint at step 20
    write(tmp_path / "run", {30: 33, 40: 44}, purge_step=21, seconds=1800)
    run = read(tmp_path)
    assert run[["step", "mean"]].values.tolist() == [[10, 1], [20, 2], [30, 33], [40, 44]]
    assert run.hours.tolist() == pytest.approx([1, 2, 2.5, 3], abs=0.01)
    at = stats.at(run, [0.9, 2.25, 3.1], "hours")[1]
    assert at.tolist() == pytest.approx([np.nan, (2 + 33) / 2, np.nan], abs=0.5, nan_ok=True)


def test_killed_run_counts_up_to_its_last_whole_point(tmp_path, capsys):
    run_dir = write(tmp_path / "killed", {10: 1, 20: 2, 30: 3})
    (run_dir / "result.json").unlink()
    (events,) = run_dir.glob("events*")
    events.write_bytes(events.read_bytes()[:-70])  # into the last value, before its std
    assert read(run_dir)["mean"].tolist() == [1, 2]
    assert f"{run_dir} is not finished, or damaged: used up to step 20" in capsys.readouterr().err


def test_damaged_file_counts_up_to_the_damage(tmp_path, capsys):
    run_dir = write(tmp_path / "damaged", {10: 1, 20: 2, 30: 3})
    (events,) = run_dir.glob("events*")
    content = bytearray(events.read_bytes())
    content[content.rindex(EVAL.encode() + b"_std", 0, -100)] += 1  # of step 20
    events.write_bytes(content)
    assert read(run_dir)["mean"].tolist() == [1, 2]
    assert f"{run_dir} is not finished, or damaged: used up to step 20" in capsys.readouterr().err


def test_runs_without_an_evaluation_are_passed_over_with_a_word(tmp_path, capsys):
    write(tmp_path / "good", {10: 1})
    write(tmp_path / "early", {})
    (tmp_path / "no run").mkdir()
    for name, content in ("zero", b""), ("noise", b"\x07" * 999), ("zeros", bytes(999)):
        run_dir = write(tmp_path / name, {10: 1})
        for path in run_dir.glob("events*"):
            path.write_bytes(content)
    for name, content in ("json", "{"), ("list", "[]"), ("no seed", '{"exp_name": "ppo"}'):
        (write(tmp_path / name, {10: 1}) / "args.json").write_text(content)
    assert len(read(tmp_path)) == 1
    words = capsys.readouterr().err
    names = "early", "zero", "noise", "zeros", "json", "list", "no seed"
    for name in names:
        assert len(re.findall(f"/{name} is passed over: .+\n", words)) == 1
    assert words.count("\n") == len(names)


def test_runs_that_differ_in_an_argument_are_not_averaged(tmp_path):
    same = {"run_name": "x", "torch_threads": 1, "total_timesteps": 9, "eval_interval": 5}
    write(tmp_path / "a", {10: 1}, seed=1)
    write(tmp_path / "b", {10: 2}, seed=2, git_commit="abc", **same)
    write(tmp_path / "c", {10: 3}, seed=1, learning_rate=1e-3)
    write(tmp_path / "d", {10: 4}, seed=1, max_episode_steps=200)
    write(tmp_path / "e", {10: 5}, seed=1, exp_name="ppo_continuous", anneal_lr=True)
    assert read(tmp_path).groupby(["panel", "curve"])["mean"].agg(list).to_dict() == {
        ("HalfCheetah-v4", "ddpg learning_rate=0.0003"): [1, 2],
        ("HalfCheetah-v4", "ddpg learning_rate=0.001"): [3],
        # equal settings have equal names: what splits a curve is named with all of its script
        ("HalfCheetah-v4", "ppo"): [5],
        ("HalfCheetah-v4, episodes of 200 steps", "ddpg learning_rate=0.0003"): [4],
    }
    # a learning rate that falls to 0 at the end makes the end matter
    for name, steps in ("h", 10), ("i", 20):
        settings = {"exp_name": "ppo_continuous", "anneal_lr": True, "total_timesteps": steps}
        write(tmp_path / "anneal" / name, {10: 1}, seed=steps, **settings)
    runs = read(tmp_path / "anneal")
    assert runs.variant.tolist() == ["total_timesteps=10", "total_timesteps=20"]


def test_variants_keep_their_names_in_the_table_and_redrawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for factor in 1, 2:
        own = {"tau": factor, "gamma": 2 * factor, "batch_size": 3 * factor}
        write(Path(f"runs/naf{factor}"), {10: 1}, exp_name="naf_continuous", **own)
    write(Path("runs/td3"), {10: 1}, exp_name="td3_continuous", tau=7)
    plot.main(plot.Args((Path("runs"),)))
    names = ["naf batch_size=3 gamma=2 tau=1", "naf batch_size=6 gamma=4 tau=2", "td3"]
    for source in "runs", "plots/curves.csv":
        assert read(Path(source)).curve.tolist() == names
    assert [row["script"] for row in rows(Path("plots/table.csv"))] == names
    drawn = Path("plots/curves.svg").read_text()
    assert all(f"<!-- {name}, 1 seed -->" in drawn for name in names)


def test_seed_that_is_there_twice_counts_once(tmp_path, capsys):
    long = write(tmp_path / "long", {10: 1, 20: 2})
    short = write(tmp_path / "short", {10: 3})
    for paths in (long, short), (short, long):
        assert read(*paths)["mean"].tolist() == [1, 2]
        assert "ddpg HalfCheetah-v4 1 is there twice" in capsys.readouterr().err


def test_noisy_tags_are_averaged_in_bins(tmp_path):
    returns = {1: 2.0, 10: 4.0, 11: 8.0, 33: 1.0}
    write(tmp_path / "run", returns, tag="charts/episodic_return")
    run = read(tmp_path, tag="charts/episodic_return", bin_steps=10)
    expected = [[10, 3, 2**0.5], [20, 8, np.nan], [33, 1, np.nan]]
    assert run[["step", "mean", "std"]].to_numpy() == pytest.approx(np.array(expected), nan_ok=True)
    assert run.hours.tolist() == pytest.approx([2, 3, 4], abs=0.01)


# ---- Table and figures ----
@pytest.fixture
def three(tmp_path):
    """Three runs of ddpg and of td3, two of ppo, one of which ends early; their values."""
    rng, values = np.random.default_rng(0), {}
    for script, seeds in ("ddpg", 3), ("td3", 3), ("ppo", 2):
        for seed in range(1, seeds + 1):
            steps = [60_000, 100_000, 120_000] if (script, seed) != ("td3", 3) else [60_000]
            curve = dict(zip(steps, rng.normal(1000, 200, 3), strict=False))
            name = f"{script}_continuous"
            write(tmp_path / "runs" / f"{script}{seed}", curve, exp_name=name, seed=seed)
            values[script, seed] = curve
    return tmp_path, values


def test_table_is_what_runs_say(three):
    folder, values = three
    plot.main(
        plot.Args((folder / "runs",), folder / "out", table_steps=(100_000, 90_000, 100_000, 10**6))
    )
    table = {(row["script"], row["steps"]): row for row in rows(folder / "out" / "table.csv")}
    steps = ["90,000", "100,000", "120,000 (last)"]
    expected = {(script, step) for script in ("ddpg", "ppo", "td3") for step in steps[:2]}
    expected |= {("ddpg", steps[2]), ("ppo", steps[2]), ("td3", "60,000 to 120,000 (last)")}
    assert table.keys() == expected

    def row(script, step):
        return {k: float(table[script, step][k]) for k in ["seeds", *stats.NUMBERS]}

    for script, seeds in ("ddpg", 3), ("td3", 2), ("ppo", 2):
        curves = [values[script, seed] for seed in range(1, seeds + 1)]
        for step, scores in {
            "100,000": [curve[100_000] for curve in curves],
            "90,000": [0.25 * curve[60_000] + 0.75 * curve[100_000] for curve in curves],
        }.items():
            cells = row(script, step)
            assert cells["seeds"] == seeds
            assert cells["mean"] == pytest.approx(np.mean(scores), rel=1e-6)
            assert cells["std"] == pytest.approx(np.std(scores, ddof=1), abs=1e-3)
            assert cells["iqm"] == pytest.approx(by_hand(scores), rel=1e-6)
            ends = (min(scores), max(scores)) if seeds == 3 else (np.nan, np.nan)
            assert (cells["low"], cells["high"]) == pytest.approx(ends, rel=1e-6, nan_ok=True)
    for script, step in ("ddpg", steps[2]), ("td3", "60,000 to 120,000 (last)"):
        results = [json.loads(p.read_text()) for p in (folder / "runs").glob(f"{script}*/result*")]
        mean = np.mean([result["eval_mean"] for result in results])
        assert row(script, step)["mean"] == pytest.approx(mean, rel=1e-6)
        assert row(script, step)["seeds"] == 3

    # the Markdown table has the same numbers, and what others publish for these steps
    line = next(s for s in (folder / "out" / "table.md").read_text().splitlines() if "ppo" in s)
    assert line.startswith("| HalfCheetah-v4 | 90,000 | ppo | 2 | ")
    cells = row("ppo", "90,000")
    assert f"| {cells['mean']:.0f} ± {cells['std']:.0f} | {cells['iqm']:.0f} |" in line
    assert table["ddpg", "90,000"]["published"] == ""
    known = "Spinning Up 4339 ± 1014 (v3, 10 seeds); Tianshou 5599 ± 676 (v3, 10 seeds)"
    assert table["ddpg", "100,000"]["published"] == known
    same = "Tianshou 4715 ± 387 (v3, 10 seeds, our default settings)"
    assert same in table["td3", "100,000"]["published"]


def test_one_seed_has_no_deviation(tmp_path):
    write(tmp_path / "run", {10: 1, 20: 200})
    table = stats.tabulate(read(tmp_path), STEPS)
    assert "| 1 | 200 | 200 |  |" in stats.markdown(table)
    assert np.isnan(table["std"]).tolist() == [True]
    steps = stats.tabulate(read(tmp_path), (5, 15, 25)).steps
    assert steps.tolist() == ["15", "20 (last)"]


def test_published_numbers_are_not_for_other_episodes(tmp_path):
    for limit, count in ("", 2), ("200", 0):
        runs = runs_of({100_000: 1.0}, env_id="HalfCheetah-v4", limit=limit)
        (row,) = stats.tabulate(runs, STEPS).itertuples()
        assert row.steps == "100,000 (last)"
        assert row.published.count("seeds") == count


def test_figures_are_redrawn_from_their_data(three):
    """The same bytes, from the runs and from the CSV file that they gave."""
    folder, _ = three
    plot.main(plot.Args((folder / "runs",), folder / "one"))
    plot.main(plot.Args((folder / "one" / "curves.csv",), folder / "two"))
    files = {path.name for path in (folder / "one").iterdir()}
    figures = {f"{name}.{kind}" for name in ("curves", "comparison") for kind in ("png", "svg")}
    assert files == figures | {"curves.csv", "table.csv", "table.md"}
    for name in files:
        assert (folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes(), name


def test_csv_and_folders_do_not_mix(tmp_path, capsys):
    """The file does not say with which arguments: no run joins the others, and none is lost."""
    write(tmp_path / "one" / "a", {10: 1, 20: 2}, seed=1)
    plot.main(plot.Args((tmp_path / "one",), tmp_path))
    write(tmp_path / "two" / "a", {10: 5, 20: 6, 30: 7}, seed=1, learning_rate=1.0)
    write(tmp_path / "two" / "b", {10: 5, 20: 6, 30: 7}, seed=2, learning_rate=1.0)
    seeds = read(tmp_path / "curves.csv", tmp_path / "two").groupby("curve").seed.nunique()
    assert seeds.to_dict() == {"ddpg": 2, "ddpg (CSV)": 1}
    assert "twice" not in capsys.readouterr().err


@pytest.mark.parametrize("row", ["1,0.1", "1", "nan,0,1,1", "inf,0,1,1", "1,0,nan,1", "1,x,1,1"])
def test_broken_csv_is_one_line(tmp_path, row, capsys):
    path = tmp_path / "curves.csv"
    path.write_text(f"{HEADER}\nddpg,,Hopper-v4,,1,{row}\n")
    with pytest.raises(SystemExit, match="2"):
        read(path)
    assert re.fullmatch("error: cannot read .*\n", capsys.readouterr().err)


def test_what_is_no_run_is_passed_over(tmp_path, capsys):
    """Evaluations that are not finite, an args.json of nonsense, and the launcher's own folder."""
    write(tmp_path / "a", {10: 1})
    write(tmp_path / "b", {10: float("nan"), 20: float("inf")})
    write(tmp_path / "c", {10: 1}, seed=3, env_id=None)
    (tmp_path / ".benchmark").mkdir()
    runs = read(tmp_path)
    assert dict(zip(runs.panel, runs.seed, strict=True)) == {"HalfCheetah-v4": 1, "None": 3}
    assert re.fullmatch("[^\n]*b is passed over: [^\n]*\n", capsys.readouterr().err)


def test_committed_curves_are_redrawn(tmp_path):
    args = plot.Args((ROOT / "results" / "curves.csv",), tmp_path, log_x=True)
    panels = plot.read(args).groupby("panel").curve.agg(set)
    assert {"HalfCheetah-v4", "Hopper-v4", "Walker2d-v4"} <= {*panels.index}
    assert {"ddpg", "td3", "ppo"} <= panels["HalfCheetah-v4"]
    plot.main(args)
    assert (tmp_path / "table.md").read_text() in (ROOT / "docs" / "results.md").read_text()
    for name in "curves.csv", "table.csv", "table.md":
        assert (tmp_path / name).read_bytes() == (ROOT / "results" / name).read_bytes(), name
    drawn = (tmp_path / "curves.svg").read_text()
    for words in *panels.index, "environment steps", "evaluation return", "ddpg, 3 seeds":
        assert all(f"<!-- {line} -->" in drawn for line in words.split(", ep")[:1])


def test_curves_are_labelled_and_nothing_overlaps():
    full, short = {s: s / 9 for s in range(10, 1000, 10)}, {s: s / 5 for s in range(10, 500, 10)}
    panels = [f"Environment{i}-v4" for i in range(4)]
    runs = [runs_of(full, full, short, env_id=panels[0])]
    runs += [runs_of(full, full, script="td3", env_id=panels[0])]
    ac = {"script": "ac_reparam", "variant": "estimator=pathwise"}
    runs += [runs_of(full, env_id=panel, **ac) for panel in panels[1:]]
    runs += [runs_of(short, env_id=panel, script="sac") for panel in panels[1:]]
    data = pd.concat(runs)
    look = look_of(data)
    figure = plot.draw_curves(data, look, plot.Args(()), "evaluation return")
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes[:5]]
    for one, other in itertools.combinations(boxes, 2):
        assert one.shrunk(0.99, 0.99).overlaps(other) == 0
    first, second, *_ = figure.axes
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == panels[:1] + [f"{p}\nshorter runs: sac" for p in panels[1:]] + ["", ""]
    for axes in figure.axes[:4]:
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("environment steps", "evaluation return")
    # the legend has a cell of its own
    texts = [text.get_text() for text in figure.axes[4].get_legend().get_texts()]
    assert texts == [
        *("ac_reparam estimator=pathwise, 1 seed", "ddpg, 3 seeds", "sac, 1 seed", "td3, 2 seeds")
    ]
    # solid as far as all seeds go, dotted on; two seeds are thin lines without a band
    lines = [line for line in first.lines if line.get_color() == look["ddpg"]["color"]]
    ends = {line.get_linestyle(): np.isfinite(line.get_ydata()).sum() for line in lines}
    assert ends == {"-": len(short), ":": len(full)}
    assert [line.get_linewidth() for line in first.lines].count(0.8) == 2
    bands = [len(band.get_paths()) for band in first.collections]
    assert bands == [1, 0]


@pytest.mark.parametrize("x", ["step", "hours"])
@pytest.mark.parametrize("panels", range(1, 8))
def test_single_evaluation_is_drawn(panels, x):
    """A marker, and the interval as a bar; the figure has a cell for the legend."""
    runs = [runs_of({10: 1}, {10: 2}, {10: 4}, env_id=f"A{i}") for i in range(panels)]
    data = pd.concat(runs)
    figure = plot.draw_curves(data, look_of(data), plot.Args((), x=x), "")
    *_, line = figure.axes[0].lines
    assert (line.get_marker(), line.get_markevery()) == ("o", 1)
    assert line.get_ydata() == pytest.approx([7 / 3])
    (band,) = figure.axes[0].collections
    assert band.get_datalim(figure.axes[0].transData).intervaly == pytest.approx([1, 4])
    assert figure.axes[panels].get_legend()


def test_overestimation_is_drawn_for_runs_that_have_both(tmp_path, capsys):
    """Q is averaged as any loss is, the discounted return is taken as it is."""
    both = {"losses/qf1_values": {1: 2, 10: 4, 20: 7}, "eval/discounted_return": {10: 1, 20: 2}}
    for script, tags in ("td3", [*both]), ("ddpg", [*both][:1]):
        run_dir = tmp_path / "runs" / script
        write(run_dir, {10: 1, 20: 2}, exp_name=f"{script}_continuous")
        with SummaryWriter(str(run_dir)) as writer:
            for tag in tags:
                for step, value in both[tag].items():
                    writer.add_scalar(tag, value, step)
    args = plot.Args((tmp_path / "runs",), tmp_path / "plots", bin_steps=10)
    plot.main(args)
    assert "curves, overestimation and table" in capsys.readouterr().out
    data = plot.read(args)
    assert {*data.curve} == {"ddpg", "td3"}
    drawn = (tmp_path / "plots" / "overestimation.svg").read_text()
    assert "<!-- td3 Q(s, a), 1 seed -->" in drawn
    assert "<!-- ddpg" not in drawn
    critics = data[(data.script == "td3") & (data.tag != EVAL)]
    figure = plot.draw_overestimation(critics, look_of(data), args)
    texts = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert texts == ["td3 Q(s, a), 1 seed", "td3 discounted return, 1 seed"]
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert [line.get_xydata().tolist() for line in lines] == [
        [[10, 3], [20, 7]],
        [[10, 1], [20, 2]],
    ]
    assert [line.get_markerfacecolor() for line in lines] == ["white", "#D55E00"]


def test_a_script_keeps_its_colour():
    alone = plot.styles({"td3"})["td3"]
    both = plot.styles({"a new one", "ddpg", "td3", "td3 tau=0.1"})
    assert alone["color"] == both["td3"]["color"] == "#D55E00"
    assert len({(look["color"], look["marker"]) for look in both.values()}) == 4


def test_comparison_is_where_most_curves_have_their_seeds():
    def three(env_id, script, *ends, **names):
        return runs_of(*({5: 1.0, e: 2.0} for e in ends), script=script, env_id=env_id, **names)

    a = three("A", "ddpg", 10, 10, 10), three("A", "td3", 10, 20, 30), three("A", "ppo", 10, 10)
    b = three("B", "ddpg", 40, 50, 60), three("B", "td3", 40, 40, 40), three("B", "sac", 40, 40)
    c = three("C", "ddpg", 9, 9, 9), three("C", "td3", 9, 9)
    d = three("D", "ac", 9, 9, 9, variant="x=1"), three("D", "ddpg", 9, 9)
    steps, scores = stats.comparable(pd.concat([*a, *b, *c, *d]))
    assert steps == {"A": 10, "B": 40}
    assert {label: [len(s) for s in env] for label, env in scores.items()} == {
        "ddpg": [3, 3],
        "td3": [3, 3],
    }
    # interpolated to 2, 4 / 3 and 1.2; from worst to best
    assert scores["ddpg"][0] == pytest.approx([1, 1, 1])
    assert scores["td3"][0] == pytest.approx([1, (4 / 3 - 1.2) / 0.8, 0])
    assert len(stats.comparable(pd.concat(c))[1]) == 1
    assert stats.comparable(runs_of({1: 1.0}))[1] == {}
    # nothing is known of a run before its first evaluation; equal scores are equal
    late = runs_of(*[{20: 1.0, 30: 2.0}] * 3, script="ppo", env_id="A")
    assert stats.comparable(pd.concat([a[0], late]))[0] == {}
    _, scores = stats.comparable(pd.concat(three("A", s, 5, 5, 5) for s in ("ddpg", "td3")))
    assert stats.improvement(*scores["ddpg"], *scores["td3"]) == 0.5


def test_comparison_is_drawn():
    steps, scores = {"A": 10}, {"ddpg": [np.array([0.0, 0.5, 1])], "td3": [np.full(3, 1.0)]}
    figure = plot.draw_comparison(steps, scores, plot.styles(scores))
    left, right = figure.axes
    for line, shares in zip(left.lines, ([2 / 3, 2 / 3, 1 / 3, 0], [1, 1, 1, 0]), strict=True):
        taus, above = line.get_data()
        drawn = [above[np.isclose(taus, tau)][0] for tau in (0, 0.4, 0.6, 1)]
        assert drawn == pytest.approx(shares)
    assert [label.get_text() for label in right.get_yticklabels()] == ["ddpg > td3"]
    many = dict.fromkeys(plot.SCRIPTS.split()[:8], scores["ddpg"])  # 28 pairs: a line for each
    assert plot.draw_comparison(steps, many, plot.styles(many)).get_figheight() > 28 * 0.25
    ends, middle = (line.get_xdata() for line in right.lines[:2])
    assert middle == pytest.approx([1 / 6])
    assert list(ends) == pytest.approx([0, 1 / 2])
    assert figure.get_suptitle().startswith("A at 10 steps")


# ---- Command ----
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to plot"),
        (["missing"], "cannot read missing"),
        (["."], "nothing to plot in ."),
        (["other.csv"], "cannot read other.csv: Usecols do not match columns"),
        (["binary.csv"], "cannot read binary.csv"),
        (["short.csv"], "cannot read short.csv"),
        (["good", "--out", "other.csv"], "cannot write other.csv"),
        (["good", "--bin-steps", "0"], "--bin-steps must be at least 1"),
        (["good", "--tag", "losses/no"], "nothing to plot"),
    ],
)
def test_bad_input_ends_in_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    Path("other.csv").write_text("a,b\n1,2\n")
    Path("binary.csv").write_bytes(b"\xff\xfe\x00")
    Path("short.csv").write_text(HEADER + "\nddpg,,Hopper-v4,,1,10,x\n")
    if words[:1] == ["good"]:
        write(tmp_path / "good", {10: 1})
    with pytest.raises(SystemExit, match="2"):
        plot.main(plot.tyro.cli(plot.Args, args=words))
    errors = [s for s in capsys.readouterr().err.splitlines() if s.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_command_draws_and_needs_no_torch(tmp_path):
    write(tmp_path / "runs" / "one", {10: 1, 20: 2})
    code = (
        "import sys, plot; plot.main(plot.tyro.cli(plot.Args)); assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, "runs", "--x", "hours"]
    environment = {"PYTHONPATH": f"{ROOT}:{':'.join(sys.path)}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1 run(s): curves and table in plots\n"), (
        done.stderr
    )
    assert "<!-- hours of training -->" in (tmp_path / "plots" / "curves.svg").read_text()


def test_header_pins_what_requirements_pin():
    source = (ROOT / "plot.py").read_text()
    header = re.search(r"^# /// script\n(.*?)^# ///$", source, re.MULTILINE | re.DOTALL)[1]
    pins = tomllib.loads(re.sub(r"^# ?", "", header, flags=re.MULTILINE))["dependencies"]
    files = [ROOT / "requirements.txt", ROOT / "requirements-dev.txt"]
    lines = [line.split("#")[0].strip() for file in files for line in file.open()]
    assert set(pins) <= set(lines)
