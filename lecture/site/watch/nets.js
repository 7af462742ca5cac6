// A policy: the weights in a safetensors file, and what its script computes of them. u is an action in units of half
// its range; `actions`, Q and its gradient are in the environment's.
const half = (bits, exponent = (bits >> 10) & 31, rest = (bits & 1023) / 1024) =>
  (bits & 0x8000 ? -1 : 1) * (exponent ? (1 + rest) * 2 ** (exponent - 15) : rest * 2 ** -14);
const halves = (buffer) => Float32Array.from(new Uint16Array(buffer), (bits) => half(bits));
const numbers = { F16: halves, F32: (buffer) => new Float32Array(buffer), F64: (buffer) => new Float64Array(buffer) };
function readSafetensors(buffer) {
  const size = buffer.byteLength > 8 ? Number(new DataView(buffer).getBigUint64(0, true)) : NaN, weights = {};
  if (!(size < buffer.byteLength - 8)) throw Error("it is no safetensors file, or was cut off");
  const { __metadata__: about, ...parts } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  for (const [name, { dtype, shape, data_offsets: [first, last] }] of Object.entries(parts)) {
    if (8 + size + last > buffer.byteLength) throw Error("it was cut off");
    weights[name] = { shape, data: numbers[dtype](buffer.slice(8 + size + first, 8 + size + last)) };
  }
  return [about, weights];
}

class Mlp {
  constructor(weights, names, tanh) {
    const tanhs = [Math.tanh, (y) => 1 - y * y], relus = [(x) => Math.max(x, 0), (y) => (y > 0 ? 1 : 0)];
    [this.bend, this.slope] = tanh ? tanhs : relus;
    this.layers = names.map((name) => {
      if (!weights[`${name}.weight`]) throw Error(`it has no weights of ${name}`);
      const { data, shape: [rows, columns] } = weights[`${name}.weight`];
      const turned = data.map((_, k) => data[(k % rows) * columns + Math.floor(k / rows)]); // (column, row): fast
      return { turned, bias: weights[`${name}.bias`].data, rows, columns };
    });
  }
  run(inputs) {
    let x = Float64Array.from(inputs);
    this.outputs = this.layers.map(({ turned, bias, rows, columns }, n) => {
      if (x.length !== columns) throw Error(`a layer takes ${columns} numbers, not ${x.length}`);
      const y = Float64Array.from(bias);
      for (let j = 0; j < columns; j++)
        if (x[j] !== 0) for (let i = 0, k = j * rows; i < rows; i++) y[i] += turned[k++] * x[j];
      return (x = n < this.layers.length - 1 ? y.map(this.bend) : y);
    });
    return [...x];
  }
  back(gradient) { // of the last run's outputs -> of its inputs
    for (let n = this.layers.length - 1; n >= 0; n--) {
      const { turned, rows, columns } = this.layers[n], inner = new Float64Array(columns);
      for (let j = 0, k = 0; j < columns; j++)
        for (let i = 0; i < rows; i++) inner[j] += turned[k++] * gradient[i];
      this.outputs[n - 1]?.forEach((y, j) => (inner[j] *= this.slope(y)));
      gradient = inner;
    }
    return [...gradient];
  }
}

