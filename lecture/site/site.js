// Light or dark, by hand and remembered.
const root = document.documentElement;
const theme = document.getElementById("theme");
function setTheme(name) {
  root.dataset.theme = name;
  theme.setAttribute("aria-pressed", name === "dark");
}
if (localStorage.theme) setTheme(localStorage.theme);
theme.hidden = false;
theme.onclick = () => {
  const now = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  localStorage.theme = now === "dark" ? "light" : "dark";
  setTheme(localStorage.theme);
};

// A link to a line opens the fold that the line is in.
function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const fold = target && target.closest("details");
  if (fold) fold.open = true;
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", unfold);
if (location.hash) unfold();

// What is wider than its box can be scrolled with the keyboard.
function reachable() {
  for (const box of document.querySelectorAll(".katex-display")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
reachable();
addEventListener("resize", reachable);
document.fonts.ready.then(reachable);

// A scene on a slide: the page in a frame, without its head.
const framed = root.classList.toggle("framed", window !== window.parent);
addEventListener("keydown", ({ key }) => framed && /^(Page|Home|End|Escape)/.test(key) && parent.postMessage(key, "*")); // a clicker's
for (const button of document.querySelectorAll("[data-scene]")) {
  const title = button.textContent, frame = Object.assign(document.createElement("iframe"), { title, className: "scene" });
  button.onclick = () => button.replaceWith(Object.assign(frame, { src: button.dataset.scene }));
}

// The deck: a rung as slides; the last one leads to the next rung's.
const start = document.getElementById("slides");
const slides = [...document.querySelectorAll(".slide")];
const after = document.getElementById("after");
let now = 0;
const inDeck = () => document.body.classList.contains("deck");
function show(n) {
  if (n === slides.length && after) location.href = after.href + "#slides";
  now = Math.min(Math.max(n, 0), slides.length - 1);
  slides.forEach((slide, i) => slide.classList.toggle("now", i === now));
  document.getElementById("count").textContent = `${now + 1} / ${slides.length}`;
  scrollTo(0, 0);
}
function openDeck() {
  document.body.classList.add("deck");
  document.querySelector(".deckbar").hidden = false;
  show(0);
  if (navigator.userActivation?.isActive) root.requestFullscreen?.().catch(() => {});
}
function closeDeck() {
  if (!inDeck()) return;
  document.body.classList.remove("deck");
  document.querySelector(".deckbar").hidden = true;
  if (document.fullscreenElement) document.exitFullscreen();
  slides[now].scrollIntoView();
  start.focus({ preventScroll: true });
}
if (start) {
  start.onclick = openDeck;
  document.getElementById("back").onclick = () => show(now - 1);
  document.getElementById("next").onclick = () => show(now + 1);
  document.getElementById("end").onclick = closeDeck;
  document.addEventListener("fullscreenchange", () => document.fullscreenElement || closeDeck());
  document.addEventListener("keydown", (event) => {
    const turn = { " ": 1, ArrowRight: 1, ArrowDown: 1, PageDown: 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1 };
    if (!inDeck() || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in turn) show(now + turn[event.key]);
    else if (event.key === "Home") show(0);
    else if (event.key === "End") show(slides.length - 1);
    else if (event.key === "Escape") closeDeck();
    else return;
    event.preventDefault();
  });
  addEventListener("message", ({ data: key }) => document.dispatchEvent(new KeyboardEvent("keydown", { key })));
  if (location.hash === "#slides") openDeck();
}
