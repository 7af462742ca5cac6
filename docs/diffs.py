"""Write the diffs of sibling scripts into the pages that show them: python docs/diffs.py.

A child's page shows the whole diff, docs/ladder.md what each rung changes below the arguments.
"""

import difflib
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
# parent, child, most lines that may differ (added + removed)
PAIRS = [
    ("ddpg", "td3", 45),
    ("ddpg", "svg0", 55),
    ("svg0", "ac_reparam", 70),
    ("svg0", "sac", 88),
    ("ddpg", "d4pg", 110),
    ("ddpg", "naf", 100),
    ("ppo", "a2c", 67),
    ("a2c", "reinforce", 84),
    ("a2c", "a3c", 110),
]


def source(name: str) -> str:
    return (ROOT / f"{name}_continuous.py").read_text()


def hunks(old: list[str], new: list[str]):
    """Yield, for each place that differs, (i, j, k, m): old[i:j] became new[k:m]."""
    # `difflib.unified_diff` ignores frequent lines (`autojunk`), which makes a longer diff
    for tag, *place in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            yield place


def diff(parent: str, child: str) -> list[str]:
    """Return the unified diff, without context, of two scripts given by algorithm."""
    old, new = source(parent).splitlines(), source(child).splitlines()
    lines = []
    for i, j, k, m in hunks(old, new):
        lines.append(f"@@ -{i + 1},{j - i} +{k + 1},{m - k} @@")
        lines += [f"-{line}" for line in old[i:j]] + [f"+{line}" for line in new[k:m]]
    return lines


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


def block(lines: list[str]) -> str:
    return "\n".join(["```diff", *lines, "```"])


def pages() -> dict[Path, str]:
    """Return each page that shows a diff, with the present ones between ```diff and ```."""
    docs, anything = ROOT / "docs", r"```diff\n.*?^```"
    renewed = {}
    for parent, child, _ in PAIRS:
        page, new = docs / f"{child}.md", block(diff(parent, child))
        flags = re.DOTALL | re.MULTILINE
        renewed[page] = re.sub(anything, lambda _, new=new: new, page.read_text(), flags=flags)
    ladder = docs / "ladder.md"
    renewed[ladder] = re.sub(
        rf"(<!-- (\w+) to (\w+) -->\n){anything}",
        lambda found: found[1] + block(rung(found[2], found[3])),
        ladder.read_text(),
        flags=re.DOTALL | re.MULTILINE,
    )
    return renewed


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text)
