"""Keep trained weights: python docs/policies.py RUNS [--to policies].

RUNS is a folder of finished runs. For each script and environment it takes the run whose last
evaluation is the median, and writes what that run ended with, and kept_<steps>.pt in its folder, to
policies/, with the matrices in half precision unless the returns of 100 episodes differ. Then
policies/README.md, from the files alone. No script here makes a kept_<steps>.pt: it is a copy of
model.pt, made while the run trained.
"""

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median_low

import torch
import tyro
from safetensors.torch import load, save

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
import evaluate  # noqa: E402

EPISODES = 100
LEARNING = ["ddpg", "td3", "sac", "ppo"], ["HalfCheetah-v4", "Hopper-v4"]  # to see them learn
TEXT = f"""# Trained policies

`python docs/policies.py RUNS` wrote these files from finished runs: of each script and body the
seed with the median last evaluation among those whose weights were kept. The
[longer runs](../docs/results.md#longer-runs) are one run each. DDPG's and TD3's on HalfCheetah are
the best of three; SAC's on Hopper and A3C's on HalfCheetah and Walker2d are next to the median;
some are [not the table's runs](../docs/results.md#how-they-were-made).
For {", ".join(LEARNING[0])} on {" and ".join(LEARNING[1])}, and svg0 on the first,
there are weights from earlier in training, too: copies of `model.pt`, made while a run trained.
Weights are those of the first evaluation at or after the step in the name. The return is the mean ±
standard deviation of {EPISODES} episodes of the deterministic policy.

```
python evaluate.py policies/ppo_InvertedPendulum-v4_50000.safetensors --video pole.mp4
```

The site plays them in the browser: `python lecture/build.py`, then open `site/watch.html`.

| file | steps | seed | return | trained with |
|---|--:|--:|--:|---|
"""


def medians(folder: Path) -> list[tuple[Path, dict]]:
    """Return, for each script and environment, the run that is the median, and its arguments."""
    groups = defaultdict(list)
    for path in folder.glob("*/result.json"):
        args = json.loads((path.parent / "args.json").read_text())
        score = json.loads(path.read_text())["eval_mean"]
        groups[args["script"], args["env_id"]].append((score, args["seed"], path.parent, args))
    return [median_low(group)[2:] for _, group in sorted(groups.items())]


def keep(args: dict, weights: Path, steps: int, to: Path) -> None:
    """Write one file: in half precision, if 100 episodes can't tell it from full precision."""
    name = args["script"].removesuffix("_continuous.py")
    path = to / f"{name}_{args['env_id']}_{steps}.safetensors"
    with tempfile.TemporaryDirectory() as tmp:
        for file, content in ("args.json", args), ("result.json", {"step": steps}):
            Path(tmp, file).write_text(json.dumps(content))
        Path(tmp, "model.pt").write_bytes(weights.read_bytes())
        (full,) = evaluate.main(evaluate.Args((Path(tmp),), episodes=EPISODES, save=path))
    about = {key: json.dumps(value) for key, value in evaluate.read_about(path).items()}
    tensors = load(path.read_bytes())  # not mapped: the file is replaced
    halves = {key: w.half() if w.dim() == 2 else w for key, w in tensors.items()}
    path.write_bytes(save(halves, about))
    (half,) = evaluate.main(evaluate.Args((path,), episodes=EPISODES))
    error = ((full["std"] ** 2 + half["std"] ** 2) / EPISODES) ** 0.5
    if abs(full["mean"] - half["mean"]) > 2 * error:
        print(f"{path.name} stays in full precision")
        path.write_bytes(save(tensors, about))
        return
    played = {"episodes": EPISODES, "seed": None, "best": False}
    played |= {"mean": half["mean"], "std": half["std"]}
    path.write_bytes(save(halves, about | {"played": json.dumps(played)}))


def command(args: dict) -> str:
    """Return the command of a run: what differs from its script's defaults."""
    script, words = evaluate.load_script(ROOT / args["script"]), ["python", args["script"]]
    for name, default in vars(script.Args()).items():
        value, flag = args.get(name, default), name.replace("_", "-")
        if value != default and name not in ("exp_name", "run_name", "resume"):
            words.append(f"--{'no-' if value is False else ''}{flag}")
            words += [] if isinstance(value, bool) else [str(value)]
    return " ".join(words)


def readme(folder: Path) -> str:
    text = TEXT
    paths = [(*path.stem.rsplit("_", 1), path) for path in folder.glob("*.safetensors")]
    for _, _, path in sorted(paths, key=lambda part: (part[0], int(part[1]))):
        about = evaluate.read_about(path)
        args, played = about["args"], about["played"]
        score = f"{played['mean']:.1f} ± {played['std']:.1f}"
        steps, line = f"{about['result']['step']:,}", f"`{command(args)}`"
        text += f"| `{path.name}` | {steps} | {args['seed']} | {score} | {line} |\n"
    return text


def main(runs: tyro.conf.Positional[Path], to: Path = ROOT / "policies") -> None:
    torch.set_num_threads(1)
    to.mkdir(exist_ok=True)
    for run, about in medians(runs):
        name = about["script"].removesuffix("_continuous.py")
        kept = {about["total_timesteps"]: run / "model.pt"}
        if name in LEARNING[0] and about["env_id"] in LEARNING[1]:
            files = {int(path.stem.split("_")[1]): path for path in run.glob("kept_*.pt")}
            kept = files | kept
        for steps, weights in kept.items():
            keep(about, weights, steps, to)
    (to / "README.md").write_text(readme(to))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
