"""Where the time of a training step goes, how far that is from bare arithmetic and from SB3.

python benchmarks/speed.py [td3_continuous] [--compile] [--threads 2]
python benchmarks/speed.py sac_continuous --against-sb3

Prints one table; docs/performance.md defines its figures.
"""

import contextlib
import importlib
import io
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
import tyro
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch.optim.optimizer import register_optimizer_step_post_hook as after_optimizer_step

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 1_000


@dataclass
class Options:
    script: tyro.conf.Positional[str] = "ddpg_continuous"  # the script to measure, without .py
    env_id: str = "HalfCheetah-v4"  # id of the environment
    threads: int = 1  # CPU threads of PyTorch (the table's last line measures two against one)
    compile: bool = False  # measure the script with its --compile
    against_sb3: bool = False  # only the comparison with SB3
    steps: int = 2_000  # environment steps of a measurement
    repeats: int = 5  # measurements of each kind, at least 2; the table shows medians


def run(module, options, timesteps, **changes):
    """Run the script's own `train` in a temporary folder and return its seconds."""
    fixed = dict(cuda=False, learning_starts=WARM_UP, eval_interval=0, checkpoint_interval=0)
    own = dict(env_id=options.env_id, torch_threads=options.threads, compile=options.compile)
    args = module.Args(total_timesteps=timesteps, eval_episodes=1, **(fixed | own | changes))
    silent = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), silent:
        start = time.perf_counter()
        module.train(args)
        return time.perf_counter() - start


def run_sb3(algorithm, options, timesteps):
    """Do the same work with SB3 and return its seconds."""
    start = time.perf_counter()
    torch.set_num_threads(options.threads)
    env = gym.make(options.env_id)
    shape = env.action_space.shape
    noise = NormalActionNoise(np.zeros(shape), np.full(shape, 0.1))
    if algorithm is sb3.SAC:
        noise = None
    same = dict(learning_rate=3e-4, batch_size=256, tau=0.005, gamma=0.99, buffer_size=1_000_000)
    nets = dict(net_arch=[256, 256], activation_fn=torch.nn.ReLU)
    model = algorithm(
        "MlpPolicy", env, learning_starts=WARM_UP, train_freq=1, gradient_steps=1, **same,
        action_noise=noise, policy_kwargs=nets, device="cpu", seed=1,
    )  # fmt: skip
    model.learn(timesteps, log_interval=None)
    return time.perf_counter() - start


def marginal(options, run_to):
    """Return the seconds that a further environment step takes, long after learning started."""
    short = WARM_UP + 500
    return (run_to(short + options.steps) - run_to(short)) / options.steps


def in_turn(options, run_a, run_b, block=100):
    """Return the seconds a step of two runs, block by block: (blocks, 2).

    Both go on in one process, in turn, `block` steps each, so that what else happens on the machine
    meets both alike. The clock is read in the environment's `step`, from 500 steps after
    WARM_UP on.
    """
    env_class = type(gym.make(options.env_id).unwrapped)
    original, total = env_class.step, WARM_UP + 500 + options.steps * options.repeats
    may_run = {run_a: threading.Semaphore(1), run_b: threading.Semaphore(0)}
    seconds, mine = {run_a: [], run_b: []}, threading.local()

    def step(self, action):
        if not hasattr(mine, "count"):
            mine.count = 0
            may_run[mine.run].acquire()
        elif mine.count % block == 0:
            if WARM_UP + 500 < mine.count <= total:
                seconds[mine.run].append((time.perf_counter() - mine.since) / block)
            may_run[mine.other].release()
            may_run[mine.run].acquire()
        if mine.count % block == 0:
            mine.since = time.perf_counter()
        mine.count += 1
        return original(self, action)

    def go(run, other):
        mine.run, mine.other = run, other
        try:
            run(total)
        finally:
            may_run[other].release(1_000_000)

    env_class.step = step
    try:
        beside = threading.Thread(target=go, args=(run_b, run_a), daemon=True)
        beside.start()
        go(run_a, run_b)  # here, because only a main thread can handle signals
        beside.join()
    finally:
        env_class.step = original
    return list(zip(*seconds.values(), strict=False))


