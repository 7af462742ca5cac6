// The bodies as gymnasium's v4 has them: what a policy observes, what a step earns, what ends an episode.
// q, v: positions and velocities; speed: along x, over the step; a: the action. view: metres high, and its middle.
const clip = (x, most) => Math.min(Math.max(x, -most), most);
const squares = (a) => a.reduce((sum, x) => sum + x * x, 0);
const LEGS = ["thigh", "leg", "foot"];
const legged = {
  frames: 4, noise: 0.005, view: [2.1, 0.85],
  observe: (q, v) => [...q.slice(1), ...v.map((x) => clip(x, 10))],
  reward: (speed, a) => 1 + speed - 0.001 * squares(a),
};
const BODIES = {
  "HalfCheetah-v4": {
    model: "half_cheetah.xml", frames: 5, noise: 0.1, gaussian: true, view: [1.9, 0.7],
    joints: ["back thigh", "back shin", "back foot", "front thigh", "front shin", "front foot"],
    observe: (q, v) => [...q.slice(1), ...v],
    reward: (speed, a) => speed - 0.1 * squares(a),
    ended: () => false,
  },
  "Hopper-v4": {
    model: "hopper.xml", joints: LEGS, ...legged,
    ended: (q, v) => !(q[1] > 0.7 && Math.abs(q[2]) < 0.2 && [...q.slice(2), ...v].every((x) => Math.abs(x) < 100)),
  },
  "Walker2d-v4": {
    model: "walker2d.xml", joints: [...LEGS, ...LEGS.map((name) => `left ${name}`)], ...legged,
    ended: (q) => !(q[1] > 0.8 && q[1] < 2 && Math.abs(q[2]) < 1),
  },
  "InvertedPendulum-v4": {
    model: "inverted_pendulum.xml", frames: 2, noise: 0.01, view: [1.3, 0.3], joints: ["cart"], fixed: true,
    observe: (q, v) => [...q, ...v],
    reward: () => 1,
    ended: (q) => !(Math.abs(q[1]) <= 0.2),
  },
};
