# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "numpy==2.4.6", "gymnasium[mujoco]==1.4.0", "mujoco==3.15.0",
#     "stable-baselines3==2.9.2", "tyro==1.0.17", "tensorboard==2.21.0", "tqdm==4.70.1",
#     "filelock==4.2.11", "moviepy==2.2.1"]
# ///
"""REINFORCE with a baseline, Williams 1992, doi:10.1007/BF00992696.

Actor: ascend the policy gradient, E[(R - b) ∇log π(a|s)], with the return to go R = Σ_k γ^k r_{t+k}
and a baseline b: 0, the mean of R, or V(s). Critic, for the last: minimise ½E[(V(s) - R)²].
Parent: a2c_continuous.py, from which it differs in
1. whole episodes, one of each environment in an update, and their returns in place of estimates,
2. the choice of a baseline.

Departures from the paper:
1. An episode is cut after `num_steps` steps, as a time limit would.
2. With b = V, R bootstraps with V of the true last observation where a time limit ends an episode.
3. Observations and rewards are normalised; gradients are clipped; weights start orthogonal.
4. R is discounted from its own step on; the update is a mean over steps, by RMSprop.

    python reinforce_continuous.py --env-id Hopper-v4
"""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

import gymnasium as gym
import mujoco
import numpy as np
import torch
import tyro
from filelock import FileLock, Timeout
from gymnasium.wrappers.utils import update_mean_var_count_from_moments
from stable_baselines3.common.utils import set_random_seed
from torch import nn, optim
from torch.distributions import Normal
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


# ---- Config ----
@dataclass
class Args:
    env_id: str = "Hopper-v4"  # id of a gymnasium environment with continuous actions
    total_timesteps: int = 1_000_000  # environment steps of the run
    learning_rate: float = 1e-3  # learning rate of the RMSprop optimizer
    anneal_lr: bool = True  # let the learning rate fall linearly to 0 at `total_timesteps`
    num_steps: int = 1000  # maximum length of an episode
    gamma: float = 0.99  # discount factor γ
    baseline: Literal["none", "mean", "value"] = "value"  # b: 0, the mean of R, or V(s)
    ent_coef: float = 0.0  # weight of the policy's entropy in the objective
    vf_coef: float = 0.5  # weight of the critic's loss
    max_grad_norm: float = 0.05  # largest norm of the gradient of all parameters
    # every run
    exp_name: str = Path(__file__).stem  # name of this experiment
    seed: int = 1  # seed of every random generator
    num_envs: int = 1  # environments stepped side by side; the steps of each count
    async_envs: bool = False  # step each of them in a process of its own
    max_episode_steps: int | None = None  # cut episodes here (None: the environment's own limit)
    cuda: bool = True  # use a GPU if there is one
    torch_threads: int = 1  # CPU threads of PyTorch
    compile: bool = False  # compile the losses: a slow start, then faster; needs a C++ compiler
    run_name: str | None = None  # folder in runs/ (default: <env_id>__<exp_name>__<seed>__<time>)
    resume: bool = False  # continue run --run-name from its checkpoint, or start it
    checkpoint_interval: int = 50_000  # steps between checkpoints, where episodes are cut (0: last)
    eval_interval: int = 10_000  # steps between evaluations (0: only at the end)
    eval_episodes: int = 10  # episodes of an evaluation, played by the deterministic policy
    capture_video: bool = False  # record an episode at every 25th evaluation and at the last


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

    def distribution(self, x):
        """π(a|s) of normalised observations; ±1 are the bounds, to which it is not yet clipped."""
        return Normal(self.mu(x), self.log_std.exp(), validate_args=False)

    def forward(self, x):
        return self.mu(self.obs_normalizer(x)) * self.action_scale + self.action_bias


class Networks(nn.Module):
    """All networks of the algorithm, and the statistics that normalise."""

    def __init__(self, obs_dim, act_dim, action_low, action_high):
        super().__init__()
        self.actor = Actor(obs_dim, act_dim, action_low, action_high)
        self.critic = Critic(obs_dim)
        self.return_normalizer = Normalizer(())


