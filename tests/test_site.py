"""The lecture's site in a real browser, opened from disk; and what ends its build."""

import re
import shutil
from html import unescape
from io import BytesIO

import diffs
import numpy as np
import pytest
from conftest import PROJECTOR, ROOT, SCRIPTS, build, copy_of_repo
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")


NAMES = [name.removesuffix("_continuous") for name in SCRIPTS]
RUNGS = [f"{parent}-{child}" for parent, child, _ in diffs.PAIRS]
PAGES = ["index", "handout", "results", "tests", "watch", *NAMES, *RUNGS]
NOTE = re.compile(r'<a href="#L(\d+)" aria-label="([\w.]+), line (\d+)">')
PHONE = {"width": 390, "height": 844}
NOW = ".slide.now"


# ---- Pages ----
@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole(tab, site, name):
    """No error, no request to a network; equations are typeset; on a phone nothing is cut, and on a
    projector no equation, and notes leave no gap in a function's code."""
    page = tab(f"{name}.html", viewport=PHONE)
    assert page.title()
    facts = page.evaluate(
        """async () => {
          await document.fonts.ready;
          const math = [...document.querySelectorAll(".katex-html")];
          const shown = document.createElement("div");
          shown.innerHTML = document.getElementById("main").innerHTML;
          shown.querySelectorAll("code, .katex").forEach((node) => node.remove());
          return {
            width: document.documentElement.scrollWidth,
            math: math.length,
            flat: math.filter((node) => node.getBoundingClientRect().height < 5).length,
            fonts: [...document.fonts].filter((font) => font.status === "loaded").length,
            broken: [...document.images].filter((image) => !image.naturalWidth).length,
            text: shown.textContent,
          };
        }"""
    )
    assert facts["width"] <= PHONE["width"], "it scrolls sideways"
    assert facts["flat"] == facts["broken"] == 0
    assert not re.search(r"\$|\\[a-z]+\b", facts["text"]), "TeX was left as it is"
    if name in NAMES or name == "handout":
        assert facts["math"] > 5
        assert facts["fonts"] > 2, "KaTeX's fonts are not there"
    page.set_viewport_size(PROJECTOR)
    cut, gaps = page.evaluate(
        """() => {
          const equations = [...document.querySelectorAll(".katex-display")];
          const cut = equations.filter((node) => {
            while (getComputedStyle(node).overflowX === "visible") node = node.parentElement;
            return node.scrollWidth > node.clientWidth + 1;
          });
          const gaps = [...document.querySelectorAll(".row")].map((row) => {
            const lines = [...row.querySelectorAll(".line")].map((n) => n.getBoundingClientRect());
            return Math.max(0, ...lines.slice(1).map((line, i) => line.top - lines[i].bottom));
          });
          return [cut.map((node) => node.querySelector("annotation").textContent), gaps];
        }"""
    )
    assert cut == []
    assert max(gaps, default=0) <= 40


@pytest.mark.parametrize("name", PAGES)
def test_each_link_leads_somewhere(site, name):
    html = (site / f"{name}.html").read_text()
    for file, anchor in re.findall(r'href="([^"#:]*)(?:#([^"]*))?"', html):
        target = site / (file or f"{name}.html")
        assert target.exists(), file
        if anchor and file != "watch.html":  # there it is a scene
            assert f'id="{anchor}"' in target.read_text(), f"{file}#{anchor}"


@pytest.mark.parametrize("name", NAMES)
def test_each_anchor_leads_to_its_line(site, name):
    """Line n of the page is line n of the script; a note's link leads to a line of its function,
    a function's to its definition."""
    html = (site / f"{name}.html").read_text()
    lines = (ROOT / f"{name}_continuous.py").read_text().rstrip("\n").split("\n")
    shown = {
        int(number): unescape(re.sub("<.*?>", "", line)).rstrip()
        for number, line in re.findall(
            r' id="L(\d+)" data-n="\d+">(.*?)(?=<span class="line|</code>)', html
        )
    }
    assert [line for line in shown.values() if line] == [line for line in lines if line]
    assert all(lines[number - 1] == line for number, line in shown.items())
    rows = re.findall(r'<section class="row.*?</section>', html, re.DOTALL)
    notes = [(row, *found) for row in rows for found in NOTE.findall(row)]
    assert len(notes) > 10
    for row, anchor, where, number in notes:
        assert anchor == number
        assert f' id="L{number}"' in row
        heads = [line.split("(")[0].split(":")[0].split() for line in lines[: int(number) + 1]]
        assert any(head[-1:] == [where.split(".")[-1]] for head in heads if head[:1] != ["#"]), (
            where
        )
    for function in re.findall(r'<a href="#(\w+)">', html.split("</nav>")[1]):
        row = next(row for row in rows if f' id="{function}"' in row.split(">")[0])
        first = lines[int(re.search(r' id="L(\d+)"', row)[1]) - 1 :][:2]
        assert re.search(rf"^(class|def) {function}\b", "\n".join(first), re.MULTILINE)


