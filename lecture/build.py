"""Build the lecture's site from the live scripts: python lecture/build.py

Reads the scripts, lecture/notes/ (lecture/anchors.py explains them), docs/, results/ and the
tests; writes site/, which opens from disk without a network. Where something no longer fits
nothing is written: each fault gets a line, the exit code is 2.

Links in the notes: code:td3/critic_loss, test:test_losses/check_polyak, and scenes of watch.html,
watch:Hopper-v4/ddpg@50000/td3: text, and after "Live:" nothing, until policies/ has what they play.
"""

import ast
import base64
import functools
import importlib.util
import itertools
import json
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
from matplotlib import rc_context
from mdit_py_plugins.dollarmath import dollarmath_plugin
from py_mini_racer import JSEvalException, MiniRacer
from pygments.lexers import PythonLexer
from pygments.token import STANDARD_TYPES
from safetensors import safe_open

sys.path.insert(0, str(ROOT))
import plot  # noqa: E402

SITE = ROOT / "lecture" / "site"
COLUMNS, ROWS = 88, 19  # of a slide's code, in letters of 22 pixels on 1280 x 720


# ---- Code ----
@functools.cache
def highlight(text: str) -> list[list[tuple[str, str]]]:
    """Return Python's tokens by line: (CSS class, text)."""
    rows = [[]]
    for kind, value in PythonLexer(stripnl=False, ensurenl=False).get_tokens(text):
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
    return f'<span class="line {css}" style="--i:{max(indent - cut, 0)}"{about}>{out}</span>'


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


def deal(pieces, room: int) -> list[list[tuple]]:
    """Cut pieces (part, side, [(line, rows)]) into slides of so many rows, best between pieces."""
    sizes = [sum(high for _, high in lines) for *_, lines in pieces]
    sums = list(itertools.accumulate(sizes))
    if sums[-1] <= room:
        return [pieces]
    if sums[0] > room:
        (part, side, lines), *others = pieces
        half = len(lines) // 2
        return deal([(part, side, lines[:half]), (part, side, lines[half:]), *others], room)
    cut = min((abs(size - sums[-1] / 2), n) for n, size in enumerate(sums, 1) if size <= room)[1]
    return [pieces[:cut], *deal(pieces[cut:], ROWS)]


def hunk_page(hunk: Hunk, old: Script, new: Script) -> dict:
    """Return a hunk for its template: slides of parts, each of them its kind and two sides."""
    parts = []
    for kind, gone, come in hunk_parts(hunk, new):
        parts.append((kind, gone, come, [old.lines[n] for n in gone], [new.lines[n] for n in come]))
    shown = [line for kind, *_, left, right in parts if kind != "gap" for line in left + right]
    cut = min(len(line) - len(line.lstrip()) for line in shown if line.strip())
    pairs = [left + right for *_, left, right in parts if left and right]
    halves = max((len(line) - cut for lines in pairs for line in lines), default=0)
    wide = max(30, *(len(line) - cut for line in shown))
    room = ROWS - len(hunk.caption.text) // 85
    high = sum(max(len(left), len(right)) for *_, left, right in parts)
    side = halves and high <= room and max(wide, 2 * halves + 6) <= COLUMNS
    pieces = []
    for part, (kind, gone, come, left, right) in enumerate(parts):
        marks = changed_characters(left, right) if left and right else [{}, {}]
        for at, script, numbers in (0, old, gone), (1, new, come):
            lines = [("", 1)] if kind == "gap" and at else []
            for n, number in enumerate(numbers if kind != "gap" else []):
                row = line_html(rows(script)[number], cut, marks[at].get(n, ()))
                lines.append((row, 1 + (len(script.lines[number]) - cut > COLUMNS)))
            if lines:
                pieces.append((part, at, lines))
    slides = []
    for slide in [pieces] if side else deal(pieces, room):
        rendered = []
        for part, group in itertools.groupby(slide, lambda piece: piece[0]):
            sides = {at: "".join(row for row, _ in lines) for _, at, lines in group}
            rendered.append((parts[part][0], sides.get(0, ""), sides.get(1, "")))
        high = high if side else sum(high for *_, lines in slide for _, high in lines)
        if any(kind == "change" for kind, *_ in rendered):
            slides.append({"parts": rendered, "rows": high})
    page = {"head": hunk.head, "caption": hunk.caption, "side": side, "slides": slides}
    return page | {"cols": max(wide, 2 * halves + 4 if side else 0) + 2}


