"""The scripts with their notes and the ladder's hunks with their captions, each in its place.

lecture/notes/<script>.md is Markdown. The heading of a note is the function that it stands beside,
its first fence the exact statement that it is about, the rest its equation and text:

- A ```python fence anchors a note. A child of the ladder inherits it where the function has the
  same statement, unless a note of its own covers these lines.
- A ```diff fence, some changed lines, anchors the caption of a hunk of the rung from the parent.
  If it begins in bold, the equations beside these lines are on the rung's second slide.

What does not fit is added to `faults`.
"""

import ast
import itertools
import re
import sys
import textwrap
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import diffs  # noqa: E402

NOTES = ROOT / "lecture" / "notes"
faults = []  # what ends the build


@dataclass
class Note:
    """A note or, with a `diff` fence, a caption."""

    file: str
    where: str
    statement: str
    text: str
    script: str  # whose notes it is in
    first: int = 0  # lines of its statement in the script at hand
    last: int = 0

    def __str__(self):
        start = self.statement.split("\n")[0].strip()
        return f"{self.file}: reread this note: {self.where}, `{start}`"


@dataclass(eq=False)
class Script:
    name: str
    parent: str | None
    lines: list[str]
    title: str = ""
    lead: str = ""
    notes: list[Note] = field(default_factory=list)
    captions: list[Note] = field(default_factory=list)

    def __post_init__(self):
        text = "\n".join(self.lines)
        lines = enumerate(self.lines, 1)
        self.rulers = {line.split()[2]: n for n, line in lines if "# ---- " in line}
        self.end = self.rulers["Run"] - 1
        tree = ast.parse(text)
        self.docstring = tree.body[0].lineno, tree.body[0].end_lineno
        self.command = re.search(r"^    (python .*)$", ast.get_docstring(tree, False), re.M)[1]
        self.functions = {}  # name: first and last line, above the Run ruler
        nodes = [(node, "") for node in tree.body]
        for node, prefix in nodes:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.lineno > self.end:
                continue
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            self.functions[prefix + node.name] = first, node.end_lineno
            if isinstance(node, ast.ClassDef):
                nodes += [(child, f"{node.name}.") for child in node.body]

    def find(self, where: str, statement: str) -> list[int]:
        """Return the lines of a function at which a statement starts, whatever its indentation."""
        first, last = self.functions.get(where, (1, 0))
        size = statement.count("\n") + 1
        windows = {n: self.lines[n - 1 : n - 1 + size] for n in range(first, last - size + 2)}
        return [n for n, w in windows.items() if textwrap.dedent("\n".join(w)) == statement]


# ---- Notes ----
def read_notes(script: Script) -> None:
    """Read the script's notes and captions from its file."""
    path = NOTES / f"{script.name}.md"
    if not path.exists():
        faults.append(f"lecture/notes/{path.name} is missing: {script.name}_continuous.py needs it")
        return
    head, *parts = re.split(r"^## ", path.read_text("utf-8"), flags=re.MULTILINE)
    title, script.lead = head.split("\n", 1)
    script.title = title.removeprefix("# ").strip()
    for part in parts:
        where, body = part.split("\n", 1)
        fence = re.search(r"^```(python|diff)\n(.*?)\n```\n", body, re.MULTILINE | re.DOTALL)
        if not fence:
            faults.append(f"lecture/notes/{path.name}: {where} has no statement")
            continue
        text = (body[: fence.start()] + body[fence.end() :]).strip()
        file = f"lecture/notes/{path.name}"
        note = Note(file, where.strip(), fence[2], text, script.name)
        (script.notes if fence[1] == "python" else script.captions).append(note)


def place_notes(script: Script, parent: Script | None) -> None:
    """Find the lines of the script's own notes and of those that it inherits; check that it has
    one beside each function, class and line that is tagged with its source."""
    for note in script.notes:
        found = script.find(note.where, note.statement)
        if len(found) != 1:
            why = "is not there" if not found else f"is there {len(found)} times"
            faults.append(f"{note} {why} in {script.name}_continuous.py")
        note.first = found[0] if found else 0
        note.last = note.first + note.statement.count("\n")
    own = {n for note in script.notes for n in range(note.first, note.last + 1)}
    for note in parent.notes if parent else []:
        found = script.find(note.where, note.statement)
        if len(found) == 1:
            last = found[0] + note.statement.count("\n")
            if own.isdisjoint(range(found[0], last + 1)):
                script.notes.append(replace(note, first=found[0], last=last))
    script.notes.sort(key=lambda note: note.first)

    covered = {n for note in script.notes for n in range(note.first, note.last + 1)}
    for name, (first, last) in script.functions.items():
        if "." not in name and covered.isdisjoint(range(first, last + 1)):
            faults.append(f"lecture/notes/{script.name}.md: no note beside {name}")
    for n, line in enumerate(script.lines[: script.end], 1):
        if re.search(r"# .*\[[A-Z][^]]* \d{4}", line):
            while script.lines[n - 1].lstrip().startswith("#"):
                n += 1
            if n not in covered:
                statement = script.lines[n - 1].strip()
                faults.append(f"lecture/notes/{script.name}.md: no note beside `{statement}`")


