// The page: a scene, which the address holds; policies side by side; what their networks see.
const $ = (id) => document.getElementById(id);
const [BLUE, ORANGE, GREEN, GREY] = ["#3b82d6", "#d9661f", "#2e9960", "#8a93a0"];
const scene = { id: "", shown: [], start: 1, joint: 0, noise: "off", epsilon: [], slow: false };
let players = [], playing = false, last = 0, behind = 0, painted = 0, held = null, random, queue = Promise.resolve();

// ---- Scene ----
const fill = (select, pairs) => $(select).replaceChildren(...pairs.map((pair) => new Option(...pair)));
const called = (policy) => `${policy.script}@${policy.steps}`;
function find(id, name) { // "ddpg@50000": the nearest steps; "ddpg": the last
  const [script, steps = 1e12] = name.split("@"), far = (policy) => Math.abs(policy.steps - steps);
  const found = DATA.policies.filter((policy) => policy.id === id && policy.script === script);
  if (!found.length) throw Error(`no policy of ${name} on ${id} is kept`);
  return found.sort((a, b) => far(a) - far(b))[0];
}
const attempt = (task) => (queue = queue.then(task).then(() => "", async (error) => { // one task after the other
  await (players.length ? update() : stage(DATA.policies.at(-1).id, [DATA.policies.at(-1)]).catch(() => {}));
  return `This can't be played: ${error.message}.`;
}).then((text) => ($("said").textContent = text)));
async function stage(id, shown) {
  for (const entry of shown) entry.policy ??= await loadPolicy(entry.file);
  const model = await loadModel(id), made = shown.map((entry) => new Player(entry.policy, model));
  players.forEach((player) => player.data.delete());
  [players, scene.id, scene.shown, held] = [made, id, shown, null];
  scene.joint = clip(scene.joint, BODIES[id].joints.length - 1);
  scene.epsilon = BODIES[id].joints.map((_, i) => scene.epsilon[i] || 0);
  fill("joint", BODIES[id].joints.map((name, i) => [name, i]));
  $("players").replaceChildren(...players.map((player, n) => {
    const figure = document.querySelector("template").content.cloneNode(true).firstChild, { played } = player.policy;
    const label = `${shown[n].title}, ${shown[n].steps.toLocaleString("en")} steps, on ${id}`;
    const score = played ? `: ${played.mean.toFixed(0)} ± ${played.std.toFixed(0)} in ${played.episodes} episodes` : "";
    player.canvas = Object.fromEntries([...figure.querySelectorAll("canvas")].map((node) => [node.className, node]));
    for (const node of Object.values(player.canvas)) node.ariaLabel += `, ${label}`;
    player.canvas.atoms.hidden = !player.policy.atoms;
    figure.querySelector("figcaption").textContent = label + score;
    player.output = figure.querySelector("output");
    drag(player);
    return figure;
  }));
  begin();
}
function begin(start = scene.start) {
  [scene.start, random, playing] = [start, generator(start), false];
  players.forEach((player) => player.restart(start));
  if (scene.noise === "drawn") scene.epsilon = scene.epsilon.map(random.normal);
  update();
}
const read = () => attempt(() => { // #Hopper-v4/ddpg@50000/td3?start=1&joint=1&noise=held&epsilon=1,0,0&slow
  const [place, query] = decodeURIComponent(location.hash.slice(1)).split("?"), get = new URLSearchParams(query);
  const [id = "", ...names] = place.split("/"), first = DATA.policies.findLast((policy) => !id || policy.id === id);
  Object.assign(scene, { start: get.get("start") | 0 || 1, joint: Math.max(0, (get.get("joint") | 0) - 1), slow: get.has("slow") });
  Object.assign(scene, { noise: ["drawn", "held"].find((noise) => noise === get.get("noise")) ?? "off", epsilon: (get.get("epsilon") ?? "").split(",").map(Number) });
  if (!names.length && !first) throw Error(`no policy on ${id} is kept`);
  return stage(id || first.id, names.length ? names.map((name) => find(id, name)) : [first]);
});
function update() { // controls and address after the scene
  const { id, shown, start, joint, noise, epsilon, slow } = scene;
  const set = `start=${start}&joint=${joint + 1}&noise=${noise}${slow ? "&slow" : ""}`, about = [id, ...shown.map(called)];
  const hand = noise === "held" ? `&epsilon=${epsilon.map((x) => +x.toFixed(2))}` : "";
  history.replaceState(null, "", `#${about.join("/")}?${set}${hand}`);
  const named = (policy) => [`${policy.title}, ${policy.steps.toLocaleString("en", { notation: "compact" })} steps`, called(policy)];
  const options = DATA.policies.filter((policy) => policy.id === id).map(named);
  fill("one", options);
  fill("two", [["nothing", ""], ...options]);
  const values = { body: id, one: about[1], two: about[2] ?? "", joint, noise, epsilon: epsilon[joint] };
  for (const [control, value] of Object.entries(values)) $(control).value = value;
  $("play").textContent = playing ? "Pause" : "Play";
  $("slow").ariaPressed = slow;
  [painted, $("said").textContent] = [0, ""];
}

