"""What `grade.py` measures of a function: how it is called, and what comes of it.

A measure gets a script and settings and returns values by name. What they should be, and what it
means if they are not, is in checks.py, or in the expected.json of a bundle.
"""

import re
import traceback
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn

LOW, HIGH = np.float32([-1, -5]), np.float32([3, 5])  # bounds that are not ±1, nor alike
RETURNED = "A loss function returns the loss and a dict of tensors to log."


# ---- Comparison ----
class Wrong(Exception):
    """A function is wrong; its arguments: what came, a hint, what was given, what was expected."""


class Problem(Exception):
    """What came is nothing that could be compared; with a hint of its own or none."""


def plain(value):
    """Return numbers as an array of floats, anything else as text."""
    value = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    number = isinstance(value, np.ndarray | np.number | float | int | list)
    return np.asarray(value, float) if number and not isinstance(value, bool) else str(value)[:200]


def show(values: dict, shapes=False) -> str:
    lines = []
    for name, value in values.items():
        value = str(value) if isinstance(value, int) else plain(value)
        if not isinstance(value, str):
            shape = f", of shape {value.shape}" if shapes else ""
            text = np.array2string(
                value, precision=3, suppress_small=True, separator=", ", threshold=40
            )
            value = " ".join(text.split()) + shape
        lines.append(f"{name} = {value}")
    return "\n".join(lines)


def close(one, other, rtol=1e-3, atol=1e-4) -> bool:
    one, other = plain(one), plain(other)
    if isinstance(one, str) or isinstance(other, str):
        return str(one) == str(other)
    return one.shape == other.shape and np.allclose(one, other, rtol, atol, equal_nan=True)


def described(error) -> str:
    """Return an exception in one line, with the line of the student's file that raised it."""
    own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == "<student>"]
    where = f" in line {own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{where}: {(str(error).splitlines() or [''])[0]}"[:300]


def compare(script, measure, settings, expected, given, hints, mistakes, free, tolerances):
    """Raise Wrong if a measure of the script has other values, by name, than the expected ones.

    `hints` has one for each name; `mistakes` are pairs of a closer hint and what a known mistake
    returns. What is `free` may differ where nothing else does.
    """
    wrong, hint, came = list(expected), None, None
    try:
        seed(3)
        came = MEASURES[measure](script, **settings)
        wrong = [name for name in wrong if not close(came[name], expected[name], **tolerances)]
    except Problem as problem:
        text, hint = (*problem.args, None)[:2]
    except BaseException as error:  # SystemExit is one
        if isinstance(error, NotImplementedError) and re.fullmatch(r"[\w.]+", str(error)):
            raise Wrong("", f"waits for {error}") from None
        text = described(error)
        hint = "Which shapes meet in that line?" if re.search("shape|size", text) else ""
        if "GreaterThan" in text:
            hint = "σ is positive: which number is it, and which its logarithm?"
    if set(wrong) <= set(free):
        return
    hint, shapes = hints[wrong[0]] if hint is None else hint, False
    if came is not None:
        first = came[wrong[0]]
        shapes = np.shape(plain(first)) != np.shape(plain(expected[wrong[0]]))
        hint = next((closer for closer, value in mistakes if close(first, value)), hint)
        text = show({name: came[name] for name in wrong}, shapes)
    raise Wrong(text, hint, given, show({name: expected[name] for name in wrong}, shapes))


def scalar(result):
    """Return the loss of what a loss function returns."""
    if not (isinstance(result, tuple) and len(result) == 2):
        raise Problem(f"no pair of a loss and a dict, but {type(result).__name__}", RETURNED)
    loss, metrics = result
    if not isinstance(loss, torch.Tensor) or loss.ndim > 0:
        what = f"of shape {tuple(loss.shape)}" if hasattr(loss, "shape") else type(loss).__name__
        raise Problem(f"a loss that is no scalar tensor, but {what}", RETURNED)
    if not loss.requires_grad:
        raise Problem("a loss without a gradient", "Through which value does it reach the weights?")
    if not isinstance(metrics, dict) or not all(map(torch.is_tensor, metrics.values())):
        raise Problem("a second value that is no dict of tensors", RETURNED)
    return loss


