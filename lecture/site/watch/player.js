// MuJoCo in the page, and a body that a policy moves.
const loaded = {}, models = {}, mujoco = {};
const load = (src) => (loaded[src] ??= new Promise((onload, fail) => {
  document.head.append(Object.assign(document.createElement("script"), { src, onload, onerror: () => fail(Error(`no ${src}`)) }));
}));
const decode = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const loadPolicy = async (file) => (await load(`policies/${file}.js`), new Policy(decode(POLICIES[file]).buffer));
async function startMujoco() {
  await Promise.all([load("mujoco/mujoco.js"), load("mujoco/mujoco.wasm.js")]);
  const stream = new Blob([decode(WASM)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return MujocoModule.default({ wasmBinary: await new Response(stream).arrayBuffer(), locateFile: (file) => file });
}
async function loadModel(id) {
  const made = await (mujoco.engine ??= startMujoco());
  return (models[id] ??= Object.assign(made.MjModel.from_xml_string(DATA.models[BODIES[id].model]), { engine: made }));
}
function generator(seed) { // random numbers, the same for the same seed
  let state = ((seed + 1) * 2654435761) % 2147483647;
  const uniform = () => (state = (state * 16807) % 2147483647) / 2147483647;
  return { uniform, normal: () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()) };
}

class Player {
  constructor(policy, model) {
    Object.assign(this, { policy, model, body: policy.body, engine: model.engine, data: new model.engine.MjData(model) });
    [this.dt, this.mass] = [model.opt.timestep * this.body.frames, model.body_mass.reduce((sum, x) => sum + x, 0)];
    this.restart(1);
    const { action } = this.step(this.body.joints.map(() => 0));
    if (action.length !== model.nu || !action.every(Number.isFinite)) throw Error("its actions do not fit");
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
    const { data, body, policy, push } = this, x = data.qpos[0], { action, values } = this.choose(epsilon);
    data.ctrl.set(action);
    data.xfrc_applied.fill(0);
    if (push) data.xfrc_applied.set(push.force, 6 * push.part);
    if (push && --push.steps <= 0) this.push = null;
    for (let k = 0; k < body.frames; k++) this.engine.mj_step(this.model, data);
    this.speed = (data.qpos[0] - x) / this.dt;
    this.reward = body.reward(this.speed, action);
    this.return += this.reward;
    this.terminated = body.ended([...data.qpos], [...data.qvel]);
    this.log.push({ reward: this.reward, expected: policy.onPolicy ? values.v * policy.rewardScale : policy.worth(values.q) });
    this.over = this.terminated || this.log.length >= (policy.args.max_episode_steps ?? 1000);
    return { observation: this.look(), action, reward: this.reward, terminated: this.terminated, values };
  }
  came() { // the discounted return after each step; at the time limit that of the last ones is not known
    const { gamma } = this.policy.args, returns = this.log.map(({ reward }) => reward);
    for (let t = returns.length - 2; t >= 0; t--) returns[t] += gamma * returns[t + 1];
    return this.terminated ? returns : returns.slice(0, -Math.ceil(Math.log(0.05) / Math.log(gamma)));
  }
  capsules() {
    const { model, data } = this;
    return [...model.geom_type].map((type, g) => {
      const [x, , z] = data.geom_xpos.slice(3 * g, 3 * g + 3), turn = data.geom_xmat.slice(9 * g, 9 * g + 9);
      const [radius, long] = model.geom_size.slice(3 * g, 3 * g + 2), [dx, dz] = [turn[2] * long, turn[8] * long];
      const colour = `rgb(${[...model.geom_rgba.slice(4 * g, 4 * g + 3)].map((c) => Math.round(255 * c))})`;
      return { capsule: type === 3, part: model.geom_bodyid[g], ends: [x - dx, z - dz, x + dx, z + dz], radius, colour };
    });
  }
  camera({ width, height }) { // it follows the body
    const [high, middle] = this.body.view, size = height / high, x = this.body.fixed ? 0 : this.data.qpos[0];
    const pixels = (mx, mz) => [width / 2 + (mx - x) * size, height / 2 - (mz - middle) * size];
    return { size, pixels, metres: (px, py) => [x + (px - width / 2) / size, middle - (py - height / 2) / size] };
  }
  draw(canvas) {
    const pen = canvas.getContext("2d"), style = getComputedStyle(canvas), { size, metres, pixels } = this.camera(canvas);
    const line = ([x1, z1, x2, z2], lineWidth, strokeStyle = style.color) => {
      Object.assign(pen, { lineWidth, strokeStyle, lineCap: "round" });
      pen.stroke(new Path2D(`M${pixels(x1, z1)}L${pixels(x2, z2)}`));
    };
    pen.clearRect(0, 0, canvas.width, canvas.height);
    Object.assign(pen, { font: `26px ${style.fontFamily}`, fillStyle: style.color });
    const [left] = metres(0, 0), [right] = metres(canvas.width, 0);
    for (let m = Math.ceil(left); m < right && !this.body.fixed; m++) {
      line([m, 0, m, -0.04], 2);
      pen.fillText(`${m} m`, pixels(m, 0)[0] + 8, canvas.height - 10);
    }
    if (!this.body.fixed) line([left, 0, right, 0], 2);
    for (const { capsule, ends, radius, colour } of this.capsules()) if (capsule) line(ends, 2 * radius * size, colour);
    if (this.push?.line) line(this.push.line, 4);
  }
  grab(x, z) { // the capsule at a point, and where on it
    let found = null, nearest = 0.15;
    this.capsules().forEach(({ capsule, part, ends: [x1, z1, x2, z2], radius }, g) => {
      const [dx, dz] = [x2 - x1, z2 - z1], along = ((x - x1) * dx + (z - z1) * dz) / (dx * dx + dz * dz);
      const at = Math.min(Math.max(along, 0), 1), far = Math.hypot(x - x1 - at * dx, z - z1 - at * dz) - radius;
      if (capsule && part && far < nearest) [found, nearest] = [{ g, at }, far];
    });
    return found;
  }
  pull({ g, at }, x, z) { // a spring from there to a point, as the push that it is now
    const { part, ends: [x1, z1, x2, z2] } = this.capsules()[g], [gx, gz] = [x1 + at * (x2 - x1), z1 + at * (z2 - z1)];
    const [cx, , cz] = this.data.xipos.slice(3 * part, 3 * part + 3), k = 60 * this.mass, fx = k * (x - gx), fz = k * (z - gz);
    return { part, force: [fx, 0, fz, 0, (gz - cz) * fx - (gx - cx) * fz, 0], steps: Infinity, line: [gx, gz, x, z] };
  }
}