# ---- Text ----
@functools.cache
def test_functions(path: Path) -> dict[str, tuple[int, str]]:
    """Return first line and text of the functions of a test file."""
    if not path.exists():
        return {}
    text, found = path.read_text("utf-8"), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = first, "\n".join(text.split("\n")[first - 1 : node.end_lineno])
    return found


class Text:
    """Markdown with TeX and with links into the site, all checked."""

    def __init__(self, scripts: dict[str, Script], policies: list[dict], engine: MiniRacer):
        self.scripts, self.tests, self.policies = scripts, {}, policies
        self.katex, self.known = engine, {}
        self.katex.eval((SITE / "katex" / "katex.min.js").read_text("utf-8"))
        self.markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        self.markdown.use(dollarmath_plugin, renderer=self.tex, double_inline=False)
        self.markdown.renderer.rules |= {"link_open": self.link, "fence": self.fence}

    def html(self, text: str, file: str) -> str:
        """Return text as HTML; a comma or so stays on the line of the short formula before it."""
        self.file = file
        text = re.sub(r"(\$[^$\n]{1,20}\$)([.,;:)]+)", "\\1\N{WORD JOINER}\\2\N{WORD JOINER}", text)
        formula = r'(<span class="math inline">(?:(?!"math inline").)*?)\u2060(.+?)\u2060'
        html = re.sub(formula, r'<span class="whole">\1\2</span>', self.markdown.render(text))
        return re.sub(r"<p>Live: <a>.*?</p>\n?", "", html, flags=re.DOTALL)  # not kept yet

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
        target = self.target(href)
        return f'<a href="{escape(target)}">' if target else "<a>"

    def target(self, href: str) -> str:
        """Return where a link leads in the site; note a fault if it leads nowhere."""
        kind, _, rest = href.partition(":")
        file, _, name = rest.partition("/")
        if kind == "code" and file in self.scripts:
            if not name or name in self.scripts[file].functions:
                return f"{file}.html" + (f"#{name}" if name else "")
        elif kind == "test":
            found = test_functions(ROOT / "tests" / f"{file}.py").get(name)
            if found:
                self.tests[f"{file}.{name}"] = f"{file}.py", *found
                return f"tests.html#{file}.{name}"
        elif kind == "watch" and (scene := self.scene(rest)) is not None:
            return scene
        elif kind == "https":
            return href
        faults.append(f"{self.file}: a link leads nowhere: {href}")
        return ""

    def scene(self, place: str) -> str | None:
        """Return a scene's address, nothing if a policy is not kept yet, None if it can't be."""
        body, *names = place.partition("?")[0].split("/")
        for name in names:
            script, _, steps = name.partition("@")
            kept = [p for p in self.policies if (p["id"], p["script"]) == (body, script)]
            if body not in bodies() or script not in self.scripts:
                return None
            if not kept:
                return ""
            if steps and steps not in [str(policy["steps"]) for policy in kept]:
                return None
        return f"watch.html#{place}" if names else None

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
    """Cut a script where a function or a section starts, and these rows where a note starts."""
    sections = {n: name for name, n in script.rulers.items()}
    tops = {span[0]: name for name, span in script.functions.items() if "." not in name}
    starts = {script.functions[name][1] + 1 for name in tops.values()} | {*tops, *sections}
    cuts = sorted(starts | {note.first for note in script.notes} | {script.end + 1})
    cuts = [n for n in cuts if script.rulers["Config"] <= n <= script.end + 1]
    found = []
    for first, after in itertools.pairwise(cuts):
        last = after - 1
        while last > first and not script.lines[last - 1].strip() and after in starts:
            last -= 1
        notes = [note for note in script.notes if note.first == first]
        hits = {n for note in notes for n in range(note.first, note.last + 1)}
        hits = {n for n in hits if not re.match(r"(@|class |def )", script.lines[n - 1])}
        if not any(line.strip() for line in script.lines[first - 1 : last]):
            continue
        if first in starts:
            found.append({"section": sections.get(first), "head": tops.get(first), "parts": []})
            top = end = 0  # pixels, about: of the code, and of the notes if they are beside it
        names = [name for name, span in script.functions.items() if first <= span[0] <= last]
        part = {"ids": [name for name in names if name != tops.get(first)], "notes": []}
        for note in notes:
            begin, rest = re.fullmatch(r"(\$\$.*?\$\$)?(.*)", note.text, re.DOTALL).groups("")
            end = max(top, end) + 25 + 0.48 * len(rest)
            end += 40 + 25 * begin.count(r"\\") if begin else 0
            part["notes"].append((note, text.html(begin, note.file), text.html(rest, note.file)))
        top += 20 * (after - first)
        found[-1]["parts"].append(part | {"code": code_html(script, first, last, hits)})
        found[-1]["beside"] = end < top + 200
    return found


