"""The notebook runs as a reader would run it, and its checks fail for a script that is broken."""

import pytest
from conftest import ROOT
from notebooks import check_committed, check_what_it_shows, run_from

NOTEBOOK = ROOT / "lecture" / "actor_critic.ipynb"
SCRIPT = "ac_reparam_continuous"


def files():
    folders = ROOT, NOTEBOOK.parent, ROOT / "results", ROOT / "runs"
    return {path for folder in folders for path in folder.glob("[!._]*")}


def test_notebook_runs_and_leaves_no_file(kernel):
    before = files()
    cells, failed, error = run_from(NOTEBOOK.parent, kernel, NOTEBOOK, [SCRIPT])
    assert failed is None, error
    assert files() == before
    (rerun,) = [cell for cell in cells if cell.id == "rerun"]
    assert any(output.output_type == "display_data" for output in rerun.outputs)
    check_what_it_shows(cells, NOTEBOOK)


MUTANTS = {
    "no terminal mask": ("1 - data.dones.flatten()", "1", "bellman-numbers"),
    "online critic as target": (
        "sample(data.next_observations)",
        "sample(data.next_observations); nets.qf1_target = nets.qf1",
        "bellman-perturbed",
    ),
    "targets stay": ("lerp_(param, tau)", "lerp(param, tau)", "polyak-half"),
    "swapped Polyak": (
        "    for param, target_param",
        "    tau = 1 - tau\n    for param, target_param",
        "polyak-tenth",
    ),
    "actor descends Q": ("loss = -objective", "loss = objective", "actor-numbers"),
    "score through the sample": ('args.estimator == "pathwise"', "True", "agreement"),
    "not squashed": ("[TanhTransform(cache_size=1)]", "[]", "actor-numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_notebook_fails_for_a_broken_script(kernel, tmp_path, name):
    """It takes the script from the folder that it starts in."""
    old, new, check = MUTANTS[name]
    source = (ROOT / f"{SCRIPT}.py").read_text()
    assert source.count(old) == 1, f"the mutant does not fit: {old}"
    (tmp_path / f"{SCRIPT}.py").write_text(source.replace(old, new))
    _, failed, error = run_from(tmp_path, kernel, NOTEBOOK, [SCRIPT])
    assert (failed, error and error.ename) == (check, "AssertionError")


def test_committed_notebook():
    check_committed(NOTEBOOK, figures=2, size=500_000)
