# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "numpy==2.4.6", "gymnasium[mujoco]==1.4.0", "mujoco==3.15.0",
#     "stable-baselines3==2.9.2", "tyro==1.0.17", "tensorboard==2.21.0", "tqdm==4.70.1",
#     "filelock==4.2.11", "moviepy==2.2.1"]
# ///
"""Actor-critic with a reparameterised policy, as SVG(0), Heess et al. 2015, arXiv:1510.09142.

Critic: minimise E[(Q(s,a) - y)²], y = r + γ(1-d) Q'(s', a'), a' ~ π(·|s').
Actor: maximise E[Q(s, a)], a ~ π(·|s). Parent: ddpg_continuous.py, from which it differs in
1. a Gaussian policy squashed by tanh, which explores by itself and samples the target's action,
2. the gradient through the sample, or `--estimator score`, and an optional entropy bonus,
3. iterations of `steps_per_iteration` steps, then `updates_per_iteration` updates; tanh networks.

Departures from the paper:
1. Every `checkpoint_interval` steps the running episodes are cut, as a time limit would.
2. The noise is drawn afresh, not inferred from the data; nothing is weighted by importance.

    python ac_reparam_continuous.py --env-id HalfCheetah-v4
"""

import json
import os
import signal
import sys
import time
import warnings
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import gymnasium as gym
import mujoco
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from filelock import FileLock, Timeout
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.utils import set_random_seed
from torch import nn, optim
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution
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
    max_episode_steps: int | None = 200
    """steps after which an episode is cut (None: the environment's own limit)"""
    total_timesteps: int = 105_000
    """environment steps of the run"""
    learning_rate: float = 3e-4
    """learning rate of the Adam optimizers"""
    buffer_size: int = 1_000_000
    """transitions that the replay buffer holds"""
    gamma: float = 0.99
    """discount factor"""
    tau: float = 0.005
    """Polyak coefficient of the target networks"""
    batch_size: int = 256
    """transitions in an update"""
    learning_starts: int = 5_000
    """steps of uniformly random actions before learning starts"""
    policy_frequency: int = 1
    """critic updates for each update of the actor and the targets"""
    steps_per_iteration: int = 1_000
    """environment steps of an iteration"""
    updates_per_iteration: int = 1_000
    """critic updates after the steps of an iteration"""
    entropy_coef: float = 0.0
    """weight of the policy's entropy in the actor's objective"""
    estimator: Literal["pathwise", "score"] = "pathwise"
    """gradient of the actor: through the sampled action, or that of its log-probability"""


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
class QNetwork(nn.Module):
    """Q(s, a): (batch, obs_dim), (batch, act_dim) -> (batch,)."""

    def __init__(self, obs_dim, act_dim):
        super().__init__()
        self.fc1 = nn.Linear(obs_dim + act_dim, 256)
        self.fc2 = nn.Linear(256, 256)
        self.fc3 = nn.Linear(256, 1)

    def forward(self, x, a):
        x = torch.cat([x, a], 1)
        x = torch.tanh(self.fc1(x))
        x = torch.tanh(self.fc2(x))
        return self.fc3(x).squeeze(-1)


class Actor(nn.Module):
    """μ(s): (batch, obs_dim) -> (batch, act_dim), each dimension within its own bounds."""

    def __init__(self, obs_dim, act_dim, action_low, action_high):
        super().__init__()
        self.fc1 = nn.Linear(obs_dim, 256)
        self.fc2 = nn.Linear(256, 256)
        self.fc_mu = nn.Linear(256, act_dim)
        self.log_std = nn.Parameter(torch.zeros(act_dim))
        self.register_buffer("action_low", torch.as_tensor(action_low, dtype=torch.float32))
        self.register_buffer("action_high", torch.as_tensor(action_high, dtype=torch.float32))
        self.register_buffer("action_scale", (self.action_high - self.action_low) / 2)
        self.register_buffer("action_bias", (self.action_high + self.action_low) / 2)

    def mean(self, x):
        x = torch.tanh(self.fc1(x))
        x = torch.tanh(self.fc2(x))
        return self.fc_mu(x)

    def forward(self, x):
        x = torch.tanh(self.mean(x))
        return x * self.action_scale + self.action_bias

    def distribution(self, x):
        """π(·|s): a = tanh(u) · scale + bias, u ~ N(mean(s), exp(log_std)²)."""
        normal = Normal(self.mean(x), self.log_std.exp(), validate_args=False)
        rescale = AffineTransform(self.action_bias, self.action_scale, 1, cache_size=1)
        return TransformedDistribution(normal, [TanhTransform(1), rescale], validate_args=False)


class Networks(nn.Module):
    """All networks of the algorithm."""

    def __init__(self, obs_dim, act_dim, action_low, action_high):
        super().__init__()
        self.actor = Actor(obs_dim, act_dim, action_low, action_high)
        self.qf1 = QNetwork(obs_dim, act_dim)
        self.qf1_target = deepcopy(self.qf1).requires_grad_(False)
        self.sources = [*self.qf1.parameters()]
        self.targets = [*self.qf1_target.parameters()]


# ---- Losses ----
def critic_loss(nets, data, args):
    """Return the mean squared Bellman error over a batch, a scalar, and what to log of it."""
    with torch.no_grad():
        # a' ~ π(·|s'), one sample   [Heess et al. 2015, SVG(0)]
        next_state_actions = nets.actor.distribution(data.next_observations).rsample()
        # y = r + γ(1-d) Q'(s', a')   [Lillicrap et al. 2015, Alg. 1]
        qf1_next_target = nets.qf1_target(data.next_observations, next_state_actions)
        not_done = 1 - data.dones.flatten()
        next_q_value = data.rewards.flatten() + args.gamma * not_done * qf1_next_target
    qf1_a_values = nets.qf1(data.observations, data.actions)
    qf1_loss = F.mse_loss(qf1_a_values, next_q_value)
    return qf1_loss, {"qf1_loss": qf1_loss, "qf1_values": qf1_a_values}