// ---- Time ----
const noises = ({ policy }) => scene.epsilon.map((x) => (scene.noise === "off" ? 0 : x * policy.noise));
function advance() {
  if (held) players.forEach((player) => (player.push = held.player.pull(held.spot, ...held.to)));
  for (const player of players) if (!player.over) player.step(noises(player));
  if (scene.noise === "drawn") scene.epsilon = scene.epsilon.map(random.normal);
  if (players.every((player) => player.over)) playing = false;
}
function frame(now) {
  behind = playing ? Math.min(behind + (now - last) / 1000 / (scene.slow ? 5 : 1), 0.1) : 0;
  last = now;
  for (; playing && behind >= players[0].dt; behind -= players[0].dt) advance();
  if ($("play").textContent === "Pause" && !playing) update();
  if (playing || !painted) players.forEach((player) => player.draw(player.canvas.stage));
  if ((playing && now - painted > 150) || !painted) { players.forEach(paint); painted = now; }
  requestAnimationFrame(frame);
}

// ---- Instruments ----
function clear(canvas, pen = canvas.getContext("2d")) {
  pen.clearRect(0, 0, canvas.width, canvas.height);
  return Object.assign(pen, { font: `27px ${getComputedStyle(canvas).fontFamily}`, lineWidth: 4 });
}
// Curves [name, colour, points, kind]; an "area" has a scale of its own. Marks [name, colour, x].
function plot(canvas, [x0, x1], curves, ...marks) {
  const pen = clear(canvas), { color } = getComputedStyle(canvas), top = 84, foot = canvas.height - 40;
  const heights = (points) => points.map(([, y]) => y).filter(Number.isFinite);
  const all = curves.flatMap(([, , points, area]) => (area ? [] : heights(points))), X = (x) => ((x - x0) / (x1 - x0)) * canvas.width;
  let at = 8;
  for (const [name, colour, points, area] of [...curves, ...marks]) {
    Object.assign(pen, { strokeStyle: colour, fillStyle: colour });
    if (Array.isArray(points)) {
      pen.lineWidth = colour === GREY ? 14 : 4; // Q1 and Q2 are drawn upon it
      const [low, high] = area ? [0, Math.max(...heights(points))] : [Math.min(...all), Math.max(...all)];
      const Y = (y) => foot - ((y - low) / (high - low || 1)) * (foot - top);
      const path = points.filter(([, y]) => Number.isFinite(y)).map(([x, y]) => `${X(x)} ${Y(y)}`).join("L");
      pen.stroke(new Path2D(`M${path}`));
      if (area) pen.globalAlpha = 0.25, pen.fill(new Path2D(`M${path}L${X(x1)} ${foot}L${X(x0)} ${foot}`)), pen.globalAlpha = 1;
    } else pen.fillRect(X(points) - 3, top, 6, foot - top);
    pen.fillRect(at, 14, 18, 18);
    Object.assign(pen, { fillStyle: color }).fillText(name, at + 26, 33);
    at += 42 + pen.measureText(name).width;
  }
  if (all.length) pen.fillText(`${Math.min(...all).toFixed(1)} to ${Math.max(...all).toFixed(1)}`, 8, 70);
  for (const [x, left] of [[x0, 8], [x1, canvas.width - 72]]) pen.fillText(+x.toFixed(1), left, canvas.height - 8);
}
// Q, or the policy's density, along one joint's action, the others as they are.
function along({ policy, observation, seen }, u, joint, count = 25) {
  const edge = policy.onPolicy ? 1.5 : 1, us = Array.from({ length: count }, (_, i) => edge * ((2 * i) / (count - 1) - 1));
  const q = us.map((x) => policy.judge(observation, policy.actions(u.with(joint, x)), false).q);
  const curves = q[0].map((_, n) => [`Q${n + 1}`, [BLUE, ORANGE][n], us.map((x, i) => [x, q[i][n]])]);
  if (curves.length === 2) curves.unshift(["drop" in policy.args ? "the mean" : "the smaller", GREY, us.map((x, i) => [x, policy.worth(q[i])])]);
  const fine = Array.from({ length: 201 }, (_, i) => edge * (i / 100 - 1));
  if (seen.sigma) curves.push(["π", GREEN, fine.map((x) => [x, policy.density(seen, joint, x)]), "area"]);
  return { edge, curves };
}
function bars(canvas, { policy, seen, body }, u, gradient) { // each joint: μ ± σ, the action, ∇Q as an arrow
  const [pen, row] = [clear(canvas), canvas.height / u.length], { color } = getComputedStyle(canvas);
  const X = (x) => 410 + clip(x, 1.5) * 147, most = Math.max(0.01, ...(gradient ?? []).map(Math.abs));
  const [low, high] = [-1, 1].map((by) => policy.place(seen, u.map(() => by)));
  u.forEach((x, i) => {
    const bar = (colour, from, to, thick) => {
      pen.fillStyle = colour;
      pen.fillRect(Math.min(from, to), (i + 0.5) * row - thick / 2, Math.abs(to - from), thick);
    };
    const tip = X(x + (0.5 * (gradient?.[i] ?? 0)) / most);
    bar(i === scene.joint ? `${BLUE}33` : `${GREY}1f`, 0, canvas.width, row - 4);
    bar(GREY, X(-1), X(1), 3);
    if (seen.sigma) bar(`${GREEN}88`, X(low[i]), X(high[i]), 16);
    bar(BLUE, X(x) - 4, X(x) + 4, 34);
    if (gradient) bar(ORANGE, X(x), tip, 6), bar(ORANGE, tip - 3, tip + 3, 20);
    pen.fillStyle = color;
    pen.fillText(body.joints[i], 10, (i + 0.5) * row + 9);
  });
}
function paint(player) {
  const { policy, canvas, log, speed, reward } = player, { u, values } = player.choose(noises(player));
  const { gradient, atoms, q, mu } = values, { edge, curves } = along(player, u, scene.joint);
  const mark = (name, colour, x) => [name, colour, clip(x[scene.joint], edge)];
  bars(canvas.joints, player, u, gradient);
  plot(canvas.along, [-edge, edge], curves, mark("│ a", BLUE, u), mark("│ μ", GREY, policy.squashed ? mu.map(Math.tanh) : mu));
  const lines = [[policy.onPolicy ? "V" : "Q", BLUE, log.map(({ expected }, t) => [t, expected])]];
  if (player.over) lines.push(["discounted return", ORANGE, player.came().map((y, t) => [t, y])]);
  plot(canvas.time, [0, Math.max(100, log.length)], lines);
  const Z = atoms?.map((p, i) => [policy.atoms[i], p]);
  if (atoms) plot(canvas.atoms, [Z[0][0], Z.at(-1)[0]], [["Z", GREEN, Z, "area"]], ["Q", BLUE, q[0]]);
  player.output.textContent = `step ${log.length}, return ${player.return.toFixed(1)}, reward ${reward.toFixed(2)}, `
    + `${speed.toFixed(2)} m/s${player.terminated ? "; it fell" : player.over ? "; time is up" : ""}`;
}

