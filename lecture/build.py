"""Build the lecture's site from the live scripts: python lecture/build.py

Reads the scripts, their notes in lecture/notes/, docs/ladder.md, results/ and the tests; writes
site/, which opens from disk without a network. Where the notes no longer fit the code nothing is
written: each fault gets a line, the exit code is 2.

lecture/notes/<script>.md is Markdown. The heading of a note is the function that it stands beside,
its first fence the exact statement that it is about, the rest its equation and text:

- A ```python fence anchors a note. A child of the ladder inherits it where the function has the
  same statement, unless a note of its own covers these lines.
- A ```diff fence, some changed lines, anchors the caption of a hunk of the rung from the parent.
- Links: code:td3/critic_loss, rung:ddpg-td3, test:test_losses/check_polyak.
"""

import ast
import csv
import functools
import importlib.util
import itertools
import re
import shutil
import sys
import textwrap
from collections import defaultdict
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from html import escape
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from py_mini_racer import JSEvalException, MiniRacer
from pygments.lexers import PythonLexer
from pygments.token import STANDARD_TYPES

ROOT = Path(__file__).parent.parent
LECTURE = ROOT / "lecture"
VIDEOS = "*.mp4", "*.webp", "*.gif"
faults = []  # what ends the build


@dataclass
class Note:
    """A note or, with a `diff` fence, a caption."""

    file: str
    where: str
    kind: str
    statement: str
    text: str
    script: str  # whose notes it is in
    first: int = 0  # lines of its statement in the script at hand
    last: int = 0

    def __str__(self):
        start = self.statement.split("\n")[0].strip()
        return f"lecture/notes/{self.file}: reread this note: {self.where}, `{start}`"


@dataclass
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
        self.rulers = {line.split()[2]: n for n, line in numbered(self.lines) if "# ---- " in line}
        self.end = self.rulers["Run"] - 1
        above, run = self.lines[: self.end], self.lines[self.end :]
        self.rows = highlight("\n".join(above)) + highlight("\n".join(run))
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


def numbered(lines):
    return enumerate(lines, 1)


@functools.cache
def highlight(text: str) -> list[list[tuple[str, str]]]:
    """Return Python's tokens by line: (CSS class, text)."""
    rows = [[]]
    for kind, value in PythonLexer(stripnl=False, ensurenl=False).get_tokens(text):
        while kind not in STANDARD_TYPES:
            kind = kind.parent
        classes = ("nf", "nc", "nd", "ow", "k", "c", "s", "m")
        css = next((c for c in classes if STANDARD_TYPES[kind].startswith(c)), "")
        for n, piece in enumerate(value.split("\n")):
            if n:
                rows.append([])
            rows[-1].append((css, piece))
    return rows


def line_html(row, cut=0, marks=(), css="", number=None) -> str:
    """Return a line of code, `cut` spaces less indented, the characters in `marks` marked."""
    text = "".join(piece for _, piece in row)
    indent = len(text) - len(text.lstrip())
    out, at = f'<span class="i">{" " * max(indent - cut, 0)}</span>', 0
    for kind, piece in row:
        for marked, group in itertools.groupby(enumerate(piece, at), lambda c: c[0] in marks):
            part = escape("".join(char for n, char in group if n >= indent))
            part = f'<span class="{kind}">{part}</span>' if kind and part else part
            out += f"<mark>{part}</mark>" if marked and part else part
        at += len(piece)
    about = f' id="L{number}" data-n="{number}"' if number else ""
    return f'<span class="line {css}" style="--i:{max(indent - cut, 0)}"{about}>{out or " "}</span>'


def code_html(script: Script, first: int, last: int, hits=()) -> str:
    """Return lines of a script, those that notes are about in `hits`."""
    lines = range(first, last + 1)
    parts = [
        line_html(script.rows[n - 1], css="hit" if n in hits else "", number=n) for n in lines
    ]
    return f'<pre class="code"><code>{"".join(parts)}</code></pre>'


