"""plot.py and stats.py: what is read, statistics against rliable's, table, figures, the command."""

import csv
import itertools
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from matplotlib.colors import to_rgb
from rliable import library, metrics
from torch.utils.tensorboard import SummaryWriter

import evaluate
import plot
import stats

ARGS = {"exp_name": "ddpg_continuous", "env_id": "HalfCheetah-v4", "learning_rate": 3e-4}
EVAL = "eval/episodic_return"
HEADER = f"script,variant,env_id,max_episode_steps,seed,step,hours,{EVAL},{EVAL}_std"


def write(run_dir, values, purge_step=1, seconds=3600, **settings):
    """Write a run with these {step: mean}, its points `seconds` apart; return its folder."""
    writer = SummaryWriter(str(run_dir), purge_step=purge_step)
    for i, (step, value) in enumerate(values.items(), 1):
        writer.add_scalar(EVAL, value, step, walltime=time.time() + i * seconds)
        writer.add_scalar(f"{EVAL}_std", value / 8, step, walltime=time.time() + i * seconds)
    writer.close()
    own = ARGS | {"seed": 1} | settings
    (run_dir / "args.json").write_text(json.dumps(own))
    result = {"step": max(values, default=0), "eval_mean": [0, *values.values()][-1]}
    (run_dir / "result.json").write_text(json.dumps(result))
    return run_dir


def test_values_of_an_argument_are_in_the_order_of_their_size():
    rates = ["ddpg learning_rate=3e-05", "ddpg learning_rate=0.0001", "ddpg learning_rate=0.001"]
    sizes = [f"sac batch_size={n}{more}" for n in (64, 256, 1024) for more in ("", " tau=0.01")]
    names = ["mine", "mine hidden=(64, 8)", "mine v=1.2.3"]
    assert stats.ordered([*names, *sizes, *rates]) == rates + sizes + names


def read(*paths, tag=EVAL):
    """Return the points of a tag."""
    return plot.read(plot.Args(tuple(paths), tag=(tag,)))


def draw(folder, *runs, **settings):
    """Run the command on runs, and again on the data that it wrote; return the first's folder."""
    plot.main(plot.Args(runs, folder / "one", **settings))
    plot.main(plot.Args((folder / "one" / "curves.csv",), folder / "two", **settings))
    files = [{p.name: p.read_bytes() for p in (folder / n).iterdir()} for n in ("one", "two")]
    assert files[0] == files[1]
    return folder / "one"


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def by_hand(scores):
    """Interquartile mean without SciPy."""
    cut = len(scores) // 4
    return np.mean(sorted(scores)[cut : len(scores) - cut])


def runs_of(*curves, script="ddpg", env_id="Hopper-v4", variant=""):
    """Make the points of runs, seeds 1, 2, …, of {step: mean}."""
    points = [
        (script, variant, env_id, "", seed, step, step / 1e4, value, 0.0)
        for seed, curve in enumerate(curves, 1)
        for step, value in curve.items()
    ]
    data = pd.DataFrame(points, columns=[*plot.RUN, *plot.POINT]).assign(tag=EVAL)
    return data.assign(panel=env_id, curve=f"{script} {variant}".strip())


# ---- Statistics ----
@pytest.mark.parametrize("seeds", [3, 10])
def test_iqm_and_interval_are_rliables(seeds):
    """With more than three seeds the interquartile mean is not the mean."""
    scores = np.random.default_rng(seeds).gamma(2, 500, (seeds, 1))
    np.random.seed(0)
    middle, ends = library.get_interval_estimates(
        {"x": scores}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=2_000
    )
    ours, (low, high) = stats.iqm(scores[:, 0]), stats.interval(scores[:, 0])
    assert ours == pytest.approx(middle["x"][0], rel=1e-12)
    assert ours == pytest.approx(by_hand(scores[:, 0]), rel=1e-12)
    assert [low, high] == pytest.approx(ends["x"][:, 0], abs=0.05 * scores.std())


@pytest.mark.parametrize("seeds", range(1, 7))
def test_interval_of_few_seeds_is_their_range(seeds):
    scores = np.array([5.0, 1.0, 2.0, 9.0, 4.0, 30.0])[:seeds]
    (row,) = stats.summarize(pd.DataFrame([scores])).itertuples()
    assert (row.seeds, row.iqm) == (seeds, pytest.approx(by_hand(scores)))
    ends = (scores.min(), scores.max()) if seeds > 1 else (np.nan, np.nan)
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