# ---- Ladder ----
@dataclass
class Hunk:
    """Neighbouring changes in one function: (old lines, new lines), 0-based ranges, in order."""

    head: str
    changes: list[tuple[range, range]]
    caption: Note | None = None


def find_hunks(old: Script, new: Script) -> list[Hunk]:
    """Return what differs from Config to the end of the loop, by function."""

    def head(script, at):
        heads = [
            n for n, (first, _) in script.functions.items() if "." not in n and first <= at + 1
        ]
        return heads[-1]

    start_old, start_new = old.rulers["Config"], new.rulers["Config"]
    a, b = old.lines[start_old : old.end], new.lines[start_new : new.end]
    changes = []
    for i, j, k, m in diffs.hunks(a, b):
        # what is new is cut where a function or class starts; the last part replaces what is gone
        cuts = [n for n in range(k + 1, m) if re.match(r"class|def", b[n])]
        for left, right in itertools.pairwise([k, *cuts, m]):
            gone = range(i + start_old, j + start_old) if right == m else range(0)
            come = range(left + start_new, right + start_new)
            if gone and come:
                names = [re.match(r"(?:class|def) (\w+)|", line)[1] for line in (a[i], b[left])]
                if None not in names and names[0] != names[1]:  # one function for another
                    changes.append((gone, come[:0]))
                    gone = range(0)
            changes.append((gone, come))
    found = []
    for gone, come in changes:
        name = head(old, gone.start) if gone else ""
        if come or name in new.functions:
            name = head(new, come.start)
        if found and found[-1].head == name:
            first, last = found[-1].changes[0], found[-1].changes[-1]
            gap = come.start - last[1].stop
            size = come.stop - first[1].start + gone.stop - first[0].start - gap
            if gap <= 1 or (gap <= 3 and size <= 12) or name == "Args":
                found[-1].changes.append((gone, come))
                continue
        found.append(Hunk(name, [(gone, come)]))
    return found


def place_captions(child: Script, parent: Script, hunks: list[Hunk]) -> None:
    """Give each hunk the caption that quotes some of its lines."""
    for caption in child.captions:
        matching = []
        for hunk in hunks:
            lines = {"-" + parent.lines[n].strip() for gone, _ in hunk.changes for n in gone}
            lines |= {"+" + child.lines[n].strip() for _, come in hunk.changes for n in come}
            quoted = [line[0] + line[1:].strip() for line in caption.statement.split("\n")]
            if hunk.head == caption.where and lines.issuperset(quoted):
                matching.append(hunk)
        if len(matching) != 1 or matching[0].caption:
            faults.append(
                f"{caption} quotes {len(matching)} hunks of {parent.name} to {child.name}"
            )
        else:
            matching[0].caption = caption
    for hunk in hunks:
        if not hunk.caption:
            gone, come = hunk.changes[0]
            start = (child.lines[come[0]] if come else parent.lines[gone[0]]).strip()
            where = f"{parent.name} to {child.name}, {hunk.head}, `{'+' if come else '-'}{start}`"
            faults.append(f"lecture/notes/{child.name}.md: a hunk has no caption: {where}")


def load():
    """Return scripts in the ladder's order and hunks of its rungs, all notes in their places."""
    parents = {child: parent for parent, child, _ in diffs.PAIRS}

    def descend(name):
        return [name] + [n for p, child, _ in diffs.PAIRS if p == name for n in descend(child)]

    roots = sorted(row["script"] for row in diffs.ROWS if not row["parent"])
    scripts, rungs = {}, {}
    for name in itertools.chain(*map(descend, roots)):
        lines = diffs.source(name).rstrip("\n").split("\n")
        scripts[name] = script = Script(name, parents.get(name), lines)
        read_notes(script)
        parent = scripts.get(script.parent)
        place_notes(script, parent)
        if parent:
            rungs[f"{parent.name}-{name}"] = hunks = find_hunks(parent, script)
            place_captions(script, parent, hunks)
    return scripts, rungs
