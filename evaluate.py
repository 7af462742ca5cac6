# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "numpy==2.4.6", "gymnasium[mujoco]==1.4.0", "mujoco==3.15.0",
#     "stable-baselines3==2.9.2", "tyro==1.0.17", "tensorboard==2.21.0", "tqdm==4.70.1",
#     "filelock==4.2.11", "moviepy==2.2.1"]
# ///
"""Play the deterministic policy of trained runs, as their own evaluations do.

A run's args.json names its script, which is looked for beside this file and brings the networks and
the environments; model.pt brings the weights. With the same seed and number of episodes the returns
are those of the run's last evaluation, exactly so on the CPU of the kind of machine it trained on.
`std` divides by n - 1; --json has the discounted returns too. A video is made after the returns are
printed: one that fails costs a line that says why, and exit code 2.

    python evaluate.py runs/NAME --video cheetah.mp4
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

import imageio_ffmpeg
import torch
import tyro

# small enough for a README: 200 pixels wide, 32 colours of its own
GIF = "fps=10,scale=200:-1:flags=lanczos,split[a][b];"
GIF += "[a]palettegen=max_colors=32[colours];[b][colours]paletteuse=dither=none"


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """folders of runs"""
    episodes: int | None = None
    """episodes, each in an environment of its own (default: the run's own number)"""
    seed: int | None = None
    """play what a run of this seed would play (default: the run's own seed)"""
    script: Path | None = None
    """training script of the runs (default: the one that args.json names, beside this file)"""
    json: bool = False
    """print JSON instead of a table"""
    video: Path | None = None
    """record the first episode of a single run in this .mp4 file, or its first 5 seconds as .gif"""


def load_script(path: Path) -> ModuleType:
    """Import a training script from a file."""
    if path.suffix != ".py":
        raise ValueError(f"{path} is not a Python script")
    spec = importlib.util.spec_from_file_location(f"evaluated_{path.stem}", path)
    script = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(script)
    except SystemExit as error:
        raise ValueError(f"{path} exits when it is imported") from error
    return script


def load_run(run_dir: Path, args: Args):
    """Return a run's script, its arguments and its actor, in evaluation mode on the CPU."""
    about = json.loads((run_dir / "args.json").read_text())
    name = Path(about.get("script", f"{about['exp_name']}.py")).name
    script = load_script(args.script or Path(__file__).with_name(name))
    known = {field.name for field in fields(script.Args)}
    run_args = script.Args(**{key: value for key, value in about.items() if key in known})
    run_args.seed = run_args.seed if args.seed is None else args.seed
    torch.set_num_threads(run_args.torch_threads)
    envs = script.make_envs(run_args, 1)
    obs_dim, act_dim = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
    nets = script.Networks(
        obs_dim, act_dim, envs.single_action_space.low, envs.single_action_space.high
    )
    envs.close()
    nets.load_state_dict(torch.load(run_dir / "model.pt", map_location="cpu", weights_only=True))
    return script, run_args, nets.actor.eval()


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
    with attempt(f"evaluate {run_dir}"):
        script, run_args, actor = load_run(run_dir, args)
        episodes = args.episodes or run_args.eval_episodes
        returns, discounted = script.evaluate(actor, run_args, episodes)
    std = returns.std(ddof=1) if episodes > 1 else 0.0
    summary = {"run": str(run_dir), "mean": float(returns.mean()), "std": float(std)}
    return summary | {"returns": returns.tolist(), "discounted_returns": discounted.tolist()}


def record(run_dir: Path, args: Args) -> None:
    """Record an episode; an older file is replaced when the new one is complete."""
    with attempt(f"record {args.video}"), tempfile.TemporaryDirectory(dir=args.video.parent) as tmp:
        script, run_args, actor = load_run(run_dir, args)
        script.evaluate(actor, run_args, 1, Path(tmp, "video"))
        (video,) = Path(tmp).glob("*.mp4")
        if args.video.suffix == ".gif":
            ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-t", "5", "-i", video]
            video = Path(tmp, "video.gif")
            subprocess.run([*ffmpeg, "-vf", GIF, video], check=True)
        video.replace(args.video)


def table(results: list[dict]) -> str:
    width = max(len(result["run"]) for result in results)
    lines = [f"{'run':{width}}  {'mean':>9}  {'std':>8}  returns"]
    for result in results:
        returns = " ".join(f"{value:.1f}" for value in result["returns"])
        lines.append(
            f"{result['run']:{width}}  {result['mean']:9.2f}  {result['std']:8.2f}  {returns}"
        )
    return "\n".join(lines)


def main(args: Args) -> list[dict]:
    """Evaluate runs and print their returns; a broken one has its line and the others go on."""
    if not args.runs:
        fail("name at least one folder of a run")
    for name, low in ("episodes", 1), ("seed", 0):
        if (value := getattr(args, name)) is not None and value < low:
            fail(f"--{name} must be at least {low}, not {value}")
    if args.video and (len(args.runs) > 1 or args.video.suffix not in (".mp4", ".gif")):
        fail("--video takes one run and a file that ends in .mp4 or .gif")
    if args.video and not args.video.parent.is_dir():
        fail(f"there is no folder {args.video.parent} for the video")
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
    if args.video:
        record(args.runs[0], args)
    return results


if __name__ == "__main__":
    main(tyro.cli(Args))