def test_runs_are_averaged_over_steps_around_each_point():
    runs = runs_of({10: 0, 20: 6, 30: 9, 50: 12}, {10: 1, 20: 1})
    smooth = stats.smooth(runs, 20)
    assert smooth.iloc[:, 0].to_dict() == pytest.approx({10: 3, 20: 5, 30: 7.5, 50: 12})
    assert smooth.iloc[:, 1].tolist() == pytest.approx([1, 1, np.nan, np.nan], nan_ok=True)
    assert stats.smooth(runs, 0).equals(stats.at(runs))
    assert len(stats.smooth(runs_of({step: step for step in range(1, 1001)}), 50)) == 200


def test_nearest_evaluation_counts_if_it_is_near():
    runs = runs_of({96: 1, 106: 2, 290: 3}, {105: 4, 314: 5})
    near = stats.near(runs, [100, 300, 1000])
    assert near[1].tolist() == pytest.approx([1, 3, np.nan], nan_ok=True)
    assert near[2].tolist() == pytest.approx([4, 5, np.nan], nan_ok=True)


# ---- Reading ----
@pytest.mark.parametrize("script", ["ppo_continuous"], indirect=True)
def test_run_of_a_script_is_read(quick):
    _, result = quick(seed=3)
    run = read(Path("runs"))
    assert run.step.tolist() == [100, 200, 300]
    last = run.iloc[-1]
    assert (last["mean"], last["std"]) == pytest.approx((result["eval_mean"], result["eval_std"]))
    assert 0 < last.hours * 3600 <= result["seconds"] + 1
    assert (last.seed, last.env_id) == (3, "toy/Count-v0")


def test_resumed_run_counts_no_point_twice_and_no_pause(tmp_path):
    write(tmp_path / "run", {10: 1, 20: 2, 30: 3, 40: 4})
    time.sleep(0.01)
    # killed at step 40, resumed from the checkpoint at step 20
    write(tmp_path / "run", {30: 33, 40: 44}, purge_step=21, seconds=1800)
    run = read(tmp_path)
    assert run[["step", "mean"]].values.tolist() == [[10, 1], [20, 2], [30, 33], [40, 44]]
    assert run.hours.tolist() == pytest.approx([1, 2, 2.5, 3], abs=0.01)


@pytest.mark.parametrize("what", ["killed", "damaged"])
def test_run_counts_up_to_its_last_whole_point(tmp_path, capsys, what):
    run_dir = write(tmp_path / "x", {10: 1, 20: 2, 30: 3})
    (events,) = run_dir.glob("events*")
    content = bytearray(events.read_bytes())
    if what == "killed":
        (run_dir / "result.json").unlink()
        content = content[:-70]  # into the last value, before its std
    else:
        content[content.rindex(EVAL.encode() + b"_std", 0, -100)] += 1  # of step 20
    events.write_bytes(content)
    assert read(run_dir)["mean"].tolist() == [1, 2]
    assert f"{run_dir} is not finished, or damaged: used up to step 20" in capsys.readouterr().err


def test_what_has_no_evaluation_is_passed_over_with_a_word(tmp_path, capsys):
    write(tmp_path / "good", {10: 1})
    write(tmp_path / "early", {})
    write(tmp_path / "nan", {10: float("nan"), 20: float("inf")})
    (tmp_path / "no run").mkdir()
    for name, content in ("zero", b""), ("noise", b"\x07" * 999):
        (events,) = write(tmp_path / name, {10: 1}).glob("events*")
        events.write_bytes(content)
    for name, content in ("json", "{"), ("list", "[]"), ("no seed", '{"exp_name": "ppo"}'):
        (write(tmp_path / name, {10: 1}) / "args.json").write_text(content)
    assert len(read(tmp_path)) == 1
    words = capsys.readouterr().err
    names = ["early", "json", "list", "nan", "no seed", "noise", "zero"]
    assert re.findall(r"/([^/\n]+) is passed over: .+\n", words) == names
    assert words.count("\n") == len(names)