# ---- What the functions are given ----
def seed(number: int):
    np.random.seed(number)
    return torch.default_generator.manual_seed(number)  # torch.manual_seed is 100 times as slow


def networks(script):
    """Return networks, no two of which are alike, all with gradients: a missing no_grad shows."""
    seed(20)  # with it each of two critics is the smaller one for some of the actions asked about
    nets = script.Networks(3, 2, LOW, HIGH, script.Args())
    with torch.no_grad():
        for name, parameter in nets.named_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
            if name.startswith("qf") and name.endswith("fc3.bias"):
                parameter.fill_(5.0 if "target" in name else 0.0)
            elif name.startswith("qf"):
                parameter.mul_(1.5)
        if hasattr(nets, "log_alpha"):
            nets.log_alpha.fill_(-0.7)
        if hasattr(nets.actor, "obs_normalizer"):
            nets.actor.obs_normalizer.mean.fill_(0.5)
            nets.actor.obs_normalizer.var.fill_(4.0)
    return nets.requires_grad_(True)


def value(net, *inputs):
    """Some function of states, or of states and actions: a critic's, whatever its own is."""
    weight, *_, bias = net.parameters()
    parts = weight[0].split([x.shape[1] for x in inputs])
    return bias + sum((x @ part).sin() for x, part in zip(inputs, parts, strict=True))


def choice(net, x):
    """Some function of states, within the bounds: that of an actor without a distribution."""
    u = (x.float() @ net.fc1.weight[:2].T).sin() + net.fc_mu.bias
    return torch.lerp(torch.tensor(LOW), torch.tensor(HIGH), u.sigmoid())


def given_networks(script):
    """Return networks whose values and choices do not need the script's `forward`.

    A stochastic policy draws the same noise at each draw, so that their number and order are free.
    """
    nets = networks(script)
    for name, net in nets.named_children():
        if name.startswith(("qf", "critic")):
            net.forward = partial(value, net)
        elif "actor" in name and not hasattr(net, "distribution"):
            net.forward = partial(choice, net)
    if hasattr(nets.actor, "distribution"):
        distribution = nets.actor.distribution

        def with_same_noise(x):
            policy = distribution(x)

            def again(draw):
                return lambda *shape: seed(3) and draw(*shape)

            policy.sample, policy.rsample = again(policy.sample), again(policy.rsample)
            return policy

        nets.actor.distribution = with_same_noise
    return nets


def setup(script, **settings):
    """Return networks, a batch of 4 steps, of which the second terminates, and Args."""
    nets = given_networks(script)
    obs, next_obs = torch.randn(2, 4, 3)
    actions = torch.rand(4, 2) * 2 - 0.5
    dones, rewards = torch.tensor([[0.0, 1, 0, 0], [1, 2, -1, 0.5]])[:, :, None]
    args = script.Args()
    vars(args).update({"gamma": 0.9, "policy_noise": 0.0} | settings)
    seed(3)  # for noise that is drawn by hand
    return nets, ReplayBufferSamples(obs, actions, next_obs, dones, rewards), args


def ppo_setup(script, log_ratios=(), repeat=1, **settings):
    """Return networks, a batch in which the policy has moved by these log ratios, and Args."""
    nets = given_networks(script)
    with torch.no_grad():
        obs, actions = torch.randn(4 * repeat, 3), torch.randn(4 * repeat, 2)
        log_probs = -torch.tensor(log_ratios).repeat(repeat)
        if log_ratios:
            log_probs += nets.actor.distribution(obs).log_prob(actions).sum(-1)
        returns = nets.critic(obs) + torch.tensor([0.4, 1.6, -0.5, 0.4]).repeat(repeat)
    advantages = torch.tensor([1.0, -1.0, -2.0, 3.0]).repeat(repeat)
    data = script.Batch(obs, actions, log_probs, advantages, returns)
    return nets, data, script.Args(**{"norm_adv": False} | settings)


