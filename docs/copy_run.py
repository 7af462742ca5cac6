"""Copy a script's Run section into all others: python docs/copy_run.py ddpg_continuous.py."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RULER = "# ---- Run ----\n"


def copy_run(edited: Path, scripts: list[Path]) -> None:
    """Replace what follows the Run ruler in each of `scripts` by what follows it in `edited`."""
    section = edited.read_text().split(RULER)[1]
    for script in scripts:
        own, ruler, _ = script.read_text().partition(RULER)
        if ruler:  # a script written from scratch may have none
            script.write_text(own + RULER + section)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    copy_run(Path(sys.argv[1]), sorted(ROOT.glob("*_continuous.py")))