# ---- Notes ----
def read_notes(script: Script) -> None:
    """Read the script's notes and captions from its file."""
    path = LECTURE / "notes" / f"{script.name}.md"
    if not path.exists():
        faults.append(f"lecture/notes/{path.name} is missing: {script.name}_continuous.py needs it")
        return
    head, *parts = re.split(r"^## ", path.read_text(), flags=re.MULTILINE)
    title, script.lead = head.split("\n", 1)
    script.title = title.removeprefix("# ").strip()
    for part in parts:
        where, body = part.split("\n", 1)
        fence = re.search(r"^```(python|diff)\n(.*?)\n```\n", body, re.MULTILINE | re.DOTALL)
        if not fence:
            faults.append(f"lecture/notes/{path.name}: {where} has no statement")
            continue
        text = (body[: fence.start()] + body[fence.end() :]).strip()
        note = Note(path.name, where.strip(), fence[1], fence[2], text, script.name)
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
    for n, line in numbered(script.lines[: script.end]):
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


def find_hunks(old: Script, new: Script, diffs) -> list[Hunk]:
    """Return what differs from Config to the end of the loop, by function."""

    def head(script, at):
        heads = [n for n, (first, _) in script.functions.items() if "." not in n and first <= at + 1]
        return heads[-1]

    start_old, start_new = old.rulers["Config"], new.rulers["Config"]
    a, b = old.lines[start_old : old.end], new.lines[start_new : new.end]
    changes = []
    for i, j, k, m in diffs.hunks(a, b):
        # what is inserted is cut where a function or class starts
        cuts = [n for n in range(k + 1, m) if re.match(r"class|def", b[n])] if i == j else []
        for left, right in itertools.pairwise([k, *cuts, m]):
            gone = range(i + start_old, j + start_old)
            changes.append((gone, range(left + start_new, right + start_new)))
    found = []
    for gone, come in changes:
        name = head(new, come.start) if come else head(old, gone.start)
        last = found[-1].changes[-1] if found and found[-1].head == name else None
        gap = max(come.start - last[1].stop, gone.start - last[0].stop) if last else 0
        if last and (gap <= 3 or name == "Args"):
            found[-1].changes.append((gone, come))
        else:
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
            faults.append(f"{caption} quotes {len(matching)} hunks of {parent.name} to {child.name}")
        else:
            matching[0].caption = caption
    for hunk in hunks:
        if not hunk.caption:
            gone, come = hunk.changes[0]
            start = (child.lines[come[0]] if come else parent.lines[gone[0]]).strip()
            where = f"{parent.name} to {child.name}, {hunk.head}, `{'+' if come else '-'}{start}`"
            faults.append(f"lecture/notes/{child.name}.md: a hunk has no caption: {where}")


def changed_characters(old: list[str], new: list[str]) -> list[dict[int, set[int]]]:
    """Return which characters of which lines differ; none if hardly anything is the same."""
    words = [re.findall(r"\w+|\s|[^\w\s]", "\n".join(lines)) for lines in (old, new)]
    matcher = SequenceMatcher(None, *words, autojunk=False)
    marks = [defaultdict(set), defaultdict(set)]
    if matcher.ratio() < 0.4:
        return marks
    for tag, *place in matcher.get_opcodes():
        for side, (first, last) in enumerate([place[:2], place[2:]]):
            before = "".join(words[side][:first])
            line, column = before.count("\n"), len(before) - before.rfind("\n") - 1
            for char in "".join(words[side][first:last]) if tag != "equal" else "":
                if not char.isspace():
                    marks[side][line].add(column)
                line, column = (line + 1, 0) if char == "\n" else (line, column + 1)
    return marks


