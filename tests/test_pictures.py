"""Pictures show today's code and data. Where one is old: python docs/pictures.py"""

import json
import shutil

import pictures
import pytest
from conftest import ROOT

OTHERS = {"results/curves.png", "results/comparison.png"}  # drawn anew by tests/test_results.py


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_picture_is_not_old(name):
    assert json.loads(pictures.DIGESTS.read_text())[name] == pictures.digests()[name]


def test_every_picture_is_made_here():
    found = {f"{path.parent.name}/{path.name}" for path in ROOT.glob("[dr]*/*.png")}
    assert found == {name for name in pictures.PICTURES if name.endswith("png")} | OTHERS


CHANGES = [
    ("ddpg_continuous.py", "F.mse_loss", "F.l1_loss", ["docs/site.png", "docs/tensorboard.png"]),
    ("ppo_continuous.py", "ratio.clamp", "ratio.clip", ["docs/first_run.png"]),
    ("lecture/site/style.css", "0.84rem", "0.8rem", ["docs/site.png"]),
    ("results/q_values.csv", "\ntd3,,", "\nsac,,", ["results/overestimation.png"]),
    ("results/apart.csv", "\nddpg,,", "\nsvg0,,", ["results/longer.png"]),
]


@pytest.mark.parametrize(("file", "old", "new", "stale"), CHANGES)
def test_change_makes_old_what_shows_it(tmp_path, monkeypatch, file, old, new, stale):
    for name in "lecture", "policies":
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "results").mkdir()
    for path in [*ROOT.glob("*_continuous.py"), *ROOT.glob("results/*.csv")]:
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    before, text = pictures.digests(), (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    monkeypatch.setattr(pictures, "ROOT", tmp_path)
    assert [name for name, digest in pictures.digests().items() if digest != before[name]] == stale