def matrix_products(obs_dim, act_dim, critics, batch=256, width=256):
    """Return two lists of matrix products (a, b, out): all that a critic and an actor update need.

    Nothing else is in them: no bias, activation, loss, optimizer or autograd, no allocation.
    """

    def product(a, b):
        return a, b, torch.empty(a.shape[0], b.shape[1])

    def net(*dims):
        return [(torch.randn(batch, i), torch.randn(o, i)) for i, o in pairwise(dims)]

    def forward(layers):
        return [product(x, weight.t()) for x, weight in layers]

    def input_grads(layers):
        return [product(torch.randn(batch, weight.shape[0]), weight) for _, weight in layers]

    def weight_grads(layers):
        return [product(torch.randn(batch, weight.shape[0]).t(), x) for x, weight in layers]

    actor, qf = net(obs_dim, width, width, act_dim), net(obs_dim + act_dim, width, width, 1)
    action_grad = [(None, qf[0][1][:, obs_dim:])]
    critic_update = forward(actor)
    for _ in range(critics):
        critic_update += forward(qf) * 2 + weight_grads(qf) + input_grads(qf[1:])
    actor_update = forward(actor) + forward(qf) + input_grads(action_grad + qf[1:])
    actor_update += weight_grads(actor) + input_grads(actor[1:])
    return critic_update, actor_update