def hunk_page(hunk: Hunk, old: Script, new: Script) -> dict:
    """Return a hunk for its template: the lines around it once, the changes as old and new."""
    first, last = hunk.changes[0][1].start, hunk.changes[-1][1].stop
    spans = [span for name, span in new.functions.items() if "." not in name]
    top, bottom = next(((a - 1, b) for a, b in spans if a <= first < b), (first, last))
    end = min(last + 2, max(bottom, last))
    parts, at = [], max(first - 2, top)
    while at < first and not new.lines[at].strip():
        at += 1
    for gone, come in [*hunk.changes, (range(0), range(end, end))]:
        same = range(at, come.start)
        if len(same) > 5:
            parts += [("same", [], same[:2]), ("gap", [], []), ("same", [], same[-1:])]
        elif same:
            parts.append(("same", [], same))
        parts += [("change", gone, come)] if gone or come else []
        at = come.stop
    for _, gone, come in parts[-1:]:  # no blank lines at the end
        while come and not new.lines[come[-1]].strip():
            come = come[:-1]
        parts[-1] = (parts[-1][0], gone, come)
    every = [old.lines[n] for _, gone, _ in parts for n in gone]
    every += [new.lines[n] for _, _, come in parts for n in come]
    cut = min(len(line) - len(line.lstrip()) for line in every if line.strip())

    def width(lines):
        return max((len(line) - cut for line in lines), default=0)

    shown, halves, stacked, beside = [], 0, 0, 0
    for kind, gone, come in parts:
        left, right = [old.lines[n] for n in gone], [new.lines[n] for n in come]
        marks = changed_characters(left, right) if left and right else [{}, {}]
        if left and right:
            halves = max(halves, width(left), width(right))
        stacked, beside = stacked + len(left) + len(right), beside + max(len(left), len(right))
        rows = [(old, gone, marks[0], "del"), (new, come, marks[1], "ins")]
        html = [
            [line_html(s.rows[n], cut, m.get(at, ()), css) for at, n in enumerate(lines)]
            for s, lines, m, css in rows
        ]
        html[1] = [line.replace("line ins", "line") if kind == "same" else line for line in html[1]]
        shown.append((kind, *["".join(lines) for lines in html]))
    wide = max(width(every), 30)
    # side by side where that makes larger letters on a screen of 16:9
    sizes = [min(190 / cols, 44 / rows) for cols, rows in ((wide, stacked), (wide, beside))]
    sizes[1] = min(sizes[1], 90 / halves) if halves else 0
    side = sizes[1] >= sizes[0]
    cols, rows = (max(wide, 2 * halves + 6), beside) if side else (wide + 2, stacked)
    return {"head": hunk.head, "caption": hunk.caption, "parts": shown, "side": side} | {
        "cols": cols,
        "rows": rows,
    }


# ---- Text ----
class Text:
    """Markdown with TeX and with links into the site, all checked."""

    def __init__(self, scripts: dict[str, Script], rungs, engine: MiniRacer):
        self.scripts, self.rungs, self.tests = scripts, rungs, {}
        self.katex, self.known = engine, {}
        self.katex.eval((LECTURE / "site" / "katex" / "katex.min.js").read_text())
        self.markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        self.markdown.use(dollarmath_plugin, renderer=self.tex, double_inline=False)
        self.markdown.renderer.rules |= {"link_open": self.link, "fence": self.fence}
        self.file = ""

    def html(self, text: str, file: str) -> str:
        self.file = file
        return self.markdown.render(text)

    def tex(self, content: str, options: dict) -> str:
        display = options["display_mode"]
        if (content, display) not in self.known:
            settings = {"displayMode": display, "throwOnError": True, "strict": "error"}
            try:
                html = self.katex.call("katex.renderToString", content.strip(), settings)
            except JSEvalException as error:
                reason = re.search(r"(KaTeX parse error|LaTeX-incompatible).*", str(error))
                faults.append(f"{self.file}: broken TeX: {reason[0] if reason else error}")
                html = ""
            self.known[content, display] = html
        return self.known[content, display]

    def link(self, tokens, index, options, env) -> str:
        href = tokens[index].attrs["href"]
        return f'<a href="{self.target(href)}">'

    def target(self, href: str) -> str:
        """Return where a link leads in the site; note a fault if it leads nowhere."""
        kind, _, rest = href.partition(":")
        file, _, name = rest.partition("/")
        if kind == "code" and file in self.scripts:
            if not name or name in self.scripts[file].functions:
                return f"{file}.html" + (f"#{name}" if name else "")
        elif kind == "rung" and rest in self.rungs:
            return f"{rest}.html"
        elif kind == "test":
            path = ROOT / "tests" / f"{file}.py"
            body = ast.parse(path.read_text()).body if path.exists() else []
            for node in body:
                if isinstance(node, ast.FunctionDef) and node.name == name:
                    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                    self.tests[file, name] = path, first, node.end_lineno
                    return f"tests.html#{file}.{name}"
        elif kind in ("http", "https") or re.fullmatch(r"\w+\.html(#\w+)?", href):
            return href
        faults.append(f"{self.file}: a link leads nowhere: {href}")
        return ""

    def fence(self, tokens, index, options, env) -> str:
        """Return code; after ```python ddpg/critic_loss it must be a statement of that function."""
        info, content = tokens[index].info.split(), tokens[index].content.rstrip("\n")
        lines = "".join(line_html(row) for row in highlight(content))
        if len(info) < 2:
            return f'<pre class="code command"><code>{escape(content)}</code></pre>'
        name, _, where = info[1].partition("/")
        found = self.scripts[name].find(where, content) if name in self.scripts else []
        if len(found) != 1:
            start = content.split("\n")[0]
            faults.append(f"{self.file}: reread this note: {info[1]}, `{start}` is not there")
            return ""
        label = f"{name}_continuous.py, {where}, line {found[0]}"
        link = f'<a class="where" href="{name}.html#L{found[0]}">{label}</a>'
        return f'<div class="quote">{link}<pre class="code"><code>{lines}</code></pre></div>'


