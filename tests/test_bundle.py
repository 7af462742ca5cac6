"""The students' folder: no solution is in it, and it is enough to do and grade all blanks."""

import ast
import itertools
import json
import py_compile
import re
import shutil
import subprocess
import sys

import bundle
import pytest
from conftest import ROOT
from test_exercises import changed, command, exercise, grade, source, written, wrong

NOTEBOOK = ROOT / "lecture" / "group_problems.ipynb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle, as the README's command writes it."""
    path = tmp_path_factory.mktemp("bundle") / "homework"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bundle.py", str(path)])
        bundle.main()
    return path


# ---- No solution ----
def squeezed(text):
    return re.sub(r"[\s#\\]", "", text).replace('"', "'")


def solutions():
    """Return what the blanks had: statements and longer expressions, and bytecode."""
    found = set()
    for algorithm, names in exercise.EXERCISES.items():
        tree = ast.parse(source(algorithm))
        for name in names:
            body, start, stop = exercise.find(tree, name)
            nodes = list(itertools.chain(*map(ast.walk, body[start:stop])))
            found |= {ast.unparse(x) for x in nodes if isinstance(x, ast.Assign | ast.Return)}
            small = [x for x in nodes if isinstance(x, ast.Call | ast.BinOp | ast.Compare)]
            found |= {text for x in small if len(text := ast.unparse(x)) > 24}
            wanted = name.split(".")[-1] if name != "act" else "train"
            codes = [compile(tree, "", "exec")]
            for code in codes:
                codes += [const for const in code.co_consts if hasattr(const, "co_code")]
            found |= {code.co_code for code in codes if code.co_name == wanted}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:  # the answers to the group problems
        lines = "".join(cell["source"]).splitlines()
        given = "## Problem", "from ", "    def reset(self, "
        found |= {line for line in lines if len(line) > 40 and not line.startswith(given)}
    return {squeezed(text) if isinstance(text, str) else text for text in found}


def leaks(folder):
    """Return the solutions that are in the files of a folder, with the files' names."""
    known, found = solutions(), []
    for path in folder.rglob("*.*"):
        content = path.read_bytes()
        text = squeezed(content.decode(errors="replace"))
        found += [(path.name, x) for x in known if x in (text if isinstance(x, str) else content)]
    return found


def test_no_solution_is_in_it(folder):
    assert leaks(folder) == []
    suffixes = {path.suffix for path in folder.iterdir()}
    assert suffixes <= {".py", ".md", ".txt", ".csv", ".json", ".ipynb"}
    for path in folder.iterdir():
        path.read_text(encoding="utf-8")  # and nothing that is no text


def test_search_finds_solutions(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with (copy / "measure.py").open("a") as file:
        file.write(
            "#  next_q_value =data.rewards.flatten() + not_done *\n# args.gamma*qf1_next_target"
        )
    py_compile.compile(str(ROOT / "sac_continuous.py"), copy / "grade.cpython-311.pyc")
    with (copy / "README.md").open("a") as file:
        file.write(
            "the list has bins^dimensions entries. DDPG climbs Q with a network: that works in "
        )
        file.write("any number of dimensions, but it")
    assert {name for name, _ in leaks(copy)} == {"measure.py", "grade.cpython-311.pyc", "README.md"}


def test_pages_that_say_what_they_give_away():
    """Of the pages that a student may read only those marked as code have the code of a blank."""
    known = [text for text in solutions() if isinstance(text, str) and len(text) > 24]
    for name in "ddpg", "td3", "ac_reparam", "sac", "ppo":
        page = squeezed((ROOT / "docs" / f"{name}.md").read_text())
        assert [text for text in known if text in page] == []
    ladder = squeezed((ROOT / "docs" / "ladder.md").read_text())
    assert any(text in ladder for text in known)


# ---- All that is needed ----
def alone(folder, *words):
    """Run Python in a folder, without this repository; return its exit code and what it prints."""
    words = [sys.executable, *words]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env={"PATH": ""})
    assert done.stderr == ""
    return done.returncode, done.stdout