// ---- Hands ----
const set = (changes) => (Object.assign(scene, changes), update());
const hold = (by) => set({ noise: "held", epsilon: scene.epsilon.with(scene.joint, clip(by, 3)) });
const shove = (by, { mass, dt }) => ({ part: 1, force: [by * 20 * mass, 0, 0, 0, 0, 0], steps: Math.ceil(0.1 / dt) });
const nudge = (by) => players.forEach((player) => (player.push = shove(by, player)));
const ACTIONS = {
  play: () => (players.every((player) => player.over) && begin(), (playing = !playing), update()),
  step: () => (advance(), (playing = false), update()),
  slow: () => set({ slow: !scene.slow }),
  again: () => begin(), another: () => begin(scene.start + 1),
};
const KEYS = {
  " ": ACTIONS.play, ArrowRight: ACTIONS.step, s: ACTIONS.slow, r: ACTIONS.again, n: ACTIONS.another,
  a: () => nudge(-1), d: () => nudge(1), j: () => set({ joint: (scene.joint + 1) % scene.epsilon.length }),
  e: () => set({ noise: { off: "drawn", drawn: "held", held: "off" }[scene.noise] }),
  ArrowUp: () => hold(scene.epsilon[scene.joint] + 0.25), ArrowDown: () => hold(scene.epsilon[scene.joint] - 0.25),
};
for (const [id, action] of Object.entries(ACTIONS)) $(id).onclick = () => players.length && action();
addEventListener("keydown", (event) => {
  const { target } = event, key = event.key.replace(/^.$/, (letter) => letter.toLowerCase()); // caps lock may be on
  const own = target.matches("select, input") || (key === " " && target.matches("button, a"));
  if (!KEYS[key] || !players.length || own || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  KEYS[key]();
});
$("body").onchange = () => (location.hash = $("body").value);
$("one").onchange = $("two").onchange = () =>
  attempt(() => stage(scene.id, [$("one").value, $("two").value].filter(Boolean).map((name) => find(scene.id, name))));
$("joint").onchange = () => set({ joint: +$("joint").value });
$("noise").onchange = () => set({ noise: $("noise").value });
$("epsilon").oninput = () => hold(+$("epsilon").value);
$("own").onchange = () => take($("own").files[0]);
addEventListener("hashchange", () => location.hash === "#main" || read()); // the skip link's
addEventListener("click", () => (painted = 0)); // perhaps on "Light or dark"
for (const query of ["print", "(prefers-color-scheme: dark)"])
  matchMedia(query).onchange = () => players.forEach((player) => (player.draw(player.canvas.stage), paint(player)));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => (event.preventDefault(), take(event.dataTransfer.files[0])));