def equations(hunks: list[Hunk], *scripts: Script) -> list[list[str]]:
    """Return the equations beside the hunks whose captions begin in bold, each once: old, new."""
    pairs, later = [], [set(), set()]
    for hunk in reversed(hunks):
        if hunk.caption.text.startswith("**"):
            pairs.append([])
            for side, script in enumerate(scripts):
                lines = {n + 1 for change in hunk.changes for n in change[side]}
                notes = [
                    n for n in script.notes if not lines.isdisjoint(range(n.first, n.last + 1))
                ]
                found = re.findall(r"^\$\$.*?\$\$$", "\n".join(n.text for n in notes), re.M | re.S)
                pairs[-1].append("\n".join(e for e in found if e not in later[side]))
                later[side].update(found)
    return [pair for pair in reversed(pairs) if any(pair)]


def curves(scripts: dict[str, Script]) -> dict:
    """Return for each script that has runs its learning curves and its parent's, as data."""
    data, found = plot.read(plot.Args((ROOT / "results" / "curves.csv",))), {}
    for name, script in scripts.items():
        own = data[(data.script == name) & (data.env_id != "InvertedPendulum-v4")]
        if not own.empty:
            both = data.script.isin([name, script.parent]) & data.panel.isin(own.panel)
            found[f"{name}.svg"] = data[both]
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
    page = (ROOT / "docs" / "ladder.md").read_text("utf-8")
    found = re.findall(rung, page, re.MULTILINE | re.DOTALL)
    return texts | {f"{parent}-{child}": (*words,) for *words, parent, child in found}


def metrics(scripts) -> str:
    """Return one table of the tags that the pages in docs/ explain."""
    table, seen = ["| tag | what | since |", "|---|---|---|"], set()
    for script in scripts.values():
        page = ROOT / "docs" / f"{script.name}.md"
        text = page.read_text("utf-8") if page.exists() else ""
        section = re.search(r"^## Metrics\n(.*?)(?=^## |\Z)", text, re.M | re.S)
        for tag, what in re.findall(r"^\| (`.+?) \| (.*) \|$", section[1] if section else "", re.M):
            if (tag, what) not in seen:
                what = re.sub(r"\[([^]]+)\]\([^)]*\.md[^)]*\)", r"\1", what)
                table.append(f"| {tag} | {what} | [{script.title}](code:{script.name}) |")
            seen.add((tag, what))
    return "\n".join(table)


def videos() -> list[tuple[str, str, str]]:
    """Return the videos in results/: file, what it shows, caption; from docs/results.md."""
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    rows = re.findall(r"^\| !\[(.+?)\]\(\.\./results/(.+?)\) \| (.+) \|$", page, re.MULTILINE)
    there = {path.name for path in (ROOT / "results").iterdir() if path.suffix == ".gif"}
    for name in sorted(there ^ {file for _, file, _ in rows}):
        faults.append(f"docs/results.md: no row for results/{name}, or no such file")
    return [(file, what, caption) for what, file, caption in rows]


# ---- Policies ----
def bodies() -> dict[str, str]:
    """Return the bodies that watch.html plays, and the files of their models."""
    table = (SITE / "watch" / "bodies.js").read_text("utf-8")
    return dict(re.findall(r'^  "(\S+)": \{\s+model: "(\S+)"', table, re.MULTILINE))


def policies(scripts: dict[str, Script]) -> list[dict]:
    """Return what the headers of policies/*.safetensors say."""
    found = []
    for path in sorted((ROOT / "policies").glob("*.safetensors")):
        with safe_open(path, "np") as file:
            about = {name: json.loads(text) for name, text in file.metadata().items()}
        name = about["args"]["script"].removesuffix("_continuous.py")
        if name in scripts and about["args"]["env_id"] in bodies():
            policy = {"id": about["args"]["env_id"], "script": name, "title": scripts[name].title}
            policy |= {"steps": about["result"]["step"], "file": path.stem}
            found.append(policy)
    # PPO's come last: a page opens with the last one
    order = sorted(scripts, key=lambda name: name == "ppo")
    return sorted(found, key=lambda p: (order.index(p["script"]), p["steps"]))


