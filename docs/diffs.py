"""Write the diff of each pair of sibling scripts into the child's page: python docs/diffs.py."""

import difflib
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
# parent, child, most lines that may differ (added + removed)
PAIRS = [
    ("ddpg", "td3", 45),
    ("ddpg", "ac_reparam", 90),
]


def diff(parent: str, child: str) -> list[str]:
    """Return the unified diff, without context, of two scripts given by algorithm."""
    sources = [(ROOT / f"{name}_continuous.py").read_text() for name in (parent, child)]
    old, new = (source.splitlines() for source in sources)
    lines = []
    # `difflib.unified_diff` ignores frequent lines (`autojunk`), which makes a longer diff
    for tag, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            lines.append(f"@@ -{i + 1},{j - i} +{k + 1},{m - k} @@")
            lines += [f"-{line}" for line in old[i:j]] + [f"+{line}" for line in new[k:m]]
    return lines


def page_with_diff(parent: str, child: str) -> str:
    """Return the child's page with the present diff between ```diff and ```."""
    page = (ROOT / "docs" / f"{child}.md").read_text()
    block = "\n".join(["```diff", *diff(parent, child), "```"])
    return re.sub(r"```diff\n.*?^```", lambda _: block, page, flags=re.DOTALL | re.MULTILINE)


if __name__ == "__main__":
    for parent, child, _ in PAIRS:
        (ROOT / "docs" / f"{child}.md").write_text(page_with_diff(parent, child))
