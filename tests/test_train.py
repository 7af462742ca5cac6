"""Every `train()` against a plain loop: the same networks, targets, statistics and optimizers.

Of a script the loops take the networks alone; what acts, what is stored, targets, losses, delays,
averages and normalisers are written out here.
"""

import functools
import importlib
import math
from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import optim

LOW, HIGH = torch.tensor([-1, 0]), torch.tensor([3, 0.5])
SCALE, BIAS = (HIGH - LOW) / 2, (HIGH + LOW) / 2


class Toy(gym.Env):
    """Ends after 3 to 7 steps, by termination or time limit; now and then a larger outlier."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gym.spaces.Box(np.float32(LOW), np.float32(HIGH))
    size = 10

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.terminates = self.np_random.integers(3, 8), self.np_random.random() < 0.5
        return self.np_random.normal(size=3), {}

    def step(self, action):
        self.left -= 1
        obs = self.np_random.normal(size=3)
        if self.np_random.random() < 0.007:
            self.size *= 5
            obs *= self.size
        reward, over = obs[0] - 0.2 * (action**2).sum(), self.left == 0
        return obs, reward, over and self.terminates, over and not self.terminates, {}


gym.register("toy/Train-v0", Toy)
REPLAY = "ddpg", "td3", "svg0", "ac_reparam", "sac", "tqc", "naf", "d4pg"
ON_POLICY = "ppo", "a2c", "reinforce", "a3c"
SAMPLES = "svg0", "ac_reparam", "sac", "tqc"  # their policies are distributions
# Of two values the second is for three environments: the random steps end within one of theirs.
SETTINGS = dict(
    env_id="toy/Train-v0", run_name="x", cuda=False, seed=20, checkpoint_interval=45,
    eval_interval=50, eval_episodes=1, learning_rate=7e-4, q_lr=2e-3, gamma=0.8,
    buffer_size=99, batch_size=16, tau=0.1, learning_starts=(43, 40), policy_frequency=(3, 2),
    exploration_noise=0.4, policy_noise=(0.0, 0.3), noise_clip=0.4, n_steps=4, v_min=-9.0,
    v_max=3.5, autotune=(False, True), alpha=0.3, steps_per_iteration=(1, 7), entropy_coef=0.1,
    updates_per_iteration=(1, 5), estimator=("score", "pathwise"), anneal_lr=(True, False),
    gae_lambda=0.9, norm_adv=(True, False), clip_coef=0.1, update_epochs=4, num_minibatches=4,
    target_kl=(None, 0.005), ent_coef=0.01, vf_coef=0.4, max_grad_norm=0.6, num_workers=1,
    baseline=("mean", "value"), drop=3,
)  # fmt: skip


def make_args(script, name, num_envs):
    settings = {k: v[num_envs > 1] if isinstance(v, tuple) else v for k, v in SETTINGS.items()}
    settings |= {"num_steps": {"ppo": 16, "reinforce": 6}.get(name, 8), "num_envs": num_envs}
    settings["total_timesteps"] = 120 if name in REPLAY else 360
    return script.Args(**{k: v for k, v in settings.items() if hasattr(script.Args, k)})


# ---- Both kinds ----
def slow_copies(nets):
    names = ("actor", "target_actor"), ("qf1", "qf1_target"), ("qf2", "qf2_target")
    return [(getattr(nets, n), getattr(nets, slow)) for n, slow in names if hasattr(nets, slow)]


def start(script, args):
    """Return environments and the first networks: targets are copies, twins are not."""
    options = {"autoreset_mode": gym.vector.AutoresetMode.DISABLED}
    envs = gym.make_vec(args.env_id, args.num_envs, "sync", options)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    nets = script.Networks(3, 2, LOW.numpy(), HIGH.numpy(), args)
    for net, target in slow_copies(nets):
        target.load_state_dict(net.state_dict())
    assert not hasattr(nets, "qf2") or (nets.qf1.fc1.weight != nets.qf2.fc1.weight).all()
    return envs, nets


def begin_segment(envs, args, step):
    seeds = np.random.SeedSequence([args.seed, step]).generate_state(3).tolist()
    torch.manual_seed(seeds[0])
    np.random.seed(seeds[1])
    envs.action_space.seed(seeds[2])
    return envs.reset(seed=seeds[0])[0]


def log_density(normal, u, squashed=False):
    """log π of u, or of tanh(u): that of u less log(1 - tanh(u)²)."""
    z, slope = (u - normal.loc) / normal.scale, 2 * (math.log(2) - u - F.softplus(-2 * u))
    of_u = -0.5 * z**2 - normal.scale.log() - 0.5 * math.log(2 * math.pi)
    return (of_u - slope if squashed else of_u).sum(-1)


def descend(optimizer, loss, max_norm=math.inf):
    """Step down the gradient, whose norm over all parameters is cut to `max_norm`."""
    parameters = optimizer.param_groups[0]["params"]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    norm = sum(g.square().sum() for g in gradients if g is not None).sqrt()
    for parameter, g in zip(parameters, gradients, strict=True):
        parameter.grad = g if g is None or norm <= max_norm else g * max_norm / (norm + 1e-6)
    optimizer.step()


# ---- Replay ----
def sample(actor, obs):
    """Return a policy's Gaussian, a sample u of it and the action, tanh(u) in its units."""
    normal = actor.distribution(obs).base_dist.base_dist
    u = normal.loc + normal.scale * torch.randn_like(normal.loc)
    return normal, u, torch.tanh(u) * SCALE + BIAS


