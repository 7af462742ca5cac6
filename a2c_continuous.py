# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "numpy==2.4.6", "gymnasium[mujoco]==1.4.0", "mujoco==3.15.0",
#     "stable-baselines3==2.9.2", "tyro==1.0.17", "tensorboard==2.21.0", "tqdm==4.70.1",
#     "filelock==4.2.11"]
# ///
"""Advantage Actor-Critic (A2C), Mnih et al. 2016, arXiv:1602.01783, in its synchronous form.

Actor: ascend the policy gradient, E[A ∇log π(a|s)], with advantages A by GAE
(Schulman et al. 2016, arXiv:1506.02438). Critic: minimise ½E[(V(s) - R)²], R = A + V_old(s).
Parent: ppo_continuous.py, from which it differs in
1. one update with the whole of each rollout, so that no ratio needs clipping,
2. short rollouts of many environments, RMSprop at 1e-3, advantages that are not normalised.

Departures from the paper:
1. R bootstraps with V of the true last observation where a time limit ends an episode.
2. Observations and rewards are normalised; gradients are clipped; weights start orthogonal.
3. Fixed rollouts, not episodes, with GAE; no LSTM or entropy bonus; ε outside RMSprop's root.
And running episodes are cut every `checkpoint_interval` steps, as by a time limit.

    python a2c_continuous.py --env-id Hopper-v4
"""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro
from gymnasium.wrappers.utils import update_mean_var_count_from_moments
from torch import nn, optim
from torch.distributions import Normal

# isort: split
# for the Run section alone
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from contextlib import ExitStack, closing, contextmanager, suppress

import gymnasium as gym
from filelock import FileLock
from stable_baselines3.common.utils import set_random_seed
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


# ---- Config ----
@dataclass
class Args:
    env_id: str = "Hopper-v4"  # id of a gymnasium environment with continuous actions
    total_timesteps: int = 1_000_000  # environment steps of the run
    learning_rate: float = 1e-3  # learning rate of the RMSprop optimizer
    anneal_lr: bool = True  # let the learning rate fall linearly to 0 at `total_timesteps`
    num_steps: int = 32  # steps of each environment in a rollout
    gamma: float = 0.99  # discount factor γ
    gae_lambda: float = 0.95  # λ of GAE: 0 is one-step TD, 1 all rewards of the rollout
    ent_coef: float = 0.0  # weight of the policy's entropy in the objective
    vf_coef: float = 0.5  # weight of the critic's loss
    max_grad_norm: float = 0.5  # largest norm of the gradient of all parameters
    # the same in every script
    exp_name: str = Path(__file__).stem  # name of this experiment
    seed: int = 1  # seed of every random generator
    num_envs: int = 8  # environments stepped side by side; the steps of each count
    max_episode_steps: int | None = None  # episode limit; None: the environment's own
    cuda: bool = True  # use a GPU if there is one
    torch_threads: int = 1  # CPU threads of PyTorch
    compile: bool = False  # compile the losses: a slow start, then faster; needs a C++ compiler
    run_name: str | None = None  # folder in runs/; None: <env_id>__<exp_name>__<seed>__<time>
    resume: bool = False  # continue run --run-name from its checkpoint, or start it
    checkpoint_interval: int = 50_000  # steps between checkpoints; each cuts episodes (0: at end)
    eval_interval: int = 10_000  # steps between evaluations (0: only at the end)
    eval_episodes: int = 10  # episodes of an evaluation, played by the deterministic policy


# ---- Networks ----
class Normalizer(nn.Module):
    """(x - mean) / std of all that it has seen, clipped to ±10; the statistics are in its state."""

    def __init__(self, shape):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0.0, dtype=torch.float64))

    def update(self, x):
        old = [buffer.cpu().numpy() for buffer in self.buffers()]
        new = update_mean_var_count_from_moments(*old, x.mean(0), x.var(0), len(x))
        for buffer, value in zip(self.buffers(), new, strict=True):
            buffer.copy_(torch.as_tensor(value))

    def forward(self, x):
        return ((x.double() - self.mean) / (self.var + 1e-8).sqrt()).clamp(-10, 10).float()