# ---- Pages ----
def script_rows(script: Script, text: Text) -> list[dict]:
    """Cut a script where a note, a function or a section starts: notes and their lines of code."""
    starts = {note.first for note in script.notes} | {script.rulers["Config"]}
    tops = {span[0]: name for name, span in script.functions.items()}
    ends = {last + 1 for name, (_, last) in script.functions.items() if "." not in name}
    sections = {n: name for name, n in script.rulers.items()}
    starts |= {first for first, name in tops.items() if "." not in name} | ends | set(sections)
    starts = sorted(n for n in starts if script.rulers["Config"] <= n <= script.end)
    rows = []
    for first, after in itertools.pairwise([*starts, script.end + 1]):
        last = after - 1
        while last > first and not script.lines[last - 1].strip():
            last -= 1
        notes = [note for note in script.notes if note.first == first]
        hits = {n for note in notes for n in range(note.first, note.last + 1)}
        hits = {n for n in hits if not re.match(r"(@|class |def )", script.lines[n - 1])}
        lines = script.lines[first - 1 : last]
        if not any(line.strip() for line in lines):
            continue
        names = [name for name, span in script.functions.items() if first <= span[0] <= last]
        head = tops.get(first, "")
        rows.append(
            {
                "section": sections.get(first),
                "head": head if "." not in head else "",
                "ids": [name for name in names if name != head or "." in head],
                "notes": [(note, text.html(note.text, note.file)) for note in notes],
                "first": first,
                "code": code_html(script, first, last, hits),
            }
        )
    return rows


def ladder_texts() -> dict[tuple[str, str], tuple[str, str, str]]:
    """Return the title, the idea and the text of each rung from docs/ladder.md."""
    rung = r"^## ([^\n]+?): ([^\n]+)\n\n(.*?)\n\n<!-- (\w+) to (\w+) -->"
    found = re.findall(rung, (ROOT / "docs" / "ladder.md").read_text(), re.M | re.S)
    return {(parent, child): (*texts,) for *texts, parent, child in found}


def metrics(scripts) -> str:
    """Return one table of the tags that the pages in docs/ explain."""
    table, seen = ["| tag | what | since |", "|---|---|---|"], set()
    for script in scripts.values():
        page = (ROOT / "docs" / f"{script.name}.md").read_text()
        section = re.search(r"^## Metrics\n(.*?)(?=^## |\Z)", page, re.M | re.S)
        for tag, what in re.findall(r"^\| (`.+?) \| (.*) \|$", section[1] if section else "", re.M):
            if tag not in seen:
                what = re.sub(r"\[([^]]+)\]\([^)]*\.md[^)]*\)", r"\1", what)
                table.append(f"| {tag} | {what} | [{script.title}](code:{script.name}) |")
            seen.add(tag)
    return "\n".join(table)