const take = (file) => file && attempt(async () => {
  if (file.size > 2e7) throw Error(`${file.name} has ${Math.round(file.size / 1e6)} MB, more than any policy`);
  const policy = new Policy(await file.arrayBuffer()), { id, steps } = policy;
  const entry = { id, steps, script: file.name.replace(/[@/?#%]/g, "-"), title: file.name, policy };
  await stage(id, [entry]);
  DATA.policies.unshift(entry);
  update();
});
function drag(player) {
  const { stage, joints } = player.canvas, zoom = () => stage.width / stage.clientWidth;
  const point = (event) => player.camera(stage).metres(event.offsetX * zoom(), event.offsetY * zoom());
  stage.onpointerdown = (event) => {
    const to = point(event), spot = player.grab(...to);
    if (spot) held = { player, spot, to };
    stage.setPointerCapture(event.pointerId);
  };
  stage.onpointermove = (event) => held && (held.to = point(event));
  stage.onpointerup = stage.onpointercancel = () => ((held = null), players.forEach((each) => (each.push = null)));
  joints.onclick = (event) => set({ joint: Math.floor((event.offsetY / joints.clientHeight) * scene.epsilon.length) });
}
window.watch = { // for tests and tinkerers: lecture/README.md explains it
  policies: DATA.policies,
  open: (id, script, steps) => stage(id, [find(id, steps ? `${script}@${steps}` : script)]),
  start: (qpos, qvel) => players[0].start(qpos, qvel),
  step: (sigma = 0) => players[0].step(scene.epsilon.map(() => sigma * random.normal())),
};
fill("body", Object.keys(BODIES).map((id) => [id, id]));
read().then(() => requestAnimationFrame(frame));
