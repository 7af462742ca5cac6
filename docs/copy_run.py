"""Copy a script's Run section into all others: python docs/copy_run.py ddpg_continuous.py."""

import argparse
from pathlib import Path

ROOT = Path(__file__).parent.parent
RULER = "# ---- Run ----\n"


def copy_run(edited: Path, scripts: list[Path]) -> None:
    """Replace what follows the Run ruler in each of `scripts` by what follows it in `edited`."""
    section = edited.read_text("utf-8").split(RULER)[1]
    for script in scripts:
        own, ruler, _ = script.read_text("utf-8").partition(RULER)
        if ruler:  # a script written from scratch may have none
            script.write_text(own + ruler + section, "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("edited", type=Path, help="the script whose Run section the others get")
    copy_run(parser.parse_args().edited, sorted(ROOT.glob("*_continuous.py")))