def test_runs_that_differ_in_an_argument_are_not_averaged(tmp_path):
    same = {"run_name": "x", "torch_threads": 1, "total_timesteps": 9, "eval_interval": 5}
    same |= {"versions": {"torch": "1"}, "device": "cuda", "cuda": False, "compile": True}
    same |= {"resume": True, "checkpoint_interval": 7, "eval_episodes": 3}
    write(tmp_path / "a", {10: 1}, seed=1)
    write(tmp_path / "b", {10: 2}, seed=2, git_commit="abc", **same)
    write(tmp_path / "c", {10: 3}, seed=1, learning_rate=1e-3)
    write(tmp_path / "d", {10: 4}, seed=1, max_episode_steps=200)
    write(tmp_path / "e", {10: 5}, seed=1, exp_name="ppo_continuous", anneal_lr=True)
    for i in 6, 7:
        write(tmp_path / str(i), {10: i}, seed=1, exp_name="mine", script=f"{i}.py")
    assert read(tmp_path).groupby(["panel", "curve"])["mean"].agg(list).to_dict() == {
        ("HalfCheetah-v4", "ddpg learning_rate=0.0003"): [1, 2],
        ("HalfCheetah-v4", "ddpg learning_rate=0.001"): [3],
        # equal settings have equal names: what splits a curve is named with all of its script
        ("HalfCheetah-v4", "ppo"): [5],
        ("HalfCheetah-v4", "mine script=6.py"): [6],
        ("HalfCheetah-v4", "mine script=7.py"): [7],
        ("HalfCheetah-v4, episodes of 200 steps", "ddpg learning_rate=0.0003"): [4],
    }
    for seed, width in (1, 1), (2, 1.0):  # one number, from Python and from the command line
        write(tmp_path / "equal" / str(seed), {10: 1}, seed=seed, width=width)
    assert read(tmp_path / "equal").curve.tolist() == ["ddpg", "ddpg"]
    # a learning rate that falls to 0 at the end makes the end matter
    for name, steps in ("h", 10), ("i", 20):
        settings = {"exp_name": "ppo_continuous", "anneal_lr": True, "total_timesteps": steps}
        write(tmp_path / "anneal" / name, {10: 1}, seed=steps, **settings)
    runs = read(tmp_path / "anneal")
    assert runs.variant.tolist() == ["total_timesteps=10", "total_timesteps=20"]


@pytest.mark.parametrize("seeds", [range(1, 3), range(3, 5)])
def test_run_of_before_an_argument_was_there_is_another_curve(tmp_path, capsys, seeds):
    """Whether the others have the same seeds or not."""
    old = [write(tmp_path / f"old {seed}", {10: 1, 20: 2}, seed=seed) for seed in (1, 2)]
    new = [write(tmp_path / f"{seed}", {10: 5, 20: 6}, seed=seed, width=512) for seed in seeds]
    curves = read(*old, *new).groupby("curve")["mean"].mean()
    assert curves.to_dict() == {"ddpg width=(none)": 1.5, "ddpg width=512": 5.5}
    assert "twice" not in capsys.readouterr().err


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
        for step, value in [(1, 2e-7), (7, 4.0), (7, 6.0), (9, float("nan"))]:
            writer.add_scalar("charts/episodic_return", value, step)
    run = read(tmp_path, tag="charts/episodic_return")
    expected = np.array([[1, 2e-7, np.nan], [7, 5, np.nan]])
    assert run[["step", "mean", "std"]].to_numpy() == pytest.approx(expected, nan_ok=True, abs=0)


def test_csv_and_folders_do_not_mix(tmp_path, capsys):
    """The file does not say with which arguments: no run joins the others, and none is lost."""
    (tmp_path / "curves.csv").write_text(f"{HEADER}\nddpg,,HalfCheetah-v4,,1,10,1,1,1\n")
    for seed in 1, 2:
        write(tmp_path / "runs" / str(seed), {10: 5, 20: 6}, seed=seed, learning_rate=1.0)
    seeds = read(tmp_path / "curves.csv", tmp_path / "runs").groupby("curve").seed.nunique()
    assert seeds.to_dict() == {"ddpg": 2, "ddpg (CSV)": 1}
    assert "twice" not in capsys.readouterr().err