# ---- Losses ----
class Rollout:
    """What each environment did in `num_steps` steps: arrays (num_steps, num_envs, ...)."""

    def __init__(self, num_steps, num_envs, obs_dim, act_dim):
        self.observations, self.next_observations = np.zeros((2, num_steps, num_envs, obs_dim))
        self.actions = np.zeros((num_steps, num_envs, act_dim), np.float32)
        self.rewards, self.discounted_returns = np.zeros((2, num_steps, num_envs))
        self.terminations, self.dones = np.zeros((2, num_steps, num_envs), bool)

    def first_episodes(self):
        """Tell which steps are of the first episode of their environment."""
        return self.dones.cumsum(0) - self.dones == 0


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
    # A_t = δ_t + γ A_{t+1} = R_t - V(s_t), within an episode: the values between cancel
    decay = args.gamma * (1 - rollout.dones)
    advantages, following = np.zeros_like(deltas), 0.0
    for t in reversed(range(len(deltas))):
        advantages[t] = following = deltas[t] + decay[t] * following
    return advantages


@torch.no_grad()
def make_batch(nets, rollout, args, device):
    """Return a rollout as one batch: normalised, with values, advantages and returns."""
    reward_scale = (nets.return_normalizer.var.item() + 1e-8) ** 0.5
    rewards = (rollout.rewards / reward_scale).clip(-10, 10)
    both = torch.as_tensor(np.stack([rollout.observations, rollout.next_observations]))
    x = nets.actor.obs_normalizer(both.to(device))
    values, next_values = nets.critic(x).cpu().numpy()
    if args.baseline != "value":
        values, next_values = np.zeros((2, *values.shape))
    actions = torch.as_tensor(rollout.actions, device=device)
    advantages = estimate_advantages(rollout, rewards, values, next_values, args)
    used = rollout.first_episodes()
    if args.baseline == "mean":
        values = np.full_like(values, advantages[used].mean())  # b
        advantages = advantages - values
    parts = [x[0], actions, advantages, advantages + values]
    return Batch(*[torch.as_tensor(part).to(device, torch.float32)[used] for part in parts])


def critic_loss(nets, data, args):
    """Return ½ of the mean squared error of V over a batch, a scalar, and what to log of it."""
    values = nets.critic(data.observations)
    errors = (values - data.returns) ** 2
    value_loss = 0.5 * errors.mean()
    return value_loss, {"value_loss": value_loss}


def actor_loss(nets, data, args):
    """Return minus the surrogate objective over a batch, a scalar, and what to log of it."""
    policy = nets.actor.distribution(data.observations)
    log_probs = policy.log_prob(data.actions).sum(-1)
    # ∇J = E[A ∇log π(a|s)]   [Williams 1992; Mnih et al. 2016, Sec. 4]
    policy_loss = -(data.advantages * log_probs).mean()
    entropy = policy.entropy().sum(-1).mean()
    metrics = {"policy_loss": policy_loss, "entropy": entropy}
    return policy_loss - args.ent_coef * entropy, metrics


def backward(nets, data, args):
    """Put the gradient of both losses into the parameters; return what to log."""
    loss, metrics = actor_loss(nets, data, args)
    value_loss, value_metrics = critic_loss(nets, data, args)
    if args.baseline == "value":
        loss = loss + args.vf_coef * value_loss
    loss.backward()
    return {name: value.detach() for name, value in (metrics | value_metrics).items()}


