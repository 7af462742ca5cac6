# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "numpy==2.4.6", "gymnasium[mujoco]==1.4.0", "mujoco==3.15.0",
#     "stable-baselines3==2.9.2", "tyro==1.0.17", "tensorboard==2.21.0", "tqdm==4.70.1",
#     "filelock==4.2.11", "moviepy==2.2.1"]
# ///
"""Proximal Policy Optimization (PPO), Schulman et al. 2017, arXiv:1707.06347.

Actor: maximise E[min(ρA, clip(ρ, 1-ε, 1+ε)A)], ρ = π(a|s)/π_old(a|s), with advantages A by GAE
(Schulman et al. 2016, arXiv:1506.02438). Critic: minimise ½E[(V(s) - R)²], R = A + V_old(s).

Departures from the paper:
1. Every `checkpoint_interval` steps the running episodes are cut, as a time limit would.
2. A time limit does not end the return: A and R bootstrap with V of the true last observation.
3. Observations and rewards are normalised, the advantages in each minibatch too, the change of V is
   clipped, gradients are clipped, the learning rate falls to 0, weights start orthogonal.

    python ppo_continuous.py --env-id Hopper-v4
"""

import json
import os
import signal
import sys
import time
import warnings
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

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
    exp_name: str = Path(__file__).stem
    """name of this experiment"""
    seed: int = 1
    """seed of every random generator"""
    num_envs: int = 1
    """environments stepped side by side; the steps of each count"""
    cuda: bool = True
    """use a GPU if there is one"""
    torch_threads: int = 2
    """CPU threads of PyTorch"""
    compile: bool = False
    """compile the losses (a slow start, then faster steps; needs a C++ compiler)"""
    run_name: str | None = None
    """folder of the run in runs/ (default: <env_id>__<exp_name>__<seed>__<time>)"""
    resume: bool = False
    """continue run --run-name from its checkpoint, or start it if it has none"""
    checkpoint_interval: int = 50_000
    """steps between checkpoints, which cut the running episodes (0: only when stopped)"""
    eval_interval: int = 10_000
    """steps between evaluations (0: only at the end)"""
    eval_episodes: int = 10
    """episodes of an evaluation, played by the deterministic policy"""
    capture_video: bool = False
    """record an episode at every 25th evaluation and at the last"""
    env_id: str = "Hopper-v4"
    """id of a gymnasium environment with continuous actions"""
    max_episode_steps: int | None = None
    """steps after which an episode is cut (None: the environment's own limit)"""
    total_timesteps: int = 1_000_000
    """environment steps of the run"""
    learning_rate: float = 3e-4
    """learning rate of the Adam optimizer"""
    anneal_lr: bool = True
    """let the learning rate fall linearly to 0 at `total_timesteps`"""
    num_steps: int = 2048
    """steps of each environment in a rollout"""
    gamma: float = 0.99
    """discount factor"""
    gae_lambda: float = 0.95
    """λ of generalized advantage estimation: 0 is one-step TD, 1 the empirical return"""
    num_minibatches: int = 32
    """minibatches that a rollout is split into"""
    update_epochs: int = 10
    """passes over a rollout"""
    norm_adv: bool = True
    """normalise the advantages of each minibatch"""
    clip_coef: float = 0.2
    """ε of the clipped surrogate objective"""
    clip_vloss: bool = True
    """clip the change of the value, too"""
    ent_coef: float = 0.0
    """weight of the policy's entropy in the objective"""
    vf_coef: float = 0.5
    """weight of the critic's loss"""
    max_grad_norm: float = 0.5
    """largest norm of the gradient of all parameters"""
    target_kl: float | None = None
    """end the passes over a rollout once the policy has moved this far"""


