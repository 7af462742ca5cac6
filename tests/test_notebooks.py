"""The notebooks run as a reader would run them, and their checks fail for what is broken."""

import os
import re
import shutil

import nbclient
import nbformat
import pytest
from conftest import ROOT

LECTURE = ROOT / "lecture"
MODULES = ["ac_reparam_continuous", "ddpg_continuous", "ppo_continuous", "td3_continuous"]
# figures, size, and what the cell that trains leaves
NOTEBOOKS = {
    "actor_critic": (2, 500_000, "'display_data'"),
    "group_problems": (11, 1_500_000, r"'\d+ rows\\n'"),
}
# what these print comes from the scripts' text or from committed data
STORED = "show-", "p1-results", "p2-curves", "p2-published", "p6-runs", "p7-runs"
every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A kernel in short mode that knows nobody's own IPython settings."""
    client = nbclient.NotebookClient(nbformat.v4.new_notebook(), timeout=170, kernel_name="python3")
    ipython = str(tmp_path_factory.mktemp("ipython"))
    with client.setup_kernel(env=os.environ | {"SHORT": "1", "IPYTHONDIR": ipython}):
        yield client


def read(name):
    return nbformat.read(LECTURE / f"{name}.ipynb", 4)


def run_from(folder, kernel, name, ids=None):
    """Run a notebook's cells (or those with `ids`) in a folder until one fails.

    Return its cells, the failing one's id and its error. The scripts are imported afresh.
    """
    kernel.nb = read(name)
    start = "for name in set(get_ipython().user_ns) - set(get_ipython().user_ns_hidden):\n"
    start += "    del globals()[name]\n"  # as %reset does, but at once
    start += f"import os, sys, torch\nos.chdir({str(folder)!r})\n"
    start += "torch.set_num_threads(1)\n"  # two wait for each other where the machine is busy
    start += "sys.path[:] = [path for path in sys.path if not path.endswith('copy_of_root')]\n"
    start += f"for name in {MODULES}: sys.modules.pop(name, None)"
    kernel.execute_cell(nbformat.v4.new_code_cell(start), 0)
    for index, cell in enumerate(kernel.nb.cells):
        if ids is not None and cell.id not in ids:
            continue
        try:
            kernel.execute_cell(cell, index)
        except nbclient.exceptions.CellExecutionError as error:
            return kernel.nb.cells, cell.id, error
    return kernel.nb.cells, None, None


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def files():
    folders = ROOT, LECTURE, LECTURE / "data", ROOT / "results", ROOT / "runs"
    found = [path for folder in folders for path in folder.glob("[!._]*")]
    return {path: path.is_file() and path.stat().st_mtime for path in found}


@every_notebook
def test_notebook_runs_and_leaves_no_file(kernel, name):
    before = files()
    cells, failed, error = run_from(LECTURE, kernel, name)
    assert failed is None, error
    assert files() == before
    (rerun,) = [cell for cell in cells if cell.id == "rerun"]
    assert re.search(NOTEBOOKS[name][2], str(rerun.outputs)), "nothing was trained"
    for cell, committed in zip(cells, read(name).cells, strict=True):
        if cell.cell_type == "code" and cell.id.startswith(STORED):
            assert printed(cell) == printed(committed) != "", "script or data have changed since"


# A file, what is broken in it, how, the cells needed to notice it (None: all of the homework's) and
# the one that has to.
AC, DDPG, PPO = (f"{name}_continuous.py" for name in ("ac_reparam", "ddpg", "ppo"))
MUTANTS = {
    "no terminal mask": (AC, "1 - data.dones.flatten()", "1", None, "bellman-numbers"),
    "online critic as target": (
        AC, "sample(data.next_observations)",
        "sample(data.next_observations); nets.qf1_target = nets.qf1", None, "bellman-perturbed",
    ),
    "targets stay": (AC, "lerp_(param, tau)", "lerp(param, tau)", None, "polyak-half"),
    "swapped Polyak": (
        AC, "    for param, target_param", "    tau = 1 - tau\n    for param, target_param", None,
        "polyak-tenth",
    ),
    "actor goes down Q": (AC, "loss = -objective", "loss = objective", None, "actor-numbers"),
    "score through the sample": (AC, 'args.estimator == "pathwise"', "True", None, "agreement"),
    "not squashed": (AC, "[TanhTransform(cache_size=1)]", "[]", None, "actor-numbers"),
    "actor descends Q": (DDPG, "loss = -nets", "loss = nets", [], "p3-loss"),
    "sum for mean": (DDPG, "observations)).mean()", "observations)).sum()", [], "p4-three-ways"),
    "online actor in the target": (
        DDPG, "nets.target_actor(data", "nets.actor(data", ["p5-problem"], "p5-fit",
    ),
    "online actor, seen by problem 6": (
        DDPG, "nets.target_actor(data", "nets.actor(data", [], "p6-off",
    ),
    "a maximum for PPO's minimum": (PPO, "-torch.min(ratio", "-torch.max(ratio", [], "ppo-clip"),
    "no lambda": (PPO, "args.gamma * args.gae_lambda *", "args.gamma *", [], "gae"),
    "score, seen by section 5": (
        AC, 'args.estimator == "pathwise"', "True", [], "section5-same-gradient",
    ),
    "PPO loses on Hopper": (
        "results/curves.csv", "ppo,,Hopper-v4", "ppo,changed,Hopper-v4", [], "p2-curves",
    ),
    "no three bins": ("lecture/data/runs.csv", ",dqn 3,", ",dqn 4,", [], "p1-results"),
    "tau of 1 is lost": ("lecture/data/runs.csv", ",tau 1,", ",tau 2,", [], "p6-runs"),
    "TD3 and DDPG exchanged": ("lecture/data/runs.csv", ",(ddpg|td3),", None, [], "p7-runs"),
}  # fmt: skip


@pytest.mark.parametrize("what", MUTANTS)
def test_a_check_fails_for_what_is_broken(kernel, tmp_path, what):
    """It takes scripts and data from the folder that it starts in."""
    path, old, new, ids, last = MUTANTS[what]
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
    name = "actor_critic" if ids is None else "group_problems"
    ids = ids if ids is None else ["setup", "import", *ids, last]
    _, failed, error = run_from(folder, kernel, name, ids)
    assert failed == last
    assert error.ename == "AssertionError" or path.endswith("csv")


@every_notebook
def test_committed_notebook(name):
    """It was executed from top to bottom without an error, and says nothing of the machine."""
    figures, size, _ = NOTEBOOKS[name]
    notebook, text = read(name), (LECTURE / f"{name}.ipynb").read_text()
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert not any("text/html" in output.get("data", {}) for output in outputs), "TensorBoard ran"
    assert sum("image/png" in output.get("data", {}) for output in outputs) == figures
    assert "\nRERUN = False\n" in "\n".join(["", *(cell.source for cell in cells)])
    assert notebook.metadata.kernelspec.name == "python3"
    assert not any(cell.metadata for cell in notebook.cells)
    assert not re.search(r"(^|[\s\"'(])/(home|root|tmp|Users|opt|usr|var)/", text)
    assert len(text) < size
