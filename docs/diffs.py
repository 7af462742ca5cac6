"""Write the diffs of sibling scripts into docs/ladder.md: python docs/diffs.py.

It shows what each rung changes below the arguments.
"""

import csv
import difflib
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
with open(ROOT / "docs" / "algorithms.csv", encoding="utf-8") as file:
    ROWS = list(csv.DictReader(file))
# parent, child, most lines that may differ (added + removed)
PAIRS = [(row["parent"], row["script"], int(row["ceiling"])) for row in ROWS if row["parent"]]


def source(name: str) -> str:
    return (ROOT / f"{name}_continuous.py").read_text("utf-8")


def hunks(old: list[str], new: list[str]):
    """Yield, for each place that differs, (i, j, k, m): old[i:j] became new[k:m]."""
    # `difflib.unified_diff` ignores frequent lines (`autojunk`), which makes a longer diff
    for tag, *place in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            yield place


def rung(parent: str, child: str) -> list[str]:
    """Return the differences in networks, losses and loop, under the class or function's name."""
    cut = r"# ---- Networks ----\n(.*)\n# ---- Run ----"
    old, new = (re.search(cut, source(name), re.DOTALL)[1].split("\n") for name in (parent, child))
    lines, last = [], None
    for i, j, k, m in hunks(old, new):
        first = next((n for n in range(k, m) if new[n]), k)
        before = new[: first + 1] if m > k else old[: i + 1]
        heads = [line for line in before if re.match(r"(class|def) ", line)]
        head = re.match(r"(class|def) \w+", heads[-1])[0]
        lines += [f"@@ {head} @@"] if head != last else ["@@"]
        lines += [f"-{line}" for line in old[i:j]] + [f"+{line}" for line in new[k:m]]
        last = head
    return lines


def ladder(text: str) -> str:
    """Return the page with the present diffs between ```diff and ```."""

    def renewed(found):
        return "\n".join([found[1] + "```diff", *rung(found[2], found[3]), "```"])

    pattern = r"(<!-- (\w+) to (\w+) -->\n)```diff\n.*?^```"
    return re.sub(pattern, renewed, text, flags=re.DOTALL | re.MULTILINE)


if __name__ == "__main__":
    page = ROOT / "docs" / "ladder.md"
    page.write_text(ladder(page.read_text("utf-8")), "utf-8")