def watch(critic, batch=4):
    """Add zeros to a critic's values, so that the slope of a loss at each of them can be read."""
    forward, zeros = critic.forward, torch.zeros(batch, requires_grad=True)
    critic.forward = lambda *inputs: forward(*inputs) + zeros
    return zeros


def critics(nets):
    return [name for name in ("qf1", "qf2") if hasattr(nets, name)]


def q_values(nets, suffix, obs, actions):
    """Return what the critics, or with "_target" their slow copies, say: (critics, batch)."""
    nets = [nets.get_submodule(name + suffix) for name in critics(nets)]
    return np.array([plain(net(obs, actions)) for net in nets])


def gradients(nets, *names):
    """Return the gradients of the actor's mean and spread, and of what else is named."""
    mean = [n for n, _ in nets.named_parameters() if n.endswith(("fc_mu.bias", "mu.4.bias"))]
    spread = [n for n, _ in nets.named_parameters() if n.endswith(("log_std", "fc_log_std.bias"))]
    found = {name: nets.get_parameter(name).grad for name in [mean[0], *spread, *names]}
    return {f"gradient of {k}": "none" if v is None else v for k, v in found.items()}


# ---- Networks ----
def inputs(net, kind):
    """Return states, and actions if the network takes them."""
    seed(0)
    states, actions = torch.randn(3, 3), torch.rand(3, 2) * 3 - 1
    if kind == "one s":
        states, actions = states[:1], actions[:1]
    states = {"s, float64": states.double(), "s of a rollout": states[None]}.get(kind, states)
    return (states, actions) if net == "qf1" else (states,)


def forward(script, net, kind):
    given = inputs(net, kind)
    made = getattr(networks(script), net)(*given)
    label = {"qf1": "Q(s, a)", "critic": "V(s)", "actor": "μ(s)"}[net]
    came = {label: made, "has a gradient": getattr(made, "requires_grad", False)}
    kept = all(map(torch.equal, given, inputs(net, kind)))
    return came | {"what it was given": "as before" if kept else "changed"}


def distribution(script, kind="s", **biases):
    """Density and sample of the policy, whose layers may have extreme biases."""
    nets = networks(script)
    for layer, bias in biases.items():
        nn.init.constant_(nets.actor.get_submodule(layer).bias, bias)
    policy = nets.actor.distribution(*inputs("actor", kind))
    log_prob = policy.log_prob(DENSITY_AT)
    log_prob.sum().backward()
    seed(3)
    sample = policy.rsample()
    came = {"log π(a|s)": log_prob, "a sample of π(·|s)": sample}
    came["log π of it is finite"] = bool(policy.log_prob(sample).isfinite().all())
    return came | gradients(nets)


DENSITY_AT = torch.tensor([[0.2, -0.3], [0.6, 0.1], [-0.2, 0.5]])


def sample(script, pair):
    """The action drawn and, of a pair, its log π; with their gradients."""
    nets, (obs, *_), _ = setup(script)
    drawn = nets.actor.sample(obs)
    if pair != isinstance(drawn, tuple) or (pair and len(drawn) != 2):
        what = "a pair of actions and log π" if pair else "one tensor"
        raise Problem(f"no {what}, but {type(drawn).__name__}", "See the docstring.")
    a, log_prob = drawn if pair else (drawn, torch.zeros(()))
    came = {"a": a, "a has a gradient": getattr(a, "requires_grad", False)}
    if came["a has a gradient"]:
        (a.sum() + log_prob.sum()).backward()
    came |= ({"log π(a|s)": log_prob} if pair else {}) | gradients(nets)
    if pair:
        with torch.no_grad():  # here each draw has noise of its own
            actor = networks(script).actor
            a, log_prob = actor.sample(obs)
            u = (a - actor.action_bias) / actor.action_scale
            own = actor.distribution(obs).log_prob(u) if (abs(u) < 1).all() else log_prob
        came["log π is that of"] = "a" if close(log_prob, own, atol=0.01) else "another sample"
    return came


