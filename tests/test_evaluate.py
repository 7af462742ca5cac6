"""evaluate.py: the run's own returns again, wherever its folder is, and one line where it can't."""

import importlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from ctypes.util import find_library
from pathlib import Path
from statistics import stdev
from unittest.mock import Mock

import imageio_ffmpeg
import pytest
import torch
from conftest import OWN, QUICK, ROOT
from PIL import Image

import evaluate


@pytest.fixture(scope="module", params=sorted(OWN))
def run(request, tmp_path_factory):
    """A run of each script, whose returns depend on what the actor does, and its result."""
    script = importlib.import_module(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = {"env_id": "toy/Regulator-v0", "exp_name": "renamed", "eval_episodes": 3}
        args = script.Args(**QUICK | OWN[request.param] | settings)
        result = script.train(args)
    return folder / "runs" / args.run_name, result


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run's folder that a test may spoil."""
    return shutil.copytree(run[0], tmp_path / "copied")


def play(*runs, **options):
    return evaluate.main(evaluate.Args(tuple(runs), **options))


def test_returns_are_those_of_the_last_evaluation(run, copy, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (played,) = play(copy)
    assert (played["mean"], played["std"]) == (run[1]["eval_mean"], run[1]["eval_std"])
    assert played["std"] == pytest.approx(stdev(played["returns"]))
    assert len(played["returns"]) == 3


def test_every_weight_and_statistic_of_the_actor_counts(run, copy):
    """So the normaliser of PPO is part of what is evaluated."""
    model, returns = torch.load(copy / "model.pt"), play(copy)[0]["returns"]
    statistics = {"actor.obs_normalizer.mean", "actor.obs_normalizer.var"} & set(model)
    weights = [name for name in model if re.fullmatch(r"actor\..*weight", name)]
    for name in [*statistics, weights[0]]:
        torch.save(model | {name: model[name] + 0.5}, copy / "model.pt")
        assert play(copy)[0]["returns"] != returns, name


def test_episodes_and_seed(run):
    (own,), (more,), (other,) = (play(run[0], **o) for o in ({}, {"episodes": 5}, {"seed": 7}))
    assert more["returns"][:3] == pytest.approx(own["returns"], rel=1e-5)
    assert len(more["returns"]) == 5
    assert not set(other["returns"]) & set(own["returns"])
    assert play(run[0], episodes=1)[0]["std"] == 0


def test_discounted_returns(copy):
    """Of a reward of 1 at each of 20 steps."""
    change_args(env_id="toy/Truncates-v0", max_episode_steps=20, gamma=0.9)(copy)
    (played,) = play(copy)
    assert played["returns"] == [20] * 3
    assert played["discounted_returns"] == pytest.approx([(1 - 0.9**20) / (1 - 0.9)] * 3)


def test_table_and_json_say_the_same(run, capsys):
    (played,) = play(run[0])
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "mean", "std", "returns"]
    name, mean, std, *returns = line.split()
    assert (name, float(mean)) == (str(run[0]), round(played["mean"], 2))
    assert [float(value) for value in returns] == [round(value, 1) for value in played["returns"]]
    play(run[0], json=True)
    assert json.loads(capsys.readouterr().out) == [played]


def spoil(name, content):
    def write(run_dir: Path):
        if content is None:
            (run_dir / name).unlink()
        else:
            (run_dir / name).write_bytes(content)

    return write


def change_args(**changes):
    def write(run_dir: Path):
        args = json.loads((run_dir / "args.json").read_text())
        (run_dir / "args.json").write_text(json.dumps(args | changes))

    return write


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


SPOILT = {
    "no folder": shutil.rmtree,
    "no args.json": spoil("args.json", None),
    "args.json empty": spoil("args.json", b""),
    "args.json a list": spoil("args.json", b"[1]"),
    "args.json without a name": spoil("args.json", b"{}"),
    "unknown script": change_args(script="nowhere.py"),
    "unknown environment": change_args(env_id="None-v0"),
    "another environment": change_args(env_id="toy/Count-v0"),
    "no model": spoil("model.pt", None),
    "model empty": spoil("model.pt", b""),
    "model cut off": lambda run_dir: spoil("model.pt", (run_dir / "model.pt").read_bytes()[:999])(
        run_dir
    ),
    "model of something else": lambda run_dir: torch.save({"a": 1}, run_dir / "model.pt"),
    "model that runs code": lambda run_dir: torch.save(Trap(), run_dir / "model.pt"),
}


@pytest.mark.parametrize("run", ["ppo_continuous"], indirect=True)
@pytest.mark.parametrize("what", SPOILT)
def test_spoilt_folder_is_named_and_the_others_go_on(run, copy, what, capsys, tmp_path):
    SPOILT[what](copy)
    with pytest.raises(SystemExit, match="2"):
        play(copy, run[0])
    printed = capsys.readouterr()
    assert printed.err.startswith("error: cannot ")
    assert printed.err.count("\n") == 1
    assert [line.split()[0] for line in printed.out.splitlines()] == ["run", str(run[0])]
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"runs": ()},
        {"episodes": 0},
        {"seed": -1},
        {"video": Path("a.avi")},
        {"video": Path("nowhere/a.mp4")},
        {"runs": (Path("a"),) * 2},
    ],
)
def test_bad_options(options, capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(evaluate.Args(**{"runs": (Path("a"),), "video": Path("a.mp4")} | options))
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("run", ["ddpg_continuous"], indirect=True)
def test_a_changed_copy_of_a_script(copy, run, tmp_path):
    """It is found where --script says."""
    source = (ROOT / "ddpg_continuous.py").read_text()
    mine = tmp_path / "mine.py"
    mine.write_text(source.replace("x * self.action_scale", "0 * x * self.action_scale"))
    assert play(copy, script=mine)[0]["returns"] != play(copy)[0]["returns"]


@pytest.mark.parametrize("run", ["ddpg_continuous"], indirect=True)
@pytest.mark.parametrize("content", [None, "", "import nothing", "raise SystemExit", "1 +"])
def test_what_is_no_training_script(run, tmp_path, content, capsys):
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    for script in path, tmp_path:
        with pytest.raises(SystemExit, match="2"):
            play(run[0], script=script)
        assert re.fullmatch("error: cannot evaluate .*\n", capsys.readouterr().err)


@pytest.mark.parametrize("run", ["ddpg_continuous"], indirect=True)
def test_prints_of_a_script_stay_out_of_the_json(copy, tmp_path, capsys):
    mine = tmp_path / "mine.py"
    mine.write_text("print('a remark')\n" + (ROOT / "ddpg_continuous.py").read_text())
    played = play(copy, script=mine, json=True)
    printed = capsys.readouterr()
    assert (json.loads(printed.out), printed.err) == (played, "a remark\n")


@pytest.mark.parametrize("run", ["ddpg_continuous"], indirect=True)
@pytest.mark.filterwarnings("ignore:.*render_mode")
@pytest.mark.parametrize("why", ["an environment without pictures", "a full disk"])
def test_a_video_that_fails_costs_only_the_video(run, why, tmp_path, monkeypatch, capsys):
    play(run[0])
    table = capsys.readouterr().out
    if why == "a full disk":
        monkeypatch.setattr(tempfile, "TemporaryDirectory", Mock(side_effect=OSError(28, why)))
    with pytest.raises(SystemExit, match="2"):
        play(run[0], video=tmp_path / "a.mp4")
    printed = capsys.readouterr()
    assert printed.out == table
    assert re.fullmatch("error: cannot (make|record) .*\n", printed.err)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(find_library("EGL") is None, reason="no headless OpenGL (EGL) here")
def test_video(tmp_path):
    """As a user would: a run, then its video, by command."""

    def call(*command):
        subprocess.run([sys.executable, *map(str, command)], cwd=tmp_path, check=True)

    flags = "--env-id InvertedPendulum-v4 --total-timesteps 100 --learning-starts 50 --run-name a"
    call(ROOT / "ddpg_continuous.py", *flags.split())
    call(ROOT / "evaluate.py", "runs/a", "--video", "a.mp4")
    assert (tmp_path / "a.mp4").stat().st_size > 1000
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "a.mp4"}


def test_a_gif_has_the_first_5_seconds(tmp_path, monkeypatch):
    def film(actor, args, episodes, path):
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi"]
        source = "testsrc=duration=6:size=480x480:rate=20"
        subprocess.run([*command, "-i", source, f"{path}-episode-0.mp4"], check=True)

    monkeypatch.setattr(evaluate, "load_run", lambda *_: (Mock(evaluate=film), None, None))
    evaluate.record(tmp_path, evaluate.Args(runs=(tmp_path,), video=tmp_path / "a.gif"))
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.format, gif.size, gif.n_frames) == ("GIF", (200, 200), 50)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]
