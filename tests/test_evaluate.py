"""evaluate.py: the run's own returns again, wherever its folder is, and one line where it can't."""

import importlib
import json
import re
import shutil
import sys
from ctypes.util import find_library
from pathlib import Path
from statistics import stdev
from zipfile import ZipFile

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from conftest import OWN, QUICK, ROOT, Count
from PIL import Image
from safetensors.torch import load_file, save_file

import evaluate

EGL = pytest.mark.skipif(find_library("EGL") is None, reason="no headless OpenGL (EGL) here")
SCRIPTS = "ppo_continuous", "d4pg_continuous", "naf_continuous"
EVERY = pytest.mark.parametrize("run", SCRIPTS, indirect=True)


class Picture(Count):
    """Some episodes end in success; 20 pictures a second."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        observation = super().reset(seed=seed)
        self.lucky = self.np_random.random() < 0.5
        return observation

    def step(self, action):
        observation, *_ = super().step(action)
        return observation, 1.0, self.time == 120, False, {"is_success": self.lucky}

    def render(self):
        return np.full((480, 480, 3), 2 * self.time, np.uint8)


gym.register("toy/Picture-v0", Picture)


def train(name, folder, **settings):
    """Train in a folder; return the run's folder and its result."""
    script = importlib.import_module(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        args = script.Args(**QUICK | OWN[name] | {"run_name": "run"} | settings)
        return folder / "runs" / "run", script.train(args)


@pytest.fixture(scope="module", params=SCRIPTS[:1])
def run(request, tmp_path_factory):
    """A run of a script, whose returns depend on what the actor does, and its result."""
    folder = tmp_path_factory.mktemp(request.param)
    settings = {"env_id": "toy/Regulator-v0", "exp_name": "renamed", "eval_episodes": 3}
    return train(request.param, folder, **settings)


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    settings = {"env_id": "toy/Picture-v0", "eval_episodes": 6, "eval_interval": 0}
    return train("ddpg_continuous", tmp_path_factory.mktemp("filmed"), **settings)


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run's folder that a test may spoil."""
    return shutil.copytree(run[0], tmp_path / "copied")


def play(*runs, **options):
    return evaluate.main(evaluate.Args(tuple(runs), **options))


@EVERY
def test_returns_are_those_of_the_last_evaluation(run, copy, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (played,) = play(copy)
    assert (played["mean"], played["std"]) == (run[1]["eval_mean"], run[1]["eval_std"])
    assert played["std"] == pytest.approx(stdev(played["returns"]))
    assert len(played["returns"]) == 3


def test_best_are_those_of_the_best_evaluation(run, copy):
    (copy / "model.pt").unlink()
    (played,) = play(copy, best=True)
    assert played["mean"] == run[1]["best_mean"]


def test_episodes_and_seed(run):
    (own,), (more,), (other,) = (play(run[0], **o) for o in ({}, {"episodes": 5}, {"seed": 0}))
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
    assert "success_rate" not in played
    play(run[0], json=True)
    assert json.loads(capsys.readouterr().out) == [played]


def test_success_is_shown_where_there_is_any(filmed, capsys):
    (played,) = play(filmed[0])
    assert 0 < played["success_rate"] == filmed[1]["eval_success_rate"] < 1
    assert f"  success {played['success_rate']:.0%}\n" in capsys.readouterr().out


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


def flip_a_byte(run_dir: Path):
    content = bytearray((run_dir / "model.pt").read_bytes())
    largest = max(ZipFile(run_dir / "model.pt").infolist(), key=lambda part: part.file_size)
    content[largest.header_offset + largest.file_size] ^= 1
    (run_dir / "model.pt").write_bytes(content)


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
    "model with a wrong bit": flip_a_byte,
    "model of something else": lambda run_dir: torch.save({"a": 1}, run_dir / "model.pt"),
    "model that runs code": lambda run_dir: torch.save(Trap(), run_dir / "model.pt"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_spoilt_folder_is_named_and_the_others_go_on(run, copy, what, capsys):
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
        {"save": Path("a.pt")},
        {"save": Path("nowhere/a.safetensors")},
        {"runs": (Path("a"),) * 2, "video": None, "save": Path("a.safetensors")},
    ],
)
def test_bad_options(options, capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(evaluate.Args(**{"runs": (Path("a"),), "video": Path("a.mp4")} | options))
    assert capsys.readouterr().err.count("\n") == 1


def test_run_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        play(tmp_path / "missing")
    assert "there is no such run" in capsys.readouterr().err


def test_a_changed_copy_of_a_script(tmp_path, monkeypatch):
    """With networks and a module of its own; it is found where --script says, not elsewhere."""
    (tmp_path / "module_of_mine.py").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "module_of_mine.py").write_text("raise ValueError")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    source = (ROOT / "ddpg_continuous.py").read_text()
    source = source.replace("import numpy as np", "import module_of_mine\nimport numpy as np")
    layer, dropout = "nn.Linear(256, act_dim)", "F.dropout(self.fc_mu(x), 0.5, self.training)"
    source = source.replace(layer, f"{layer}\n        self.target_net = nn.Linear(1, 1)")
    source = source.replace("tanh(self.fc_mu(x))", f"tanh({dropout})")
    source = re.sub(r"(nn\.Linear\(.*)", lambda line: line[0].replace("256", "hidden"), source)
    source = source.replace(
        "    gamma: float", "    hidden: int = 256\n    pair: tuple = (1, 2)\n    gamma: float"
    )
    source = source.replace("scale, action_bias):", "scale, action_bias, hidden):")
    mine = tmp_path / "mine.py"
    mine.write_text(source.replace("scale, bias)", "scale, bias, args.hidden)"))
    script = evaluate.load_script(mine)
    monkeypatch.setitem(sys.modules, "mine", script)
    monkeypatch.setitem(OWN, "mine", OWN["ddpg_continuous"])
    settings = {"env_id": "toy/Regulator-v0", "hidden": 8}
    run_dir, result = train("mine", tmp_path, **settings)
    assert train("mine", tmp_path, resume=True, **settings)[1] == result
    assert torch.load(run_dir / "model.pt")["actor.fc2.weight"].shape == (8, 8)
    (played,) = play(run_dir, script=mine, save=tmp_path / "x.safetensors")
    assert played["mean"] == result["eval_mean"]
    assert "actor.target_net.weight" in load_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", [None, "", "import nothing", "raise SystemExit", "1 +"])
def test_what_is_no_training_script(run, tmp_path, content, capsys):
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    for script in path, tmp_path:
        with pytest.raises(SystemExit, match="2"):
            play(run[0], script=script)
        assert re.fullmatch("error: cannot evaluate .*\n", capsys.readouterr().err)


def test_prints_of_a_script_stay_out_of_the_json(copy, tmp_path, capsys):
    mine = tmp_path / "mine.py"
    mine.write_text("print('a remark')\n" + (ROOT / "ppo_continuous.py").read_text())
    played = play(copy, script=mine, json=True)
    printed = capsys.readouterr()
    assert (json.loads(printed.out), printed.err) == (played, "a remark\n")


# ---- Files ----
@pytest.fixture
def file(run, tmp_path):
    """A file of the run's weights."""
    play(run[0], save=tmp_path / "kept.safetensors")
    return tmp_path / "kept.safetensors"


@EVERY
def test_a_file_plays_as_its_run_does(run, file):
    """And has no target network, no tensor twice, and the run's arguments, result and returns."""
    (own,), (first, second) = play(run[0]), play(file, file)
    assert first["returns"] == second["returns"] == own["returns"]
    assert file.stat().st_size < (run[0] / "model.pt").stat().st_size
    weights = load_file(file)
    assert not [name for name in weights if "target" in name]
    assert len({w.double().sum().item() for w in weights.values() if w.dim() == 2}) == len(
        [w for w in weights.values() if w.dim() == 2]
    )
    about = evaluate.read_about(file)
    assert about["args"] == json.loads((run[0] / "args.json").read_text())
    assert about["result"] == json.loads((run[0] / "result.json").read_text())
    played = {"episodes": 3, "seed": None, "best": False}
    assert about["played"] == played | {"mean": own["mean"], "std": own["std"]}


def test_a_file_of_a_file_says_what_it_was_played_for(file, capsys):
    again = file.with_name("again.safetensors")
    play(file, episodes=5, save=again)
    assert capsys.readouterr().err.endswith(f"wrote {again}\n")
    assert evaluate.read_about(again)["played"]["episodes"] == 5
    assert play(again)[0]["returns"] == play(file)[0]["returns"]
    with pytest.raises(SystemExit, match="2"):
        play(file, best=True)


def rewrite(weights=lambda old: old, **changes):
    """Write a file again with other weights, and its arguments changed."""

    def write(path: Path):
        args = evaluate.read_about(path)["args"] | changes
        save_file(weights(load_file(path)), path, {"args": json.dumps(args)})

    return write


SPOILT_FILES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "a checkpoint of PyTorch": lambda path: torch.save({"a": torch.ones(3)}, path),
    "no metadata": lambda path: save_file(load_file(path), path),
    "another script": rewrite(script="ddpg_continuous.py"),
    "another body": rewrite(env_id="InvertedPendulum-v4"),
    "an unknown body": rewrite(env_id="None-v0"),
    "a weight missing": rewrite(lambda old: dict([*old.items()][1:])),
    "a weight too many": rewrite(lambda old: old | {"more": torch.ones(1)}),
}