def filled_in(folder, algorithm, **others):
    """Return an exercise of the folder, each blank as the script has it or as given."""
    text, real = (folder / f"my_{algorithm}.py").read_text(), source(algorithm)
    for name in exercise.EXERCISES[algorithm]:
        body, start, stop = exercise.find(ast.parse(real), name)
        lines = real.splitlines()[body[start].lineno - 1 : body[stop - 1].end_lineno]
        text = written(text, name, others.get(name.replace(".", "_"), "\n".join(lines)))
    return text


def test_student_does_and_grades_all_blanks(folder, tmp_path):
    folder = shutil.copytree(folder, tmp_path / "own")
    for algorithm in exercise.EXERCISES:
        (folder / f"done_{algorithm}.py").write_text(filled_in(folder, algorithm))
    code = "import pathlib, evaluate, grade\ngrade.torch.set_num_threads(1)\n"
    code += "for name in grade.EXERCISES:\n"
    code += "    tree, name = grade.parse(pathlib.Path(f'done_{name}.py'))\n"
    code += "    print(name, *[grade.check(tree, name, f) for f in grade.EXERCISES[name]])\n"
    lines = [" ".join([a, *["None"] * len(names)]) for a, names in exercise.EXERCISES.items()]
    assert alone(folder, "-c", code) == (0, "\n".join(lines) + "\n")
    # as typed; what needs a function that is wrong waits for it
    text = filled_in(folder, "sac", Actor_distribution="return Normal(x, 1)")
    (folder / "my_sac.py").write_text(text)
    code, out = alone(folder, "grade.py", "my_sac.py")
    found = dict(line.split(maxsplit=1) for line in out.splitlines() if line[:1].isalpha())
    waits, passed = "waits for Actor.distribution", "passed"
    assert code == 1
    assert found | {"QNetwork.forward": passed, "polyak_update": passed} == found
    assert found["Actor.distribution"] == "wrong"
    assert found["Actor.sample"] == found["Actor.forward"] == waits
    assert found["critic_loss"] == found["act"] == "waits for Actor.sample"


def test_hints_are_those_of_the_repository(folder, tmp_path):
    """From the numbers in expected.json."""
    folder = shutil.copytree(folder, tmp_path / "own")
    text = changed("ddpg", ("1 - data.dones.flatten()", "1"))
    report = grade.report("critic_loss", wrong("ddpg", text, ["critic_loss"])["critic_loss"])
    (folder / "my_ddpg.py").write_text(text)
    code, out = alone(folder, "grade.py", "my_ddpg.py")
    assert code == 1
    assert report in out
    readme = (folder / "README.md").read_text()
    assert report in readme
    for algorithm, names in exercise.EXERCISES.items():
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| `my_{algorithm}.py`")]
        assert all(f"`{name}`" in row for name in names) or "the same" in row


def test_group_problems_are_stated_and_drawn(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = json.loads((folder / "group_problems.ipynb").read_text())["cells"]
    stated = [cell["source"] for cell in cells if cell["source"].startswith("## Problem ")]
    answered = NOTEBOOK.read_text()
    assert [text[11] for text in stated] == list("1234567")
    assert all(text in answered for text in stated)
    assert cells[-1]["source"].startswith("# Questions on the homework\n")
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(cell["source"], names)
    speeds = (ROOT / "docs" / "performance.md").read_text()
    for name, curve in names["curves"].groupby("name"):
        for speed in (curve.step / curve.minutes / 60).round().unique():
            assert f"\n| {name.upper()} | {speed:.0f} |" in speeds
    lines = [len(axis.lines) for axis in names["axes"].flat]  # of the last figure
    assert lines == [8, 8]  # four variants, two seeds
    names["plt"].close("all")


def test_folder_that_is_there_is_left_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundle, "files", lambda: {"README.md": "new"})
    (tmp_path / "README.md").write_text("mine")
    code, out, err = command(bundle, monkeypatch, capsys, tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert (tmp_path / "README.md").read_text() == "mine"
