"""Write a folder with all that students need for the exercises and group problems, and no answer.

    python lecture/bundle.py homework

It has a blank file for each exercise, the grader, which compares with numbers in place of the real
scripts, the group problems with their figures and data, and a README.
"""

import argparse
import json
import re
from pathlib import Path

import pandas as pd
from exercise import EXERCISES, ROOT, blank, fail, script_path
from grade import expected, record

COPIED = {
    "README.md": "lecture/homework.md",
    "requirements.txt": "requirements.txt",
    "runs.csv": "lecture/data/runs.csv",
    "evaluate.py": "evaluate.py",
    **{f"{name}.py": f"lecture/{name}.py" for name in ("exercise", "grade", "measure")},
}
SETUP = '''\
import matplotlib.pyplot as plt
import pandas as pd


def draw(axis, runs, x, y, title):
    """Draw a line for each seed, in a colour for each name."""
    for i, (name, group) in enumerate(runs.groupby("name")):
        for seed, run in group.groupby("seed"):
            label = name if seed == group.seed.min() else None
            axis.plot(run[x], run[y], f"C{i}", label=label)
    axis.set(xlabel=x, ylabel=y, title=title)
    axis.legend()


runs = pd.read_csv("runs.csv")
runs["Q minus return"] = runs.q - runs.mc
curves = pd.read_csv("curves.csv")'''
FIGURES = {  # problem: the cell that draws what is known of it
    1: """\
# Two seeds each; DQN has an output for each of 3, 9 or 33 bins. All have layers of 64 units.
names = ["ddpg", "dqn 3", "dqn 9", "dqn 33"]
pendulum = runs[(runs.env_id == "Pendulum-v1") & runs.name.isin(names)]
draw(plt.gca(), pendulum, "step", "return", "Pendulum-v1")""",
    2: """\
# Minutes are steps divided by what one idle core makes a second: 195 (DDPG), 1537 (PPO).
figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
for row, (env_id, group) in zip(axes, curves.groupby("env_id")):
    draw(row[0], group[group.step <= 300_000], "step", "return", env_id)
    draw(row[1], group[group.minutes <= 20], "minutes", "return", env_id)""",
    6: """\
# DDPG has τ = 0.005, "tau 0.05" and "tau 1" another one for both copies; "no target actor" has
# μ(s') in place of μ'(s'), and Q' as before. Q is that of the actor's own actions, the return
# the discounted one that then follows.
names = ["ddpg", "no target actor", "tau 0.05", "tau 1"]
pendulum = runs[(runs.env_id == "Pendulum-v1") & runs.name.isin(names)]
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
draw(axes[0], pendulum, "step", "return", "Pendulum-v1")
draw(axes[1], pendulum[pendulum.step > 3_000], "step", "Q minus return", "Pendulum-v1")""",
}

SPEED = {"ddpg": 195, "ppo": 1537}  # steps a second on an idle machine: docs/performance.md


def questions() -> dict:
    """Return a notebook with the group problems as they are stated, and their figures."""
    cells = [("markdown", "# The seven group problems"), ("code", SETUP)]
    answered = json.loads((ROOT / "lecture/group_problems.ipynb").read_text(encoding="utf-8"))
    for cell in answered["cells"]:
        if problem := re.search(r"^## Problem (\d)\..*", "".join(cell["source"]), re.MULTILINE):
            figure = FIGURES.get(int(problem[1]))
            cells += [("markdown", problem[0]), *[("code", figure)] * (figure is not None)]
            cells += [("markdown", "*Your answer:*")]
    homework = json.loads((ROOT / "lecture/actor_critic.ipynb").read_text(encoding="utf-8"))
    asked = ["".join(cell["source"]) for cell in homework["cells"] if cell["id"] == "questions"]
    cells += [("markdown", asked[0].replace("## 9. To think about", "# Questions on the homework"))]
    own = {"code": {"execution_count": None, "outputs": []}, "markdown": {}}
    made = [
        {"cell_type": kind, "id": f"cell-{i}", "metadata": {}, "source": text} | own[kind]
        for i, (kind, text) in enumerate(cells)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return {"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def files() -> dict[str, str]:
    """Return the name and the text of each file of a bundle."""
    texts = {name: (ROOT / path).read_text(encoding="utf-8") for name, path in COPIED.items()}
    for name, blanks in EXERCISES.items():
        texts[f"my_{name}.py"] = blank(script_path(name).read_text(encoding="utf-8"), blanks)
    known = {}
    for name, blanks in EXERCISES.items():
        known[name] = record(name) | {"cases": {own: expected(name, own) for own in blanks}}
    texts["expected.json"] = json.dumps(known)
    texts["group_problems.ipynb"] = json.dumps(questions(), indent=1, ensure_ascii=False)
    curves = pd.read_csv(ROOT / "results/curves.csv", keep_default_na=False)
    which = {"script": ["ddpg", "ppo"], "env_id": ["HalfCheetah-v4", "Hopper-v4"], "variant": [""]}
    for column, values in which.items():
        curves = curves[curves[column].isin(values)]
    curves["minutes"] = curves.step / curves.script.map(SPEED) / 60
    curves = curves.rename(columns={"script": "name", "eval/episodic_return": "return"})
    columns = ["env_id", "name", "seed", "step", "minutes", "return"]
    texts["curves.csv"] = curves[columns].to_csv(index=False)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.error = fail
    folder = parser.parse_args().folder
    texts = files()
    try:
        folder.mkdir()
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"cannot write {error.filename}: {error.strerror}")
    print(f"{folder}: {', '.join(texts)}")


if __name__ == "__main__":
    main()