def test_link_of_a_note_leads_to_its_line(tab):
    page = tab("ddpg.html")
    page.get_by_label(re.compile("polyak_update, line")).click()
    line = page.locator(":target")
    sync_api.expect(line).to_be_in_viewport()
    assert line.inner_text() == "@torch.no_grad()"


def test_link_to_a_line_opens_the_fold_that_it_is_in(tab):
    lines = (ROOT / "ddpg_continuous.py").read_text().split("\n")
    number = lines.index("class Run(ExitStack):") + 1
    page = tab(f"ddpg.html#L{number}")
    line = page.locator(f"#L{number}")
    assert line.inner_text().strip() == "class Run(ExitStack):"
    sync_api.expect(line).to_be_in_viewport()


def test_handout_has_code_and_a_test_for_each_equation(site):
    html = (site / "handout.html").read_text()
    sections = re.findall(r"<h3>(.*?)</h3>(.*?)(?=<h[23]>|</main>)", html, re.DOTALL)
    assert len(sections) > 12
    for title, section in sections:
        assert 'class="katex-display"' in section, title
        assert re.search(r'class="where" href="\w+\.html#L\d+"', section), title
        assert re.search(r'href="tests\.html#test_\w+\.\w+"', section), title
    for number in range(1, 11):
        assert re.search(rf"<h3>Eq\. {number}:|\\tag{{{number}}}|&amp;&amp; \({number}\)", html)


def test_results_show_table_and_every_metric(site):
    html = (site / "results.html").read_text()
    assert html.count("<tr>") > 20
    for tag in "charts/episodic_return", "losses/qf1_values", "losses/approx_kl", "losses/alpha":
        assert f"<code>{tag}</code>" in html
    assert html.count("<code>losses/entropy</code>") > 1  # SAC's and PPO's mean different things
    assert "nan" not in re.findall(r"[a-z]+", html)


def test_results_are_dark_in_the_dark_and_few_pages_in_print(tab):
    page = tab("results.html", color_scheme="dark")
    for figure in page.locator(".plot").all():
        assert np.median(Image.open(BytesIO(figure.screenshot())).convert("L")) < 50
    videos = "[...document.querySelectorAll('.videos img')].map((i) => [i.width, i.naturalWidth])"
    assert all(width == natural for width, natural in page.evaluate(videos))
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) <= 5


def test_script_has_its_curve_and_a_link_to_the_next(site):
    pages = {name: (site / f"{name}.html").read_text() for name in NAMES}
    for name, page in pages.items():
        assert (f'src="{name}.svg"' in page) == (name == "ddpg")  # whose curves are in the copy
    assert sum("Next: " in page for page in pages.values()) == len(NAMES) - 1