def write_policies(out: Path, found: list[dict]) -> None:
    """Write MuJoCo, models and weights as scripts: a page from disk may load nothing else."""

    def text(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    wasm = f'window.WASM = "{text(SITE / "mujoco" / "mujoco.wasm.gz")}";'
    (out / "mujoco" / "mujoco.wasm.js").write_text(wasm, "utf-8")
    (out / "policies").mkdir()
    for file in (policy["file"] for policy in found):
        weights = text(ROOT / "policies" / f"{file}.safetensors")
        code = f'(window.POLICIES ??= {{}})["{file}"] = "{weights}";'
        (out / "policies" / f"{file}.js").write_text(code, "utf-8")
    gymnasium = Path(importlib.util.find_spec("gymnasium").origin).parent
    assets = gymnasium / "envs" / "mujoco" / "assets"
    models = {name: (assets / name).read_text("utf-8") for name in bodies().values()}
    data = json.dumps({"models": models, "policies": found})
    (out / "watch-data.js").write_text(f"const DATA = {data};", "utf-8")


def render(scripts: dict[str, Script], rungs, played, engine, figures) -> dict[str, str]:
    """Return the site's pages."""
    text, texts, pages = Text(scripts, played, engine), ladder_texts(scripts), {}
    loader = FileSystemLoader(SITE)
    jinja = Environment(loader=loader, undefined=StrictUndefined, autoescape=True)
    jinja.globals |= {"scripts": scripts, "texts": texts, "html": text.html}
    jinja.globals |= {"code_html": code_html, "figures": figures, "videos": videos()}
    jinja.trim_blocks = jinja.lstrip_blocks = True

    def page(name, template, **content):
        pages[name] = jinja.get_template(template).render(page=name, **content)

    for (name, script), after in zip(scripts.items(), [*scripts][1:] + [None], strict=True):
        rows = script_rows(script, text)
        page(f"{name}.html", "script.html", script=script, rows=rows, after=after)
    for (name, hunks), after in zip(rungs.items(), [*rungs][1:] + [None], strict=True):
        parent, child = (scripts[part] for part in name.split("-"))
        shown = [hunk_page(hunk, parent, child) for hunk in hunks]
        title, idea, about = texts[name]
        changed = sum(len(gone) + len(come) for hunk in hunks for gone, come in hunk.changes)
        rung = {"title": title, "idea": idea, "about": about, "changed": changed, "after": after}
        rung |= {"parent": parent, "child": child, "hunks": shown}
        scene = re.search(r"\]\(watch:(\S+?)\)", child.lead)
        rung["scene"] = text.scene(scene[1]) if scene else ""
        page(f"{name}.html", "rung.html", pairs=equations(hunks, parent, child), **rung)
    handout = (ROOT / "lecture" / "notes" / "handout.md").read_text("utf-8")
    page("handout.html", "handout.html", body=text.html(handout, "lecture/notes/handout.md"))
    table = (ROOT / "docs" / "results.md").read_text("utf-8")
    table = re.search(r"<!-- table -->\n(.*?)<!-- /table -->", table, re.DOTALL)[1]
    table = text.html(table.replace(" ±", "\N{NO-BREAK SPACE}±"), "docs/results.md")
    explained = text.html(metrics(scripts), "docs")
    page("results.html", "results.html", table=table, metrics=explained)
    page("index.html", "index.html")
    page("watch.html", "watch.html")
    tests = [
        (name, file, first, [line_html(row) for row in highlight(code)])
        for name, (file, first, code) in sorted(text.tests.items())
    ]
    page("tests.html", "tests.html", tests=tests)
    return pages


def main(out: Path) -> int:
    scripts, rungs = load()
    if not faults:
        figures, played = curves(scripts), policies(scripts)
        with MiniRacer() as engine:
            pages = render(scripts, rungs, played, engine, figures)
    if faults:
        for fault in dict.fromkeys(faults):
            print("error:", fault, file=sys.stderr)
        return 2
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(SITE, out, ignore=shutil.ignore_patterns("*.html", "*.gz"))
    for name, page in pages.items():
        (out / name).write_text(page, "utf-8")
    for name, data in figures.items():
        with rc_context(plot.LOOK):
            figure = plot.draw_curves(data, "evaluation return")
            figure.savefig(out / name, metadata={"Date": None})
    for path in (ROOT / "results").iterdir():
        if path.suffix in (".png", ".gif"):
            shutil.copy(path, out)
    write_policies(out, played)
    print(f"open {out / 'index.html'} in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main(ROOT / "site"))