# ---- Table ----
@pytest.fixture
def three(tmp_path):
    """Six runs of ddpg, five of td3, two of ppo, one of which ends early; their values."""
    rng, values = np.random.default_rng(0), {}
    for script, seeds in ("ddpg", 6), ("td3", 5), ("ppo", 2):
        for seed in range(1, seeds + 1):
            steps = [60_000, 100_000, 120_000] if (script, seed) != ("td3", 3) else [60_000]
            curve = dict(zip(steps, rng.normal(1000, 200, 3), strict=False))
            name = f"{script}_continuous"
            write(tmp_path / "runs" / f"{script}{seed}", curve, exp_name=name, seed=seed)
            values[script, seed] = curve
    return tmp_path, values


def test_table_is_what_runs_say(three, capsys):
    folder, values = three
    out = draw(folder, folder / "runs", table_steps=(101_000, 80_000, 10**6))
    figures = {f"{name}.{kind}" for name in ("curves", "comparison") for kind in ("png", "svg")}
    assert {path.name for path in out.iterdir()} == figures | {"curves.csv", "table.csv"}
    table = {(row["script"], int(row["steps"])): row for row in rows(out / "table.csv")}
    # no evaluation is near 80,000; the last step that all of a script's runs reached is there
    ends = {"ddpg": 120_000, "td3": 60_000, "ppo": 120_000}
    assert table.keys() == {*ends.items()} | {(script, 101_000) for script in ends}
    for (script, step), row in table.items():
        near = 100_000 if step == 101_000 else step
        curves = [curve for (name, _), curve in values.items() if name == script]
        scores = np.array([curve[near] for curve in curves if near in curve])
        assert int(row["seeds"]) == len(scores)
        expected = [np.mean(scores), np.std(scores, ddof=1), by_hand(scores)]
        expected += stats.interval(scores) if len(scores) >= 5 else [min(scores), max(scores)]
        assert [float(row[x]) for x in stats.NUMBERS] == pytest.approx(expected, rel=1e-5)
    printed = capsys.readouterr().out
    line = next(s for s in printed.splitlines() if "120000" in s and "ppo" in s)
    mean = f"{float(table['ppo', 120_000]['mean']):.1f}"
    assert line.split()[:5] == ["HalfCheetah-v4", "120000", "ppo", "2", mean]


def test_published_numbers_are_beside_ours_at_any_step(monkeypatch, tmp_path):
    """Between the steps of published.csv they are interpolated; v1 to v4 of a task are one task."""
    lines = "source,algo,env,seeds,settings,steps,mean,std", "A,td3,X-v3,9,same,100,10,1"
    (tmp_path / "published.csv").write_text("\n".join([*lines, "A,td3,X-v3,9,same,200,20,3"]))
    monkeypatch.setattr(stats, "PUBLISHED", tmp_path / "published.csv")
    curve = runs_of({100: 1.0, 150: 1.0, 900: 1.0}, script="td3", env_id="X-v4")
    table = stats.tabulate(curve, [100, 150])
    who = "A (v3, 9 seeds, our default settings)"
    assert [*table.published] == [f"{who} 10 ± 1", f"{who} 15 ± 2", ""]
    assert {*stats.tabulate(curve.assign(tag="losses/x"), [100]).published} == {""}
    newer = curve.assign(env_id="X-v5", panel="X-v5")
    assert {*stats.tabulate(newer, [100]).published} == {""}


# ---- Figures ----
def labels_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def band_of(axes):
    """Return {step: ends} of the only band."""
    (band,) = axes.collections
    points = pd.DataFrame(np.concatenate([path.vertices for path in band.get_paths()]))
    return {x: (y.min(), y.max()) for x, y in points.groupby(0)[1]}


def test_variants_and_tags_keep_their_names(tmp_path):
    """In the table, in the figure, and redrawn; a run that lacks a tag is passed over."""
    tags = "losses/qf1_values", EVAL
    for factor in 1, 2, 3:
        own = {"exp_name": "naf_continuous", "tau": factor, "gamma": 2 * factor}
        run_dir = write(tmp_path / "runs" / f"naf{factor}", {10: 1}, **own)
        with SummaryWriter(str(run_dir)) as writer:
            for step in (5, 10) if factor < 3 else ():
                writer.add_scalar(tags[0], step, step)
    out = draw(tmp_path, tmp_path / "runs", tag=(*tags, EVAL))
    names = [f"naf gamma={2 * n} tau={n} {tag}" for n in (1, 2) for tag in reversed(tags)]
    assert sorted({row["script"] for row in rows(out / "table.csv")}) == sorted(names)
    drawn = (out / "curves.svg").read_text()
    for words in *(name.replace("naf", "NAF") for name in names), ", ".join(tags):
        assert f"<!-- {words} -->" in drawn


