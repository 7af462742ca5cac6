"""The diff is the lecture: siblings share their plumbing to the letter and differ in few lines."""

import re
import shutil
import subprocess
import sys

import diffs
import pytest
from conftest import ROOT, TABLE
from diffs import source

SCRIPTS = sorted(path.name.removesuffix("_continuous.py") for path in ROOT.glob("*_continuous.py"))
PARENTS = {child: parent for parent, child, _ in diffs.PAIRS}
RULERS = ["Config", "Networks", "Losses", "Training", "Run"]
# most lines above the Run ruler
LENGTHS = {"ddpg": 230, "td3": 245, "ac_reparam": 260, "a3c": 365}
# part of a script: a pattern that finds it
EVERYWHERE = {
    "header": r"\A# /// script.*?^# ///$",
    "head of Args": r"^# ---- Config ----$.*?(?=^    env_id)",
    "Args of every run": r"^    # the same in every script$.*?(?=^# ---- Networks ----$)",
    "imports of the Run section": r"^# isort: split$.*?(?=^# ---- Config ----$)",
    "head of train": r'^    """Train to `args.total_timesteps`.*?(?=at_least_1)',
    "end of an iteration": r"^            obs = run.end_iteration[^\n]*$",
    "Run": r"^# ---- Run ----$.*\Z",
}
# the same in all that replay
REPLAY = {
    "Polyak update": r"^@torch.no_grad\(\)\ndef polyak_update.*?(?=^# ---- )",
    "random actions": r"^        while .*?(?=^            else:$)",
    "Step": r"^            next_obs, rewards.*?(?=^            # Store$)",
    "end of Store": r"^            obs = run.reset_finished.*?(?=^            # Learn$)",
}
# the same in all that learn from rollouts
ROLLOUT = {
    "Networks": r"^# ---- Networks ----$.*?(?=^# ---- Losses ----$)",
    "Act": r"^            # Act$.*?(?=^ {16}next_obs, rewards)",
    "Store": r"^ {16}dones = terminations.*?(?=^ {16}obs = run.reset_finished)",
}
PARTS = {"ddpg": EVERYWHERE | REPLAY, "ppo": EVERYWHERE | ROLLOUT}


def shared(text: str, part: str) -> str:
    found = re.findall((EVERYWHERE | REPLAY | ROLLOUT)[part], text, re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"{part}: found {len(found)} times"
    # an algorithm may have defaults of its own
    return re.sub(r" = \S+(?=  # )", "", found[0]) if part == "Args of every run" else found[0]


def family(name: str) -> str:
    """Return the script that a ladder of siblings starts with."""
    return family(PARENTS[name]) if name in PARENTS else name


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_in_all_the_places_where_an_algorithm_joins(name):
    assert family(name) in ("ddpg", "ppo"), "add a row to docs/algorithms.csv"
    assert f"{name}_continuous" in TABLE, "add a row to TABLE in tests/conftest.py"
    assert (ROOT / "docs" / f"{name}.md").exists()
    assert (ROOT / "lecture" / "notes" / f"{name}.md").exists()
    tests = {path.name: path.read_text() for path in (ROOT / "tests").glob("*.py")}
    assert f'"{name}"' in tests["test_train.py"], "add its loop to tests/test_train.py"
    assert any(f"\nimport {name}_continuous" in text for text in tests.values())


@pytest.mark.parametrize(
    ("name", "part"), [(n, part) for n in SCRIPTS for part in PARTS.get(family(n), EVERYWHERE)]
)
def test_part_is_the_same_in_all_that_share_it(name, part):
    same = shared(source(name), part) == shared(source("ppo" if part in ROLLOUT else "ddpg"), part)
    assert same, "if it is Run: python docs/copy_run.py <the script that you edited>"


@pytest.mark.parametrize("part", EVERYWHERE | REPLAY | ROLLOUT)
def test_one_changed_character_is_noticed(part):
    text = source("ppo" if part in ROLLOUT else "ddpg")
    here = shared(text, part)
    lines = [line for line in here.splitlines() if line]
    end = lines[len(lines) // 2][-9:]
    assert shared(text.replace(end, end[:-1] + chr(ord(end[-1]) ^ 1)), part) != here


@pytest.mark.parametrize("name", SCRIPTS)
def test_rulers_are_the_same_words_in_the_same_order(name):
    assert re.findall(r"^# ---- (\w+) ----$", source(name), re.MULTILINE) == RULERS


@pytest.mark.parametrize("name", SCRIPTS)
def test_algorithm_is_short(name):
    above = source(name).split("# ---- Run ----")[0]
    assert above.count("\n") <= LENGTHS.get(name, 320)


def test_training_of_ddpg_fits_one_screen():
    train = re.search(r"^def train.*?(?=\n\n\n)", source("ddpg"), re.DOTALL | re.MULTILINE)[0]
    assert train.count("\n") + 1 <= 60


def test_run_section_is_copied_into_all_scripts(tmp_path):
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "copy_run.py", tmp_path / "docs")
    for name in SCRIPTS:
        text = source(name)
        if name == "td3":
            text = text.replace("# ---- Run ----\n", "# ---- Run ----\n# edited\n")
        (tmp_path / f"{name}_continuous.py").write_text(text)
    (tmp_path / "scratch_continuous.py").write_text("from_scratch = True\n")
    command = [sys.executable, "docs/copy_run.py", "td3_continuous.py"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "scratch_continuous.py").read_text() == "from_scratch = True\n"
    for name in SCRIPTS:
        above, run = source(name).split("# ---- Run ----\n")
        copied = (tmp_path / f"{name}_continuous.py").read_text()
        assert copied == above + "# ---- Run ----\n# edited\n" + run


@pytest.mark.parametrize(("parent", "child", "ceiling"), diffs.PAIRS)
def test_siblings_differ_in_few_lines(parent, child, ceiling):
    old, new = (source(name).splitlines() for name in (parent, child))
    assert sum(j - i + m - k for i, j, k, m in diffs.hunks(old, new)) <= ceiling


def test_ladder_shows_the_present_diffs():
    text = (ROOT / "docs" / "ladder.md").read_text()
    for parent, child, _ in diffs.PAIRS:
        assert f"<!-- {parent} to {child} -->" in text
    assert text == diffs.ladder(text), "run: python docs/diffs.py"


def test_every_changed_line_below_the_arguments_is_on_a_rung():
    """Put together, the rung's lines make the parent's code into the child's."""
    old, new = (source(name).split("# ---- Networks ----\n")[1] for name in ("ddpg", "td3"))
    lines = diffs.rung("ddpg", "td3")
    gone = [line[1:] for line in lines if line[0] == "-"]
    come = [line[1:] for line in lines if line[0] == "+"]
    assert sorted(old.split("\n") + come) == sorted(new.split("\n") + gone)
    assert [line for line in lines if line[:5] == "@@ de"] == [
        "@@ def critic_loss @@",
        "@@ def train @@",
    ]


def test_rung_names_the_function_that_a_change_begins_in():
    lines = diffs.rung("a2c", "a3c")
    place = lines.index("+            obs = run.begin(nets=nets, optimizer=optimizer)")
    assert [line for line in lines[:place] if line[:4] == "@@ d"][-1] == "@@ def train @@"