def load():
    """Return scripts in the ladder's order and hunks of its rungs, all notes in their places."""
    spec = importlib.util.spec_from_file_location("diffs", ROOT / "docs" / "diffs.py")
    diffs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(diffs)
    parents = {child: parent for parent, child, _ in diffs.PAIRS}
    names = sorted(path.name.removesuffix("_continuous.py") for path in ROOT.glob("*_continuous.py"))

    def descend(name):
        return [name] + [n for p, child, _ in diffs.PAIRS if p == name for n in descend(child)]

    roots = [name for name in names if name not in parents]
    scripts, rungs = {}, {}
    for name in itertools.chain(*map(descend, roots)):
        lines = (ROOT / f"{name}_continuous.py").read_text().rstrip("\n").split("\n")
        scripts[name] = script = Script(name, parents.get(name), lines)
        read_notes(script)
        parent = scripts.get(script.parent)
        place_notes(script, parent)
        if parent:
            rungs[f"{parent.name}-{name}"] = hunks = find_hunks(parent, script, diffs)
            place_captions(script, parent, hunks)
    return scripts, rungs


def render(scripts: dict[str, Script], rungs: dict[str, list[Hunk]], engine) -> dict[str, str]:
    """Return the site's pages."""
    text, texts, pages = Text(scripts, rungs, engine), ladder_texts(), {}
    loader = FileSystemLoader(LECTURE / "site")
    jinja = Environment(loader=loader, undefined=StrictUndefined, autoescape=True)
    jinja.globals |= {"scripts": scripts, "rungs": rungs, "texts": texts, "html": text.html}
    jinja.globals |= {"code_html": code_html}
    jinja.trim_blocks = jinja.lstrip_blocks = True

    def page(name, template, **content):
        pages[name] = jinja.get_template(template).render(page=name, **content)

    for name, script in scripts.items():
        page(f"{name}.html", "script.html", script=script, rows=script_rows(script, text))
    for name, hunks in rungs.items():
        parent, child = (scripts[part] for part in name.split("-"))
        if (parent.name, child.name) not in texts:
            faults.append(f"docs/ladder.md has no section of the rung {parent.name} to {child.name}")
            continue
        shown = [hunk_page(hunk, parent, child) for hunk in hunks]
        title, idea, about = texts[parent.name, child.name]
        changed = sum(len(gone) + len(come) for hunk in hunks for gone, come in hunk.changes)
        rung = {"title": title, "idea": idea, "about": about, "changed": changed}
        page(f"{name}.html", "rung.html", parent=parent, child=child, hunks=shown, **rung)
    handout = (LECTURE / "notes" / "handout.md").read_text()
    page("handout.html", "handout.html", body=text.html(handout, "lecture/notes/handout.md"))
    with open(ROOT / "results" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    videos = sorted(path.name for end in VIDEOS for path in (ROOT / "results").glob(end))
    table = text.html(metrics(scripts), "docs")
    page("results.html", "results.html", rows=rows, videos=videos, metrics=table)
    page("index.html", "index.html")
    tests = [
        (f"{file}.{name}", path, first, "\n".join(path.read_text().split("\n")[first - 1 : last]))
        for (file, name), (path, first, last) in sorted(text.tests.items())
    ]
    parts = [(name, path.name, first, [line_html(row) for row in highlight(code)])
             for name, path, first, code in tests]  # fmt: skip
    page("tests.html", "tests.html", tests=parts)
    return pages


def main(out: Path) -> int:
    scripts, rungs = load()
    pages = {}
    if not faults:
        with MiniRacer() as engine:
            pages = render(scripts, rungs, engine)
    if faults:
        for fault in dict.fromkeys(faults):
            print("error:", fault, file=sys.stderr)
        return 2
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(LECTURE / "site" / "katex", out / "katex")
    for name, page in pages.items():
        (out / name).write_text(page)
    for name in "style.css", "site.js":
        shutil.copy(LECTURE / "site" / name, out)
    for end in ("*.png", *VIDEOS):
        for path in (ROOT / "results").glob(end):
            shutil.copy(path, out)
    print(f"{len(pages)} pages: open {out / 'index.html'} in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main(ROOT / "site"))
