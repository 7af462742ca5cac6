"""Pictures show today's code and data. Where one is old: python docs/pictures.py"""

import importlib.util
import json
import shutil

import pytest
from conftest import ROOT

pytest.importorskip("playwright.sync_api")
spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
pictures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pictures)

# drawn anew by tests/test_results.py; of runs that are gone
OTHERS = {"results/curves.png", "results/comparison.png", "results/overestimation.png"}


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
    ("results/curves.csv", "\ntd3,,Hopper-v4,,1,", "\ntd3,,Hopper-v4,,9,", ["results/hopper.png"]),
    ("results/curves.csv", "\na2c,,Hopper-v4,,1,", "\na2c,,Hopper-v4,,9,", []),
]


@pytest.mark.parametrize(("file", "old", "new", "stale"), CHANGES)
def test_change_makes_old_what_shows_it(tmp_path, monkeypatch, file, old, new, stale):
    for name in "lecture", "policies":
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "results").mkdir()
    for path in [*ROOT.glob("*_continuous.py"), ROOT / "results" / "curves.csv"]:
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    before, text = pictures.digests(), (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    monkeypatch.setattr(pictures, "ROOT", tmp_path)
    assert [name for name, digest in pictures.digests().items() if digest != before[name]] == stale