class Policy {
  constructor(buffer) {
    const [about, weights] = readSafetensors(buffer);
    if (!about?.args) throw Error("it is not a file that evaluate.py --save wrote");
    this.args = JSON.parse(about.args);
    [this.id, this.body] = [this.args.env_id, BODIES[this.args.env_id]];
    if (!this.body) throw Error(`there is no body ${this.id} here`);
    this.script = this.args.script.replace("_continuous.py", "");
    [this.played, this.result] = ["played", "result"].map((name) => JSON.parse(about[name] ?? "null"));
    this.steps = this.result?.step ?? this.args.total_timesteps;
    this.noise = this.args.exploration_noise ?? 1; // of ε ~ N(0, 1), besides σ
    const find = (end) => weights[Object.keys(weights).find((name) => name.endsWith(end))]?.data;
    [this.scale, this.bias, this.logStd] = ["action_scale", "action_bias", "actor.log_std"].map(find);
    [this.atoms, this.onPolicy, this.naf] = [find("qf1.atoms"), "actor.mu.0.weight" in weights, "qf1.fc_l.weight" in weights];
    const tanh = this.onPolicy || "estimator" in this.args; // also in a copy of ac_reparam
    const net = (name, ...layers) => new Mlp(weights, layers.map((layer) => name + layer), tanh);
    if (this.onPolicy) {
      this.mean = find("obs_normalizer.mean");
      this.std = find("obs_normalizer.var").map((x) => Math.sqrt(x + 1e-8));
      this.rewardScale = Math.sqrt(find("return_normalizer.var")[0] + 1e-8);
      this.actor = net("actor.mu.", 0, 2, 4);
      if ((this.args.baseline ?? "value") === "value") this.critic = net("critic.net.", 0, 2, 4); // not all REINFORCEs
    } else {
      const head = (name) => net(this.naf ? "qf1." : "actor.", "fc1", "fc2", name);
      this.actor = head("fc_mu");
      if ("actor.fc_log_std.weight" in weights) this.spread = head("fc_log_std");
      if (this.naf) [this.value, this.factor] = [head("fc_v"), head("fc_l")];
      const twins = ["qf1.", "qf2."].filter((name) => `${name}fc3.weight` in weights);
      this.critics = twins.map((name) => net(name, "fc1", "fc2", "fc3"));
    }
    this.squashed = Boolean(this.spread) || (!this.onPolicy && Boolean(this.logStd));
  }
  normal(obs) { return obs.map((x, i) => clip((x - this.mean[i]) / this.std[i], 10)); }
  distribution(obs) { // of tanh(N(mu, sigma)) or N(mu, sigma); the actor that is a function has no sigma
    const out = this.actor.run(this.onPolicy ? this.normal(obs) : obs);
    const log = this.spread?.run(obs).map((x) => Math.min(Math.max(x, -20), 2)) ?? this.logStd;
    return { mu: this.squashed || this.onPolicy ? out : out.map(Math.tanh), sigma: log && [...log].map(Math.exp) };
  }
  place({ mu, sigma }, epsilon) { // u of ε
    const u = mu.map((m, i) => m + (sigma?.[i] ?? 1) * epsilon[i]);
    return this.squashed ? u.map(Math.tanh) : u;
  }
  worth(q) { return "drop" in this.args ? q.reduce((sum, x) => sum + x) / q.length : Math.min(...q); } // TQC's is their mean
  actions(u) { return u.map((x, i) => Math.fround(clip(x, 1) * this.scale[i] + this.bias[i])); }
  density({ mu, sigma }, joint, u) {
    const z = ((this.squashed ? Math.atanh(u) : u) - mu[joint]) / sigma[joint];
    const size = Math.exp(-0.5 * z * z) / (sigma[joint] * Math.sqrt(2 * Math.PI));
    return this.squashed ? (Math.abs(u) < 1 ? size / (1 - u * u) : 0) : size;
  }
  // What the critics say of an action: v, or q of each, its gradient, and the probabilities of D4PG's atoms.
  judge(obs, actions, gradients = true) {
    if (this.onPolicy) return { q: [], v: this.critic?.run(this.normal(obs))[0] };
    const u = actions.map((a, i) => (a - this.bias[i]) / this.scale[i]), said = { q: [] };
    if (this.naf) { // Q = V - ½ |Lᵀ(u - μ)|²
      const [v] = this.value.run(obs), mu = this.distribution(obs).mu, entries = this.factor.run(obs), n = u.length;
      const L = (i, j) => (i > j ? entries[i * n + j] : i === j ? Math.exp(Math.min(entries[i * n + i], 20)) : 0);
      const along = u.map((_, j) => u.reduce((sum, x, i) => sum + (x - mu[i]) * L(i, j), 0));
      const gradient = u.map((_, i) => -along.reduce((sum, x, j) => sum + x * L(i, j), 0) / this.scale[i]);
      return { q: [v - 0.5 * squares(along)], v, gradient };
    }
    for (const critic of this.critics) {
      const out = critic.run([...obs, ...u]), top = Math.max(...out), values = this.atoms ?? out;
      const sizes = out.map((x) => (this.atoms ? Math.exp(x - top) : 1)), total = sizes.reduce((sum, x) => sum + x);
      const shares = sizes.map((x) => x / total), q = shares.reduce((sum, p, i) => sum + p * values[i], 0);
      if (this.atoms) said.atoms = shares;
      if (gradients && !said.q.length) { // of the first critic, which DDPG's and TD3's actors climb
        const inner = critic.back(shares.map((p, i) => (this.atoms ? p * (values[i] - q) : p)));
        said.gradient = inner.slice(obs.length).map((x, i) => x / this.scale[i]);
      }
      said.q.push(q);
    }
    return said;
  }
}