def mlp(in_dim, out_dim, gain):
    """Two layers of 64 with tanh and a linear one; weights orthogonal, biases zero."""
    layers = nn.Linear(in_dim, 64), nn.Linear(64, 64), nn.Linear(64, out_dim)
    for layer, layer_gain in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
        nn.init.orthogonal_(layer.weight, layer_gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


class Critic(nn.Module):
    """V(s): normalised observations (batch, obs_dim) -> (batch,)."""

    def __init__(self, obs_dim):
        super().__init__()
        self.net = mlp(obs_dim, 1, gain=1.0)

    def forward(self, x):
        return self.net(x).squeeze(-1)


class Actor(nn.Module):
    """μ(s): (batch, obs_dim) -> (batch, act_dim), from true observations to true actions."""

    def __init__(self, obs_dim, act_dim, action_low, action_high):
        super().__init__()
        self.obs_normalizer = Normalizer(obs_dim)
        self.mu = mlp(obs_dim, act_dim, gain=0.01)
        self.log_std = nn.Parameter(torch.full((act_dim,), -0.5))  # σ = 0.61
        self.register_buffer("action_scale", torch.as_tensor(action_high - action_low).float() / 2)
        self.register_buffer("action_bias", torch.as_tensor(action_high + action_low).float() / 2)

    def distribution(self, normalized):
        """π(a|s) of normalised observations; samples are not yet clipped to the bounds ±1."""
        return Normal(self.mu(normalized), self.log_std.exp(), validate_args=False)

    def forward(self, obs):
        return self.mu(self.obs_normalizer(obs)) * self.action_scale + self.action_bias


class Networks(nn.Module):
    """All networks of the algorithm, and the statistics that normalise."""

    def __init__(self, obs_dim, act_dim, action_low, action_high, args):
        super().__init__()
        self.actor = Actor(obs_dim, act_dim, action_low, action_high)
        self.critic = Critic(obs_dim)
        self.return_normalizer = Normalizer(())


# ---- Losses ----
def critic_loss(nets, data, args):
    """Return ½ of the mean squared error of V over a batch, a scalar, and what to log of it."""
    values = nets.critic(data.observations)
    value_loss = 0.5 * ((values - data.returns) ** 2).mean()
    return value_loss, {"value_loss": value_loss}


def actor_loss(nets, data, args):
    """Return minus the objective over a batch, a scalar, and what to log of it."""
    policy = nets.actor.distribution(data.observations)
    log_probs = policy.log_prob(data.actions).sum(-1)
    # ∇J = E[A ∇log π(a|s)]   [Williams 1992; Mnih et al. 2016, Sec. 4]
    policy_loss = -(data.advantages * log_probs).mean()
    entropy = policy.entropy().sum(-1).mean()
    metrics = {"policy_loss": policy_loss, "entropy": entropy}
    if args.ent_coef > 0:
        policy_loss = policy_loss - args.ent_coef * entropy
    return policy_loss, metrics


def losses_backward(nets, data, args):
    """Put the gradient of both losses into the parameters; return what to log."""
    loss, metrics = actor_loss(nets, data, args)
    value_loss, value_metrics = critic_loss(nets, data, args)
    loss = loss + args.vf_coef * value_loss
    loss.backward()
    return {name: value.detach() for name, value in (metrics | value_metrics).items()}


# ---- Training ----
class Rollout:
    """What each environment did in `num_steps` steps: arrays (num_steps, num_envs, ...)."""

    def __init__(self, num_steps, num_envs, obs_dim, act_dim):
        self.observations, self.next_observations = np.zeros((2, num_steps, num_envs, obs_dim))
        self.actions = np.zeros((num_steps, num_envs, act_dim), np.float32)
        self.rewards, self.discounted_returns = np.zeros((2, num_steps, num_envs))
        self.terminations, self.dones = np.zeros((2, num_steps, num_envs), bool)

    def flat(self, array):
        """Return the steps of an array one after another: (batch, ...)."""
        return array.reshape(-1, *array.shape[2:])


class Batch(NamedTuple):
    """What the losses need of some steps, (batch, ...); observations are normalised."""

    observations: torch.Tensor
    actions: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


def estimate_advantages(rollout, rewards, values, next_values, args):
    """Return A, (num_steps, num_envs), from r, V(s) and V(s') of each step."""
    # δ_t = r_t + γ(1-d) V(s_{t+1}) - V(s_t), d = 1 at a termination, 0 at a time limit
    deltas = rewards + args.gamma * (1 - rollout.terminations) * next_values - values
    # A_t = δ_t + γλ A_{t+1}, within an episode   [Schulman et al. 2016, Eq. 16]
    decay = args.gamma * args.gae_lambda * (1 - rollout.dones)
    advantages, following = np.zeros_like(deltas), 0.0
    for t in reversed(range(len(rewards))):
        advantages[t] = following = deltas[t] + decay[t] * following
    return advantages


@torch.no_grad()
def make_batch(nets, rollout, args, device):
    """Return a rollout as one batch: normalised, with advantages and returns."""
    reward_scale = (nets.return_normalizer.var.item() + 1e-8) ** 0.5
    rewards = (rollout.rewards / reward_scale).clip(-10, 10)
    both = torch.as_tensor(np.stack([rollout.observations, rollout.next_observations]))
    x = nets.actor.obs_normalizer(both.to(device))
    values, next_values = nets.critic(x).cpu().numpy()
    actions = torch.as_tensor(rollout.actions, device=device)
    advantages = estimate_advantages(rollout, rewards, values, next_values, args)
    parts = [x[0], actions, advantages, advantages + values]
    return Batch(*[torch.as_tensor(rollout.flat(part)).to(device, torch.float32) for part in parts])


def train(args: Args) -> dict:
    """Train to `args.total_timesteps`; return what result.json has. `Run` lists the exit codes."""
    with Run(args, at_least_1=("num_steps",)) as run:
        nets = Networks(run.obs_dim, run.act_dim, run.act_low, run.act_high, args).to(run.device)
        optimizer = optim.RMSprop(nets.parameters(), lr=args.learning_rate, eps=1e-5)
        rollout = Rollout(args.num_steps, args.num_envs, run.obs_dim, run.act_dim)
        backward_losses = run.compile(losses_backward)
        discounted = np.zeros(args.num_envs)
        obs = run.begin(nets=nets, optimizer=optimizer)

        while run.global_step < args.total_timesteps:
            # Act
            for t in range(args.num_steps):
                with torch.no_grad():
                    x = nets.actor.obs_normalizer(torch.as_tensor(obs, device=run.device))
                    actions = nets.actor.distribution(x).sample()
                bounded = actions * nets.actor.action_scale + nets.actor.action_bias
                bounded = bounded.cpu().numpy().clip(run.act_low, run.act_high)
                next_obs, rewards, terminations, truncations, infos = run.step(bounded)
                dones = terminations | truncations
                discounted = args.gamma * discounted + rewards
                rollout.observations[t], rollout.next_observations[t] = obs, next_obs
                rollout.actions[t], rollout.rewards[t] = actions.cpu().numpy(), rewards
                rollout.terminations[t], rollout.dones[t] = terminations, dones
                rollout.discounted_returns[t] = discounted
                discounted[dones] = 0
                obs = run.reset_finished(next_obs, dones)

            # Estimate
            nets.return_normalizer.update(rollout.flat(rollout.discounted_returns))
            batch = make_batch(nets, rollout, args, run.device)

            # Learn
            if args.anneal_lr:
                remaining = 1 - run.iteration_step / args.total_timesteps
                optimizer.param_groups[0]["lr"] = remaining * args.learning_rate
            optimizer.zero_grad()
            metrics = backward_losses(nets, batch, args)
            nn.utils.clip_grad_norm_(nets.parameters(), args.max_grad_norm)
            optimizer.step()
            nets.actor.obs_normalizer.update(rollout.flat(rollout.observations))

            residual = batch.advantages.var(correction=0) / (batch.returns.var(correction=0) + 1e-8)
            metrics["explained_variance"] = 1 - residual
            metrics["charts/learning_rate"] = torch.tensor(optimizer.param_groups[0]["lr"])
            if run.at_boundary():
                discounted = np.zeros(args.num_envs)
            obs = run.end_iteration(obs, metrics)
        return run.finish()


# ---- Run ----
# A reader of the algorithm may stop at this line: the rest is the same in every script.
def fail(message: str, code: int = 2):
    """Exit with one line: code 2 for input that no run can use, 1 for a run that went wrong."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)


@contextmanager
def attempt(task: str, code: int = 2):
    """Exit with one line, not a traceback, if what stands inside fails."""
    try:
        yield
    except Exception as error:
        fail(f"cannot {task}: {type(error).__name__}: {error}", code)


def say(message: str) -> None:
    """Print a line above the bar. If its reader is gone, as `| tee` is after Ctrl-C, go on."""
    with suppress(OSError), tqdm.external_write_mode():
        print(message, flush=True)


def check_args(args, at_least_1) -> None:
    """Refuse numbers that no run can use; only one whose default is negative may be negative."""
    at_least_1 += "total_timesteps", "num_envs", "max_episode_steps", "torch_threads"
    for name, value in vars(args).items():
        if isinstance(value, int | float):
            negative = str(getattr(Args, name, 0)).startswith("-")
            low = -(2**31) if negative else name in (*at_least_1, "eval_episodes")
            high = 1 if name in ("gamma", "tau", "gae_lambda") else 2**31
            if not low <= value <= high:
                fail(f"--{name.replace('_', '-')} must be from {low:d} to {high}, not {value}")


class Shield(gym.Wrapper):
    """Stops what a run has no use for: an environment's infos, but success; options of a reset."""

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed)[0], {}

    def step(self, action):
        *transition, info = self.env.step(action.copy())  # which it may change in place
        success = info.get("is_success", info.get("success"))
        return *transition, {} if success is None else {"success": float(np.any(success))}


