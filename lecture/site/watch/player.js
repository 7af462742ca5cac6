// MuJoCo in the page, and a body that a policy moves.
const loaded = {};
function load(file) {
  return (loaded[file] ??= new Promise((resolve, reject) => {
    const tag = Object.assign(document.createElement("script"), { src: file, onload: resolve });
    tag.onerror = () => reject(Error(`${file} is missing`));
    document.head.append(tag);
  }));
}
const decode = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const loadPolicy = async (file) => (await load(`policies/${file}.js`), new Policy(decode(POLICIES[file]).buffer));

let engine;
const models = {};
const ready = async () => {
  await Promise.all([load("mujoco/mujoco.js"), load("mujoco/mujoco.wasm.js")]);
  const stream = new Blob([decode(WASM)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return MujocoModule.default({ wasmBinary: await new Response(stream).arrayBuffer(), locateFile: (file) => file });
};
async function loadModel(id) {
  const made = await (engine ??= ready());
  return (models[id] ??= Object.assign(made.MjModel.from_xml_string(DATA.models[BODIES[id].model]), { engine: made }));
}

function generator(seed) { // random numbers, the same for the same seed
  let state = ((seed + 1) * 2654435761) % 2147483647;
  const uniform = () => (state = (state * 16807) % 2147483647) / 2147483647;
  return { uniform, normal: () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()) };
}

class Player {
  constructor(policy, model) {
    Object.assign(this, { policy, model, body: policy.body, engine: model.engine, push: null });
    this.data = new this.engine.MjData(model);
    this.dt = model.opt.timestep * this.body.frames;
    this.mass = model.body_mass.reduce((sum, x) => sum + x, 0);
    this.restart(1);
    const { action } = this.step(this.body.joints.map(() => 0));
    if (action.length !== model.nu || !action.every(Number.isFinite)) throw Error("its actions do not fit");
    this.restart(1);
  }
  restart(seed) {
    const { uniform, normal } = generator(seed), { noise, gaussian } = this.body;
    const around = () => noise * (2 * uniform() - 1), qpos = [...this.model.qpos0].map((x) => x + around());
    return this.start(qpos, qpos.map(() => (gaussian ? noise * normal() : around())));
  }
  start(qpos, qvel) {
    this.engine.mj_resetData(this.model, this.data);
    this.data.qpos.set(qpos);
    this.data.qvel.set(qvel);
    this.engine.mj_forward(this.model, this.data);
    Object.assign(this, { return: 0, reward: 0, speed: 0, log: [], terminated: false, over: false, push: null });
    return this.look();
  }
  look() {
    this.observation = this.body.observe([...this.data.qpos], [...this.data.qvel]);
    this.seen = this.policy.distribution(this.observation);
    return this.observation;
  }
  choose(epsilon) { // the action of ε, a number for each joint, and what the critics say of it
    const { policy, observation, seen } = this, u = policy.place(seen, epsilon), action = policy.actions(u);
    return { u, action, values: { ...policy.judge(observation, action), ...seen } };
  }
  step(epsilon) {
    const { data, body, policy } = this, x = data.qpos[0], { action, values } = this.choose(epsilon);
    data.ctrl.set(action);
    data.xfrc_applied.fill(0);
    if (this.push) {
      data.xfrc_applied.set(this.push.force, 6 * this.push.part);
      if (--this.push.steps <= 0) this.push = null;
    }
    for (let k = 0; k < body.frames; k++) this.engine.mj_step(this.model, data);
    this.speed = (data.qpos[0] - x) / this.dt;
    this.reward = body.reward(this.speed, action);
    this.return += this.reward;
    this.terminated = body.ended([...data.qpos], [...data.qvel]);
    const expected = policy.onPolicy ? values.v * policy.rewardScale : Math.min(...values.q);
    this.log.push({ reward: this.reward, expected });
    this.over = this.terminated || this.log.length >= 1000;
    return { observation: this.look(), action, reward: this.reward, terminated: this.terminated, values };
  }
  came() { // the discounted return after each step; at the time limit that of the last ones is not known
    const { gamma } = this.policy.args, returns = [];
    let next = 0;
    for (const { reward } of [...this.log].reverse()) returns.unshift((next = reward + gamma * next));
    return this.terminated ? returns : returns.slice(0, -Math.ceil(Math.log(0.05) / Math.log(gamma)));
  }
  capsules() {
    const { model, data } = this;
    return [...model.geom_type].map((type, g) => {
      const [x, , z] = data.geom_xpos.slice(3 * g, 3 * g + 3), turn = data.geom_xmat.slice(9 * g, 9 * g + 9);
      const [radius, long] = model.geom_size.slice(3 * g, 3 * g + 2), [dx, dz] = [turn[2] * long, turn[8] * long];
      const colour = `rgb(${[...model.geom_rgba.slice(4 * g, 4 * g + 3)].map((c) => Math.round(255 * c))})`;
      return { type, part: model.geom_bodyid[g], ends: [x - dx, z - dz, x + dx, z + dz], radius, colour };
    });
  }
  camera(canvas) { // it follows the body
    const [high, middle] = this.body.view, size = canvas.height / high, x = this.body.fixed ? 0 : this.data.qpos[0];
    const [px, pz] = [canvas.width / 2, canvas.height / 2];
    const metres = (right, down) => [x + (right - px) / size, middle - (down - pz) / size];
    return { size, metres, pixels: (mx, mz) => [px + (mx - x) * size, pz - (mz - middle) * size] };
  }
  draw(canvas) {
    const pen = canvas.getContext("2d"), style = getComputedStyle(canvas);
    const { size, metres, pixels } = this.camera(canvas);
    const line = ([x1, z1, x2, z2], width, colour = style.color) => {
      Object.assign(pen, { lineWidth: width, strokeStyle: colour, lineCap: "round" });
      pen.stroke(new Path2D(`M${pixels(x1, z1)}L${pixels(x2, z2)}`));
    };
    pen.clearRect(0, 0, canvas.width, canvas.height);
    Object.assign(pen, { font: `26px ${style.fontFamily}`, fillStyle: style.color });
    const [left] = metres(0, 0), [right] = metres(canvas.width, 0);
    if (!this.body.fixed) line([left, 0, right, 0], 2);
    for (let m = Math.ceil(left); m < right && !this.body.fixed; m++) {
      line([m, 0, m, -0.04], 2);
      pen.fillText(`${m} m`, pixels(m, 0)[0] + 8, canvas.height - 10);
    }
    for (const { type, ends, radius, colour } of this.capsules())
      if (type === 3) line(ends, 2 * radius * size, colour);
    if (this.push?.line) line(this.push.line, 4);
  }
  grab(x, z) { // the capsule at a point, and where on it
    let found = null, nearest = 0.15;
    this.capsules().forEach(({ type, part, ends: [x1, z1, x2, z2], radius }, g) => {
      const [dx, dz] = [x2 - x1, z2 - z1], along = ((x - x1) * dx + (z - z1) * dz) / (dx * dx + dz * dz);
      const at = Math.min(Math.max(along, 0), 1), far = Math.hypot(x - x1 - at * dx, z - z1 - at * dz) - radius;
      if (type === 3 && part && far < nearest) [found, nearest] = [{ g, at }, far];
    });
    return found;
  }
  pull({ g, at }, x, z) { // a spring from there to a point, as the push that it is now
    const { part, ends: [x1, z1, x2, z2] } = this.capsules()[g], [gx, gz] = [x1 + at * (x2 - x1), z1 + at * (z2 - z1)];
    const [fx, fz] = [60 * this.mass * (x - gx), 60 * this.mass * (z - gz)];
    const [cx, , cz] = this.data.xipos.slice(3 * part, 3 * part + 3), torque = (gz - cz) * fx - (gx - cx) * fz;
    return { part, force: [fx, 0, fz, 0, torque, 0], steps: Infinity, line: [gx, gz, x, z] };
  }
}

async function demo(link) { // the picture of the landing page comes to life
  const entry = DATA.policies.findLast((policy) => policy.id === "Hopper-v4") ?? DATA.policies.at(-1);
  const player = new Player(await loadPolicy(entry.file), await loadModel(entry.id));
  const canvas = Object.assign(document.createElement("canvas"), { width: 400, height: 400, role: "img" });
  canvas.ariaLabel = `${entry.title} on ${entry.id}, live`;
  link.replaceChildren(canvas);
  setInterval(() => {
    if (player.over) player.restart(Math.random());
    player.step(player.seen.mu.map(() => 0));
    player.draw(canvas);
  }, 1000 * player.dt);
}
