"""Build the lecture's site from the live scripts: python lecture/build.py

Reads the scripts, lecture/notes/ (lecture/anchors.py explains them), docs/ladder.md, results/ and
the tests; writes site/, which opens from disk without a network. Where something no longer fits
nothing is written: each fault gets a line, the exit code is 2.

Links in the notes: code:td3/critic_loss, rung:ddpg-td3, test:test_losses/check_polyak.
"""

import ast
import csv
import functools
import itertools
import re
import shutil
import sys
from collections import defaultdict
from difflib import SequenceMatcher
from html import escape
from pathlib import Path

from anchors import ROOT, Hunk, Script, faults, load
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from py_mini_racer import JSEvalException, MiniRacer
from pygments.lexers import PythonLexer
from pygments.token import STANDARD_TYPES

SITE = ROOT / "lecture" / "site"
VIDEOS = "*.mp4", "*.webp", "*.gif"


# ---- Code ----
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


@functools.cache
def rows(script: Script):
    """Return the tokens of a script's lines. The Run section is the same in all: lexed once."""
    above, run = script.lines[: script.end], script.lines[script.end :]
    return highlight("\n".join(above)) + highlight("\n".join(run))


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
    tokens, html = rows(script), ""
    for n in range(first, last + 1):
        html += line_html(tokens[n - 1], css="hit" if n in hits else "", number=n)
    return f'<pre class="code"><code>{html}</code></pre>'


def changed_characters(old: list[str], new: list[str]) -> list[dict[int, set[int]]]:
    """Return which characters of which lines differ; none if most of them do."""
    words = [re.findall(r"\d+e-\d+|\w+|\s|.", "\n".join(lines)) for lines in (old, new)]
    matcher = SequenceMatcher(None, *words, autojunk=False)
    marks = [defaultdict(set), defaultdict(set)]
    for tag, *place in matcher.get_opcodes():
        for side, (first, last) in enumerate([place[:2], place[2:]]):
            before = "".join(words[side][:first])
            line, column = before.count("\n"), len(before) - before.rfind("\n") - 1
            for char in "".join(words[side][first:last]) if tag != "equal" else "":
                marks[side][line].add(column)
                line, column = (line + 1, 0) if char == "\n" else (line, column + 1)
    sizes = [sum(map(len, lines.values())) for lines in marks]
    shares = [size / len("".join(w)) for size, w in zip(sizes, words, strict=True)]
    return marks if max(shares) < 0.5 else [{}, {}]


def hunk_parts(hunk: Hunk, new: Script) -> list[tuple[str, range, range]]:
    """Return a hunk's changes and the lines around and between them: kind, old lines, new lines."""
    first, last = hunk.changes[0][1].start, hunk.changes[-1][1].stop
    spans = [span for name, span in new.functions.items() if "." not in name]
    top, bottom = next(((a - 1, b) for a, b in spans if a <= first < b), (first, last))
    size = last - first + sum(len(gone) for gone, _ in hunk.changes)
    around, between = (0, 1) if hunk.head == "Args" else (2 if size <= 14 else 0, 3)
    end = min(last + around, max(bottom, last))
    parts, at = [], max(first - around, top)
    while at < first and not new.lines[at].strip():
        at += 1
    for gone, come in [*hunk.changes, (range(0), range(end, end))]:
        same = range(at, come.start)
        if same:
            parts.append(("gap" if len(same) > between else "same", range(0), same))
        if gone or come:
            parts.append(("change", gone, come))
        at = come.stop
    kind, gone, come = parts[-1]
    while come and not new.lines[come[-1]].strip():
        come = come[:-1]
    return [*parts[:-1], (kind, gone, come)]


def hunk_page(hunk: Hunk, old: Script, new: Script) -> dict:
    """Return a hunk for its template."""
    parts = []
    for kind, gone, come in hunk_parts(hunk, new):
        parts.append((kind, gone, come, [old.lines[n] for n in gone], [new.lines[n] for n in come]))
    shown = [line for kind, *_, left, right in parts if kind != "gap" for line in left + right]
    cut = min(len(line) - len(line.lstrip()) for line in shown if line.strip())
    html, halves, stacked, beside = [], 0, 0, 0
    for kind, gone, come, left, right in parts:
        marks, lines = [{}, {}], ["", ""]
        if kind == "gap":
            left, right = [], [""]
        elif left and right:
            marks = changed_characters(left, right)
            halves = max(halves, *(len(line) - cut for line in left + right))
        for side, script, numbers in (0, old, gone), (1, new, come):
            for at, n in enumerate(numbers if kind != "gap" else []):
                lines[side] += line_html(rows(script)[n], cut, marks[side].get(at, ()))
        html.append((kind, *lines))
        stacked, beside = stacked + len(left) + len(right), beside + max(len(left), len(right))
    wide = max(30, *(len(line) - cut for line in shown))
    # side by side where that leaves the letters large on a screen of 16:9 (in % of its height)
    both = max(wide, 2 * halves + 6)
    side = halves and min(262 / both, 42 / beside) >= min(2.4, 262 / wide, 42 / stacked)
    cols, height = (both, beside) if side else (wide + 2, stacked)
    page = {"head": hunk.head, "caption": hunk.caption, "parts": html, "side": side}
    return page | {"cols": cols, "rows": height}