def make_envs(args, num_envs: int, wrappers=(), **kwargs) -> gym.vector.VectorEnv:
    """Return environments that wait to be reset: `next_obs` is always the true successor."""
    warnings.filterwarnings("ignore", ".*is out of date")  # v4 or v5 is the user's choice
    options = {"autoreset_mode": gym.vector.AutoresetMode.DISABLED}
    wrappers = [*wrappers, Shield, gym.wrappers.RecordEpisodeStatistics]
    kwargs["max_episode_steps"] = args.max_episode_steps
    with attempt(f"make {args.env_id}"):
        envs = gym.make_vec(args.env_id, num_envs, "sync", options, wrappers, **kwargs)
    spaces = envs.single_observation_space, envs.single_action_space
    boxes = all(isinstance(space, gym.spaces.Box) and len(space.shape) == 1 for space in spaces)
    half = spaces[1].high / 2 - spaces[1].low / 2 if boxes else np.zeros(1)
    if not ((half > 0) & (half < 1e38)).all() or spaces[1].dtype.kind != "f":
        fail(f"{args.env_id} must have vectors, and float actions in finite bounds, not {spaces}")
    if re.search("<Normalize(Observation|Reward)<", str(envs.envs[0])):
        fail(f"remove the normaliser: evaluation and resume would differ: {envs.envs[0]}")
    return envs