@pytest.mark.parametrize(("name", "shown"), [("a$_$", "a$_$"), ("", "(none)")])
def test_names_are_no_formulas_and_not_empty(tmp_path, name, shown):
    out = draw(tmp_path, write(tmp_path / "runs" / "x", {10: 1}, exp_name=name))
    assert shown in (out / "curves.svg").read_text()


def test_line_is_the_interquartile_mean_and_the_band_the_range_or_its_interval():
    """With five seeds the mean is another number than the interquartile mean."""
    scores = [0.0, 1.0, 2.0, 3.0, 100.0]
    curves = [{10: score, 100: 2 * score} for score in scores]
    runs = [runs_of(*curves), runs_of(*curves[:3], env_id="Walker2d-v4")]
    five, three = plot.draw_curves(pd.concat(runs), "evaluation return").axes
    low, high = stats.interval(np.array(scores))
    assert high < 100
    for axes, iqm, ends in (five, 2, (low, high)), (three, 1, (0, 2)):
        assert axes.lines[1].get_xdata().tolist() == [10, 100]
        assert axes.lines[1].get_ydata().tolist() == pytest.approx([iqm, 2 * iqm])
        assert band_of(axes)[10] == pytest.approx(ends)
        assert band_of(axes)[100] == pytest.approx([2 * end for end in ends])


def test_legend_says_what_the_bands_are():
    few, many = "from worst to best run", "95 % bootstrap interval"
    bands = {(1,): "", (1, 3): few, (4,): few, (5,): many, (2, 6): few + many}
    for runs, expected in bands.items():
        data = [runs_of(*[{10: 1.0}] * n, env_id=f"A{i}") for i, n in enumerate(runs)]
        words = plot.caption(pd.concat(data))
        assert (few in words, many in words) == (few in expected, many in expected)
    assert "of 2 to 6 runs" in words
    figure = plot.draw_curves(pd.concat(data), "")
    assert figure.legends[0].get_title().get_text().split() == words.split()


def test_line_is_thin_where_a_run_has_ended():
    early, late = {10: 0, 20: 0}, {10: 0, 20: 0, 30: 0}
    runs = [late | {30: score} for score in (1, 2, 3, 4, 100)]
    thin, thick = plot.draw_curves(runs_of(*runs, early), "").axes[0].lines
    assert thin.get_linewidth() < thick.get_linewidth() / 2
    assert thin.get_ydata().tolist() == pytest.approx([np.nan, 0, 3], nan_ok=True)
    assert thick.get_ydata().tolist() == pytest.approx([0, 0, np.nan], nan_ok=True)


def test_line_is_thin_where_a_run_has_not_begun():
    early, late = {10: 0, 20: 0, 30: 0}, {20: 0, 30: 0}
    thin, thick = plot.draw_curves(runs_of(*[early | {10: 1}] * 3, late), "").axes[0].lines
    assert thin.get_ydata().tolist() == pytest.approx([1, 0, np.nan], nan_ok=True)
    assert thick.get_ydata().tolist() == pytest.approx([np.nan, 0, 0], nan_ok=True)


def test_line_ends_where_all_runs_do_if_they_end_as_good_as_together():
    runs = [{step: step for step in range(10, 1001, 10)} | {1000 + i: 0} for i in range(5)]
    thin, thick = plot.draw_curves(runs_of(*runs), "").axes[0].lines
    assert np.isnan(thin.get_ydata()).all()
    assert thick.get_xdata()[-1] == 1000
    words = plot.caption(pd.concat([runs_of(*runs), runs_of({10: 1}, {10: 1, 30: 1}, script="x")]))
    assert "of 1 to 5 runs" in words
    runs[0] = {step: step for step in range(10, 901, 10)}
    words = plot.caption(runs_of(*runs))
    assert all(part in words for part in ("of 4 to 5 runs", "worst to best", "bootstrap"))