# ---- Text ----
@functools.cache
def test_functions(path: Path) -> dict[str, tuple[int, str]]:
    """Return first line and text of the functions of a test file."""
    if not path.exists():
        return {}
    text, found = path.read_text(), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = first, "\n".join(text.split("\n")[first - 1 : node.end_lineno])
    return found


class Text:
    """Markdown with TeX and with links into the site, all checked."""

    def __init__(self, scripts: dict[str, Script], rungs, engine: MiniRacer):
        self.scripts, self.rungs, self.tests = scripts, rungs, {}
        self.katex, self.known = engine, {}
        self.katex.eval((SITE / "katex" / "katex.min.js").read_text())
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
            found = test_functions(ROOT / "tests" / f"{file}.py").get(name)
            if found:
                self.tests[f"{file}.{name}"] = f"{file}.py", *found
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
    found = []
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
        found.append(
            {
                "section": sections.get(first),
                "head": head if "." not in head else "",
                "ids": [name for name in names if name != head or "." in head],
                "notes": [(note, text.html(note.text, note.file)) for note in notes],
                "first": first,
                "code": code_html(script, first, last, hits),
            }
        )
    return found


def ladder_texts(scripts: dict[str, Script]) -> dict[str, tuple[str, str, str]]:
    """Return title, idea and text of each rung, from docs/ladder.md or from the child's notes."""
    texts = {}
    for child in scripts.values():
        if child.parent:
            idea, _, about = child.lead.strip().partition("\n\n")
            title = f"{scripts[child.parent].title} → {child.title}"
            texts[f"{child.parent}-{child.name}"] = title, idea, about
    rung = r"^## ([^\n]+?): ([^\n]+)\n\n(.*?)\n\n<!-- (\w+) to (\w+) -->"
    page = (ROOT / "docs" / "ladder.md").read_text()
    found = re.findall(rung, page, re.MULTILINE | re.DOTALL)
    return texts | {f"{parent}-{child}": (*words,) for *words, parent, child in found}


def metrics(scripts) -> str:
    """Return one table of the tags that the pages in docs/ explain."""
    table, seen = ["| tag | what | since |", "|---|---|---|"], set()
    for script in scripts.values():
        page = ROOT / "docs" / f"{script.name}.md"
        text = page.read_text() if page.exists() else ""
        section = re.search(r"^## Metrics\n(.*?)(?=^## |\Z)", text, re.M | re.S)
        for tag, what in re.findall(r"^\| (`.+?) \| (.*) \|$", section[1] if section else "", re.M):
            if (tag, what) not in seen:
                what = re.sub(r"\[([^]]+)\]\([^)]*\.md[^)]*\)", r"\1", what)
                table.append(f"| {tag} | {what} | [{script.title}](code:{script.name}) |")
            seen.add((tag, what))
    return "\n".join(table)


def render(scripts: dict[str, Script], rungs: dict[str, list[Hunk]], engine) -> dict[str, str]:
    """Return the site's pages."""
    text, texts, pages = Text(scripts, rungs, engine), ladder_texts(scripts), {}
    loader = FileSystemLoader(SITE)
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
        shown = [hunk_page(hunk, parent, child) for hunk in hunks]
        title, idea, about = texts[name]
        changed = sum(len(gone) + len(come) for hunk in hunks for gone, come in hunk.changes)
        rung = {"title": title, "idea": idea, "about": about, "changed": changed}
        page(f"{name}.html", "rung.html", parent=parent, child=child, hunks=shown, **rung)
    handout = (ROOT / "lecture" / "notes" / "handout.md").read_text()
    page("handout.html", "handout.html", body=text.html(handout, "lecture/notes/handout.md"))
    with open(ROOT / "results" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    videos = sorted(path.name for end in VIDEOS for path in (ROOT / "results").glob(end))
    table = text.html(metrics(scripts), "docs")
    page("results.html", "results.html", rows=rows, videos=videos, metrics=table)
    page("index.html", "index.html")
    tests = [
        (name, file, first, [line_html(row) for row in highlight(code)])
        for name, (file, first, code) in sorted(text.tests.items())
    ]
    page("tests.html", "tests.html", tests=tests)
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
    shutil.copytree(SITE / "katex", out / "katex")
    for name, page in pages.items():
        (out / name).write_text(page)
    for name in "style.css", "site.js":
        shutil.copy(SITE / name, out)
    for end in ("*.png", *VIDEOS):
        for path in (ROOT / "results").glob(end):
            shutil.copy(path, out)
    print(f"{len(pages)} pages: open {out / 'index.html'} in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main(ROOT / "site"))
