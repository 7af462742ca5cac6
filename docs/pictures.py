"""Make the pictures that are old: python docs/pictures.py [FILE ...]

A picture is old when the code or the data that it shows have changed. docs/pictures.json has a
digest of them for each, and tests/test_pictures.py compares. Some of them train for minutes.

Not made here: results/curves.png and comparison.png, by the first command of docs/results.md.
"""

import contextlib
import hashlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import imageio_ffmpeg
from matplotlib import rc_context
from playwright.sync_api import sync_playwright
from tensorboard import program

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
DIGESTS = ROOT / "docs" / "pictures.json"
BODIES = {"pole": "InvertedPendulum-v4_50000", "hopper": "Hopper-v4_1000000"}
BODIES |= {"walker2d": "Walker2d-v4_1000000", "halfcheetah": "HalfCheetah-v4_1000000"}

import evaluate  # noqa: E402
import plot  # noqa: E402
import stats  # noqa: E402


def train(script: str, *flags: str) -> str:
    """Train in runs/ of the current folder, return what the script prints."""
    command = [sys.executable, ROOT / f"{script}_continuous.py", *flags]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def draw(data, path: Path, ylabel: str = "evaluation return") -> None:
    with rc_context(plot.LOOK):
        plot.draw_curves(data, ylabel).savefig(path)


# ---- Pictures ----
def overestimation(path: Path) -> None:
    """What docs/td3.md's command draws, of the points that plot.py kept of those runs."""
    tags = "losses/qf1_values", "eval/discounted_return"
    data = plot.read(plot.Args((ROOT / "results" / "q_values.csv",), tag=tags))
    draw(data, path, "Q, and discounted return")


def longer(path: Path) -> None:
    """The runs of docs/results.md's second table."""
    draw(plot.read(plot.Args((ROOT / "results" / "apart.csv",))), path)


def first_run(path: Path) -> None:
    """Do what README tells to do first. What it prints goes into README."""
    readme = ROOT / "README.md"
    flags = re.search(r"python ppo_continuous.py (.*?)\n```", readme.read_text(), re.DOTALL)[1]
    lines = train("ppo", *flags.replace("\\", "").split()).split("\n")
    last = next(n for n, line in enumerate(lines) if "is finished" in line)
    shown = "\n".join([*lines[:3], "...", *lines[last - 3 : last + 1]])
    block = r"(?<=```\n)runs/first: .*?(?=\n```)"
    readme.write_text(re.sub(block, shown, readme.read_text(), flags=re.DOTALL))
    draw(plot.read(plot.Args((Path("runs/first"),))), path)


def policy(path: Path) -> Path:
    """Return the file of the policy that a GIF shows, ppo_hopper.gif PPO's last one on Hopper."""
    script, body = path.stem.split("_")
    return ROOT / "policies" / f"{script}_{BODIES[body]}.safetensors"


def gif(path: Path) -> None:
    """The first seconds of an episode: of the pole, which hardly moves, ten, else five."""
    evaluate.main(evaluate.Args((policy(path),), episodes=1, seed=2, video=Path("whole.mp4")))
    seconds = "10" if "pole" in path.stem else "5"
    cut = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-t", seconds, "-i", "whole.mp4"]
    subprocess.run([*cut, "-vf", evaluate.GIF, path], check=True)


def open_page(playwright, url: str, height: int, settings: str = "{}"):
    found, args = shutil.which("chromium"), ["--no-sandbox"]
    chromium = playwright.chromium.launch(executable_path=found, args=args)
    page = chromium.new_page(viewport={"width": 1280, "height": height})
    page.add_init_script(f"localStorage.setItem('_tb_global_settings', '{settings}')")
    page.goto(url)
    return page


def tensorboard(path: Path) -> None:
    """Two runs in TensorBoard, set as README says. Reacher is learned in a thousand updates."""
    flags = "--env-id Reacher-v4 --total-timesteps 6000 --learning-starts 1000 --eval-interval 500"
    for name in "ddpg", "td3":
        train(name, *flags.split(), "--run-name", name)
    board = program.TensorBoard()
    board.configure([None, "--logdir", "runs"])
    url = board.launch() + "?tagFilter=_return%24%7Cqf1_values#timeseries"
    settings = {"ignoreOutliers": False, "scalarSmoothing": 0, "stepSelectorEnabled": False}
    with sync_playwright() as playwright:
        page = open_page(playwright, url, 850, json.dumps(settings))
        page.wait_for_function("document.querySelectorAll('scalar-card path').length > 7")
        page.wait_for_timeout(3000)
        page.screenshot(path=path)


def site(path: Path) -> None:
    """DDPG's losses beside their equations."""
    subprocess.run([sys.executable, ROOT / "lecture" / "build.py"], check=True)
    with sync_playwright() as playwright:
        page = open_page(playwright, (ROOT / "site" / "ddpg.html").as_uri(), 720)
        box = page.locator("#critic_loss").bounding_box()
        end = page.locator("#actor_loss").bounding_box()
        clip = {"x": 0, "y": box["y"] - 16, "width": 1280}
        clip["height"] = end["y"] + end["height"] - clip["y"]
        page.screenshot(path=path, full_page=True, clip=clip)


# ---- What they show ----
def algorithm(name: str) -> str:
    """Return a script from its networks to the end of its loop."""
    text = (ROOT / f"{name}_continuous.py").read_text()
    return text[text.index("# ---- Networks") : text.index("# ---- Run ----")]


def figure() -> str:
    functions = plot.draw_curves, plot.draw_curve, plot.caption, plot.styles, stats.summarize
    return str(plot.LOOK) + "".join(map(inspect.getsource, functions))


def page() -> str:
    names = "notes/ddpg.md", "site/script.html", "site/style.css"
    notes, page, style = ((ROOT / "lecture" / name).read_text() for name in names)
    return algorithm("ddpg") + notes + page + style.split("/* Code")[1].split("/* Home")[0]


PICTURES = {
    "docs/first_run.png": (first_run, lambda: algorithm("ppo") + figure()),
    "docs/site.png": (site, page),
    "docs/tensorboard.png": (tensorboard, lambda: algorithm("ddpg") + algorithm("td3")),
    "results/overestimation.png": (
        overestimation,
        lambda: (ROOT / "results" / "q_values.csv").read_text() + figure(),
    ),
    "results/longer.png": (
        longer,
        lambda: (ROOT / "results" / "apart.csv").read_text() + figure(),
    ),
} | {
    f"results/ppo_{body}.gif": (
        gif,
        lambda body=body: policy(Path(f"ppo_{body}")).read_bytes().hex(),
    )
    for body in BODIES
}


def digests() -> dict[str, str]:
    shown = {name: shows() for name, (_, shows) in PICTURES.items()}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in shown.items()}


def main(names: list[str]) -> None:
    known, now = json.loads(DIGESTS.read_text()), digests()
    if unknown := {*names} - {*now}:
        raise SystemExit(f"no picture {', '.join(unknown)}, only {', '.join(now)}")
    for name in names or [name for name in now if known.get(name) != now[name]]:
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            PICTURES[name][0](ROOT / name)
        known[name] = now[name]
        DIGESTS.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