# ---- Environment ----
def fail(message: str, code: int = 2):
    """Exit with one line: code 2 for input that no run can use, 1 for a run that went wrong."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)


def check_args(args: Args) -> None:
    """Refuse numbers that no run can use."""
    may_be_zero = "seed", "checkpoint_interval", "eval_interval", "learning_starts"
    for field in fields(args):
        name, value = field.name, getattr(args, field.name)
        low = 1 if field.type is int and name not in may_be_zero else 0
        high = 1 if name in ("gamma", "tau", "gae_lambda") else 2**31
        if isinstance(value, int | float) and not low <= value <= high:
            fail(f"--{name.replace('_', '-')} must be from {low} to {high}, not {value}")


def make_envs(args: Args, num_envs: int, video: Path | None = None) -> gym.vector.VectorEnv:
    """Return environments that wait to be reset, so that `next_obs` is always the true successor.

    The first episode of each is recorded in an mp4 file whose path starts with `video`.
    """
    # v4 or v5 is the user's choice, and no video here has the name of another
    warnings.filterwarnings("ignore", ".*(is out of date|Overwriting existing videos)")
    kwargs = {"max_episode_steps": args.max_episode_steps}
    if video:
        kwargs["render_mode"] = "rgb_array"
        if sys.platform == "linux" and "DISPLAY" not in os.environ:
            os.environ.setdefault("MUJOCO_GL", "egl")

    def record(env: gym.Env) -> gym.Env:
        if renderer := getattr(env.unwrapped, "mujoco_renderer", None):
            # the camera that follows the body, where there is one, which gymnasium 1.4 leaves aside
            kind = mujoco.mjtObj.mjOBJ_CAMERA
            renderer.camera_id = mujoco.mj_name2id(renderer.model, kind, "track")
        env.reset()
        env.render()  # what can't render fails now, not hours later
        folder, first = str(video.parent), lambda episode: episode == 0
        return gym.wrappers.RecordVideo(env, folder, first, name_prefix=video.name)

    options = {"autoreset_mode": gym.vector.AutoresetMode.DISABLED}
    wrappers = [record] * bool(video) + [gym.wrappers.RecordEpisodeStatistics]
    try:
        envs = gym.make_vec(args.env_id, num_envs, "sync", options, wrappers, **kwargs)
    except Exception as error:
        fail(f"cannot make {args.env_id} with {kwargs}: {error}")
    for space in envs.single_observation_space, envs.single_action_space:
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            fail(f"{args.env_id} has {space} where this script needs a Box of one dimension")
    if not (space.is_bounded() and np.issubdtype(space.dtype, np.floating)):
        fail(f"{args.env_id} has actions {space}, not real numbers with finite bounds")
    return envs


# ---- Networks ----
class Normalizer(nn.Module):
    """(x - mean) / std of all that it has seen, clipped to ±10; the statistics are in its state."""

    def __init__(self, shape):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(1e-4, dtype=torch.float64))

    def update(self, x: np.ndarray):
        old = [buffer.cpu().numpy() for buffer in self.buffers()]
        new = update_mean_var_count_from_moments(*old, x.mean(0), x.var(0), len(x))
        for buffer, value in zip(self.buffers(), new, strict=True):
            buffer.copy_(torch.as_tensor(value))

    def forward(self, x):
        return ((x - self.mean) / (self.var + 1e-8).sqrt()).clamp(-10, 10).float()


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
        self.log_std = nn.Parameter(torch.zeros(act_dim))
        action_low, action_high = (torch.as_tensor(x) for x in (action_low, action_high))
        self.register_buffer("action_scale", (action_high - action_low).float() / 2)
        self.register_buffer("action_bias", (action_high + action_low).float() / 2)

    def distribution(self, x):
        """π(a|s) of normalised observations, in halves of the action range, before clipping."""
        return Normal(self.mu(x), self.log_std.exp(), validate_args=False)

    def rescale(self, actions):
        return actions * self.action_scale + self.action_bias

    def forward(self, x):
        return self.rescale(self.mu(self.obs_normalizer(x)))


class Networks(nn.Module):
    """All networks of the algorithm, and the statistics that normalise."""

    def __init__(self, obs_dim, act_dim, action_low, action_high):
        super().__init__()
        self.actor = Actor(obs_dim, act_dim, action_low, action_high)
        self.critic = Critic(obs_dim)
        self.return_normalizer = Normalizer(())


# ---- Losses ----
class Rollout(NamedTuple):
    """What each of num_envs environments did in num_steps steps: (num_steps, num_envs, ...)."""

    observations: np.ndarray
    next_observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    dones: np.ndarray


class Batch(NamedTuple):
    """What the losses need of a rollout, flat; observations are normalised."""

    observations: torch.Tensor
    actions: torch.Tensor
    log_probs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


def estimate_advantages(rollout, values, next_values, args):
    """Return A by GAE, (num_steps, num_envs), from V(s) and V(s') of each step."""
    # δ_t = r_t + γ(1-d) V(s_{t+1}) - V(s_t), d = 1 at a termination, 0 at a time limit
    deltas = rollout.rewards + args.gamma * (1 - rollout.terminations) * next_values - values
    # A_t = δ_t + γλ A_{t+1}, within an episode   [Schulman et al. 2016, Eq. 16]
    decay = args.gamma * args.gae_lambda * (1 - rollout.dones)
    advantages, following = np.zeros_like(deltas), 0.0
    for t in reversed(range(len(deltas))):
        advantages[t] = following = deltas[t] + decay[t] * following
    return advantages


def critic_loss(nets, data, args):
    """Return ½ of the mean squared error of V over a batch, a scalar, and what to log of it."""
    values = nets.critic(data.observations)
    errors = (values - data.returns) ** 2
    if args.clip_vloss:
        change = (values - data.values).clamp(-args.clip_coef, args.clip_coef)
        errors = torch.max(errors, (data.values + change - data.returns) ** 2)
    value_loss = 0.5 * errors.mean()
    return value_loss, {"value_loss": value_loss}


def actor_loss(nets, data, args):
    """Return minus the clipped surrogate objective over a batch, likewise."""
    advantages = data.advantages
    if args.norm_adv:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    policy = nets.actor.distribution(data.observations)
    log_ratio = policy.log_prob(data.actions).sum(-1) - data.log_probs
    ratio = log_ratio.exp()
    # E[min(ρA, clip(ρ, 1-ε, 1+ε)A)]   [Schulman et al. 2017, Eq. 7]
    clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = -torch.min(ratio * advantages, clipped * advantages).mean()
    entropy = policy.entropy().sum(-1).mean()
    # an estimate of KL(π_old, π) without bias and of low variance   [Schulman 2020]
    approx_kl = (ratio - 1 - log_ratio).mean()
    metrics = {"policy_loss": policy_loss, "entropy": entropy, "approx_kl": approx_kl}
    metrics["clipfrac"] = (ratio != clipped).float().mean()
    return policy_loss - args.ent_coef * entropy, metrics


def backward(parameters, nets, data, args):
    """Put the gradient of both losses into the `grad` of the parameters; return what to log."""
    loss, metrics = actor_loss(nets, data, args)
    value_loss, value_metrics = critic_loss(nets, data, args)
    (loss + args.vf_coef * value_loss).backward(inputs=parameters)
    return {name: value.detach() for name, value in (metrics | value_metrics).items()}


# ---- Evaluation ----
@torch.no_grad()
def evaluate(actor, args, episodes: int, video: Path | None = None) -> np.ndarray:
    """Return the undiscounted returns of the deterministic policy, one seeded environment each."""
    envs, returns = make_envs(args, episodes, video), np.full(episodes, np.nan)
    low, high = envs.single_action_space.low, envs.single_action_space.high
    obs, _ = envs.reset(seed=args.seed + 100)
    while np.isnan(returns).any():
        actions = actor(torch.as_tensor(obs).to(actor.action_scale)).cpu().numpy()
        obs, _, terminations, truncations, infos = envs.step(actions.clip(low, high))
        dones = terminations | truncations
        if dones.any():
            first = dones & np.isnan(returns)
            returns[first] = infos["episode"]["r"][first]
            obs, _ = envs.reset(options={"reset_mask": dones})
    envs.close()
    return returns


# ---- Checkpoint ----
def training_state(args, progress, nets, optimizer) -> dict:
    """Name everything that a resumed run needs; the tensors are not copied."""
    return {
        "args": asdict(args),
        "progress": progress,
        "nets": nets.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


def load_training_state(path, args, nets, optimizer) -> dict:
    """Restore what `training_state` named and return its `progress`."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        free = {name: getattr(args, name) for name in ("resume", "total_timesteps")}
        differ = [f"{k} {v}" for k, v in (state["args"] | free).items() if v != getattr(args, k)]
        if differ:
            fail(f"{path} was trained with another {', '.join(differ)}")
        nets.load_state_dict(state["nets"])
        optimizer.load_state_dict(state["optimizer"])
        return state["progress"]
    except Exception as error:
        fail(f"cannot load {path}: {error}")


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


# ---- Training ----
def open_run(args: Args) -> tuple[Path, FileLock]:
    """Make the run's folder, or reopen it to resume, and lock it; `args.run_name` names it."""
    if args.resume and not args.run_name:
        fail("--resume needs --run-name")
    default = f"{args.env_id}__{args.exp_name}__{args.seed}__{time.time_ns()}"
    args.run_name = args.run_name or default.replace("/", "-")
    run_dir = Path("runs", args.run_name)
    if args.run_name in (".", "..") or run_dir.name != args.run_name:
        fail(f"--run-name must name a folder, not {args.run_name!r}")
    try:
        run_dir.mkdir(parents=True, exist_ok=args.resume)
        lock = FileLock(run_dir / "lock")
        lock.acquire(timeout=0)
        return run_dir, lock
    except FileExistsError:
        fail(f"{run_dir} exists: choose another --run-name, or add --resume to continue it")
    except Timeout:
        fail(f"another process is training in {run_dir}")
    except OSError as error:
        fail(f"cannot write {run_dir}: {error}")


def begin_segment(args, global_step, envs):
    """Seed every generator from (seed, global_step), reset the environments and return `obs`."""
    seed = int(np.random.SeedSequence([args.seed, global_step]).generate_state(1)[0])
    set_random_seed(seed)
    envs.action_space.seed(seed)
    return envs.reset(seed=seed)[0]


def train(args: Args) -> dict:
    """Train to `total_timesteps`, from the checkpoint if there is one; return what result.json has.

    Exits with 2 on bad input, 1 when the run goes wrong, 75 on SIGTERM, 130 on Ctrl-C.
    """
    check_args(args)
    batch_size = args.num_envs * args.num_steps
    if 2 * args.num_minibatches > batch_size:
        fail(f"--num-minibatches must be at most half of the {batch_size} steps of a rollout")
    torch.set_num_threads(args.torch_threads)
    device = torch.device("cuda" if torch.cuda.is_available() and args.cuda else "cpu")
    envs = make_envs(args, args.num_envs)
    run_dir, _lock = open_run(args)
    result_file, checkpoint_file = run_dir / "result.json", run_dir / "checkpoint.pt"
    result = json.loads(result_file.read_text()) if result_file.exists() else {"step": 0}
    if result["step"] >= args.total_timesteps:
        print(f"{run_dir} is finished")
        return result
    result_file.unlink(missing_ok=True)

    set_random_seed(args.seed)
    obs_dim, act_dim = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
    low, high = envs.single_action_space.low, envs.single_action_space.high
    nets = Networks(obs_dim, act_dim, low, high).to(device)
    parameters = list(nets.parameters())
    optimizer = optim.Adam(parameters, lr=args.learning_rate, eps=1e-5, fused=True)
    learner = nets, optimizer
    progress = {"step": 0, "seconds": 0.0}
    if checkpoint_file.exists():
        progress = load_training_state(checkpoint_file, args, *learner)
    global_step, start = progress["step"], time.perf_counter() - progress["seconds"]
    packages = "torch", "numpy", "gymnasium", "mujoco", "stable-baselines3"
    about = {"versions": {name: version(name) for name in packages}, "device": str(device)}
    git = os.popen(f"git -C '{Path(__file__).parent}' rev-parse -q --verify HEAD 2>{os.devnull}")
    about |= {"git_commit": git.read().strip() or None, "threads": torch.get_num_threads()}
    save(run_dir / "args.json", asdict(args) | about | {"script": Path(__file__).name})

    def due(interval: int) -> bool:
        return interval > 0 and global_step % interval < batch_size

    def check_finite() -> None:
        for name, value in (metrics | dict(nets.named_parameters())).items():
            if not value.isfinite().all():
                fail(f"{name} is not finite at step {global_step} of {run_dir}", code=1)

    def stop(signum: int, _) -> None:
        stops.append(signum)
        signal.signal(signum, signal.SIG_DFL)

    stops, metrics, log_step, log_time = [], {}, global_step, time.perf_counter()
    handlers = {signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM)}
    differentiate = backward
    if args.compile:
        torch._dynamo.config.trace_autograd_ops = True  # a loss and its gradient in one graph
        differentiate = torch.compile(backward, fullgraph=True)
    if args.capture_video:
        make_envs(args, 1, run_dir / "videos" / "check").close()
    writer = SummaryWriter(str(run_dir), purge_step=global_step + 1)
    bar = tqdm(total=args.total_timesteps, initial=global_step, unit=" steps", disable=None)

    obs, discounted = begin_segment(args, global_step, envs), np.zeros(args.num_envs)
    while global_step < args.total_timesteps:
        # Act
        steps, discounted_returns = [], []
        for _ in range(args.num_steps):
            with torch.no_grad():
                x = nets.actor.obs_normalizer(torch.as_tensor(obs, device=device))
                actions = nets.actor.distribution(x).sample()
                bounded = nets.actor.rescale(actions).cpu().numpy().clip(low, high)
            if not np.isfinite(bounded).all():
                check_finite()

            # Step
            next_obs, rewards, terminations, truncations, infos = envs.step(bounded)
            global_step += args.num_envs
            bar.update(args.num_envs)

            # Store
            dones = terminations | truncations
            steps.append((obs, next_obs, actions.cpu().numpy(), rewards, terminations, dones))
            discounted = discounted * args.gamma + rewards
            discounted_returns.append(discounted)
            obs = next_obs
            if dones.any():
                for i in np.flatnonzero(dones):
                    episode = {name: infos["episode"][name][i] for name in "rl"}
                    writer.add_scalar("charts/episodic_return", episode["r"], global_step)
                    writer.add_scalar("charts/episodic_length", episode["l"], global_step)
                bar.set_postfix_str(f"episodic_return={episode['r']:.1f}", refresh=False)
                obs, _ = envs.reset(options={"reset_mask": dones})
                discounted = discounted * (1 - dones)
        rollout = Rollout(*map(np.stack, zip(*steps, strict=True)))

        # Estimate
        nets.return_normalizer.update(np.concatenate(discounted_returns))
        reward_scale = (nets.return_normalizer.var.item() + 1e-8) ** 0.5
        rollout = rollout._replace(rewards=(rollout.rewards / reward_scale).clip(-10, 10))
        with torch.no_grad():
            both = torch.as_tensor(np.stack([rollout.observations, rollout.next_observations]))
            x = nets.actor.obs_normalizer(both.to(device))
            values, next_values = nets.critic(x).cpu().numpy()
            actions = torch.as_tensor(rollout.actions, device=device)
            log_probs = nets.actor.distribution(x[0]).log_prob(actions).sum(-1)
        advantages = estimate_advantages(rollout, values, next_values, args)
        batch = Batch(x[0], actions, log_probs, values, advantages, advantages + values)
        kind = {"dtype": torch.float32, "device": device}
        batch = Batch(*(torch.as_tensor(part, **kind).flatten(0, 1) for part in batch))

        # Learn
        if args.anneal_lr:
            remaining = 1 - (global_step - batch_size) / args.total_timesteps
            optimizer.param_groups[0]["lr"] = remaining * args.learning_rate
        history = []
        for _ in range(args.update_epochs):
            for i in torch.randperm(batch_size, device=device).tensor_split(args.num_minibatches):
                data = Batch(*(part[i] for part in batch))
                optimizer.zero_grad()
                history.append(differentiate(parameters, nets, data, args))
                nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
                optimizer.step()
            if args.target_kl is not None and history[-1]["approx_kl"] > args.target_kl:
                break
        nets.actor.obs_normalizer.update(rollout.observations.reshape(batch_size, -1))
        metrics = {name: torch.stack([m[name] for m in history]).mean() for name in history[0]}
        unexplained = (batch.returns - batch.values).var() / (batch.returns.var() + 1e-8)
        metrics |= {"explained_variance": 1 - unexplained}

        # Log
        last, stopping = global_step >= args.total_timesteps, bool(stops)
        boundary, evaluating = stopping or due(args.checkpoint_interval), due(args.eval_interval)
        if boundary or evaluating or last or due(1_000):
            check_finite()
            for name, value in metrics.items():
                writer.add_scalar(f"losses/{name}", value.mean(), global_step)
            speed = (global_step - log_step) / (time.perf_counter() - log_time)
            writer.add_scalar("charts/SPS", speed, global_step)
            writer.add_scalar("charts/learning_rate", optimizer.param_groups[0]["lr"], global_step)
            log_step, log_time = global_step, time.perf_counter()

        # Evaluate
        if evaluating or last:
            returns = evaluate(nets.actor, args, args.eval_episodes)
            progress |= {"eval_mean": returns.mean().item(), "eval_std": returns.std().item()}
            writer.add_scalar("eval/episodic_return", returns.mean(), global_step)
            writer.add_scalar("eval/episodic_return_std", returns.std(), global_step)
            save(run_dir / "model.pt", nets.state_dict())
            if args.capture_video and (last or due(25 * args.eval_interval)):
                video = run_dir / "videos" / f"step-{global_step}"
                evaluate(nets.actor, args, 1, video)

        # Checkpoint
        if boundary:
            progress |= {"step": global_step, "seconds": time.perf_counter() - start}
            writer.flush()
            save(checkpoint_file, training_state(args, progress, *learner))
            if stopping:
                break
            obs, discounted = begin_segment(args, global_step, envs), np.zeros(args.num_envs)

    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    for resource in bar, writer, envs:
        resource.close()
    if global_step < args.total_timesteps:
        print(f"stopped at step {global_step}; add --resume --run-name {args.run_name} to go on")
        raise SystemExit(75 if signal.SIGTERM in stops else 130)
    seconds = time.perf_counter() - start
    result = progress | {"step": global_step, "seconds": seconds, "SPS": global_step / seconds}
    result |= {"eval_episodes": args.eval_episodes}
    save(result_file, result)
    return result


if __name__ == "__main__":
    train(tyro.cli(Args))
