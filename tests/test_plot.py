"""plot.py and stats.py: what is read, statistics against rliable's, table, figures, the command."""

import csv
import dataclasses
import importlib
import itertools
import json
import os
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
from matplotlib.colors import to_rgb
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
    return plot.read(plot.Args(tuple(paths), tag=(tag,), **settings))


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


def bands_of(axes):
    """Return for each band {step: its ends}."""
    bands = []
    for band in axes.collections:
        points = np.concatenate([path.vertices for path in band.get_paths()] or [np.empty((0, 2))])
        frame = pd.DataFrame(points, columns=["step", "value"]).groupby("step").value
        bands.append({x: (ends.min(), ends.max()) for x, ends in frame})
    return bands


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


@pytest.mark.parametrize("seeds", range(1, 7))
def test_interval_of_few_seeds_is_their_range(seeds):
    scores = np.array([5.0, 1.0, 2.0, 9.0, 4.0, 30.0])[:seeds]
    (row,) = stats.summarize(pd.DataFrame([scores])).itertuples()
    assert (row.seeds, row.iqm) == (seeds, pytest.approx(by_hand(scores)))
    ends = {1: (np.nan, np.nan)}.get(seeds, (scores.min(), scores.max()))
    if seeds >= 5:  # the bootstrap's are closer
        ends = stats.interval(scores)
        assert scores.min() < ends.low < ends.high < scores.max()
    assert (row.low, row.high) == pytest.approx(tuple(ends), rel=1e-12, nan_ok=True)


def test_improvement_is_rliables():
    x, y = np.random.default_rng(0).normal([[1, 0]], 1, (2, 6, 2)).round(1)  # (seeds, environments)
    y[0] = x[0]  # ties
    assert np.isclose(stats.improvement(*x.T, *y.T), metrics.probability_of_improvement(x, y))
    np.random.seed(0)
    _, ends = library.get_interval_estimates(
        {"xy": (x, y)}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=500
    )
    ours = stats.interval(*x.T, *y.T, statistic=stats.improvement)
    assert ours == pytest.approx(ends["xy"][:, 0], abs=0.06)


def test_unequal_lengths_share_an_axis():
    runs = runs_of({10: 0, 20: 10, 30: 40}, {10: 2, 30: 6}, {10: 1, 20: 4})
    curve = stats.summarize(stats.at(runs))
    assert curve.seeds.tolist() == [3, 3, 2]
    assert curve.iqm.tolist() == pytest.approx([1, (10 + 4 + 4) / 3, (40 + 6) / 2])
    assert curve.low.tolist() == pytest.approx([0, 4, 6])
    assert curve.high.tolist() == pytest.approx([2, 10, 40])
    # the best and the worst of four don't count
    curve = stats.summarize(stats.at(runs_of({1: -99}, {1: 2}, {1: 4}, {1: 9})))
    assert curve.iqm.tolist() == [3]


def test_runs_are_averaged_over_steps_around_each_point():
    runs = runs_of({10: 0, 20: 6, 30: 9, 50: 12}, {10: 1, 20: 1})
    smooth = stats.smooth(runs, 20)
    assert smooth.index.tolist() == [10, 20, 30, 50]
    assert smooth.iloc[:, 0].tolist() == pytest.approx([3, 5, 7.5, 12])
    assert smooth.iloc[:, 1].tolist() == pytest.approx([1, 1, np.nan, np.nan], nan_ok=True)
    assert stats.smooth(runs, 0).equals(stats.at(runs))
    long = runs_of({step: step for step in range(1, 1001)})
    assert len(stats.smooth(long, 50)) == 200


def test_nearest_evaluation_counts_if_it_is_near():
    runs = runs_of({96: 1, 106: 2, 290: 3}, {105: 4, 314: 5})
    near = stats.near(runs, [100, 300, 1000])
    assert near[1].tolist() == pytest.approx([1, 3, np.nan], nan_ok=True)
    assert near[2].tolist() == pytest.approx([4, 5, np.nan], nan_ok=True)


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
    assert last.steps == 300
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
    assert sorted(row["script"] for row in rows(Path("plots/table.csv"))) == names
    drawn = Path("plots/curves.svg").read_text()
    labels = [name.replace("naf", "NAF").replace("td3", "TD3") for name in names]
    assert all(f"<!-- {label} -->" in drawn for label in labels)