def test_one_run_is_drawn_as_it_is_and_several_are_smoothed():
    """One: a marker at each evaluation, one panel, no word on statistics."""
    saw = {step: step % 20 for step in range(10, 1001, 10)}
    figure = plot.draw_curves(runs_of(saw, script="ppo"), "evaluation return")
    (axes,) = figure.axes
    assert axes.lines[-1].get_ydata().tolist() == [*saw.values()]
    assert axes.lines[-1].get_marker() == "o"
    assert (axes.get_title(), figure.legends) == ("PPO, Hopper-v4", [])
    (axes,) = plot.draw_curves(runs_of(saw, saw), "").axes
    assert np.ptp(axes.lines[-1].get_ydata()) < 4
    assert axes.lines[-1].get_marker() != "o"
    # two scripts, a run each, need a legend
    both = pd.concat([runs_of(saw), runs_of(saw, script="td3")])
    assert labels_of(plot.draw_curves(both, "")) == ["DDPG", "TD3"]


def test_single_evaluation_is_a_marker_and_its_range_a_bar():
    runs = [runs_of({10: 1}, {10: 2}, {10: 4}, env_id=f"A{i}") for i in range(5)]
    figure = plot.draw_curves(pd.concat(runs), "")
    assert len(figure.axes) == 5
    for axes in figure.axes:
        line = axes.lines[-1]
        assert (line.get_marker(), line.get_ydata()) == ("o", pytest.approx([7 / 3]))
        (band,) = axes.collections
        assert band.get_datalim(axes.transData).intervaly == pytest.approx([1, 4])
        assert band.get_linewidth() > 1


def test_many_scripts_have_a_row_for_each_family():
    """A script of one's own is in both rows; few curves share a panel, whatever their family."""
    scripts = [*stats.ALGORITHMS.index, "mine"]
    runs = [runs_of({5: 1, 9: 2}, script=s, env_id=b) for s in scripts for b in ("A-v4", "B-v4")]
    figure = plot.draw_curves(pd.concat(runs), "")
    assert [axes.get_title() for axes in figure.axes] == 2 * ["A-v4", "B-v4"]
    families = [axes.get_ylabel().split("\n")[0] for axes in figure.axes[::2]]
    assert families == ["off-policy", "on-policy"]
    sizes = stats.ALGORITHMS.family.value_counts()
    assert [len(axes.collections) - 1 for axes in figure.axes[::2]] == [*sizes[families]]
    assert labels_of(figure) == [*stats.ALGORITHMS.title, "mine"]
    assert len(plot.draw_curves(pd.concat(runs[-8:]), "").axes) == 2
    mine = [runs_of({5: 1, 9: 2}, script="mine", variant=f"gamma={i}") for i in range(8)]
    assert len(plot.draw_curves(pd.concat(mine), "").axes) == 1


def test_script_keeps_its_line():
    def style(look):
        return look["color"], str(look["ls"])

    alone = plot.styles({"td3"})["td3"]
    both = plot.styles({"a new one", "ddpg", "td3", "td3 tau=0.1"})
    assert style(alone) == style(both["td3"]) == ("#D55E00", "(0, [5.0, 1.5])")
    assert [*both] == ["ddpg", "td3", "td3 tau=0.1", "a new one"]
    names = {*stats.ALGORITHMS.index, "mine", "yours"}
    csv = {f"{name} (CSV)" for name in stats.ALGORITHMS.index}
    for curves in both, plot.styles(names), plot.styles(names | csv):
        assert len({style(look) for look in curves.values()}) == len(curves)


def test_lines_of_a_family_differ_in_grey():
    """In their dashes, or by a quarter of the way from black to white."""
    for _, family in stats.ALGORITHMS.groupby("family"):
        for one, other in itertools.combinations(family.itertuples(), 2):
            grey = [np.dot(to_rgb(x.colour), [0.299, 0.587, 0.114]) for x in (one, other)]
            assert one.line != other.line or abs(grey[0] - grey[1]) > 0.25, (one, other)