def split(module, options, block=200):
    """Run `train` and return the median seconds a step of each part of the loop and of its floor.

    The clock is read where the loop calls a library, which leaves the script untouched. After each
    `block` of steps the matrix products are timed for as many updates, in the same process.
    """
    seconds, blocks, floors, updates = Counter(), [], [], 0
    part, since = "", 0.0

    def begin(name):
        nonlocal part, since
        now = time.perf_counter()
        seconds[part] += now - since
        part, since = name, now

    def within(name, function, after="act, log"):
        def timed(*args, **kwargs):
            begin(name)
            result = function(*args, **kwargs)
            begin(after)
            return result

        return timed

    def make_envs(*args, **kwargs):
        envs = original["make_envs"](*args, **kwargs)
        spaces = envs.single_observation_space, envs.single_action_space
        products = matrix_products(*(space.shape[0] for space in spaces), critics)
        floors[:] = zip(("critic floor", "actor floor"), products, (block, block // 2), strict=True)
        envs.step, envs.reset = (within("environment", f) for f in (envs.step, envs.reset))
        return envs

    class TimedReplayBuffer(module.ReplayBuffer):
        def add(self, *args):
            nonlocal updates
            begin("")
            if updates and updates % block == 0:
                for name, products, times in floors:
                    begin(name)
                    for _ in range(times):
                        for a, b, out in products:
                            torch.mm(a, b, out=out)
                begin("")
                blocks.append({name: value / block for name, value in seconds.items()})
                seconds.clear()
            begin("replay: add")
            super().add(*args)
            begin("act, log")

        def sample(self, *args):
            nonlocal updates
            begin("replay: sample")
            data = super().sample(*args)
            updates += 1
            begin("critic update")
            return data

    def after_step(optimizer, *_):
        if part == "actor update":
            begin("act, log")
        else:  # `update` starts at WARM_UP, which is even
            begin("actor update" if updates % 2 else "act, log")

    critics = sum(name.startswith("qf") for name in dir(module.Networks(1, 1, [-1], [1]))) // 2
    patches = dict(
        make_envs=make_envs,
        ReplayBuffer=TimedReplayBuffer,
        polyak_update=within("Polyak", module.polyak_update),
    )
    original = {name: getattr(module, name) for name in patches}
    hook = after_optimizer_step(after_step)
    vars(module).update(patches)
    try:
        run(module, options, WARM_UP + options.steps * options.repeats, policy_frequency=2)
    finally:
        vars(module).update(original)
        hook.remove()
    blocks = blocks[1:]  # the first has start-up in it
    return {name: median(b.get(name, 0) for b in blocks) for name in blocks[0] if name}


def updates_alone(module, options, block=50):
    """Return the median seconds a step of updates back to back on one batch, and of their floor."""
    torch.set_num_threads(options.threads)
    envs = module.make_envs(module.Args(env_id=options.env_id), 1)
    space = envs.single_action_space
    obs_dim, act_dim = envs.single_observation_space.shape[0], space.shape[0]
    nets = module.Networks(obs_dim, act_dim, space.low, space.high)
    critics = [name for name, _ in nets.named_children() if re.fullmatch(r"qf\d", name)]
    pairs = [(getattr(nets, name), getattr(nets, f"{name}_target")) for name in critics]
    q_parameters = [parameter for qf, _ in pairs for parameter in qf.parameters()]
    q_optimizer = torch.optim.Adam(q_parameters, lr=3e-4, fused=True)
    actor_optimizer = torch.optim.Adam(nets.actor.parameters(), lr=3e-4, fused=True)
    pairs.append((nets.actor, nets.target_actor))
    obs, next_obs, flags = torch.randn(256, obs_dim), torch.randn(256, obs_dim), torch.zeros(256, 1)
    actions, rewards = torch.rand(256, act_dim) * 2 - 1, torch.randn(256, 1)
    data, args = ReplayBufferSamples(obs, actions, next_obs, flags, rewards), module.Args()
    functions = module.critic_backward, module.actor_backward
    run = SimpleNamespace(args=options)
    critic_gradient, actor_gradient = (module.Run.compile(run, f) for f in functions)

    def update():
        for _ in range(2):
            q_optimizer.zero_grad()
            critic_gradient(nets, data, args)
            q_optimizer.step()
        actor_optimizer.zero_grad()
        actor_gradient(nets, data, args)
        actor_optimizer.step()
        for net, target in pairs:
            module.polyak_update(net, target, args.tau)

    critic, actor = matrix_products(obs_dim, act_dim, len(critics))

    def products():
        for a, b, out in critic + critic + actor:
            torch.mm(a, b, out=out)

    times = {update: [], products: []}
    for _ in range(4 * options.repeats):
        for work, seconds in times.items():
            start = time.perf_counter()
            for _ in range(block):
                work()
            seconds.append((time.perf_counter() - start) / block / 2)
    return [median(seconds[2:]) for seconds in times.values()]


def breakdown(module, options):
    """Return the table's lines on the parts of a step."""
    parts = split(module, options)
    floors = {name: parts.pop(f"{name} floor") for name in ("critic", "actor")}
    against = "matrix products"
    rows = [
        ("act, log", parts["act, log"]),
        ("environment", parts["environment"]),
        ("replay: add", parts["replay: add"]),
        ("replay: sample", parts["replay: sample"]),
        ("critic update", parts["critic update"], against, floors["critic"]),
        ("actor update, half of one", parts["actor update"], against, floors["actor"]),
        ("Polyak, half of one", parts["Polyak"]),
        ("whole step", sum(parts.values())),
    ]
    learn = sum(value for _, value, *_ in rows[3:7])
    rows.append(("sample to Polyak", learn, against, sum(floors.values())))
    alone, floor = updates_alone(module, options)
    rows.append(("updates back to back", alone, against, floor, "70 %"))
    return rows


def main(options: Options):
    sys.path.insert(0, str(ROOT))
    module = importlib.import_module(options.script)
    peers = {"ddpg": (sb3.DDPG, 1, "130 %"), "td3": (sb3.TD3, 2, "115 %")}
    peers["sac"] = sb3.SAC, 1, "160 %" if options.compile else "130 %"
    algorithm, frequency, bar = peers[options.script.split("_")[0]]

    def ours(timesteps):
        return run(module, options, timesteps, policy_frequency=frequency)

    def theirs(timesteps):
        return run_sb3(algorithm, options, timesteps)

    def two_threads(timesteps):
        return run(module, options, timesteps, torch_threads=2)

    def one_thread(timesteps):
        return run(module, options, timesteps, torch_threads=1)

    def marginals():
        # first what only a first run does
        two_threads(WARM_UP + 50), one_thread(WARM_UP + 50)
        runs = two_threads, one_thread
        return [[marginal(options, run) for run in runs] for _ in range(options.repeats)]

    rows = [] if options.against_sb3 else breakdown(module, options)
    name, against = f"step, policy frequency {frequency}", f"SB3's {algorithm.__name__}"
    pairs = [(name, against, bar, in_turn(options, ours, theirs))]
    if not options.against_sb3:
        pairs.append(("step, 2 threads", "1 thread", "130 %", marginals()))
    for name, against, bar, times in pairs:
        a, b = (median(column) for column in zip(*times, strict=True))
        low, ratio, high = quantiles((b / a for a, b in times), n=4)
        rows.append((name, a, against, b, bar, f"{ratio:.0%} [{low:.0%}, {high:.0%}]"))

    title = f"{options.script}, {options.env_id}, {options.threads} thread(s)"
    title += ", compiled" * options.compile
    print(f"| {title} | µs a step | against | µs a step | ratio | bar |")
    print("|---|--:|---|--:|--:|--:|")
    for name, value, *rest in rows:
        against, other, bar, ratio = [*rest, "", "", "", ""][:4]
        if other:
            other, ratio = f"{other * 1e6:.0f}", ratio or f"{other / value:.0%}"
        print(f"| {name} | {value * 1e6:.0f} | {against} | {other} | {ratio} | {bar} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