# ---- Training ----
def train(args: Args) -> dict:
    """Train to `args.total_timesteps`; return what result.json has. `Run` lists the exit codes."""
    with Run(args) as run:
        nets = Networks(run.obs_dim, run.act_dim, run.action_low, run.action_high).to(run.device)
        optimizer = optim.RMSprop(nets.parameters(), lr=args.learning_rate, eps=1e-5)
        rollout = Rollout(args.num_steps, args.num_envs, run.obs_dim, run.act_dim)
        gradient = run.compile(backward)
        discounted = np.zeros(args.num_envs)
        obs = run.begin(nets=nets, optimizer=optimizer)

        while run.global_step < args.total_timesteps:
            # Act
            for t in range(args.num_steps):
                with torch.no_grad():
                    x = nets.actor.obs_normalizer(torch.as_tensor(obs, device=run.device))
                    actions = nets.actor.distribution(x).sample()
                bounded = actions * nets.actor.action_scale + nets.actor.action_bias
                bounded = bounded.cpu().numpy().clip(run.action_low, run.action_high)
                next_obs, rewards, terminations, truncations, infos = run.step(bounded)
                dones = terminations | truncations
                discounted = args.gamma * discounted + rewards
                rollout.observations[t], rollout.next_observations[t] = obs, next_obs
                rollout.actions[t], rollout.rewards[t] = actions.cpu().numpy(), rewards
                rollout.terminations[t], rollout.dones[t] = terminations, dones
                rollout.discounted_returns[t] = discounted
                discounted[dones] = 0
                obs = run.reset_finished(next_obs, dones)
                if rollout.dones[: t + 1].any(0).all():
                    break

            # Estimate
            nets.return_normalizer.update(rollout.discounted_returns[rollout.first_episodes()])
            batch = make_batch(nets, rollout, args, run.device)

            # Learn
            if args.anneal_lr:
                remaining = 1 - run.iteration_step / args.total_timesteps
                optimizer.param_groups[0]["lr"] = remaining * args.learning_rate
            optimizer.zero_grad()
            metrics = gradient(nets, batch, args)
            nn.utils.clip_grad_norm_(nets.parameters(), args.max_grad_norm)
            optimizer.step()
            nets.actor.obs_normalizer.update(rollout.observations[rollout.first_episodes()])

            residual = batch.advantages.var(correction=0) / (batch.returns.var(correction=0) + 1e-8)
            metrics["explained_variance"] = 1 - residual
            metrics["charts/learning_rate"] = torch.tensor(optimizer.param_groups[0]["lr"])
            discounted = np.zeros(args.num_envs)
            obs = run.envs.reset()[0]  # the next episodes are those of the next policy
            obs = run.end_iteration(obs, metrics)
        return run.finish()