def test_seed_that_is_there_twice_counts_once(tmp_path, capsys):
    long = write(tmp_path / "long", {10: 1, 20: 2})
    short = write(tmp_path / "short", {10: 3})
    for paths in (long, short), (short, long):
        assert read(*paths)["mean"].tolist() == [1, 2]
        assert "ddpg HalfCheetah-v4 1 is there twice" in capsys.readouterr().err


def test_tag_without_a_std_is_read_as_it_is(tmp_path):
    """Two environments that finish in one step make one point."""
    run_dir = write(tmp_path / "run", {10: 1})
    with SummaryWriter(str(run_dir)) as writer:
        for step, value in [(1, 2.0), (7, 4.0), (7, 6.0), (9, float("nan"))]:
            writer.add_scalar("charts/episodic_return", value, step)
    run = read(tmp_path, tag="charts/episodic_return")
    expected = np.array([[1, 2, np.nan], [7, 5, np.nan]])
    assert run[["step", "mean", "std"]].to_numpy() == pytest.approx(expected, nan_ok=True)


def test_arguments_that_may_differ_are_arguments():
    """None is gone from the scripts, but for what args.json has besides arguments."""
    script = importlib.import_module("ddpg_continuous")
    about = {"versions", "device", "git_commit", "script"}
    assert plot.SAME - about <= {field.name for field in dataclasses.fields(script.Args)}


# ---- Table ----
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


def test_table_is_what_runs_say(three, capsys):
    folder, values = three
    steps = (101_000, 80_000, 101_000, 10**6)
    plot.main(plot.Args((folder / "runs",), folder / "out", table_steps=steps))
    table = {(row["script"], int(row["steps"])): row for row in rows(folder / "out" / "table.csv")}
    # no evaluation is near 80,000; the last step that all of a script's runs reached is there
    ends = {"ddpg": 120_000, "td3": 60_000, "ppo": 120_000}
    assert table.keys() == {*ends.items()} | {(script, 101_000) for script in ends}
    for (script, step), row in table.items():
        near = 100_000 if step == 101_000 else step
        curves = [curve for (name, _), curve in values.items() if name == script]
        scores = [curve[near] for curve in curves if near in curve]
        assert int(row["seeds"]) == len(scores)
        expected = [np.mean(scores), np.std(scores, ddof=1), by_hand(scores)]
        expected += [min(scores), max(scores)]
        assert [float(row[x]) for x in stats.NUMBERS] == pytest.approx(expected, rel=1e-6)
    printed = capsys.readouterr().out
    line = next(s for s in printed.splitlines() if "120000" in s and "ppo" in s)
    mean = f"{float(table['ppo', 120_000]['mean']):.1f}"
    assert line.split()[:5] == ["HalfCheetah-v4", "120000", "ppo", "2", mean]


def test_published_numbers_are_beside_ours_at_any_step(three):
    """Between the steps of published.csv they are interpolated."""
    folder, _ = three
    who, published = "Tianshou (v3, 10 seeds, our default settings)", {}
    for row in rows(ROOT / "results" / "published.csv"):
        if (row["source"], row["algo"], row["env"]) == ("Tianshou", "td3", "HalfCheetah-v3"):
            published[int(row["steps"])] = float(row["mean"]), float(row["std"])
    quarter = 0.75 * np.array(published[100_000]) + 0.25 * np.array(published[200_000])
    expected = [f"{a:.0f} ± {b:.0f}" for a, b in (published[100_000], quarter)]
    table = stats.tabulate(read(folder / "runs"), [100_000, 125_000])
    cells = table[table.script == "td3"].set_index("steps").published
    for step, text in zip((100_000, 125_000), expected, strict=True):
        assert f"{who} {text}" in cells[step]
    assert stats.published("td3", "HalfCheetah-v4", [100_000, 10**7])[who] == [expected[0], ""]
    assert stats.published("td3", "HalfCheetah-v4, episodes of 200 steps", [100_000]) == {}
    losses = read(folder / "runs").assign(tag="losses/x")
    assert set(stats.tabulate(losses, STEPS).published) == {""}