@torch.no_grad()
def evaluate(actor, args, envs) -> dict:
    """Return what the deterministic policy reaches in an episode of each environment, arrays."""
    low, high = envs.single_action_space.low, envs.single_action_space.high
    seeds = np.random.SeedSequence([args.seed, 0, 1]).generate_state(envs.num_envs)
    obs, _ = envs.reset(seed=seeds.tolist())
    scores = {name: np.zeros(envs.num_envs) for name in ("episodic_return", "discounted_return")}
    running = np.full(envs.num_envs, True)
    for step in range(1_000_000 // envs.num_envs):  # an episode that is longer is cut
        actions = actor(torch.as_tensor(obs, device=actor.action_scale.device)).cpu().numpy()
        obs, rewards, terminations, truncations, infos = envs.step(actions.clip(low, high))
        scores["episodic_return"][running] += rewards[running]
        scores["discounted_return"][running] += args.gamma**step * rewards[running]
        dones = terminations | truncations
        if "success" in infos:
            success = scores.setdefault("success_rate", np.zeros(envs.num_envs))
            success[dones & running] = infos["success"][dones & running]
        running &= ~dones
        if not running.any():
            break
        if dones.any():
            obs, _ = envs.reset(options={"reset_mask": dones})
    return scores


def save(path: Path, content: dict) -> None:
    """Replace a file, JSON or PyTorch's by suffix, atomically: if that fails the old one stays."""
    temporary = Path(f"{path}.tmp")
    with ExitStack() as stack, attempt(f"write {path}", code=1):
        stack.callback(temporary.unlink, missing_ok=True)
        if path.suffix == ".json":
            temporary.write_text(json.dumps(content, indent=2))
        else:
            torch.save(content, temporary)
            torch.load(temporary, "cpu", weights_only=True, mmap=True)  # as a resumed run will
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)