def critic_loss(name, nets, data, args):
    obs, actions, next_obs, rewards, discounts = data
    qfs = [nets.qf1, nets.qf2] if hasattr(nets, "qf2") else [nets.qf1]
    with torch.no_grad():
        if name in SAMPLES:
            actor = nets.target_actor if name == "svg0" else nets.actor
            normal, u, next_actions = sample(actor, next_obs)
        elif name != "naf":
            next_actions = nets.target_actor(next_obs)
            if args.policy_noise > 0:
                noise = torch.randn_like(actions) * args.policy_noise
                noise = noise.clip(-args.noise_clip, args.noise_clip) * SCALE
                next_actions = (next_actions + noise).clip(LOW, HIGH)
        if name == "naf":
            next_q = nets.qf1_target.heads(next_obs)[0]
        elif name != "d4pg":
            critics = [target for net, target in slow_copies(nets) if net in qfs]
            next_q = torch.stack([net(next_obs, next_actions) for net in critics]).amin(0)
        if name == "tqc":  # the lowest quantiles of both
            both = [net.quantiles(next_obs, next_actions) for net in critics]
            next_q = torch.cat(both, 1).topk(50 - 2 * args.drop, largest=False).values.T
        if name in ("sac", "tqc"):
            alpha = nets.log_alpha.exp() if args.autotune else args.alpha
            next_q -= alpha * log_density(normal, u, squashed=True)
        if name == "d4pg":  # shares of two atoms   [Bellemare et al. 2017, Eq. 7]
            atoms = torch.linspace(args.v_min, args.v_max, 51)
            returns = (rewards[:, None] + discounts[:, None] * atoms).clip(args.v_min, args.v_max)
            distances = (returns[:, :, None] - atoms).abs() / (atoms[1] - atoms[0])
            share = (1 - distances).clip(0, 1)
            next_z = nets.qf1_target.logits(next_obs, next_actions).softmax(1)
            z = (next_z[:, :, None] * share).sum(1)
    if name == "d4pg":
        return -(z * nets.qf1.logits(obs, actions).log_softmax(1)).sum(1).mean()
    y = rewards + discounts * next_q
    if name == "tqc":  # |τ - 1{u < 0}| Huber(u)   [Kuznetsov et al. 2020, Alg. 1]
        u = torch.stack([y.T[:, None] - net.quantiles(obs, actions)[:, :, None] for net in qfs])
        τ = (torch.arange(25)[:, None] + 0.5) / 25
        return 2 * ((τ - (u < 0).float()).abs() * F.huber_loss(u, 0 * u, reduction="none")).mean()
    return sum(((net(obs, actions) - y) ** 2).mean() for net in qfs)


def actor_loss(name, nets, obs, args):
    if name not in SAMPLES:
        return -nets.qf1(obs, nets.actor(obs)).mean()
    normal, u, actions = sample(nets.actor, obs)
    q, log_pi = nets.qf1(obs, actions), log_density(normal, u, squashed=True)
    if name in ("sac", "tqc"):
        both = torch.stack([q, nets.qf2(obs, actions)])
        q = both.amin(0) if name == "sac" else both.mean(0)
        alpha = nets.log_alpha.exp() if args.autotune else torch.tensor(args.alpha)
        return (alpha.detach() * log_pi - q - alpha * (log_pi.detach() - 2)).mean()
    if name == "ac_reparam":
        q = q - args.entropy_coef * log_pi
        if args.estimator == "score":
            q = log_density(normal, u.detach(), squashed=True) * q.detach()
    return -q.mean()