@pytest.mark.parametrize("what", SPOILT_FILES)
def test_spoilt_file_is_named_and_the_others_go_on(run, file, what, capsys):
    SPOILT_FILES[what](file)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        play(file, run[0])
    printed = capsys.readouterr()
    assert printed.err.startswith("error: cannot ")
    assert printed.err.count("\n") == 1
    assert [line.split()[0] for line in printed.out.splitlines()] == ["run", str(run[0])]


# ---- Videos ----
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("why", "words"),
    [("no pictures", "render_mode"), ("nothing to see", "recording"), ("no encoder", "nowhere")],
)
def test_a_video_that_fails_costs_only_the_video(
    run, filmed, why, words, tmp_path, monkeypatch, capsys
):
    run_dir = (run if why == "no pictures" else filmed)[0]
    play(run_dir)
    table = capsys.readouterr().out
    if why == "nothing to see":
        monkeypatch.setattr(Picture, "render", lambda self: None)
    if why == "no encoder":
        monkeypatch.setenv("PATH", "")
        # moviepy first: when it is imported it asks the other, and keeps the answer
        monkeypatch.setattr("moviepy.video.io.ffmpeg_writer.FFMPEG_BINARY", "nowhere")
        monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "nowhere")
    (tmp_path / "a.gif").write_text("an older one")
    with pytest.raises(SystemExit, match="2"):
        play(run_dir, video=tmp_path / "a.gif")
    printed = capsys.readouterr()
    assert printed.out == table
    assert re.fullmatch(f"error: cannot (make|record) .*{words}.*\n", printed.err)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]
    assert (tmp_path / "a.gif").read_text() == "an older one"