def test_theme_is_that_of_the_system_and_the_button_changes_it(tab):
    page = tab("index.html", color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.click("#theme")
    assert page.evaluate(ground) == "rgb(255, 255, 255)" != dark
    page.reload()
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.evaluate("localStorage.clear()")


# ---- Slides ----
@pytest.mark.parametrize("name", ["a2c-reinforce", "svg0-ac_reparam"])
def test_equation_of_two_hunks_is_shown_once(site, name):
    page, found = (site / f"{name}.html").read_text(), {}
    for side, text in re.findall(
        '<div data-of="(.*?)">(.*?)(?=<div data-of|</section>)', page, re.S
    ):
        found.setdefault(side, []).extend(re.findall("<math.*?</math>", text, re.S))
    assert len(found) == 2
    assert all(len(equations) == len({*equations}) > 0 for equations in found.values())


def test_deck_moves_with_the_keyboard(tab):
    page = tab("ddpg-td3.html")
    page.focus("#slides")
    page.keyboard.press("Enter")
    count = page.locator("#count")
    last = page.locator(".slide").count()
    sync_api.expect(count).to_have_text(f"1 / {last}")
    for key, now in [
        *[("Space", 2), ("PageDown", 3), ("ArrowLeft", 2), ("PageUp", 1), ("ArrowLeft", 1)],
        *[("End", last), ("Home", 1), ("ArrowDown", 2), ("ArrowRight", 3)],
    ]:
        page.keyboard.press(key)
        sync_api.expect(count).to_have_text(f"{now} / {last}")
        assert page.locator(NOW).count() == 1
        assert page.locator(".slide:visible").count() == 1
    assert page.locator(NOW).get_attribute("id") == "hunk-1"
    page.keyboard.press("Escape")
    sync_api.expect(page.locator(".slide:visible")).to_have_count(last)
    page.click("#slides")
    page.click("#end")
    sync_api.expect(page.locator(".slide:visible")).to_have_count(last)
    page.click("#slides")
    page.keyboard.press("End")
    page.keyboard.press("Space")
    sync_api.expect(page).to_have_url(re.compile(r"/ddpg-(?!td3)\w+\.html#slides$"))
    sync_api.expect(page.locator(".slide:visible")).to_have_count(1)


@pytest.mark.parametrize("name", RUNGS)
def test_slides_fit_and_can_be_read_from_the_last_row(tab, name):
    """At 1280x720 nothing is cut and no code is under 22 pixels. The second slide has equations."""
    page = tab(f"{name}.html#slides")
    for turn in range(page.locator(".slide").count()):
        if turn:
            page.keyboard.press("Space")
        facts = page.locator(NOW).evaluate(
            """(slide) => {
              const lines = [...slide.querySelectorAll(".line")];
              const size = lines.length ? parseFloat(getComputedStyle(lines[0]).fontSize) : 22;
              const long = lines.filter((line) => line.offsetHeight > 2.9 * size).length;
              const wide = slide.scrollWidth - slide.clientWidth;
              const high = slide.scrollHeight - slide.clientHeight;
              const { bottom } = slide.lastElementChild.getBoundingClientRect();
              return { id: slide.id, long, wide, high, bottom, size };
            }"""
        )
        assert facts["wide"] == facts["high"] == facts["long"] == 0, facts
        assert facts["bottom"] < 680, facts
        assert facts["size"] >= 22, facts
        assert (facts["id"] == "equations") == (turn == 1)


def test_changed_words_are_marked_and_side_by_side_where_it_fits(tab):
    page = tab("svg0-ac_reparam.html")
    hunk = page.locator(".slide", has=page.locator("h2", has_text="QNetwork"))
    assert hunk.locator(".old mark").all_inner_texts() == ["F", "relu"] * 2
    assert hunk.locator(".new mark").all_inner_texts() == ["torch", "tanh"] * 2
    old, new = hunk.locator(".old").bounding_box(), hunk.locator(".new").bounding_box()
    assert old["y"] == new["y"]
    assert new["x"] > old["x"] + 100


# ---- For everyone ----
@pytest.mark.parametrize("name", ["index", "handout", "results", "ddpg", "svg0-sac"])
def test_axe_finds_nothing(tab, name):
    """In the first rows of code and equations: the rest is of the same kinds, and axe is slow."""
    page = tab(f"{name}.html")
    page.evaluate(
        """() => {
          const few = { ".row": 7, ".fold .line": 4, ".prose > *": 14, "tr": 8, ".slide": 5 };
          for (const [kind, most] of Object.entries(few))
            document.querySelectorAll(kind).forEach((node, n) => n < most || node.remove());
        }"""
    )
    for scheme in ("dark", "light") if name in ("ddpg", "svg0-sac") else ("light",):
        page.emulate_media(color_scheme=scheme)
        # preload asks for the style sheets again
        found = axe.Axe().run(page, options={"preload": False}).response["violations"]
        assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found] == []