def draw_batch(memory, newest, args):
    """Return s, a, s', r and γ(1-d) of a batch; n steps of an episode count as one."""
    rows = np.random.randint(0, len(memory), args.batch_size)
    columns, batch = np.random.randint(0, args.num_envs, args.batch_size), []
    for row, i in zip(rows, columns, strict=True):
        obs, actions, reward, discount = memory[row][0][i], memory[row][1][i], 0.0, 1.0
        for k in range(getattr(args, "n_steps", 1)):
            at = (row + k) % len(memory)
            _, _, next_obs, rewards, terminations, cuts = memory[at]
            reward, discount = reward + discount * rewards[i], discount * args.gamma
            if terminations[i] or cuts[i] or at == newest:
                break
        batch.append((obs, actions, next_obs[i], reward, discount * (not terminations[i])))
    return [torch.tensor(np.array(part), dtype=torch.float32) for part in zip(*batch, strict=True)]


def replay_loop(name, script, args):
    (envs, nets), n, memory = start(script, args), args.num_envs, {}
    critics = [p for key, p in nets.named_parameters() if key.startswith(("qf1.", "qf2."))]
    q_lr = getattr(args, "q_lr", args.learning_rate)
    optimizers = {"q_optimizer": optim.Adam(critics, q_lr, fused=True)}
    if name != "naf":
        temperature = [nets.log_alpha] if hasattr(nets, "log_alpha") else []
        actors = [*nets.actor.parameters(), *temperature]
        optimizers["actor_optimizer"] = optim.Adam(actors, args.learning_rate, fused=True)
    # an update is of the step that it belongs to, or of an iteration
    updates = first = 0 if name == "ac_reparam" else args.learning_starts
    boundary = True
    for step in range(0, args.total_timesteps, n):
        if boundary:
            obs = begin_segment(envs, args, step)
        with torch.no_grad():
            x = torch.tensor(obs, dtype=torch.float32)
            if step < args.learning_starts:
                actions = envs.action_space.sample()
            elif name in SAMPLES:
                actions = sample(nets.actor, x)[2].numpy()
            else:
                noise = args.exploration_noise * torch.randn(n, 2) * SCALE
                actions = (nets.actor(x) + noise).clip(LOW, HIGH).numpy()
        next_obs, rewards, terminations, truncations, _ = envs.step(actions)
        boundary = (step + n) // args.checkpoint_interval > step // args.checkpoint_interval
        cuts, dones = truncations | boundary, terminations | truncations
        newest = step // n % (args.buffer_size // n)
        memory[newest] = obs, actions, next_obs, rewards, terminations, cuts
        obs = envs.reset(options={"reset_mask": dones})[0] if dones.any() else next_obs
        due = max(0, step + n - args.learning_starts) // getattr(args, "steps_per_iteration", 1)
        while updates - first < due * getattr(args, "updates_per_iteration", 1):
            data = draw_batch(memory, newest, args)
            descend(optimizers["q_optimizer"], critic_loss(name, nets, data, args))
            if updates % args.policy_frequency == 0:
                if name != "naf":
                    descend(optimizers["actor_optimizer"], actor_loss(name, nets, data[0], args))
                for net, target in slow_copies(nets):
                    for θ, slow in zip(net.parameters(), target.parameters(), strict=True):
                        slow.data.lerp_(θ.data, args.tau)  # from slow to θ, by τ of the way
            updates += 1
    return {"nets": nets.state_dict()} | {key: o.state_dict() for key, o in optimizers.items()}


# ---- Rollouts ----
def moments(seen):
    return (np.concatenate(seen).mean(0), np.concatenate(seen).var(0)) if seen else (0, 1)