def test_a_gif_has_the_first_5_seconds(filmed, tmp_path):
    play(filmed[0], episodes=1, video=tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.format, gif.size, gif.n_frames) == ("GIF", (200, 200), 50)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


@EGL
def test_video_of_a_run_that_still_trains(tmp_path):
    """While another process holds the lock."""
    script = importlib.import_module("ddpg_continuous")
    run_dir, _ = train("ddpg_continuous", tmp_path, env_id="InvertedPendulum-v4", eval_interval=0)
    for name in "result.json", "checkpoint.pt":
        (run_dir / name).unlink()
    with script.FileLock(run_dir / "lock"):
        play(run_dir, video=tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").stat().st_size > 1000
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "a.mp4"}


@EGL
def test_camera_follows_the_body(tmp_path, monkeypatch):
    """Fifty metres on, the body is still in the picture: it is not grey, as the floor is."""
    run_dir, _ = train("ppo_continuous", tmp_path, env_id="HalfCheetah-v4", max_episode_steps=50)
    script = importlib.import_module("ppo_continuous")
    sizes = []

    def far_away(actor, args, envs):
        envs.reset()
        env = envs.envs[0].unwrapped
        for x in 0.0, 50.0:
            env.set_state(np.array([x, *env.init_qpos[1:]]), env.init_qvel)
            picture = env.render().astype(int)
            sizes.append((picture[..., 0] - picture[..., 2] > 40).sum())

    monkeypatch.setattr(script, "evaluate", far_away)
    monkeypatch.setattr(evaluate, "load_script", lambda path: script)
    evaluate.record(run_dir, evaluate.Args((run_dir,), video=tmp_path / "a.mp4"))
    assert min(sizes) > 500