def load(path: Path, missing_ok: bool = True) -> dict:
    """Return what `save` wrote; nothing where there is no such file and there need be none."""
    with attempt(f"load {path}"):
        if missing_ok and not path.exists():
            return {}
        if path.suffix == ".json":
            return dict(json.loads(path.read_text()))
        if damaged := zipfile.ZipFile(path).testzip():  # PyTorch looks at no checksum
            raise ValueError(f"{damaged} is damaged")
        return dict(torch.load(path, "cpu", weights_only=True, mmap=True))


class Run(ExitStack):
    """What a run needs besides its algorithm: environments, folder, log, evaluations, checkpoints.

    Exit codes: 1 it went wrong, 2 bad input, 3 another process trains in its folder, 75 SIGTERM,
    130 Ctrl-C. Seeds come from [seed, global_step] for a segment, [seed, 0, 1] for evaluations,
    [seed, 0, 0, number] for a further process.
    """

    def __init__(self, args, at_least_1=()):
        super().__init__()
        check_args(args, at_least_1)
        if args.resume and not args.run_name:
            fail("--resume needs --run-name")
        now = time.strftime("%Y-%m-%d_%H-%M-%S") + f"-{time.time_ns() % 10**9:09}"
        default = f"{args.env_id}__{args.exp_name}__{args.seed}__{now}"
        args.run_name = args.run_name or re.sub(r"[/\\:\s]", "-", default)
        self.args, self.name = args, f"runs/{args.run_name}"
        self.dir = Path(self.name).absolute()  # an environment may change the working folder
        if args.run_name == ".." or self.dir.name != args.run_name:
            fail(f"--run-name takes no path: {args.run_name!r}")
        self.envs = self.enter_context(closing(make_envs(args, args.num_envs)))
        self.obs_dim = self.envs.single_observation_space.shape[0]
        self.obs_space = gym.spaces.Box(-np.inf, np.inf, (self.obs_dim,), np.float32)
        self.action_space = self.envs.single_action_space
        self.act_dim = self.action_space.shape[0]
        self.act_low, self.act_high = self.action_space.low, self.action_space.high
        self.device = torch.device("cuda" if torch.cuda.is_available() and args.cuda else "cpu")
        torch.set_num_threads(args.torch_threads)
        set_random_seed(args.seed)

    def __exit__(self, kind, error, trace):
        with suppress(Exception):  # a full disk fails the log again, an environment its `close`
            super().__exit__(kind, error, trace)
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOSPC:
            fail(f"{kind.__name__}: {error}", code=1 if hasattr(self, "writer") else 2)

    def compile(self, function):
        """Return a loss with its gradient as one compiled graph, with --compile; else as it is."""
        if not self.args.compile:
            return function
        with attempt("use --compile, which needs a C++ compiler"):
            torch._inductor.cpp_builder.get_cpp_compiler()
        torch._dynamo.config.trace_autograd_ops = True
        torch._inductor.config.cpp.vec_isa_ok = True  # believe the processor: trying is slow
        return torch.compile(function, fullgraph=True)

    def begin(self, rb=None, **state):
        """Start the run, or resume it from its checkpoint; return the first observations.

        A checkpoint holds the replay buffer and `state`: `nets`, which has the actor, and what else
        has a `load_state_dict`. No file changes before all is known to be right.
        """
        self.state, self.rb, self.stops, args = state, rb, [], self.args
        # made now, because a simulator may refuse to run twice
        self.eval_envs = self.enter_context(closing(make_envs(args, args.eval_episodes)))
        with attempt(f"write {self.name}"):
            self.dir.mkdir(parents=True, exist_ok=True)
            if not args.resume and {*os.listdir(self.dir)} - {"lock"}:  # more than a failed start
                fail(f"{self.name} exists: choose another --run-name, or --resume to continue it")
        with attempt(f"lock {self.name} (is another process training in it?)", code=3):
            self.enter_context(FileLock(self.dir / "lock", timeout=0))
        old, self.progress = load(self.dir / "args.json"), load(self.dir / "result.json")
        now = json.loads(json.dumps(vars(args) | {"script": Path(__file__).name}))  # as in the file
        known = dict.fromkeys(now, "(not known)") | old
        differ = {name for name in now if old and known[name] != now[name]}
        if differ := sorted(differ - {"resume", "run_name", "total_timesteps"}):
            fail(f"{self.name} has {'; '.join(f'{k} {known[k]}, not {now[k]}' for k in differ)}")
        self.global_step = self.progress.get("step", 0)
        if self.global_step >= args.total_timesteps:
            return None
        self.restore()
        self.start()
        return self.begin_segment()

    def restore(self) -> None:
        """Load what `save_checkpoint` saved, if it did: a finished run is not begun anew."""
        checkpoint = load(self.dir / "checkpoint.pt", missing_ok=not self.progress)
        with attempt(f"load {self.name}/checkpoint.pt"):
            self.progress = checkpoint.pop("progress") if checkpoint else {"step": 0, "seconds": 0}
            self.global_step = self.iteration_step = self.progress["step"]
            if (saved := checkpoint.pop("rb", None)) and self.global_step:
                self.rb.pos, self.rb.full = saved.pop("pos"), saved.pop("full")
                for name, value in saved.items():
                    np.atleast_1d(getattr(self.rb, name))[: len(value)] = value.numpy()
            for name in {*checkpoint, *self.state} if self.global_step else ():
                self.state[name].load_state_dict(deepcopy(checkpoint[name]))  # no view of the file

    def save_checkpoint(self) -> None:
        """Save what `begin` was given; of a replay buffer as much as is filled."""
        saved = {"progress": self.progress} | {k: v.state_dict() for k, v in self.state.items()}
        if rb := self.rb:
            arrays = {k: np.atleast_1d(v) for k, v in vars(rb).items() if isinstance(v, np.ndarray)}
            size = {rb.buffer_size: rb.size()}  # an array of another length is saved whole
            arrays = {k: torch.from_numpy(v[: size.get(len(v))]) for k, v in arrays.items()}
            saved["rb"] = {"pos": rb.pos, "full": rb.full} | arrays
        self.writer.flush()
        save(self.dir / "checkpoint.pt", saved)

    def start(self) -> None:
        """Write args.json, with what else bears on the results; catch signals; open the log."""
        git = {"cwd": Path(__file__).parent, "shell": True, "capture_output": True, "text": True}
        describe = "git describe --always --dirty --abbrev=40 --exclude=*"  # the commit[-dirty]
        commit = subprocess.run(describe, **git).stdout.strip() or None
        about = {"script": Path(__file__).name, "git_commit": commit, "device": str(self.device)}
        names = {"torch", "numpy", "gymnasium", "mujoco", "stable_baselines3"} & {*sys.modules}
        about["versions"] = {name: sys.modules[name].__version__ for name in sorted(names)}
        save(self.dir / "args.json", vars(self.args) | about)
        with suppress(ValueError):  # in another thread than the main one, which gets the signals
            for signum in signal.SIGINT, signal.SIGTERM:
                self.callback(signal.signal, signum, signal.signal(signum, self.stop))
        total, step = self.args.total_timesteps, self.global_step
        say(f"{self.name}: {self.args.env_id}, steps {step:,} to {total:,} on {self.device}")
        self.writer = self.enter_context(SummaryWriter(str(self.dir), purge_step=step + 1))
        bar = {"unit": " steps", "leave": False, "disable": None if sys.stderr else True}
        self.bar = self.enter_context(tqdm(total=total, initial=step, **bar))
        self.start_time = time.perf_counter() - self.progress["seconds"]
        self.save_checkpoint()  # what can't be saved ends the run here
        (self.dir / "result.json").unlink(missing_ok=True)

    def stop(self, signum, _):
        """Let SIGTERM or Ctrl-C end the run after the step; a Ctrl-C after that ends it at once."""
        self.stops.append(signum)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def begin_segment(self):
        """Seed every generator from (seed, global_step), reset the environments, return `obs`."""
        sequence = np.random.SeedSequence([self.args.seed, self.global_step])
        seed, numpy_seed, space_seed = sequence.generate_state(3).tolist()
        set_random_seed(seed)
        np.random.seed(numpy_seed)  # a generator of PyTorch's kind: from one seed the same numbers
        self.envs.action_space.seed(space_seed)
        return self.reset(seed=seed)

    def reset(self, **how):
        """Reset environments; return the first observations."""
        return self.finite("observation", self.envs.reset(**how)[0])

    def reset_finished(self, next_obs, dones):
        """Return the observations to act on: of a new episode where the old one is done."""
        return self.reset(options={"reset_mask": dones}) if dones.any() else next_obs

    def step(self, actions):
        """Step the environments and log the episodes that end; return what `envs.step` returns."""
        self.finite("action", actions)
        next_obs, rewards, terminations, truncations, infos = self.envs.step(actions)
        self.global_step += self.args.num_envs
        self.finite("observation", next_obs)
        self.finite("reward", rewards)
        self.stopping = bool(self.stops)  # until the next step: a signal may come at any time
        self.bar.update(self.global_step - self.bar.n)
        for i in np.flatnonzero(terminations | truncations):
            self.log("charts/episodic_return", infos["episode"]["r"][i])
            self.log("charts/episodic_length", infos["episode"]["l"][i])
            if "success" in infos:
                self.log("charts/success", infos["success"][i])
        return next_obs, rewards, terminations, truncations, infos

    def finite(self, name: str, value):
        """Return `value`; end the run before a checkpoint gets what no float32 can hold."""
        if not (np.abs(value) <= np.finfo(np.float32).max).all():
            fail(f"{name} is not finite at step {self.global_step} of {self.name}", 1)
        return value

    def log(self, tag: str, value) -> None:
        self.writer.add_scalar(tag, self.finite(tag, value), self.global_step)

    def due(self, *intervals: int) -> bool:
        """Tell whether a multiple of an interval was passed in this iteration; 0 has none."""
        return any(n > 0 and self.global_step // n > self.iteration_step // n for n in intervals)

    def at_boundary(self) -> bool:
        """Tell whether `end_iteration` will save a checkpoint and cut the running episodes."""
        return self.stopping or self.due(self.args.checkpoint_interval, self.args.total_timesteps)

    def end_iteration(self, obs, metrics: dict):
        """Log, evaluate, save, stop: whatever is due. Return the observations to go on with."""
        left, boundary = self.args.total_timesteps - self.global_step, self.at_boundary()
        evaluating = self.due(self.args.eval_interval, self.args.total_timesteps)
        if evaluating or boundary or self.due(1_000):
            for name, saved in self.state["nets"].state_dict().items():
                self.finite(name, saved.cpu().numpy())
            for name, value in metrics.items():
                self.log(name if "/" in name else f"losses/{name}", value.mean().item())
            step, seconds = self.global_step, time.perf_counter() - self.start_time
            speed = (step - self.progress["step"]) / (seconds - self.progress["seconds"])
            self.log("charts/SPS", speed)
            self.progress |= {"step": step, "seconds": seconds, "SPS": step / seconds}
        if evaluating:
            rest = tqdm.format_interval(max(left, 0) / speed) if metrics else "?"  # no update yet
            self.evaluate(f", {speed:.0f} steps/s, {rest} left")
        if boundary:
            self.save_checkpoint()
            if self.stopping and left > 0:
                command = f"python {Path(__file__).name} --resume --run-name {self.args.run_name}"
                say(f"stopped at step {step:,}; to go on: {command}")
                raise SystemExit(75 if signal.SIGTERM in self.stops else 130)
        self.iteration_step = self.global_step
        return self.begin_segment() if boundary and left > 0 else obs

    def evaluate(self, speed: str = "") -> None:
        """Evaluate, log and print; save model.pt, and best_model.pt if none was better before."""
        nets, progress = self.state["nets"], self.progress
        scores = evaluate(nets.actor.eval(), self.args, self.eval_envs)
        nets.actor.train()
        for name, values in scores.items():
            self.log(f"eval/{name}", values.mean())
        returns, n = scores["episodic_return"], self.args.eval_episodes
        mean, std = float(returns.mean()), float(returns.std(ddof=n > 1))
        self.log("eval/episodic_return_std", std)
        progress.update(eval_step=self.global_step, eval_episodes=n, eval_mean=mean, eval_std=std)
        if "success_rate" in scores:
            progress["eval_success_rate"] = float(scores["success_rate"].mean())
        save(self.dir / "model.pt", nets.state_dict())
        if mean >= progress.get("best_mean", -np.inf):
            progress |= {"best_step": self.global_step, "best_mean": mean}
            save(self.dir / "best_model.pt", nets.state_dict())
        say(f"step {self.global_step:,}: return {mean:.1f} ± {std:.1f}{speed}")

    def finish(self) -> dict:
        """Write result.json, the mark of a finished run, if it is new; return what it has."""
        if not (self.dir / "result.json").exists():
            if self.progress.get("eval_step") != self.global_step:  # stopped before its evaluation
                self.evaluate()
            save(self.dir / "result.json", self.progress)
        say(f"{self.name} is finished at step {self.global_step:,}")
        say(f"  tensorboard --logdir {self.name}")
        say(f"  python evaluate.py {self.name} --video video.mp4")
        return self.progress


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__.splitlines()[0])
    if args.resume:  # what is not given is as it was
        old = load(Path("runs", args.run_name or "", "args.json"))
        old = {k: v for k, v in old.items() if k in vars(args)}
        old |= {k: type(vars(args)[k] or ())(v) for k, v in old.items() if isinstance(v, list)}
        args = tyro.cli(Args, default=Args(**old))
    train(args)