def rollout_loop(name, script, args):
    (envs, nets), n, γ = start(script, args), args.num_envs, args.gamma
    kind = functools.partial(optim.Adam, fused=True) if name == "ppo" else optim.RMSprop
    optimizer = kind(nets.parameters(), args.learning_rate, eps=1e-5)
    critic_learns = getattr(args, "baseline", "value") == "value"
    observed, returned, step, boundary, rare = [], [], 0, True, Counter()

    def normalized(obs):
        mean, var = moments(observed)
        z = (np.array(obs) - mean) / np.sqrt(var + 1e-8)
        rare["clipped observation"] += np.abs(z).max() > 10
        return torch.tensor(z.clip(-10, 10), dtype=torch.float32)

    while step < args.total_timesteps:
        if boundary:
            obs, discounted = begin_segment(envs, args, step), np.zeros(n)
        begun, rows, finished = step, [], np.zeros(n, bool)
        while len(rows) < args.num_steps and not finished.all():
            with torch.no_grad():
                policy = nets.actor.distribution(normalized(obs))
                u = policy.loc + policy.scale * torch.randn_like(policy.loc)
            actions = (u * SCALE + BIAS).clip(LOW, HIGH).numpy()
            next_obs, rewards, terminations, truncations, _ = envs.step(actions)
            dones, discounted = terminations | truncations, γ * discounted + rewards
            u, used = u.numpy(), ~finished
            rows.append((obs, u, next_obs, rewards, terminations, dones, discounted, used))
            discounted = np.where(dones, 0, discounted)
            obs = envs.reset(options={"reset_mask": dones})[0] if dones.any() else next_obs
            if name == "reinforce":  # of each environment one episode
                finished = finished | dones
        step += n * len(rows)
        boundary = step // args.checkpoint_interval > begun // args.checkpoint_interval
        columns = map(np.array, zip(*rows, strict=True))
        states, u, next_states, rewards, terminations, dones, returns, used = columns
        returned.append(returns[used])
        rewards = rewards / np.sqrt(moments(returned)[1] + 1e-8)
        rare["clipped reward"] += np.abs(rewards).max() > 10
        x, u, next_x = normalized(states), torch.tensor(u), normalized(next_states)
        with torch.no_grad():
            old = log_density(nets.actor.distribution(x), u)
            v, next_v = critic_learns * nets.critic(torch.stack([x, next_x])).numpy()
        δ = rewards.clip(-10, 10) + γ * ~terminations * next_v - v
        advantages, following, λ = np.zeros_like(δ), 0.0, getattr(args, "gae_lambda", 1.0)
        for t in reversed(range(len(δ))):
            advantages[t] = following = δ[t] + γ * λ * ~dones[t] * following
        targets = advantages + v
        if not critic_learns:
            advantages = targets - targets[used].mean()
        batch = [x, u, old, torch.tensor(advantages).float(), torch.tensor(targets).float()]
        batch = [part[torch.tensor(used)] for part in batch]
        rate = args.learning_rate * (1 - begun / args.total_timesteps if args.anneal_lr else 1)
        optimizer.param_groups[0]["lr"] = rate
        for left in reversed(range(getattr(args, "update_epochs", 1))):
            parts = [torch.arange(used.sum())]
            if name == "ppo":
                parts = torch.randperm(used.size).reshape(args.num_minibatches, -1)
            for part in parts:
                x, u, old, advantages, targets = (values[part] for values in batch)
                policy = nets.actor.distribution(x)
                log_pi = log_density(policy, u)
                objective = advantages * log_pi
                if name == "ppo":
                    if args.norm_adv:
                        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
                    ρ, ε = (log_pi - old).exp(), args.clip_coef
                    objective = torch.min(ρ * advantages, ρ.clip(1 - ε, 1 + ε) * advantages)
                    kl = (ρ - 1 - (log_pi - old)).mean()
                entropy = (policy.scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
                loss = -(objective + args.ent_coef * entropy).mean()
                if critic_learns:
                    loss += args.vf_coef * 0.5 * ((nets.critic(x) - targets) ** 2).mean()
                descend(optimizer, loss, args.max_grad_norm)
            if name == "ppo" and args.target_kl is not None:
                rare["pass left out"] += left * (kl > args.target_kl)
                if kl > args.target_kl:
                    break
        observed.append(states[used])
        if name == "reinforce":
            obs, discounted = envs.reset()[0], np.zeros(n)
    assert all(rare.values()), rare
    found = nets.state_dict()
    for key, seen in ("actor.obs_normalizer.", observed), ("return_normalizer.", returned):
        found[f"{key}mean"], found[f"{key}var"] = moments(seen)
        found[f"{key}count"] = sum(map(len, seen))
    return {"nets": found, "optimizer": optimizer.state_dict()}


# ---- Tests ----
@pytest.fixture(autouse=True)
def smooth(monkeypatch, tmp_path):
    """Networks without kinks, at which rounding errors would grow; an empty folder."""
    monkeypatch.setattr(F, "relu", torch.tanh)
    monkeypatch.chdir(tmp_path)


def flat(found, name=""):
    """Yield name and value of each tensor and learning rate in a checkpoint's dictionaries."""
    for key, value in found.items():
        if isinstance(value, dict):
            yield from flat(value, f"{name} {key}")
        else:
            value = value[0]["lr"] if key == "param_groups" else value
            yield f"{name} {key}", torch.as_tensor(value).double()


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("name", [*REPLAY, *ON_POLICY])
def test_train_is_the_plain_loop(name, num_envs):
    """Each tensor to 1e-4 of its norm: rounding changes it by less, a mistake some by more."""
    script = importlib.import_module(f"{name}_continuous")
    loop, args = replay_loop if name in REPLAY else rollout_loop, make_args(script, name, num_envs)
    script.train(args)
    checkpoint = torch.load("runs/x/checkpoint.pt", weights_only=True)
    found = {key: part for key, part in checkpoint.items() if key == "nets" or "optim" in key}
    found, expected = dict(flat(found)), dict(flat(loop(name, script, args)))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert (found[key] - value).norm() <= 1e-4 * value.norm(), key