# ---- What ends the build ----
TARGET = "next_q_value = data.rewards.flatten() + not_done * args.gamma * qf1_next_target"
NEXT = "next_state_actions = nets.target_actor(data.next_observations)"
MIN = "min_qf_next_target = torch.min(qf1_next_target, qf2_next_target)"
PAGES_MADE = "lecture/notes/sac.md", "lecture/notes/handout.md", "docs/results.md"
# the words of the error: file, what is replaced, by what
FAULTS = {
    "lecture/notes/ddpg.md: reread this note: critic_loss, `# y = r": (
        "ddpg_continuous.py",
        TARGET,
        TARGET.replace("args.gamma", "0.99"),
    ),
    "lecture/notes/a3c.md: no note beside `decay = args.gamma * args.gae_lambda`": (
        "a3c_continuous.py",
        "decay = args.gamma * args.gae_lambda * (1 - rollout.dones)",
        "decay = args.gamma * args.gae_lambda",
    ),
    f"reread this note: critic_loss, `{NEXT}` is there 2 times in ddpg_continuous.py": (
        "ddpg_continuous.py",
        f"        {NEXT}\n",
        f"        {NEXT}\n" * 2,
    ),
    "lecture/notes/ppo.md: no note beside unexplained": (
        "ppo_continuous.py",
        "def losses_backward(",
        "def unexplained():\n    pass\n\n\ndef losses_backward(",
    ),
    "lecture/notes/td3.md: a hunk has no caption: ddpg to td3, train, `+metrics = dict()`": (
        "td3_continuous.py",
        "        metrics = {}\n",
        "        metrics = dict()\n",
    ),
    f"lecture/notes/td3.md: reread this note: critic_loss, `+{MIN}`": (
        "td3_continuous.py",
        MIN,
        MIN.replace("torch.min", "torch.max"),
    ),
    "lecture/notes/naf.md: Args has no statement": (
        "lecture/notes/naf.md",
        "## Args\n```python\n@dataclass\nclass Args:\n```\n",
        "## Args\n",
    ),
    "lecture/notes/sac.md: broken TeX: KaTeX parse error": (
        "lecture/notes/sac.md",
        r"J_\pi &= ",
        r"J_{\pi &= ",
    ),
    "lecture/notes/handout.md: a link leads nowhere: test:test_losses/check_poliak": (
        "lecture/notes/handout.md",
        "test:test_losses/check_polyak",
        "test:test_losses/check_poliak",
    ),
    "lecture/notes/handout.md: a link leads nowhere: watch:HalfCheeta-v4/ddpg": (
        "lecture/notes/handout.md",
        "watch:HalfCheetah-v4/ddpg)",
        "watch:HalfCheeta-v4/ddpg)",
    ),
    "docs/results.md: no row for results/ppo_hopper.gif": (
        "docs/results.md",
        "results/ppo_hopper.gif",
        "results/ppo.gif",
    ),
    "lecture/notes/handout.md: reread this note: ppo/critic_loss, `value_loss = 0.5 * ((values": (
        "lecture/notes/handout.md",
        "((values - data.returns) ** 2).mean()",
        "((values - data.returns) ** 3).mean()",
    ),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Build twice: with all that is found when the notes are read, and with all that is found when
    the pages are made. A build names every fault."""
    said = ""
    for made in False, True:
        folder = copy_of_repo(tmp_path_factory.mktemp("refused"))
        for file, old, new in FAULTS.values():
            if made == (file in PAGES_MADE):
                text = (folder / file).read_text()
                assert old in text, f"the mutant does not fit: {old}"
                (folder / file).write_text(text.replace(old, new, 1))
        if not made:
            shutil.copy(folder / "ddpg_continuous.py", folder / "new_continuous.py")
            with open(folder / "docs" / "algorithms.csv", "a") as file:
                file.write("new,,off-policy,NEW,Nobody 2026,#000000,,\n")
        done = build(folder)
        assert done.returncode == 2
        assert not (folder / "site").exists()
        said += done.stderr
    assert all(line.startswith("error: ") for line in said.splitlines())
    return said


@pytest.mark.parametrize("words", [*FAULTS, "lecture/notes/new.md is missing: new_continuous.py"])
def test_build_ends_where_something_does_not_fit(refused, words):
    assert words in refused


def test_new_script_joins_with_its_notes_and_a_row(tmp_path):
    folder = copy_of_repo(tmp_path)
    source = (folder / "ddpg_continuous.py").read_text()
    new = source.replace("        metrics = {}\n", "        metrics = dict()\n")
    (folder / "new_continuous.py").write_text(new)
    with open(folder / "docs" / "algorithms.csv", "a") as file:
        file.write("new,ddpg,off-policy,NEW,Nobody 2026,#000000,,2\n")
    (folder / "mine_continuous.py").write_text("print('a script without a row')\n")
    notes = "# NEW\nAn idea.\n\nText.\n\n## train\n```diff\n+metrics = dict()\n```\nA caption.\n"
    (folder / "lecture" / "notes" / "new.md").write_text(notes)
    done = build(folder)
    assert done.returncode == 0, done.stderr
    page = (folder / "site" / "ddpg-new.html").read_text()
    assert "DDPG → NEW" in page
    assert "A caption." in page
    assert 'href="new.html"' in (folder / "site" / "index.html").read_text()
    assert "as in DDPG" in (folder / "site" / "new.html").read_text()
