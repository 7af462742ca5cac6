"""The notebook runs as a reader would run it, and its checks fail for a script that is broken."""

import os
import re

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOK = ROOT / "lecture" / "actor_critic.ipynb"
SCRIPT = "ac_reparam_continuous"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A kernel in short mode that knows nobody's own IPython settings."""
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=170, kernel_name="python3")
    ipython = str(tmp_path_factory.mktemp("ipython"))
    with client.setup_kernel(env=os.environ | {"SHORT": "1", "IPYTHONDIR": ipython}):
        yield client


def run_from(folder, kernel):
    """Run the notebook until a cell fails; return its cells, the failing one's id and its error."""
    kernel.nb = nbformat.read(NOTEBOOK, 4)
    start = f"%reset -f\nimport os, sys\nos.chdir({str(folder)!r})\nsys.modules.pop('{SCRIPT}', 0)"
    kernel.execute_cell(nbformat.v4.new_code_cell(start), 0)
    for index, cell in enumerate(kernel.nb.cells):
        try:
            kernel.execute_cell(cell, index)
        except CellExecutionError as error:
            return kernel.nb.cells, cell.id, error
    return kernel.nb.cells, None, None


def files():
    folders = ROOT, NOTEBOOK.parent, ROOT / "results", ROOT / "runs"
    return {path for folder in folders for path in folder.glob("[!._]*")}


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def test_notebook_runs_and_leaves_no_file(kernel):
    before = files()
    cells, failed, error = run_from(NOTEBOOK.parent, kernel)
    assert failed is None, error
    assert files() == before
    (rerun,) = [cell for cell in cells if cell.id == "rerun"]
    assert any(output.output_type == "display_data" for output in rerun.outputs)
    for cell, committed in zip(cells, nbformat.read(NOTEBOOK, 4).cells, strict=True):
        if cell.id.startswith("show-"):
            assert printed(cell) == printed(committed) != "", "the script has changed since"


MUTANTS = {
    "no terminal mask": ("1 - data.dones.flatten()", "1", "bellman-numbers"),
    "no discount": ("not_done * args.gamma", "not_done", "bellman-numbers"),
    "online critic as target": (
        "next_observations).rsample()",
        "next_observations).rsample(); nets.qf1_target = nets.qf1",
        "bellman-perturbed",
    ),
    "targets stay": ("lerp_(param, tau)", "lerp(param, tau)", "polyak-half"),
    "swapped Polyak": (
        "    for param, target_param",
        "    tau = 1 - tau\n    for param, target_param",
        "polyak-tenth",
    ),
    "actor descends Q": ("actor_loss = -objective", "actor_loss = objective", "actor-numbers"),
    "sampled twice": ("objective = nets", "policy.sample(); objective = nets", "actor-numbers"),
    "spread not learned": ("self.log_std.exp()", "self.log_std.detach().exp()", "actor-numbers"),
    "score through the sample": ('args.estimator == "pathwise"', "True", "agreement"),
    "score without Q": (" * objective.detach()", "", "agreement"),
    "not squashed": ("TanhTransform(1), rescale]", "rescale]", "actor-numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_notebook_fails_for_a_broken_script(kernel, tmp_path, name):
    """It takes the script from the folder that it starts in."""
    old, new, check = MUTANTS[name]
    source = (ROOT / f"{SCRIPT}.py").read_text()
    assert source.count(old) == 1, f"the mutant does not fit: {old}"
    (tmp_path / f"{SCRIPT}.py").write_text(source.replace(old, new))
    _, failed, error = run_from(tmp_path, kernel)
    assert (failed, error and error.ename) == (check, "AssertionError")


def test_committed_notebook_was_executed_without_an_error():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert not any("text/html" in output.get("data", {}) for output in outputs), "TensorBoard ran"
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert "\nRERUN = False\n" in "\n".join(["", *(cell.source for cell in cells)])


def test_committed_notebook_says_nothing_of_the_machine():
    notebook = nbformat.read(NOTEBOOK, 4)
    assert notebook.metadata.kernelspec.name == "python3"
    assert not any(cell.metadata for cell in notebook.cells)
    text = NOTEBOOK.read_text()
    assert not re.search(r"(^|[\s\"'(])/(home|root|tmp|Users|opt|usr|var)/", text)
    assert len(text) < 500_000