def test_one_seed_has_no_deviation_and_no_interval(tmp_path):
    write(tmp_path / "run", {10: 1, 20: 200})
    (row,) = stats.tabulate(read(tmp_path), STEPS).itertuples()
    assert (row.steps, row.seeds, row.mean, row.iqm) == (20, 1, 200, 200)
    assert np.isnan([row.std, row.low, row.high]).all()


def test_figures_are_redrawn_from_their_data(three, tmp_path):
    """The same bytes, from the runs and from the CSV file that they gave."""
    folder, _ = three
    for seed in range(4, 6):
        for name in "ddpg", "td3":
            run_dir = folder / "runs" / f"{name}{seed}"
            write(run_dir, {60_000: seed}, exp_name=f"{name}_continuous", seed=seed)
    plot.main(plot.Args((folder / "runs",), folder / "one"))
    plot.main(plot.Args((folder / "one" / "curves.csv",), folder / "two"))
    files = {path.name for path in (folder / "one").iterdir()}
    figures = {f"{name}.{kind}" for name in ("curves", "comparison") for kind in ("png", "svg")}
    assert files == figures | {"curves.csv", "table.csv"}
    for name in files:
        assert (folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes(), name


def test_two_tags_are_curves_of_one_figure(tmp_path, capsys):
    """A critic's Q beside the discounted return; a run that has only one of them is passed over."""
    tags = "losses/qf1_values", "eval/discounted_return"
    for script in "td3", "ddpg":
        run_dir = write(tmp_path / "runs" / script, {10: 1}, exp_name=f"{script}_continuous")
        with SummaryWriter(str(run_dir)) as writer:
            for tag in tags[: 2 if script == "td3" else 1]:
                for step in 5, 10:
                    writer.add_scalar(tag, step + len(tag), step)
    plot.main(plot.Args((tmp_path / "runs",), tmp_path / "one", tag=tags))
    assert f"ddpg is passed over: ValueError: no {tags[1]}" in capsys.readouterr().err
    plot.main(plot.Args((tmp_path / "one" / "curves.csv",), tmp_path / "two", tag=tags))
    for name in "curves.png", "curves.csv", "table.csv":
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    drawn = (tmp_path / "one" / "curves.svg").read_text()
    for words in *(f"TD3 {tag}" for tag in tags), ", ".join(tags):
        assert f"<!-- {words} -->" in drawn


def test_csv_and_folders_do_not_mix(tmp_path, capsys):
    """The file does not say with which arguments: no run joins the others, and none is lost."""
    write(tmp_path / "one" / "a", {10: 1, 20: 2}, seed=1)
    plot.main(plot.Args((tmp_path / "one",), tmp_path))
    write(tmp_path / "two" / "a", {10: 5, 20: 6, 30: 7}, seed=1, learning_rate=1.0)
    write(tmp_path / "two" / "b", {10: 5, 20: 6, 30: 7}, seed=2, learning_rate=1.0)
    seeds = read(tmp_path / "curves.csv", tmp_path / "two").groupby("curve").seed.nunique()
    assert seeds.to_dict() == {"ddpg": 2, "ddpg (CSV)": 1}
    assert "twice" not in capsys.readouterr().err


@pytest.mark.parametrize("row", ["1,0.1", "1", "nan,0,1,1", "inf,0,1,1", "1,x,1,1"])
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


# ---- Figures ----
def names(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_line_is_the_interquartile_mean_and_the_band_the_range_or_its_interval():
    """With five seeds the mean is another number than the interquartile mean."""
    scores = [0.0, 1.0, 2.0, 3.0, 100.0]
    curves = [{10: score, 100: 2 * score} for score in scores]
    runs = [runs_of(*curves), runs_of(*curves[:3], env_id="Walker2d-v4")]
    figure = plot.draw_curves(pd.concat(runs), "evaluation return")
    five, three = figure.axes
    assert five.lines[1].get_xdata().tolist() == [10, 100]
    assert five.lines[1].get_ydata().tolist() == pytest.approx([2, 4])
    (band,), (low, high) = bands_of(five), stats.interval(np.array(scores))
    assert (band[10], band[100]) == (pytest.approx((low, high)), pytest.approx((2 * low, 2 * high)))
    assert high < 100
    assert three.lines[1].get_ydata().tolist() == pytest.approx([1, 2])
    (band,) = bands_of(three)
    assert (band[10], band[100]) == (pytest.approx((0, 2)), pytest.approx((0, 4)))


def test_legend_says_what_the_bands_are():
    def caption(*counts):
        runs = [runs_of(*[{10: 1.0}] * n, env_id=f"A{i}") for i, n in enumerate(counts)]
        return plot.caption(pd.concat(runs))

    few, many = "from worst to best run", "95 % bootstrap interval"
    assert [
        (few in s, many in s) for s in (caption(1, 1), caption(1, 3), caption(4), caption(5))
    ] == [*((False, False), (True, False), (True, False), (False, True))]
    assert few in caption(2, 6)
    assert many in caption(2, 6)
    assert "of 2 to 6 runs" in caption(2, 6)
    figure = plot.draw_curves(runs_of({1: 1.0, 2: 2.0}, {1: 2.0, 2: 3.0}), "")
    words = figure.legends[0].get_title().get_text().split()
    assert words == plot.caption(runs_of({1: 1.0}, {1: 2.0})).split()


def test_line_is_thin_where_a_run_has_ended():
    early, late = {10: 0, 20: 0}, {10: 0, 20: 0, 30: 0}
    runs = [late | {30: score} for score in (1, 2, 3, 4, 100)]
    figure = plot.draw_curves(runs_of(*runs, early), "")
    thin, thick = figure.axes[0].lines
    assert thin.get_linewidth() < thick.get_linewidth() / 2
    assert thin.get_ydata().tolist() == pytest.approx([np.nan, 0, 3], nan_ok=True)
    assert thick.get_ydata().tolist() == pytest.approx([0, 0, np.nan], nan_ok=True)


def test_jagged_runs_are_smoothed_before_they_are_drawn():
    saw = {step: step % 20 for step in range(10, 1001, 10)}  # 10, 0, 10, 0, ...
    figure = plot.draw_curves(runs_of(saw, saw), "evaluation return")
    assert np.ptp(figure.axes[0].lines[1].get_ydata()) < 4
    assert not any(line.get_marker() == "o" for line in figure.axes[0].lines)


def test_one_run_is_drawn_as_it_is():
    """A marker at each evaluation, one panel, no word on statistics."""
    saw = {step: step % 20 for step in range(10, 1001, 10)}
    figure = plot.draw_curves(runs_of(saw, script="ppo"), "evaluation return")
    (axes,) = figure.axes
    *_, line = axes.lines
    assert line.get_ydata().tolist() == [*saw.values()]
    assert line.get_marker() == "o"
    assert figure.legends == []
    assert axes.get_title() == "PPO, Hopper-v4"
    assert axes.get_tightbbox().width > 0.8 * figure.bbox.width
    # two scripts, a run each, need a legend
    both = pd.concat([runs_of(saw), runs_of(saw, script="td3")])
    assert names(plot.draw_curves(both, "")) == ["DDPG", "TD3"]


@pytest.mark.parametrize("panels", range(1, 6))
def test_single_evaluation_is_drawn(panels):
    """A marker, and the range as a bar."""
    runs = [runs_of({10: 1}, {10: 2}, {10: 4}, env_id=f"A{i}") for i in range(panels)]
    figure = plot.draw_curves(pd.concat(runs), "")
    assert len(figure.axes) == panels
    for axes in figure.axes:
        *_, line = axes.lines
        assert (line.get_marker(), line.get_ydata()) == ("o", pytest.approx([7 / 3]))
        (band,) = axes.collections
        assert band.get_datalim(axes.transData).intervaly == pytest.approx([1, 4])
        assert band.get_linewidth() > 1


def test_many_scripts_have_a_row_for_each_family():
    """Three bodies, two rows, one legend; a script of one's own is in both rows."""
    scripts = [*stats.ALGORITHMS.index, "mine"]
    bodies = ["HalfCheetah-v4", "Hopper-v4", "Walker2d-v4"]
    curves = [{step: i * step for step in range(10, 500, 10)} for i in range(3)]
    runs = [runs_of(*curves, script=s, env_id=b) for s in scripts for b in bodies]
    figure = plot.draw_curves(pd.concat(runs), "evaluation return")
    figure.draw_without_rendering()
    assert [axes.get_title() for axes in figure.axes] == 2 * bodies
    families = [axes.get_ylabel().split("\n")[0] for axes in figure.axes]
    assert families == ["off-policy", "", "", "on-policy", "", ""]
    assert [len(axes.collections) for axes in figure.axes] == 3 * [8] + 3 * [5]
    assert names(figure) == [*stats.ALGORITHMS.title, "mine"]
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    boxes.append(figure.legends[0].get_window_extent())
    for one, other in itertools.combinations(boxes, 2):
        assert one.shrunk(0.99, 0.99).overlaps(other) == 0
    for axes in figure.axes:  # no empty half, and linear
        assert axes.get_xscale() == "linear"
        assert axes.get_xlim()[1] < 1.1 * 490
    # few curves share a panel, whatever their family
    few = pd.concat([runs_of(*curves, script=script) for script in ("ddpg", "ppo", "mine")])
    assert len(plot.draw_curves(few, "").axes) == 1


def test_script_keeps_its_line():
    def style(look):
        return look["color"], str(look["ls"])

    alone = plot.styles({"td3"})["td3"]
    both = plot.styles({"a new one", "ddpg", "td3", "td3 tau=0.1"})
    assert style(alone) == style(both["td3"]) == ("#D55E00", "(0, [5.0, 1.5])")
    assert [*both] == ["ddpg", "td3", "td3 tau=0.1", "a new one"]
    for curves in both, plot.styles({*stats.ALGORITHMS.index, "mine", "yours"}):
        assert len({style(look) for look in curves.values()}) == len(curves)


def test_lines_of_a_family_differ_in_grey():
    """In their dashes, or by a quarter of the way from black to white."""
    for _, family in stats.ALGORITHMS.groupby("family"):
        for one, other in itertools.combinations(family.itertuples(), 2):
            grey = [np.dot(to_rgb(x.colour), [0.299, 0.587, 0.114]) for x in (one, other)]
            assert one.line != other.line or abs(grey[0] - grey[1]) > 0.25, (one, other)


def test_comparison_is_where_most_curves_have_their_seeds():
    def five(env_id, script, *ends, **names):
        return runs_of(*({5: 1.0, e: 2.0} for e in ends), script=script, env_id=env_id, **names)

    a = (
        five("A", "td3", *5 * [10]),
        five("A", "ddpg", 10, 10, 20, 20, 30),
        five("A", "ppo", *[9] * 4),
    )
    b = five("B", "ddpg", 40, 50, 60, 60, 60), five("B", "td3", *[40] * 5), five("B", "sac", 40, 40)
    c = five("C", "ddpg", *[9] * 5), five("C", "td3", *[9] * 3)
    d = five("D", "ac", *[9] * 5, variant="x=1"), five("D", "ddpg", 9, 9)
    steps, scores = stats.comparable(pd.concat([*a, *b, *c, *d]))
    assert steps == {"A": 10, "B": 40}
    assert {label: [len(s) for s in env] for label, env in scores.items()} == {
        "ddpg": [5, 5],
        "td3": [5, 5],
    }
    assert scores["td3"][0] == pytest.approx([2] * 5)
    assert scores["ddpg"][0] == pytest.approx([2, 2, 4 / 3, 4 / 3, 1.2])  # interpolated
    assert len(stats.comparable(pd.concat(c))[1]) == 1
    assert stats.comparable(runs_of({1: 1.0}))[1] == {}
    # nothing is known of a run before its first evaluation; equal scores are equal
    late = runs_of(*[{20: 1.0, 30: 2.0}] * 5, script="ppo", env_id="A")
    assert stats.comparable(pd.concat([a[0], late]))[0] == {}
    _, scores = stats.comparable(pd.concat(five("A", s, *[5] * 5) for s in ("ddpg", "td3")))
    assert stats.improvement(*scores["ddpg"], *scores["td3"]) == 0.5


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
def test_no_verdict_from_fewer_than_five_runs(tmp_path, capsys, seeds):
    """Not even where every run of the one is above every run of the other: a line says why."""
    for script, base in ("ddpg", 0), ("mine", 100):
        for seed in range(seeds):
            name = f"{script}_continuous"
            write(
                tmp_path / "runs" / f"{script}{seed}", {10: base + seed}, exp_name=name, seed=seed
            )
    plot.main(plot.Args((tmp_path / "runs",), tmp_path / "out"))
    out = capsys.readouterr().out
    assert (tmp_path / "out" / "comparison.png").exists() == (seeds == 5)
    assert ("no comparison: it takes 5 runs of two scripts. " in out) == (seeds < 5)
    assert ("20 % seem to differ with 3 runs" in out) == (seeds < 5)


def test_two_seeds_are_told_why_there_is_no_comparison_and_one_run_is_not(tmp_path, capsys):
    for seed in 1, 2:
        write(tmp_path / "runs" / f"seed{seed}", {10: 1}, seed=seed)
        plot.main(plot.Args((tmp_path / "runs",), tmp_path / "out"))
        assert ("no comparison: it takes 5 runs" in capsys.readouterr().out) == (seed == 2)


def test_comparison_is_drawn():
    """Each script against the one that it comes from; one of one's own against the first."""
    worse, better = np.zeros(5), np.array([-1.0, 1, 1, 1, 1])
    scores = {"ddpg": [worse], "td3": [better], "sac": [better], "mine": [worse]}
    figure = plot.draw_comparison({"A": 10}, scores)
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["TD3 > DDPG", "SAC > DDPG", "mine > DDPG"]
    ends, middle = (line.get_xdata() for line in axes.lines[:2])
    assert middle == pytest.approx([0.8])
    assert list(ends) == pytest.approx([0.4, 1])
    words = " ".join(axes.get_xlabel().split())
    assert "A at 10 steps" in words
    assert "10 % with 5" in words
    ladder = {script: [better] for script in ("ppo", "a2c", "reinforce", "a3c")}
    labels = plot.draw_comparison({"A": 10}, ladder).axes[0].get_yticklabels()
    assert [s.get_text() for s in labels] == ["A2C > PPO", "REINFORCE > A2C", "A3C > A2C"]


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
        (["good", "--panels", "Hopper"], "--panels: there are HalfCheetah-v4"),
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
    command = [sys.executable, "-c", code, "runs"]
    environment = {"PYTHONPATH": f"{ROOT}:{':'.join(sys.path)}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("1 run(s): curves and table in plots\n")


@pytest.mark.parametrize("tool", ["plot.py", "stats.py", "evaluate.py"])
def test_help_says_what_the_tool_is_with_an_example(tool):
    command = [sys.executable, str(ROOT / tool), "--help"]
    environment = os.environ | {"COLUMNS": "80"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"^    .*(plot|{tool})", done.stdout, re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert not re.search(r"\(None: .*default", " ".join(done.stdout.split()))


def test_header_pins_what_requirements_pin():
    source = (ROOT / "plot.py").read_text()
    header = re.search(r"^# /// script\n(.*?)^# ///$", source, re.MULTILINE | re.DOTALL)[1]
    pins = tomllib.loads(re.sub(r"^# ?", "", header, flags=re.MULTILINE))["dependencies"]
    files = [ROOT / "requirements.txt", ROOT / "requirements-dev.txt"]
    lines = [line.split("#")[0].strip() for file in files for line in file.open()]
    assert set(pins) <= set(lines)