# ---- Comparison ----
def test_comparison_is_where_most_curves_have_five_seeds():
    def five(env_id, script, *ends, **names):
        return runs_of(*({5: 1.0, e: 2.0} for e in ends), script=script, env_id=env_id, **names)

    a = five("A", "td3", *5 * [10]), five("A", "ddpg", 10, 10, 20, 20, 30), five("A", "ppo", 9, 9)
    b = five("B", "ddpg", 40, 50, 60, 60, 60), five("B", "td3", *[40] * 5), five("B", "sac", 40, 40)
    c = five("C", "ddpg", *[9] * 5), five("C", "td3", *[9] * 3)
    d = five("D", "ac", *[9] * 5, variant="x=1"), five("D", "ddpg", 9, 9)
    steps, scores = stats.comparable(pd.concat([*a, *b, *c, *d]))
    assert steps == {"A": 10, "B": 40}
    sizes = {label: [len(s) for s in env] for label, env in scores.items()}
    assert sizes == {"ddpg": [5, 5], "td3": [5, 5]}
    assert scores["ddpg"][0] == pytest.approx([2, 2, 4 / 3, 4 / 3, 1.2])  # interpolated
    assert len(stats.comparable(pd.concat(c))[1]) == 1
    # nothing is known of a run before its first evaluation; equal scores are equal
    late = runs_of(*[{20: 1.0, 30: 2.0}] * 5, script="ppo", env_id="A")
    assert stats.comparable(pd.concat([a[0], late]))[0] == {}
    assert stats.improvement(*2 * [scores["td3"][0]]) == 0.5


def test_no_verdict_from_fewer_than_five_runs(tmp_path, capsys):
    """Not even where each of the one is above each of the other; a single run needs no word."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "comparison.png").touch()  # of other runs
    for seed in range(4):
        write(tmp_path / "runs" / f"ddpg{seed}", {10: seed}, seed=seed)
        plot.main(plot.Args((tmp_path / "runs",), tmp_path / "out"))
        told = "two scripts need 5 runs each in one task, and" in capsys.readouterr().out
        assert told == (seed > 0)
        mine = {"exp_name": "mine_continuous", "seed": seed}
        write(tmp_path / "runs" / f"mine{seed}", {10: 100 + seed}, **mine)
    plot.main(plot.Args((tmp_path / "runs",), tmp_path / "out", tag=()))  # `--tag` alone
    assert "20 % of equal pairs seem to differ with 3 runs" in capsys.readouterr().out
    assert not (tmp_path / "out" / "comparison.png").exists()


def test_comparison_is_drawn():
    """Each script against the one that it comes from; one of one's own against the first."""
    worse, better = np.zeros(5), np.array([-1.0, 1, 1, 1, 1])
    scores = {"ddpg": [worse], "td3": [better], "sac": [better], "mine": [worse]}
    (axes,) = plot.draw_comparison({"A": 10}, scores).axes
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
        ([], "name a folder of runs"),
        (["missing"], "cannot read missing"),
        (["."], "nothing to plot in ."),
        (["other.csv"], "cannot read other.csv: Usecols do not match columns"),
        (["binary.csv"], "cannot read binary.csv"),
        *(([f"{i}.csv"], f"cannot read {i}.csv") for i in range(6)),
        (["good", "--out", "other.csv"], "cannot write other.csv"),
        (["good", "--panels", "Hopper"], "no panel Hopper, only HalfCheetah-v4"),
        (["good", "--tag", "losses/no"], "nothing to plot"),
    ],
)
def test_bad_input_ends_in_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    Path("other.csv").write_text("a,b\n1,2\n")
    Path("binary.csv").write_bytes(b"\xff\xfe\x00")
    again = "1,0,1,1\nddpg,,Hopper-v4,,1,1,0,2,1"
    for i, row in enumerate(["1,0.1", "1", "nan,0,1,1", "inf,0,1,1", "1,x,1,1", again]):
        Path(f"{i}.csv").write_text(f"{HEADER}\nddpg,,Hopper-v4,,1,{row}\n")
    write(tmp_path / "good" / "run", {10: 1})
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


@pytest.mark.parametrize("tool", [plot, evaluate], ids=["plot", "evaluate"])
def test_help_fits_80_columns(tool, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="^0$"):
        tool.tyro.cli(tool.Args, args=["--help"], prog="x", description=tool.__doc__)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not re.search(r"\(None: .*default", " ".join(" ".join(lines).split()))