def actor_loss(nets, data, args):
    """Return a scalar with the gradient of minus the actor's objective over a batch, likewise."""
    policy = nets.actor.distribution(data.observations)
    # ∇_θ J = E[∇_a Q(s, a) ∇_θ a(s, z)], z ~ N(0, 1)   [Heess et al. 2015, SVG(0)]
    with torch.set_grad_enabled(args.estimator == "pathwise"):
        actions = policy.rsample()
    objective = nets.qf1(data.observations, actions) - args.entropy_coef * policy.log_prob(actions)
    if args.estimator == "score":
        # ∇_θ J = E[∇_θ log π(a|s) Q(s, a)]   [Williams 1992, the critic in place of the return]
        objective = policy.log_prob(actions) * objective.detach()
    actor_loss = -objective.mean()
    return actor_loss, {"actor_loss": actor_loss, "policy_std": nets.actor.log_std.exp()}


def backward(loss_function, parameters, *inputs):
    """Put the gradient of a loss into the `grad` of these parameters alone; return what to log."""
    loss, metrics = loss_function(*inputs)
    loss.backward(inputs=parameters)
    return {name: value.detach() for name, value in metrics.items()}


@torch.no_grad()
def update_targets(nets, tau):
    """Polyak averaging, θ' ← τθ + (1-τ)θ'   [Lillicrap et al. 2015, Alg. 1]."""
    torch._foreach_lerp_(nets.targets, nets.sources, tau)


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
def training_state(args, progress, nets, optimizers, rb) -> dict:
    """Name everything that a resumed run needs; the tensors are not copied."""
    arrays = "observations", "next_observations", "actions", "rewards", "dones"
    return {
        "args": asdict(args),
        "progress": progress,
        "nets": nets.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "rb": {name: torch.from_numpy(getattr(rb, name)[: rb.size()]) for name in arrays},
        "rb_pos": rb.pos,
    }


def load_training_state(path, args, nets, optimizers, rb) -> dict:
    """Restore what `training_state` named and return its `progress`."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        free = {name: getattr(args, name) for name in ("resume", "total_timesteps")}
        differ = [f"{k} {v}" for k, v in (state["args"] | free).items() if v != getattr(args, k)]
        if differ:
            fail(f"{path} was trained with another {', '.join(differ)}")
        nets.load_state_dict(state["nets"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name, saved in state["rb"].items():
            getattr(rb, name)[: len(saved)] = saved.numpy()
        rb.pos, rb.full = state["rb_pos"], len(saved) == rb.buffer_size
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
    q_parameters, actor_parameters = list(nets.qf1.parameters()), list(nets.actor.parameters())
    q_optimizer = optim.Adam(q_parameters, lr=args.learning_rate, fused=True)
    actor_optimizer = optim.Adam(actor_parameters, lr=args.learning_rate, fused=True)
    spaces = gym.spaces.Box(-np.inf, np.inf, (obs_dim,), np.float32), envs.single_action_space
    rb = ReplayBuffer(
        args.buffer_size, *spaces, device, args.num_envs, handle_timeout_termination=False
    )
    learner = nets, (q_optimizer, actor_optimizer), rb
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
        return interval > 0 and global_step % interval < args.num_envs

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

    obs = begin_segment(args, global_step, envs)
    while global_step < args.total_timesteps:
        # Act
        if global_step < args.learning_starts:
            actions = envs.action_space.sample()
        else:
            with torch.no_grad():
                x = torch.as_tensor(obs, dtype=torch.float32, device=device)
                actions = nets.actor.distribution(x).rsample()
            actions = actions.cpu().numpy().clip(low, high)
            if not np.isfinite(actions).all():
                check_finite()

        # Step
        next_obs, rewards, terminations, truncations, infos = envs.step(actions)
        global_step += args.num_envs
        bar.update(args.num_envs)

        # Store
        rb.add(obs, next_obs, actions, rewards, terminations, infos)
        obs, dones = next_obs, terminations | truncations
        if dones.any():
            for i in np.flatnonzero(dones):
                episode = {name: infos["episode"][name][i] for name in "rl"}
                writer.add_scalar("charts/episodic_return", episode["r"], global_step)
                writer.add_scalar("charts/episodic_length", episode["l"], global_step)
            bar.set_postfix_str(f"episodic_return={episode['r']:.1f}", refresh=False)
            obs, _ = envs.reset(options={"reset_mask": dones})

        # Learn
        iterate = due(args.steps_per_iteration) and global_step > args.learning_starts
        for step in range(args.updates_per_iteration * iterate):
            data = rb.sample(args.batch_size)
            q_optimizer.zero_grad()
            metrics |= differentiate(critic_loss, q_parameters, nets, data, args)
            q_optimizer.step()
            if step % args.policy_frequency == 0:
                actor_optimizer.zero_grad()
                metrics |= differentiate(actor_loss, actor_parameters, nets, data, args)
                actor_optimizer.step()
                update_targets(nets, args.tau)

        # Log
        last, stopping = global_step >= args.total_timesteps, bool(stops)
        boundary, evaluating = stopping or due(args.checkpoint_interval), due(args.eval_interval)
        if boundary or evaluating or last or due(1_000):
            check_finite()
            for name, value in metrics.items():
                writer.add_scalar(f"losses/{name}", value.mean(), global_step)
            speed = (global_step - log_step) / (time.perf_counter() - log_time)
            writer.add_scalar("charts/SPS", speed, global_step)
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
            obs = begin_segment(args, global_step, envs)

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