# ---- Run ----
# A reader of the algorithm may stop at this line: the rest is the same in every script.
def fail(message: str, code: int = 2):
    """Exit with one line: code 2 for input that no run can use, 1 for a run that went wrong."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)


def say(message: str) -> None:
    """Print a line. If its reader is gone, as `| tee` is after Ctrl-C, the run goes on."""
    try:
        print(message, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_args(args) -> None:
    """Refuse numbers that no run can use."""
    may_be_zero = "seed", "checkpoint_interval", "eval_interval", "learning_starts"
    for field in fields(args):
        name, value = field.name, getattr(args, field.name)
        low = 1 if field.type is int and name not in may_be_zero else 0
        low = -(2**31) if name in ("v_min", "v_max") else low
        high = 1 if name in ("gamma", "tau", "gae_lambda") else 2**31
        if isinstance(value, int | float) and not low <= value <= high:
            fail(f"--{name.replace('_', '-')} must be from {low} to {high}, not {value}")


def make_envs(args, num_envs: int, video=None, mode="sync") -> gym.vector.VectorEnv:
    """Return environments that wait to be reset, so that `next_obs` is always the true successor.

    With a `video` their first episodes are recorded in mp4 files whose paths start with it. In
    `mode` "async" each has a process of its own.
    """

    def record(env):
        if renderer := getattr(env.unwrapped, "mujoco_renderer", None):
            # the camera that follows the body, which gymnasium 1.4 leaves aside
            camera = mujoco.mjtObj.mjOBJ_CAMERA
            renderer.camera_id = mujoco.mj_name2id(renderer.model, camera, "track")
        env.reset()
        env.render()  # what can't render fails now, not hours later
        folder, first = str(video.parent), lambda episode: episode == 0
        return gym.wrappers.RecordVideo(env, folder, first, name_prefix=video.name)

    def leave_signals(env):
        if multiprocessing.current_process().name.startswith("Worker<AsyncVectorEnv>"):
            for signum in signal.SIGINT, signal.SIGTERM:  # they are for the run's process
                signal.signal(signum, signal.SIG_IGN)
        return env

    # v4 or v5 is the user's choice, and no video here has the name of another
    warnings.filterwarnings("ignore", ".*(is out of date|Overwriting existing videos)")
    wrappers, kwargs = [leave_signals, gym.wrappers.RecordEpisodeStatistics], {}
    if video:
        wrappers, kwargs = [record, *wrappers], {"render_mode": "rgb_array"}
        if sys.platform == "linux" and "DISPLAY" not in os.environ:
            os.environ.setdefault("MUJOCO_GL", "egl")
    kwargs["max_episode_steps"] = args.max_episode_steps
    options = {"autoreset_mode": gym.vector.AutoresetMode.DISABLED}
    try:
        envs = gym.make_vec(args.env_id, num_envs, mode, options, wrappers, **kwargs)
    except Exception as error:
        own = "an environment of your own is --env-id module:Name-v0"
        fail(f"cannot make {args.env_id} with {kwargs}: {error} ({own})")
    for space in envs.single_observation_space, envs.single_action_space:
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            wrap = "wrap it, as in gymnasium's FlattenObservation (docs/your_own_work.md)"
            fail(f"{args.env_id} has {space}, not a Box of one dimension: {wrap}")
    if not (space.is_bounded() and np.issubdtype(space.dtype, np.floating)):
        fail(f"{args.env_id} has actions {space}, not real numbers with finite bounds")
    return envs


@torch.no_grad()
def evaluate(actor, args, episodes: int, video: Path | None = None):
    """Return the deterministic policy's returns and its discounted returns, (episodes,) each."""
    envs = make_envs(args, episodes, video)
    low, high = envs.single_action_space.low, envs.single_action_space.high
    seeds = np.random.SeedSequence([args.seed, 0, 1]).generate_state(episodes)
    obs, _ = envs.reset(seed=seeds.tolist())
    returns, discounted, running = np.zeros(episodes), np.zeros(episodes), np.full(episodes, True)
    for step in range(1_000_000 // episodes):
        actions = actor(torch.as_tensor(obs, device=actor.action_scale.device)).cpu().numpy()
        obs, rewards, terminations, truncations, _ = envs.step(actions.clip(low, high))
        returns[running] += rewards[running]
        discounted[running] += args.gamma**step * rewards[running]
        dones = terminations | truncations
        running &= ~dones
        if not running.any():
            break
        if dones.any():
            obs, _ = envs.reset(options={"reset_mask": dones})
    else:
        say(f"an evaluation was cut at 1,000,000 steps: {args.env_id} needs --max-episode-steps")
    envs.close()
    return returns, discounted


def save(path: Path, content: dict) -> None:
    """Replace a file, JSON or PyTorch's by suffix, atomically: if that fails the old one stays."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        if path.suffix == ".json":
            temporary.write_text(json.dumps(content, indent=2))
        else:
            torch.save(content, temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        fail(f"cannot write {path}: {error}", code=1)


def load(path: Path) -> dict:
    """Return what `save` wrote, nothing where there is no such file."""
    try:
        if path.exists() and path.suffix == ".json":
            return json.loads(path.read_text())
        return torch.load(path, "cpu", weights_only=True) if path.exists() else {}
    except Exception as error:
        fail(f"cannot load {path}: {error}")


class Run(ExitStack):
    """What a run needs besides its algorithm: environments, folder, log, evaluations, checkpoints.

    Exit codes: 1 it went wrong, 2 bad input, 3 another process trains in its folder, 75 SIGTERM,
    130 Ctrl-C.
    """

    def __init__(self, args):
        super().__init__()
        check_args(args)
        mode = "async" if args.async_envs else "sync"
        self.args, self.envs = args, make_envs(args, args.num_envs, mode=mode)
        envs = self.envs

        def close(error, *_):  # after an error, do not wait for a process that may have died
            for process in getattr(envs, "processes", ()) if error else ():
                process.kill()
            envs.close(terminate=bool(error))

        self.push(close)
        self.obs_dim = self.envs.single_observation_space.shape[0]
        self.obs_space = gym.spaces.Box(-np.inf, np.inf, (self.obs_dim,), np.float32)
        self.action_space = self.envs.single_action_space
        self.act_dim = self.action_space.shape[0]
        self.action_low, self.action_high = self.action_space.low, self.action_space.high
        self.device = torch.device("cuda" if torch.cuda.is_available() and args.cuda else "cpu")
        torch.set_num_threads(args.torch_threads)
        set_random_seed(args.seed)

    def __exit__(self, kind, error, trace):
        super().__exit__(kind, error, trace)
        if isinstance(error, MemoryError) and not hasattr(self, "dir"):  # before it began
            fail(f"out of memory: {error}")

    def compile(self, function):
        """Return a loss with its gradient as one compiled graph, with --compile; else as it is."""
        if not self.args.compile:
            return function
        torch._dynamo.config.trace_autograd_ops = True
        torch._inductor.config.cpp.vec_isa_ok = True  # believe the processor: trying is slow
        return torch.compile(function, fullgraph=True)

    def open_folder(self) -> None:
        """Make the run's folder, or reopen it to resume, and lock it."""
        args, now = self.args, time.strftime("%Y-%m-%d_%H-%M-%S")
        if args.resume and not args.run_name:
            fail("--resume needs --run-name")
        default = f"{args.env_id}__{args.exp_name}__{args.seed}__{now}"
        name = args.run_name or default.replace("/", "-").replace(":", "-")
        self.dir = Path("runs", name)
        try:
            while not args.run_name and self.dir.exists():
                name += "-2"
                self.dir = Path("runs", name)
            args.run_name = name
            if name in (".", "..") or self.dir.name != name:
                fail(f"--run-name must name a folder, not {name!r}")
            self.dir.mkdir(parents=True, exist_ok=args.resume)
            self.enter_context(FileLock(self.dir / "lock").acquire(timeout=0))
        except FileExistsError:
            fail(f"{self.dir} exists: choose another --run-name, or add --resume to continue it")
        except Timeout:
            fail(f"another process is training in {self.dir}", code=3)
        except OSError as error:
            fail(f"cannot write {self.dir}: {error}")

    def begin(self, **state):
        """Start the run, or resume it from its checkpoint; return the first observations.

        `state` names all that a resumed run needs: `nets`, which has the actor, what else has a
        `load_state_dict`, and replay buffers. No file changes before all is known to be right.
        """
        self.state, total = state, self.args.total_timesteps
        self.open_folder()
        old, self.progress = load(self.dir / "args.json"), load(self.dir / "result.json")
        own = {k: v for k, v in asdict(self.args).items() if k not in ("resume", "total_timesteps")}
        differ = [f"{k} {old.get(k)}" for k, v in own.items() if old and old.get(k) != v]
        if differ:
            fail(f"{self.dir} was made with another {', '.join(differ)}")
        self.global_step = self.progress.get("step", 0)
        if self.global_step >= total:
            say(f"{self.dir} is finished")
            return None
        checkpoint = load(self.dir / "checkpoint.pt")
        if self.progress and not checkpoint:
            fail(f"{self.dir} is finished and has no checkpoint to continue from")
        self.progress = checkpoint.get("progress", {"step": 0, "seconds": 0.0})
        self.global_step = self.iteration_step = self.log_step = self.progress["step"]
        if self.global_step > total and old.get("total_timesteps") != total:
            fail(f"{self.dir} is at step {self.global_step}, beyond --total-timesteps {total}")
        if checkpoint:
            self.restore(checkpoint)
        if self.args.capture_video:
            make_envs(self.args, 1, self.dir / "videos" / "check").close()

        (self.dir / "result.json").unlink(missing_ok=True)
        names = "torch", "numpy", "gymnasium", "mujoco", "stable-baselines3"
        git = {"cwd": Path(__file__).parent, "shell": True, "capture_output": True, "text": True}
        commit = subprocess.run("git rev-parse -q --verify HEAD", **git).stdout.strip() or None
        about = {"script": Path(__file__).name, "git_commit": commit}
        about |= {"versions": {name: version(name) for name in names}, "device": str(self.device)}
        save(self.dir / "args.json", asdict(self.args) | about)
        self.stops = stops = []

        def stop(signum, _):  # holds no Run: after a crash in a REPL that would keep its lock
            stops.append(signum)
            signal.signal(signum, signal.SIG_DFL)

        for signum in signal.SIGINT, signal.SIGTERM:
            self.callback(signal.signal, signum, signal.signal(signum, stop))
        self.writer = SummaryWriter(str(self.dir), purge_step=self.global_step + 1)
        self.bar = tqdm(total=total, initial=self.global_step, unit=" steps", disable=None)
        self.callback(self.writer.close)
        self.callback(self.bar.close)
        table = "".join(f"\n|{name}|{value}|" for name, value in asdict(self.args).items())
        self.writer.add_text("arguments", "|argument|value|\n|-|-|" + table, self.global_step + 1)
        where = f"{self.device}, {self.args.torch_threads} thread(s)"
        say(f"{self.dir}: steps {self.global_step:,} to {total:,} on {where}")
        self.log_time = time.perf_counter()
        self.start_time = self.log_time - self.progress["seconds"]
        return self.begin_segment()

    def restore(self, checkpoint: dict) -> None:
        """Load what `save_checkpoint` saved."""
        try:
            for name, part in self.state.items():
                if hasattr(part, "load_state_dict"):
                    part.load_state_dict(checkpoint[name])
                    continue
                part.pos, part.full = checkpoint[name].pop("pos"), checkpoint[name].pop("full")
                for key, values in checkpoint[name].items():
                    getattr(part, key)[: len(values)] = values.numpy()
        except Exception as error:
            fail(f"cannot load {self.dir}/checkpoint.pt: {error}")

    def save_checkpoint(self) -> None:
        """Save what `begin` was given; of a replay buffer as much as is filled."""
        step, seconds = self.global_step, time.perf_counter() - self.start_time
        self.progress |= {"step": step, "seconds": seconds, "SPS": step / seconds}
        checkpoint = {"progress": self.progress}
        for name, part in self.state.items():
            if hasattr(part, "state_dict"):
                checkpoint[name] = part.state_dict()
                continue
            arrays = {k: v for k, v in vars(part).items() if isinstance(v, np.ndarray)}
            arrays = {k: torch.from_numpy(v[: part.size()]) for k, v in arrays.items()}
            checkpoint[name] = {"pos": part.pos, "full": part.full} | arrays
        self.writer.flush()
        save(self.dir / "checkpoint.pt", checkpoint)

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
        obs = self.envs.reset(**how)[0]
        self.check_finite({"observation": obs})
        return obs

    def step(self, actions):
        """Step the environments and log the episodes that end; return what `envs.step` returns."""
        self.check_finite({"action": actions})
        next_obs, rewards, terminations, truncations, infos = self.envs.step(actions)
        self.global_step += self.args.num_envs
        self.check_finite({"observation": next_obs, "reward": rewards})
        self.stopping = bool(self.stops)
        self.bar.update(self.global_step - self.bar.n)
        for i in np.flatnonzero(terminations | truncations):
            self.log("charts/episodic_return", infos["episode"]["r"][i])
            self.log("charts/episodic_length", infos["episode"]["l"][i])
        return next_obs, rewards, terminations, truncations, infos

    def reset_finished(self, next_obs, dones):
        """Return the observations to act on: of a new episode where the old one is done."""
        return self.reset(options={"reset_mask": dones}) if dones.any() else next_obs

    def due(self, interval: int) -> bool:
        """Tell whether a multiple of `interval` was passed in this iteration; never for 0."""
        return interval > 0 and self.global_step // interval > self.iteration_step // interval

    def at_boundary(self) -> bool:
        """Tell whether `end_iteration` will save a checkpoint and cut the running episodes."""
        last = self.global_step >= self.args.total_timesteps
        return last or self.stopping or self.due(self.args.checkpoint_interval)

    def log(self, tag: str, value) -> None:
        self.writer.add_scalar(tag, value, self.global_step)

    def check_finite(self, values: dict) -> None:
        for name, value in values.items():
            numbers = value if isinstance(value, np.ndarray) else torch.as_tensor(value)
            if not (abs(numbers) < np.inf).all():
                fail(f"{name} is not finite at step {self.global_step} of {self.dir}", code=1)

    def end_iteration(self, obs, metrics: dict):
        """Log, evaluate, save, stop: whatever is due. Return the observations to go on with."""
        last, boundary = self.global_step >= self.args.total_timesteps, self.at_boundary()
        evaluating = last or self.due(self.args.eval_interval)
        if evaluating or boundary or self.due(1_000):
            self.check_finite(metrics | dict(self.state["nets"].named_parameters()))
            for name, value in metrics.items():
                self.log(name if "/" in name else f"losses/{name}", value.mean())
            speed = (self.global_step - self.log_step) / (time.perf_counter() - self.log_time)
            self.log("charts/SPS", speed)
            self.log_step, self.log_time = self.global_step, time.perf_counter()
        if evaluating:
            self.evaluate(video=last or self.due(25 * self.args.eval_interval))
            left = max(self.args.total_timesteps - self.global_step, 0) / speed
            self.bar.clear()
            rest = f"{speed:.0f} steps/s, {tqdm.format_interval(left)} left"
            say(f"step {self.global_step:,}: {self.score()}, {rest}")
        if boundary:
            self.save_checkpoint()
            if self.stopping and not last:
                self.close()
                again = f"--resume --run-name {self.args.run_name}"
                say(f"stopped at step {self.global_step}; to go on, add {again}")
                raise SystemExit(75 if signal.SIGTERM in self.stops else 130)
            obs = self.begin_segment()
        self.iteration_step = self.global_step
        return obs

    def evaluate(self, video: bool) -> None:
        """Evaluate and log, save model.pt and, if there is to be one, a video."""
        nets, args = self.state["nets"], self.args
        returns, discounted = evaluate(nets.actor, args, args.eval_episodes)
        self.check_finite({"evaluation return": returns})
        mean, std = returns.mean(), returns.std(ddof=1) if len(returns) > 1 else 0.0
        self.log("eval/episodic_return", mean)
        self.log("eval/episodic_return_std", std)
        self.log("eval/discounted_return", discounted.mean())
        self.progress |= {"eval_step": self.global_step, "eval_episodes": len(returns)}
        self.progress |= {"eval_mean": float(mean), "eval_std": float(std)}
        save(self.dir / "model.pt", nets.state_dict())
        if args.capture_video and video:
            signals = signal.SIGINT, signal.SIGTERM  # a terminal's Ctrl-C would end ffmpeg as well
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
            try:
                evaluate(nets.actor, args, 1, self.dir / "videos" / f"step-{self.global_step}")
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def score(self) -> str:
        return f"return {self.progress['eval_mean']:.1f} ± {self.progress['eval_std']:.1f}"

    def finish(self) -> dict:
        """Write result.json, the mark of a finished run, and return what it has."""
        if not (self.dir / "result.json").exists():
            if self.progress.get("eval_step") != self.global_step:  # stopped before its evaluation
                self.evaluate(video=True)
            save(self.dir / "result.json", self.progress)
            self.close()
            say(f"{self.dir} is finished at step {self.global_step:,}: {self.score()}")
            say(f"  tensorboard --logdir {self.dir}")
            say(f"  python evaluate.py {self.dir} --video video.mp4")
            say(f"  more: --resume --run-name {self.args.run_name} --total-timesteps N")
        return self.progress


if __name__ == "__main__":
    # whole numbers may be written as 1e5
    words = [re.sub(r"(?<![^=])\d+e\d$", lambda n: f"{float(n[0]):.0f}", w) for w in sys.argv[1:]]
    train(tyro.cli(Args, args=words, description=__doc__))
