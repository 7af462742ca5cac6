# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "numpy==2.4.6", "gymnasium[mujoco]==1.4.0", "mujoco==3.15.0",
#     "stable-baselines3==2.9.2", "tyro==1.0.17", "tensorboard==2.21.0", "tqdm==4.70.1",
#     "filelock==4.2.11", "moviepy==2.2.1", "safetensors==0.8.0"]
# ///
"""Play the deterministic policy of trained runs, as their own evaluations do.

    python evaluate.py runs/NAME runs/OTHER
    python evaluate.py runs/NAME --video cheetah.mp4
    python evaluate.py runs/NAME --save cheetah.safetensors
    python evaluate.py cheetah.safetensors policies/*.safetensors

- A run may still be training: model.pt is written at each evaluation.
- Its args.json names the script, which is looked for beside this file.
- With the run's own seed and number of episodes the returns are those of its
  last evaluation, exactly so on the kind of CPU that it trained on.
- `std` divides by n - 1.
- What --save writes plays as the run does. Loading it runs no code and needs
  no PyTorch. The run's arguments, commit and result are in its metadata.
- Video and file are made after the returns are printed: if one fails, a line
  says why, and the exit code is 2.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

import gymnasium as gym
import imageio_ffmpeg
import mujoco
import torch
import tyro
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as safetensors

# small enough for a README: 200 pixels wide, 32 colours of its own
GIF = "fps=10,scale=200:-1:flags=lanczos,split[a][b];"
GIF += "[a]palettegen=max_colors=32[colours];[b][colours]paletteuse=dither=none"

ABOUT = "args", "result", "played"  # what the metadata of a file has, as JSON


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[Path, ...]]  # folders of runs, or files that --save wrote
    best: bool = False  # play best_model.pt, of the best evaluation, not model.pt, of the last
    episodes: int | None = None  # how many, in environments of their own; None: as the run does
    seed: int | None = None  # play what a run of this seed would play; None: the run's own
    script: Path | None = None  # training script; None: the one named in args.json, beside this
    json: bool = False  # print JSON, which has the discounted returns too, not a table
    video: Path | None = None  # record one run's first episode: .mp4, or .gif of its first 5 s
    save: Path | None = None  # write one run's weights to this file: .safetensors


def load_script(path: Path) -> ModuleType:
    """Import a training script from a file."""
    if path.suffix != ".py" or not path.exists():
        raise ValueError(f"no Python script {path}: name it with --script")
    sys.path.insert(0, str(path.parent.absolute()))  # for what the script imports
    spec = importlib.util.spec_from_file_location(f"evaluated_{path.stem}", path)
    script = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(script)
    except SystemExit as error:
        raise ValueError(f"{path} exits when it is imported") from error
    return script


def read_about(run: Path) -> dict:
    """Return a run's arguments and its result, if it has one, from its folder or file."""
    if run.is_file():
        with safe_open(run, "pt") as file:
            texts = file.metadata() or {}
    else:
        paths = {name: run / f"{name}.json" for name in ("args", "result")}
        texts = {name: path.read_text() for name, path in paths.items() if path.exists()}
    about = {name: json.loads(text) for name, text in texts.items() if name in ABOUT}
    if "args" not in about:
        raise ValueError("it has no arguments of a run" if run.exists() else "there is no such run")
    return about