# ---- Losses of the off-policy scripts ----
def critic_loss(script, **settings):
    """The targets y, read off the slope of the loss; the loss; where a gradient goes."""
    nets, data, args = setup(script, **settings)
    before = q_values(nets, "", data.observations, data.actions)
    zeros = [watch(nets.get_submodule(name)) for name in critics(nets)]
    loss = scalar(script.critic_loss(nets, data, args))
    loss.backward()
    came = {}
    for net, q, zero in zip(critics(nets), before, zeros, strict=True):
        # the slope of the mean of (Q - y)² is 2 (Q - y) / 4
        came[f"y of {net}"] = "none" if zero.grad is None else q - 2 * zero.grad.numpy()
    reached = {n.split(".")[0] for n, p in nets.named_parameters() if p.grad is not None}
    return came | {"loss": loss, "networks with a gradient": ", ".join(sorted(reached))}


def homework_targets(script):
    """The five targets that the homework prints; the next actions are all 1."""
    rng = np.random.RandomState(0)
    obs, _ = rng.normal(size=(5, 11)), rng.choice(3, size=5)
    next_obs, rewards = rng.normal(size=(5, 11)), rng.normal(size=(5, 1))
    arrays = obs, np.zeros((5, 3)), next_obs, np.eye(5)[:, :1], rewards
    data = ReplayBufferSamples(*[torch.as_tensor(array).float() for array in arrays])
    seed(2)
    sizes = 11, 3, torch.ones(3), torch.zeros(3)
    nets = SimpleNamespace(qf1=script.QNetwork(*sizes), qf1_target=script.QNetwork(*sizes))
    nets.qf1_target.load_state_dict(nets.qf1.state_dict())
    nets.actor = script.Actor(*sizes)
    nn.init.constant_(nets.actor.fc_mu.bias, 30.0)  # tanh(30) is 1
    q, zeros = nets.qf1(*data[:2]), watch(nets.qf1, batch=5)
    scalar(script.critic_loss(nets, data, script.Args())).backward()
    return {"y": q - 5 / 2 * zeros.grad, "r": rewards[:, 0]}


