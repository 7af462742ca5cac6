"""The notebook of the group problems runs, and its checks fail for what is broken."""

import re
import shutil

import pytest
from conftest import ROOT
from notebooks import check_committed, check_what_it_shows, printed, run_from

NOTEBOOK = ROOT / "lecture" / "group_problems.ipynb"
MODULES = ["ac_reparam_continuous", "ddpg_continuous", "ppo_continuous", "td3_continuous"]


def files():
    folders = ROOT, NOTEBOOK.parent, NOTEBOOK.parent / "data", ROOT / "results", ROOT / "runs"
    return {path: path.stat().st_mtime for folder in folders for path in folder.glob("[!._]*.*")}


def test_notebook_runs_and_leaves_no_file(kernel):
    before = files()
    cells, failed, error = run_from(NOTEBOOK.parent, kernel, NOTEBOOK, MODULES)
    assert failed is None, error
    assert files() == before
    (rerun,) = [cell for cell in cells if cell.id == "rerun"]
    assert re.fullmatch(r"\d+ rows\n", printed(rerun)), "nothing was trained"
    check_what_it_shows(cells, NOTEBOOK)


# A file, what is broken in it, how, the cells needed to notice it and, last, the one that has to.
MUTANTS = {
    "actor descends Q": (
        "ddpg_continuous.py", "loss = -nets", "loss = nets", ["p3-loss"],
    ),
    "sum for mean": (
        "ddpg_continuous.py", "observations)).mean()", "observations)).sum()", ["p4-three-ways"],
    ),
    "online actor in the target": (
        "ddpg_continuous.py", "nets.target_actor(data", "nets.actor(data", ["p5-problem", "p5-fit"],
    ),
    "online actor, seen by problem 6": (
        "ddpg_continuous.py", "nets.target_actor(data", "nets.actor(data", ["p6-off"],
    ),
    "a maximum for PPO's minimum": (
        "ppo_continuous.py", "-torch.min(ratio", "-torch.max(ratio", ["ppo-clip"],
    ),
    "no lambda": ("ppo_continuous.py", "args.gamma * args.gae_lambda *", "args.gamma *", ["gae"]),
    "score through the sample": (
        "ac_reparam_continuous.py", 'args.estimator == "pathwise"', "True",
        ["section5-same-gradient"],
    ),
    "PPO loses on Hopper": (
        "results/curves.csv", "ppo,,Hopper-v4", "ppo,changed,Hopper-v4", ["p2-curves"],
    ),
    "no three bins": ("lecture/data/runs.csv", ",dqn 3,", ",dqn 4,", ["p1-results"]),
    "tau of 1 is lost": ("lecture/data/runs.csv", ",tau 1,", ",tau 2,", ["p6-runs"]),
    "TD3 and DDPG exchanged": (
        "lecture/data/runs.csv", ",(ddpg|td3),", None, ["p7-runs"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_check_fails_for_what_is_broken(kernel, tmp_path, name):
    """It takes scripts and data from the folder that it starts in."""
    path, old, new, ids = MUTANTS[name]
    folder = tmp_path / "copy_of_root"
    scripts = [f"{module}.py" for module in MODULES]
    for file in [*scripts, "results/curves.csv", "lecture/data/runs.csv"]:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    text = (folder / path).read_text()
    if new is None:
        other = {"ddpg": "td3", "td3": "ddpg"}
        broken = re.sub(old, lambda found: f",{other[found[1]]},", text)
    else:
        broken = text.replace(old, new)
        assert path.endswith("csv") or text.count(old) == 1, f"the mutant does not fit: {old}"
    assert broken != text
    (folder / path).write_text(broken)
    _, failed, error = run_from(folder, kernel, NOTEBOOK, MODULES, ["setup", "import", *ids])
    assert failed == ids[-1]
    assert error.ename in ("AssertionError", "KeyError", "ValueError")


def test_committed_notebook():
    check_committed(NOTEBOOK, figures=11, size=1_500_000)