def kept(nets: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights to keep: each once; no target networks, which only training needs."""
    targets = tuple(name for name, _ in nets.named_children() if "target" in name)
    weights = {name: w for name, w in nets.state_dict().items() if not name.startswith(targets)}
    names = {w.data_ptr(): name for name, w in reversed(weights.items())}
    return {name: w for name, w in weights.items() if names[w.data_ptr()] == name}


def load_weights(run: Path, nets: torch.nn.Module, script: ModuleType, best: bool) -> None:
    """Load what the run's folder or file has into its networks."""
    if not run.is_file():
        model = run / ("best_model.pt" if best else "model.pt")
        if not model.exists():
            raise ValueError(f"no {model.name} yet: the first evaluation writes it")
        nets.load_state_dict(script.load(model))
        return
    if best:
        raise ValueError("--best is for folders of runs")
    weights = load_file(run)
    if weights.keys() != kept(nets).keys():
        raise ValueError(f"these are not the weights of {script.__name__.split('_', 1)[1]}")
    nets.load_state_dict(weights, strict=False)


@contextmanager
def open_run(run: Path, args: Args, episodes: int | None = None, **how):
    """Give a function that plays the actor, on the CPU, the environments and the networks."""
    about = read_about(run)["args"]
    script = load_script(args.script or Path(__file__).with_name(Path(about["script"]).name))
    types = {field.name: str(field.type) for field in fields(script.Args)}
    about = {k: v for k, v in about.items() if k in types}
    about |= {k: tuple(v) for k, v in about.items() if "tuple" in types[k] and isinstance(v, list)}
    run_args = script.Args(**about)
    run_args.seed = run_args.seed if args.seed is None else args.seed
    torch.set_num_threads(run_args.torch_threads)
    episodes = episodes or args.episodes or run_args.eval_episodes
    envs = script.make_envs(run_args, episodes, **how)
    try:
        actions, (obs_dim,) = envs.single_action_space, envs.single_observation_space.shape
        nets = script.Networks(obs_dim, len(actions.low), actions.low, actions.high, run_args)
        load_weights(run, nets, script, args.best)
        yield lambda: script.evaluate(nets.actor.eval(), run_args, envs), envs, nets
    finally:
        with suppress(Exception):  # what fails at the end costs nothing
            envs.close()


def fail(message: str) -> None:
    print("error:", " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)


@contextmanager
def attempt(task: str):
    """Turn an error into one line and code 2; what a script prints stays out of the JSON."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except Exception as error:
        fail(f"cannot {task}: {type(error).__name__}: {error}")


def play(run_dir: Path, args: Args) -> dict:
    """Evaluate one run."""
    with attempt(f"evaluate {run_dir}"), open_run(run_dir, args) as (evaluate, *_):
        scores = evaluate()
    returns = scores["episodic_return"]
    std = returns.std(ddof=len(returns) > 1)
    summary = {"run": str(run_dir), "mean": float(returns.mean()), "std": float(std)}
    if "success_rate" in scores:
        summary["success_rate"] = float(scores["success_rate"].mean())
    discounted = scores["discounted_return"].tolist()
    return summary | {"returns": returns.tolist(), "discounted_returns": discounted}


def record(run_dir: Path, args: Args) -> None:
    """Record an episode; an older file is replaced when the new one is complete."""
    if sys.platform == "linux" and "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")
    with attempt(f"record {args.video}"), tempfile.TemporaryDirectory(dir=args.video.parent) as tmp:

        def film(env):
            if renderer := getattr(env.unwrapped, "mujoco_renderer", None):
                # the camera that follows the body, which gymnasium 1.4 leaves aside
                camera = mujoco.mjtObj.mjOBJ_CAMERA
                renderer.camera_id = mujoco.mj_name2id(renderer.model, camera, "track")
            return gym.wrappers.RecordVideo(env, f"{tmp}/film", lambda episode: episode == 0)

        how = {"wrappers": [film], "render_mode": "rgb_array"}
        with open_run(run_dir, args, 1, **how) as (evaluate, envs, _):
            evaluate()
            envs.call("stop_recording")  # an error in `close` would be hidden
        (video,) = Path(tmp, "film").glob("*.mp4")
        if args.video.suffix == ".gif":
            ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-t", "5", "-i", video]
            video = Path(tmp, "video.gif")
            subprocess.run([*ffmpeg, "-vf", GIF, video], check=True)
        video.replace(args.video)


def save(run: Path, args: Args, played: dict) -> None:
    """Write the weights to a file, with the run's arguments, its result and what it played here.

    An older file is replaced when the new one is complete.
    """
    with (
        attempt(f"save {args.save}"),
        tempfile.TemporaryDirectory(dir=args.save.parent) as tmp,
        open_run(run, args, 1) as (*_, nets),
    ):
        about = read_about(run)
        about["played"] = {"episodes": len(played["returns"]), "seed": args.seed, "best": args.best}
        about["played"] |= {"mean": played["mean"], "std": played["std"]}
        about = {name: json.dumps(value) for name, value in about.items()}
        Path(tmp, "file").write_bytes(safetensors(kept(nets), about))
        Path(tmp, "file").replace(args.save)


def table(results: list[dict]) -> str:
    width = max(len(result["run"]) for result in results)
    lines = [f"{'run':{width}}  {'mean':>9}  {'std':>8}  returns"]
    for result in results:
        returns = " ".join(f"{value:.1f}" for value in result["returns"])
        if "success_rate" in result:
            returns += f"  success {result['success_rate']:.0%}"
        run, mean, std = result["run"], result["mean"], result["std"]
        lines.append(f"{run:{width}}  {mean:9.2f}  {std:8.2f}  {returns}")
    return "\n".join(lines)


def main(args: Args) -> list[dict]:
    """Evaluate runs and print their returns; a broken one has its line and the others go on."""
    if not args.runs:
        fail("name at least one folder of a run")
    for name, low in ("episodes", 1), ("seed", 0):
        if (value := getattr(args, name)) is not None and value < low:
            fail(f"--{name} must be at least {low}, not {value}")
    for name, ends in ("save", [".safetensors"]), ("video", [".mp4", ".gif"]):
        path = getattr(args, name)
        if path and (len(args.runs) > 1 or path.suffix not in ends):
            fail(f"--{name} takes one run and a file that ends in {' or '.join(ends)}")
        if path and not path.parent.is_dir():
            fail(f"there is no folder {path.parent} for {path.name}")
    results, broken = [], False
    for run_dir in args.runs:
        try:
            results.append(play(run_dir, args))
        except SystemExit:
            broken = True
    if args.json or results:  # flushed: drawing can kill the process
        print(json.dumps(results, indent=2) if args.json else table(results), flush=True)
    if broken:
        raise SystemExit(2)
    if args.save:
        save(args.runs[0], args, results[0])
    if args.video:
        record(args.runs[0], args)
    for path in filter(None, (args.save, args.video)):
        print("wrote", path, file=sys.stderr)
    return results


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