def next_actions(script, batch, policy_noise, noise_clip):
    """Return a' of target policy smoothing, and how far it is from μ'(s')."""
    nets, data, args = setup(script, policy_noise=policy_noise, noise_clip=noise_clip)
    data = ReplayBufferSamples(*[x.repeat(batch // 4, 1) for x in data if x is not None])
    seen = {}

    def asked(name, s, a):
        seen[name] = plain(a)
        return value(nets.get_submodule(name), s, a)

    for name in "qf1_target", "qf2_target":
        nets.get_submodule(name).forward = partial(asked, name)
    scalar(script.critic_loss(nets, data, args))
    if len(seen) < 2:
        raise Problem("not both of the slow critics were asked")
    if not close(*seen.values()):
        raise Problem("an a' for each critic", "Both critics value the same a'.")
    return seen["qf1_target"], seen["qf1_target"] - plain(nets.target_actor(data[2]))


def noise_clipped(script, **settings):
    return {"size of a' - μ'(s')": abs(next_actions(script, 4, **settings)[1])}


def noise_spread(script, **settings):
    return spread_of(next_actions(script, 2000, **settings)[1], settings["policy_noise"])


def noise_extremes(script, **settings):
    a, _ = next_actions(script, 64, **settings)
    return {"smallest a'": a.min(0), "largest a'": a.max(0)}


def spread_of(noise, sigma):
    """Return how noise of scale `sigma` relates to the action range, and its correlation."""
    unit = noise / (HIGH - LOW) * 2 / sigma
    mean, std, correlation = unit.mean(0), unit.std(0), 0.0
    if std.min() < 1e-4:  # all samples share one noise
        mean = np.zeros(2)
    else:
        correlation = ((unit - mean) / std).prod(1).mean()
    came = {"mean / (noise · scale)": mean, "standard deviation / (noise · scale)": std}
    return came | {"correlation": correlation}


def actor_loss(script, **settings):
    """The loss, and its gradient in the actor and, where it is tuned, in the temperature."""
    nets, data, args = setup(script, **settings)
    loss = scalar(script.actor_loss(nets, data, args))
    loss.backward()
    if frozen := [name for name, p in nets.named_parameters() if not p.requires_grad]:
        raise Problem(f"{frozen[0]} requires no gradient any more", "Who updates it next, and how?")
    tuned = ["log_alpha"] if getattr(args, "autotune", False) else []
    return {"loss": loss} | gradients(nets, *tuned)


def homework_losses(script):
    """The actor's loss that the homework prints: at first, and after five steps of Adam."""
    actor = script.Actor(3, 2, torch.ones(2), torch.zeros(2))
    seed(0)
    actor.fc1, actor.fc2, actor.fc_mu = nn.Linear(3, 2), nn.Module(), nn.Linear(2, 2)
    actor.fc2.forward = torch.atanh  # undoes a tanh: the homework has one hidden layer
    nets = SimpleNamespace(actor=actor, qf1=lambda s, a: (a + 1).sum() + s.sum())
    obs = torch.as_tensor(np.random.RandomState(0).normal(size=(5, 3))).float()
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in actor.parameters()]
    losses = []
    for t in range(1, 7):
        actor.zero_grad()
        loss = scalar(script.actor_loss(nets, SimpleNamespace(observations=obs), script.Args()))
        loss.backward()
        losses.append(loss.item())
        for p, (m, v) in zip(actor.parameters(), moments, strict=True):  # Adam at 0.25
            m.lerp_(p.grad, 0.1)
            v.lerp_(p.grad**2, 0.001)
            step = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            p.data -= 0.25 * step
    return {"first loss": losses[0], "loss after 5 steps": losses[-1]}


def score_mean(script):
    """The score estimate of many samples, in which each draw has noise of its own."""
    nets = networks(script)
    nets.qf1.forward = lambda s, a: a.sum(1)
    data = SimpleNamespace(observations=torch.zeros(20_000, 3))
    scalar(script.actor_loss(nets, data, script.Args(estimator="score"))).backward()
    return {"gradient of actor.fc_mu.bias": nets.actor.fc_mu.bias.grad}


def polyak_update(script, tau):
    def layer(weights, bias):
        layer = nn.Linear(2, 1)
        layer.weight.data, layer.bias.data = torch.tensor([weights]), torch.tensor([bias])
        return layer

    net, target = layer([1.0, 4.0], 1.0), layer([10.0, 10.0], 6.0).requires_grad_(False)
    script.polyak_update(net, target, tau)
    came = {"weights of the network": net.weight, "weights of the target": target.weight}
    came["bias of the target"] = target.bias
    return came | {"the target is part of a graph": target.weight.requires_grad}


# ---- PPO ----
ENDS = np.array([[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool).T
ROLLOUT = {  # of two environments, with a termination and time limits
    "r": np.array([[1.0, 2, 0, 1, 3], [0, 1, 1, 2, 2]]).T,
    "V(s)": np.array([[4.0, 3, 5, 2, 1], [2, 2, 3, 4, 5]]).T,
    "V(s')": np.array([[3.0, 9, 2, 8, 6], [2, 3, 7, 5, 6]]).T,
    "terminations": ENDS,
    "dones": ENDS | np.array([[0, 0, 0, 1, 0], [0, 0, 1, 0, 0]], bool).T,
}


def estimate_advantages(script, gae_lambda):
    args = script.Args(gamma=0.9, gae_lambda=gae_lambda)
    rewards, values, after, terminations, dones = (x.copy() for x in ROLLOUT.values())
    rollout = SimpleNamespace(rewards=10 * rewards, terminations=terminations, dones=dones)
    result = script.estimate_advantages(rollout, rewards, values, after, args)
    shape = getattr(result, "shape", None)
    if shape != dones.shape:
        raise Problem(f"{type(result).__name__} of shape {shape}, not {dones.shape}")
    came = {f"A of environment {i}": result[:, i] for i in (0, 1)}
    kept = np.array_equal(values, ROLLOUT["V(s)"])
    return came | {"V(s) afterwards": "as before" if kept else "changed"}


def value_loss(script):
    """PPO's critic_loss."""
    nets, data, args = ppo_setup(script)
    zeros = watch(nets.critic)
    loss = scalar(script.critic_loss(nets, data, args))
    loss.backward()
    return {"loss": loss, "slope at V(s)": "none" if zeros.grad is None else zeros.grad}


def surrogate(script, **settings):
    """PPO's actor_loss."""
    nets, data, args = ppo_setup(script, **settings)
    loss = scalar(script.actor_loss(nets, data, args))
    loss.backward()
    return {"loss": loss} | gradients(nets)


# ---- Action selection ----
def act(script, envs, step, **settings):
    """Return what `act` sets, the last of which the environments get, and μ(s)."""
    nets, _, args = setup(script, num_envs=envs, **settings)
    if step < getattr(args, "learning_starts", 0):
        nn.init.constant_(nets.actor.fc_mu.bias, 9.0)  # the policy does not look random
    if hasattr(nets.actor, "log_std"):
        nn.init.constant_(nets.actor.log_std, 0.5)  # some actions are out of bounds
    one = Box(LOW, HIGH, seed=0)
    vector = SimpleNamespace(num_envs=envs, single_action_space=one)
    vector.action_space = batch_space(one, envs)
    run = SimpleNamespace(envs=vector, global_step=step, device=torch.device("cpu"))
    vars(run).update(act_low=LOW, act_high=HIGH, action_space=one, obs_dim=3, act_dim=2)
    obs = np.linspace(-1, 1, 12).reshape(4, 3).repeat(envs // 4, 0)  # float64, as MuJoCo's
    seed(3)
    came = script.act(run=run, args=args, nets=nets, obs=obs, metrics={}, t=0)
    last = list(came)[-1]
    shape = getattr(came[last], "shape", None)
    if not isinstance(came[last], np.ndarray) or shape != (envs, 2):
        what = f"{type(came[last]).__name__} of shape {shape and tuple(shape)}"
        hint = "Each environment gets one action: an array of shape (num_envs, act_dim)."
        raise Problem(f"{last} is no NumPy array of shape ({envs}, 2), but {what}", hint)
    for name in list(came)[:-1]:
        if not isinstance(came[name], torch.Tensor) or came[name].requires_grad:
            raise Problem(f"{name} is no tensor without gradient", "What does `train` do with it?")
    return came, nets, torch.as_tensor(obs)


def act_at_random(script, **settings):
    actions = act(script, 2000, **settings)[0]["actions"]
    return {"mean": actions.mean(0), "standard deviation": actions.std(0)}


def act_quietly(script, **settings):
    return act(script, 4, **settings)[0]


def act_spread(script, **settings):
    came, nets, obs = act(script, 2000, **settings)
    return spread_of(came["actions"] - plain(nets.actor(obs)), settings["exploration_noise"])


def act_extremes(script, **settings):
    actions = act(script, 2000, **settings)[0]["actions"]
    return {"smallest action": actions.min(0), "largest action": actions.max(0)}


MEASURES = [forward, distribution, sample, critic_loss, homework_targets, noise_clipped]
MEASURES += [noise_spread, noise_extremes, actor_loss, homework_losses, score_mean, polyak_update]
MEASURES += [estimate_advantages, value_loss, surrogate]
MEASURES += [act_at_random, act_quietly, act_spread, act_extremes]
MEASURES = {measure.__name__: measure for measure in MEASURES}
