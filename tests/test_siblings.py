"""The diff is the lecture: siblings share their plumbing to the letter and differ in few lines."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("diffs", ROOT / "docs" / "diffs.py")
diffs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(diffs)

# A further script adds its name here and a row to PAIRS in docs/diffs.py.
FAMILIES = {"ddpg": ["td3", "ac_reparam"], "ppo": []}
# parts that an algorithm has to change
OWN = {"ac_reparam": ["imports"]}
# part of a script: a pattern that finds it
SHARED = {
    "imports": r"^import json$.*?(?=^# ---- Config)",
    "head of Args": r"^# ---- Config ----$.*?(?=^    env_id)",
    "Environment": r"^# ---- Environment ----$.*?(?=^# ---- )",
    "Evaluation": r"^# ---- Evaluation ----$.*?(?=^# ---- )",
    "Checkpoint": r"^# ---- Checkpoint ----$.*?(?=^# ---- )",
    "Training: helpers": r"^# ---- Training ----$.*?(?=^def train)",
    "Losses: backward": r"^def backward.*?(?=^def )",
    "Training: set-up": r"^def train.*?(?=^    nets = )",
    "Training: run": r"^    spaces = .*?(?=^        # Act$)",
    "Training: step and store": r"^        # Step$.*?^        # Learn$",
    "Training: updates": r"^            data = rb.sample.*?(?=^        # Log$)",
    "Training: log to end": r"^        # Log$.*?\Z",
}
# what does not depend on whether the data are replayed: the same in every script
EVERYWHERE = {
    "header": r"\A# /// script.*?^# ///$",
    "head of Args": SHARED["head of Args"],
    "Environment": SHARED["Environment"],
    "Evaluation": SHARED["Evaluation"],
    "Checkpoint: save": r"^def save.*?(?=^# ---- )",
    "Training: helpers": SHARED["Training: helpers"],
    "Training: end": r"^    for signum, handler in .*?\Z",
}
RULERS = ["Config", "Environment", "Networks", "Losses", "Evaluation", "Checkpoint", "Training"]
SIBLINGS = [(parent, child) for parent, children in FAMILIES.items() for child in children]
SCRIPTS = [name for parent, children in FAMILIES.items() for name in (parent, *children)]


def source(name: str) -> str:
    return (ROOT / f"{name}_continuous.py").read_text()


def shared(text: str, part: str) -> str:
    found = re.findall((SHARED | EVERYWHERE)[part], text, re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"{part}: found {len(found)} times"
    return found[0]


def test_every_script_is_in_a_family():
    assert sorted(SCRIPTS) == sorted(
        path.name.removesuffix("_continuous.py") for path in ROOT.glob("*_continuous.py")
    )


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("part", EVERYWHERE)
def test_part_is_the_same_in_every_script(name, part):
    assert shared(source(name), part) == shared(source("ddpg"), part)


@pytest.mark.parametrize("name", SCRIPTS)
def test_rulers_are_the_same_words_in_the_same_order(name):
    assert re.findall(r"^# ---- (\w+) ----$", source(name), re.MULTILINE) == RULERS


@pytest.mark.parametrize(
    ("parent", "child", "part"),
    [(*pair, part) for pair in SIBLINGS for part in SHARED if part not in OWN.get(pair[1], [])],
)
def test_shared_part_is_identical(parent, child, part):
    assert shared(source(child), part) == shared(source(parent), part)


@pytest.mark.parametrize("part", SHARED | EVERYWHERE)
def test_one_changed_character_is_noticed(part):
    text = source("ddpg")
    here = shared(text, part)
    changed = here[:-30] + chr(ord(here[-30]) ^ 1) + here[-29:]
    assert shared(text.replace(here, changed), part) != here


@pytest.mark.parametrize(("parent", "child", "ceiling"), diffs.PAIRS)
def test_siblings_differ_in_few_lines(parent, child, ceiling):
    changed = [line for line in diffs.diff(parent, child) if line[0] in "+-"]
    assert len(changed) <= ceiling


@pytest.mark.parametrize(("parent", "child", "ceiling"), diffs.PAIRS)
def test_page_shows_the_present_diff(parent, child, ceiling):
    page = (ROOT / "docs" / f"{child}.md").read_text()
    assert "```diff" in page
    assert page == diffs.page_with_diff(parent, child), "run: python docs/diffs.py"
