"""The checks of `grade.py`: a function of an exercise against the same function of the script.

A check gets the real script with the student's function in it (`script`), the real script (`truth`)
and the function's name. It raises `Wrong` at the first thing that differs. Two of them end with the
numbers that the homework prints. `mistakes` give a closer hint where a known mistake shows.
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
SCALE, BIAS = (HIGH - LOW) / 2, (HIGH + LOW) / 2
BOUNDS = {"bounds of the actions": f"{LOW.tolist()} to {HIGH.tolist()}"}
RETURNED = "A loss function returns the loss and a dict of tensors to log: see its docstring."


# ---- Comparison ----
class Wrong(Exception):
    """A function is wrong; its arguments: what came, a hint, what was given, what was expected."""


class Problem(Exception):
    """What came is nothing that could be compared; with a hint of its own or none."""


def plain(value):
    """Return numbers as an array of floats, anything else as text."""
    value = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    number = isinstance(value, np.ndarray | np.number | float | int)
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


def compare(script, expected, call, given, hints, mistakes=(), **tolerances):
    """Raise Wrong if `call(script)` returns other values, by name, than the expected ones.

    Expected is what `call` returns of the real script, if that is given in the place of values.
    `hints` is a hint for each name, or one for all; `mistakes` are pairs of a closer hint and what
    a known mistake returns.
    """
    if not isinstance(expected, dict):
        seed(3)
        expected = call(expected)
    wrong, hint, came = list(expected), None, None
    try:
        seed(3)
        came = call(script)
        wrong = [name for name in wrong if not close(came[name], expected[name], **tolerances)]
    except Problem as problem:
        text, hint = (*problem.args, None)[:2]
    except BaseException as error:  # SystemExit is one
        own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == "<student>"]
        where = f" in line {own[-1].lineno}" if own else ""
        text = f"{type(error).__name__}{where}: {(str(error).splitlines() or [''])[0]}"[:300]
        hint = "Which shapes meet in that line?" if re.search("shape|size", text) else ""
    if not wrong:
        return
    if hint is None:
        hint = hints if isinstance(hints, str) else hints[wrong[0]]
    shapes = False
    if came is not None:
        first = came[wrong[0]]
        shapes = np.shape(plain(first)) != np.shape(plain(expected[wrong[0]]))
        hint = next((closer for closer, value in mistakes if close(first, value)), hint)
        text = show({name: came[name] for name in wrong}, shapes)
    raise Wrong(text, hint, show(given), show({name: expected[name] for name in wrong}, shapes))


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
    if not isinstance(metrics, dict) or any(type(v) is not torch.Tensor for v in metrics.values()):
        raise Problem("a second value that is no dict of tensors", RETURNED)
    return loss


# ---- What the functions are given ----
def seed(number: int):
    np.random.seed(number)
    return torch.default_generator.manual_seed(number)  # torch.manual_seed is 100 times as slow


def networks(script):
    """Return networks, no two of which are alike, all with gradients: a missing no_grad shows."""
    seed(16)  # with it each of two critics is the smaller one for some samples
    nets = script.Networks(3, 2, LOW, HIGH, script.Args())
    with torch.no_grad():
        for name, parameter in nets.named_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
            if name.startswith("qf") and name.endswith("fc3.bias"):
                parameter.fill_(5.0 if "target" in name else 1.0)
            elif name.startswith("qf"):
                parameter.mul_(1.5)
        if hasattr(nets, "log_alpha"):
            nets.log_alpha.fill_(-0.7)
        if hasattr(nets.actor, "obs_normalizer"):
            nets.actor.obs_normalizer.mean.fill_(0.5)
            nets.actor.obs_normalizer.var.fill_(4.0)
    return nets.requires_grad_(True)


def setup(script, **settings):
    """Return networks, a batch of 4 steps, of which the second terminates, and Args.

    A stochastic policy draws the same noise at each draw, so that their number and order are free.
    """
    nets = networks(script)
    if hasattr(nets.actor, "distribution"):
        distribution = nets.actor.distribution

        def with_same_noise(x):
            policy = distribution(x)

            def again(draw):
                return lambda *shape: seed(3) and draw(*shape)

            policy.sample, policy.rsample = again(policy.sample), again(policy.rsample)
            return policy

        nets.actor.distribution = with_same_noise
    obs, next_obs = torch.randn(2, 4, 3)
    actions = torch.rand(4, 2) * 2 - 0.5
    dones, rewards = torch.tensor([[0.0, 1, 0, 0], [1, 2, -1, 0.5]])[:, :, None]
    args = script.Args()
    vars(args).update({"gamma": 0.9, "policy_noise": 0.0} | settings)
    seed(3)  # for noise that is drawn by hand
    return nets, ReplayBufferSamples(obs, actions, next_obs, dones, rewards), args


def ppo_setup(script, log_ratios=(0.05, -0.05, 0.1, -0.1), repeat=1, **settings):
    """Return networks, a batch in which the policy has moved by these log ratios, and Args."""
    nets = networks(script)
    with torch.no_grad():
        obs, actions = torch.randn(4 * repeat, 3), torch.randn(4 * repeat, 2)
        log_probs = nets.actor.distribution(obs).log_prob(actions).sum(-1)
        log_probs -= torch.tensor(log_ratios).repeat(repeat)
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


def to_bounds(a):
    return a * torch.tensor(SCALE) + torch.tensor(BIAS)


def to_unit(a):
    return (a.detach() - torch.tensor(BIAS)) / torch.tensor(SCALE)


def draw(nets, obs):
    """Return what a stochastic actor draws, as the environment gets it, and log π of it."""
    policy = nets.actor.distribution(obs)
    actions = policy.sample()
    return to_bounds(actions), policy.log_prob(actions)


def slow_choice(nets, obs):
    return nets.target_actor(obs), torch.zeros(())


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
def check_forward(script, truth, name):
    """QNetwork, Critic or Actor, for several samples, for one and, of an actor, in float64."""
    net = {"QNetwork": "qf1", "Critic": "critic", "Actor": "actor"}[name.split(".")[0]]
    label = {"qf1": "Q(s, a)", "critic": "V(s)", "actor": "μ(s)"}[net]
    states, a = torch.randn(3, 3), torch.randn(3, 2)
    kinds = {"s": states, "one s": states[:1]}
    kinds |= {"s, float64": states.double()} if net == "actor" else {}
    for kind, s in kinds.items():
        inputs = (s, a[: len(s)]) if net == "qf1" else (s,)
        given = {kind: s} | ({"a": a[: len(s)]} | BOUNDS if net == "qf1" else {})

        def call(script, inputs=inputs):
            value = getattr(networks(script), net)(*inputs)
            return {label: value, "has a gradient": getattr(value, "requires_grad", False)}

        value = plain(call(truth)[label])
        hint = "Which layers are there, in which order, and what stands between them?"
        mistakes = [("One number for each sample: shape (batch,).", value[:, None])]
        mistakes += [("One number for each sample, for a batch of 1, too.", value.squeeze())]
        if net == "qf1":
            raw = networks(truth).qf1(s, to_bounds(a[: len(s)]))
            mistakes += [("Q sees actions in units of half their range: (a - bias) / scale.", raw)]
        if net == "actor":
            given = given | BOUNDS
            unit = (value - BIAS) / SCALE
            bounded = "Not every action has the bounds -1 and 1: what do scale and bias do?"
            mistakes = [(bounded, v) for v in (unit, unit * SCALE, unit + BIAS, unit * HIGH)]
            unbounded = np.arctanh(unit.clip(-0.99, 0.99)) * SCALE + BIAS
            mistakes += [("Which function keeps an action within its bounds?", unbounded)]
        compare(script, truth, call, given, hint, mistakes)


def check_distribution(script, truth, name):
    """Density and samples of the policy; float64; extreme means and spreads."""
    s, a = torch.randn(3, 3), torch.rand(3, 2) - 0.3
    given, squashed = {"s": s, "a": a}, hasattr(truth, "TanhTransform")

    def call(script, s=s, **biases):
        nets = networks(script)
        for layer, bias in biases.items():
            nn.init.constant_(getattr(nets.actor, layer).bias, bias)
        policy = nets.actor.distribution(s)
        log_prob = policy.log_prob(a)
        log_prob.sum().backward()
        seed(3)
        sample = policy.rsample()
        came = {"log π(a|s)": log_prob, "a sample of π(·|s)": sample}
        came["log π of it is finite"] = bool(policy.log_prob(sample).isfinite().all())
        return came | gradients(nets)

    policy = networks(truth).actor.distribution(s)
    rows = "The losses add log π over the dimensions of an action: it has their shape here."
    mistakes = [(rows, policy.log_prob(a).sum(-1))]
    if squashed:
        each = truth.TransformedDistribution(policy.base_dist.base_dist, policy.transforms)
        rows = "One number for each sample: what is the density of independent dimensions?"
        units = "π is in units of half the range, within ±1: scaling comes after it."
        density = policy.log_prob(to_unit(a)).detach() - np.log(SCALE).sum()
        mistakes = [(rows, each.log_prob(a)), (units, density)]
    hint = "Which distribution has u, and how does u become a?"
    compare(script, truth, call, given, hint, mistakes)
    if squashed:
        double = {"s, float64": s.double(), "a": a}
        compare(script, truth, lambda script: call(script, s.double()), double, hint)
        hint = "tanh(30) is 1 in floats and atanh(1) infinite: can a transform remember its input?"
        extreme = given | {"mean of u": "about 30"}
        compare(script, truth, lambda script: call(script, fc_mu=30.0), extreme, hint)
    for bias in (100.0, -100.0) if hasattr(networks(truth).actor, "fc_log_std") else ():
        extreme = given | {"output of fc_log_std": f"about {bias:g}"}
        hint = "σ can become neither 0 nor infinite: log σ stays between -20 and 2."
        compare(
            *(script, truth, lambda script, b=bias: call(script, fc_log_std=b), extreme, hint),
            rtol=0.01,
        )


def check_sample(script, truth, name):
    """The action drawn, within its bounds and with a gradient; where it is asked for, its log π."""
    nets, data, _ = setup(truth)
    pair = isinstance(nets.actor.sample(data.observations), tuple)

    def call(script):
        nets, data, _ = setup(script)
        drawn = nets.actor.sample(data.observations)
        if pair != isinstance(drawn, tuple) or (pair and len(drawn) != 2):
            what = "a pair of actions and log π" if pair else "one tensor"
            raise Problem(f"no {what}, but {type(drawn).__name__}", "See the docstring.")
        a, log_prob = drawn if pair else (drawn, torch.zeros(()))
        came = {"a": a, "a has a gradient": getattr(a, "requires_grad", False)}
        if came["a has a gradient"]:
            (a.sum() + log_prob.sum()).backward()
        return came | ({"log π(a|s)": log_prob} if pair else {}) | gradients(nets)

    a, _ = draw(nets, data.observations)
    unit, within = plain(to_unit(a)), "π draws within ±1: what do scale and bias do?"
    units = "log π is the density of tanh(u), within ±1: of which a was it taken?"
    mistakes = [(within, unit), (within, unit * SCALE), (within, unit + BIAS)]
    mistakes += [("Is that drawn at random?", nets.actor(data.observations))]
    mistakes += [(units, np.full(4, np.nan)), ("rsample or sample: which has a gradient?", False)]
    given = {"s": data.observations} | BOUNDS
    compare(script, truth, call, given, "One draw of π, its log π, then its bounds.", mistakes)


# ---- Losses of the off-policy scripts ----
def check_critic_loss(script, truth, name):
    """The targets y, read off the slope of the loss; the loss; where a gradient may go."""
    sac = "autotune" in vars(truth.Args)
    for settings in [{}, {"autotune": False, "alpha": 0.3}] if sac else [{}]:

        def call(script, settings=settings):
            nets, data, args = setup(truth, **settings)
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

        nets, data, args = setup(truth, **settings)
        obs, actions, next_obs, *_ = data
        r, d = data.rewards[:, 0].numpy(), data.dones[:, 0].numpy()
        random = hasattr(nets.actor, "distribution")
        choose = partial(draw if random else slow_choice, nets)
        (a, log_prob), (early_a, early_log_prob) = choose(next_obs), choose(obs)
        given = {"r": r, "d": d, "γ": 0.9, "a'": "a sample of π(·|s')" if random else "μ'(s')"}
        slow, fast = (q_values(nets, suffix, next_obs, a) for suffix in ("_target", ""))
        here = q_values(nets, "", obs, actions)
        for i, net in enumerate(critics(nets)):
            given |= {f"{net}_target(s', a')": slow[i], f"{net}(s, a)": here[i]}
        bonus = early_bonus = 0
        if sac:
            given |= {"autotune": args.autotune, "α": settings.get("alpha", np.exp(-0.7))}
            given["log π(a'|s')"] = log_prob
            bonus, early_bonus = (-given["α"] * plain(x) for x in (log_prob, early_log_prob))

        def y(value, d=d, gamma=0.9, bonus=bonus, r=r):
            return r + gamma * (1 - d) * (value + bonus)

        v = slow.min(0)
        error, column = here[0] - y(v), (slice(None), None)
        fast_ones = "Which networks value s' and a', those that learn or their slow copies?"
        two = "There are two critics: which of their values is used?"
        shapes = "(4, 1) and (4,) make (4, 4): what are the shapes?"
        early = "Which state comes after the step? Something in y is given s."
        online_a = nets.actor(next_obs)
        other_a, both = (q_values(nets, x, next_obs, online_a) for x in ("_target", ""))
        unit_a = q_values(nets, "_target", next_obs, to_unit(a)).min(0)
        early_q = [q_values(nets, "_target", s, early_a).min(0) for s in (next_obs, obs)]
        other_q = q_values(nets, "", obs, nets.actor(obs))[0]

        def traced(values, y=y, d=d, here=here):
            """Return what shows as y where a gradient reaches a critic through y as well."""
            target = y(values.min(0))
            return target + 0.9 * (1 - d) * (values[0] == values.min(0)) * (here - target).sum(0)

        traced_ones = "s' has the value of the critic that learns, and y is not held constant."
        mistakes = [
            *[("Both networks of y have slow copies: it uses neither.", y(both.min(0)))]
            * (not random),
            (traced_ones, traced(fast)),
            (traced_ones, traced(both)),
            (early, y(q_values(nets, "_target", obs, a).min(0))),
            *[(early, y(value, bonus=early_bonus)) for value in early_q],
            ("What is still to come in an episode that has ended?", y(v, d=0)),
            ("For which steps does d remove the future, and for which not?", y(v, d=1 - d)),
            ("What is a reward worth that comes one step later?", y(v, gamma=1)),
            (fast_ones, y(fast.min(0))),
            (fast_ones, y(np.minimum(fast[0], slow[-1]))),
            (fast_ones, y(np.minimum(slow[0], fast[-1]))),
            ("Whose action is a'? Compare with the equation.", y(other_a.min(0))),
            *[("π draws within ±1: which actions does a critic know?", y(unit_a))] * random,
            *[(two, y(value)) for value in (slow.max(0), slow[0], slow[-1], slow.mean(0))],
            ("Does the value of s' have the entropy of the policy there?", y(v, bonus=0)),
            ("Is an unlikely action worth more or less? See the sign.", y(v, bonus=-bonus)),
            (shapes, y(v, r=r[column]).mean(0)),
            (shapes, y(v, d=d[column]).mean(0)),
            (shapes, y(v, r=r[column], d=d[column]).mean(0)),
            (shapes, 0 * v + y(v).mean()),
            ("Which action does Q(s, a) value?", here[0] - (other_q - y(v))),
            ("The gradient reaches a critic through its Q(s, a).", "none"),
            ("Is the loss the mean over the batch?", here[0] - 4 * error),
            ("Is the loss the squared error itself, without a factor?", here[0] - error / 2),
        ]
        hints = {
            f"y of {net}": "Compare y with its equation, term by term." for net in critics(nets)
        }
        hints["loss"] = "y is right. Is the loss the mean of the squared errors, of all critics?"
        hints["networks with a gradient"] = "y is a constant: which lines must not be traced?"
        compare(script, truth, call, given, hints, mistakes)
    if hasattr(truth.Args, "estimator"):
        check_homework_targets(script, truth)
    if getattr(truth.Args, "policy_noise", 0) > 0:
        check_smoothing(script, truth)


def check_homework_targets(script, truth):
    """The five targets that the homework prints; the next actions are all 1."""
    rng = np.random.RandomState(0)
    obs, _ = rng.normal(size=(5, 11)), rng.choice(3, size=5)
    next_obs, rewards = rng.normal(size=(5, 11)), rng.normal(size=(5, 1))
    arrays = obs, np.zeros((5, 3)), next_obs, np.eye(5)[:, :1], rewards
    data = ReplayBufferSamples(*[torch.as_tensor(array).float() for array in arrays])

    def call(script):
        seed(2)
        sizes = 11, 3, torch.ones(3), torch.zeros(3)
        nets = SimpleNamespace(qf1=truth.QNetwork(*sizes), qf1_target=truth.QNetwork(*sizes))
        nets.qf1_target.load_state_dict(nets.qf1.state_dict())
        nets.actor = truth.Actor(*sizes)
        nn.init.constant_(nets.actor.fc_mu.bias, 30.0)  # tanh(30) is 1
        q, zeros = nets.qf1(data.observations, data.actions), watch(nets.qf1, batch=5)
        scalar(script.critic_loss(nets, data, truth.Args())).backward()
        return {"y": q - 5 / 2 * zeros.grad}

    expected = {"y": np.array([-0.9167948, -0.11123351, -0.36787638, -2.1131861, -0.13868617])}
    given = {"the homework's batch, r": rewards[:, 0], "d": np.eye(5)[0], "γ": 0.99}
    compare(script, expected, call, given, "Compare y with its equation, term by term.")


def check_smoothing(script, truth):
    """Target policy smoothing: clipping, scale, bounds and spread of the noise on a'."""

    def next_actions(script, batch, sigma, clip):
        nets, data, args = setup(truth, policy_noise=sigma, noise_clip=clip)
        data = ReplayBufferSamples(*[x.repeat(batch // 4, 1) for x in data if x is not None])
        seen, forward = [], nets.qf1_target.forward
        nets.qf1_target.forward = lambda s, a: seen.append(plain(a)) or forward(s, a)
        scalar(script.critic_loss(nets, data, args))
        if not seen:
            raise Problem("qf1_target was not asked")
        return seen[-1], seen[-1] - plain(nets.target_actor(data.next_observations))

    def clipped(script):
        return {"size of a' - μ'(s')": abs(next_actions(script, 4, 1e6, 0.1)[1])}

    def extremes(script):
        a, _ = next_actions(script, 64, 1e6, 10.0)
        return {"smallest a'": a.min(0), "largest a'": a.max(0)}

    def spread(script):
        return spread_of(next_actions(script, 2000, 0.05, 10.0)[1], 0.05)

    given = {"policy_noise": 1e6, "noise_clip": 0.1, "scale": SCALE}
    hint = "The noise is clipped, then scaled to the range of the actions, then added."
    compare(script, truth, clipped, given, hint)
    given |= {"policy_noise": 0.05, "noise_clip": 10.0, "steps in the batch": 2000}
    compare(script, truth, spread, given, EACH, atol=0.1)
    given = {"policy_noise": 1e6, "noise_clip": 10.0} | BOUNDS
    compare(script, truth, extremes, given, "Where may a' lie, whatever the noise?")


EACH = "Has each sample and each dimension noise of its own, of the right size?"


def spread_of(noise, sigma):
    """Return how noise of scale `sigma` relates to the action range, and its correlation."""
    std = noise.std(0) / SCALE / sigma
    varies = noise.std(0).min() > 1e-6  # not, if all samples share one noise
    correlation = (noise / noise.std(0)).prod(1).mean() if varies else 0.0
    return {"standard deviation / (noise · scale)": std, "correlation": correlation}


PATHWISE = "The gradient goes from Q through the action into the policy's weights: is the way free?"
ACTOR_CASES = {
    "ac_reparam": [
        ({}, PATHWISE),
        ({"estimator": "score"}, "Only log π has a gradient: by which constant is it weighted?"),
        ({"entropy_coef": 0.2}, "The objective is Q - α log π, with both in the gradient."),
        (
            {"estimator": "score", "entropy_coef": 0.2},
            "Q - α log π is the weight of log π: is all of it a constant?",
        ),
    ],
    "sac": [
        ({"autotune": False, "alpha": 0.3}, "Which terms, of which sign, does the actor minimise?"),
        ({}, "Two losses are added: does each leave the other's parameters alone?"),
    ],
}


def check_actor_loss(script, truth, name):
    """The loss, and its gradient in the actor and, where it is tuned, in the temperature."""
    for settings, hint in ACTOR_CASES.get(truth.__name__, [({}, PATHWISE)]):

        def call(script, settings=settings):
            nets, data, args = setup(truth, **settings)
            loss = scalar(script.actor_loss(nets, data, args))
            loss.backward()
            tuned = ["log_alpha"] if getattr(args, "autotune", False) else []
            return {"loss": loss} | gradients(nets, *tuned)

        nets, data, args = setup(truth, **settings)
        obs = data.observations
        random = hasattr(nets.actor, "distribution")
        a, log_prob = draw(nets, obs) if random else (nets.actor(obs), None)
        q, slow = q_values(nets, "", obs, a), q_values(nets, "_target", obs, a)
        given = {"autotune": args.autotune} if hasattr(args, "autotune") else {}
        given |= settings | {"a, a sample of π(·|s)" if random else "a = μ(s)": a}
        given |= {f"{net}(s, a)": q[i] for i, net in enumerate(critics(nets))}
        given |= {"log π(a|s)": log_prob} if random else {}
        loss = plain(call(truth)["loss"])
        values = [q[0], q[-1], q.max(0), q.min(0)]
        now = q.min(0) if truth.__name__ == "sac" else q[0]
        given_actions = q_values(nets, "", obs, data.actions)[0]
        unit_q = q_values(nets, "", obs, to_unit(a))
        unit_now = unit_q.min(0) if truth.__name__ == "sac" else unit_q[0]
        two = "There are two critics: which values does the equation take?"
        mistakes = [
            ("An optimizer makes a loss smaller: which way should Q go?", -loss),
            ("Is the loss the mean over the batch?", 4 * loss),
            ("The actor follows the critic that learns: which one is that?", -slow[0].mean()),
            ("Whose actions are judged, the batch's or the actor's?", -given_actions.mean()),
            ("log π is the density of tanh(u), within ±1: of which a was it taken?", np.nan),
            (
                "π draws within ±1: which actions does a critic know?",
                loss + (now - unit_now).mean(),
            ),
            *[(two, loss + (now - value).mean()) for value in values if not close(now, value)],
        ]
        compare(script, truth, call, given, hint, mistakes)
    if hasattr(truth.Args, "estimator"):
        check_homework_losses(script, truth)


def check_homework_losses(script, truth):
    """The actor's loss that the homework prints: at first, and after five steps of Adam."""

    def call(script):
        actor = truth.Actor(3, 2, torch.ones(2), torch.zeros(2))
        seed(0)
        actor.fc1, actor.fc2, actor.fc_mu = nn.Linear(3, 2), nn.Module(), nn.Linear(2, 2)
        actor.fc2.forward = torch.atanh  # undoes a tanh: the homework has one hidden layer
        nets = SimpleNamespace(actor=actor, qf1=lambda s, a: (a + 1).sum() + s.sum())
        obs = torch.as_tensor(np.random.RandomState(0).normal(size=(5, 3))).float()
        moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in actor.parameters()]
        losses = []
        for t in range(1, 7):
            actor.zero_grad()
            loss = scalar(script.actor_loss(nets, SimpleNamespace(observations=obs), truth.Args()))
            loss.backward()
            losses.append(loss.item())
            for p, (m, v) in zip(actor.parameters(), moments, strict=True):  # Adam at 0.25
                m.lerp_(p.grad, 0.1)
                v.lerp_(p.grad**2, 0.001)
                step = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
                p.data -= 0.25 * step
        return {"first loss": losses[0], "loss after 5 steps": losses[-1]}

    given = {"Q(s, a) of the homework": "the sum of a + 1 and of s over the whole batch"}
    expected = {"first loss": -17.083496, "loss after 5 steps": -30.103575}
    hint = "Does the loss draw one sample of the policy, and only once?"
    compare(script, expected, call, given, hint, rtol=1e-5)


def check_polyak_update(script, truth, name):
    """The homework's τ = 0.5, then what it cannot tell apart."""

    def layer(weights, bias):
        layer = nn.Linear(2, 1)
        layer.weight.data, layer.bias.data = torch.tensor([weights]), torch.tensor([bias])
        return layer

    for tau in 0.5, 0.1:

        def call(script, tau=tau):
            net, target = layer([1.0, 4.0], 1.0), layer([10.0, 10.0], 6.0).requires_grad_(False)
            script.polyak_update(net, target, tau)
            came = {"weights of the network": net.weight, "weights of the target": target.weight}
            came["bias of the target"] = target.bias
            return came | {"the target is part of a graph": target.weight.requires_grad}

        given = {
            "τ": tau,
            "network": "weights [1, 4], bias 1",
            "target": "weights [10, 10], bias 6",
        }
        hints = dict.fromkeys(
            call(truth), "Every parameter of the target moves a part τ of its way."
        )
        hints["weights of the network"] = "Which of the two networks follows the other?"
        hints["the target is part of a graph"] = "Each update would hold on to all before it."
        unmoved = "Nothing moved: a new tensor in a variable does not change a network."
        mistakes = [(unmoved, np.array([[10.0, 10.0]]))]
        mistakes += [("τ = 0.5 did not show it: which part is τ?", np.array([[1.9, 4.6]]))]
        compare(script, truth, call, given, hints, mistakes)


# ---- PPO ----
def check_estimate_advantages(script, truth, name):
    """GAE in two environments, with a termination and time limits; λ = 0 first."""
    ends = np.array([[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool).T
    dones = ends | np.array([[0, 0, 0, 1, 0], [0, 0, 1, 0, 0]], bool).T
    r = np.array([[1.0, 2, 0, 1, 3], [0, 1, 1, 2, 2]]).T
    v = np.array([[4.0, 3, 5, 2, 1], [2, 2, 3, 4, 5]]).T
    after = np.array([[3.0, 9, 2, 8, 6], [2, 3, 7, 5, 6]]).T
    rollout = SimpleNamespace(rewards=r, terminations=ends, dones=dones)
    for lam in 0.0, 0.5:

        def call(script, lam=lam):
            args = truth.Args(gamma=0.9, gae_lambda=lam)
            inputs = [x.copy() for x in (r, v, after)]
            result = script.estimate_advantages(rollout, *inputs, args)
            shape = getattr(result, "shape", None)
            if shape != r.shape:
                raise Problem(f"{type(result).__name__} of shape {shape}, not {r.shape}")
            return {f"A of environment {i}": result[:, i] for i in (0, 1)}

        given = {"γ": 0.9, "λ": lam}
        for i in 0, 1:
            given |= {f"environment {i}: r": r[:, i], f"{i}: V(s)": v[:, i]}
            given |= {f"{i}: V(s')": after[:, i], f"{i}: terminations": ends[:, i] * 1}
            given |= {f"{i}: dones": dones[:, i] * 1}
        hint = "At λ = 0, A is the TD error: the reward, the value after and that before the step."
        if lam > 0:
            hint = "A sums the TD errors from its step on, each weighted by γλ more. Until when?"
        limit = "A time limit is no termination: what would have followed has a value."
        mistakes = [
            (limit, (r + 0.9 * (1 - dones) * after - v)[:, 0]),
            ("What is still to come after a termination?", (r + 0.9 * after - v)[:, 0]),
            ("What is a value worth one step later?", (r + (1 - ends) * after - v)[:, 0]),
        ]
        compare(script, truth, call, given, hint, mistakes)


def check_value_loss(script, truth, name):
    """PPO's critic_loss."""

    def call(script):
        nets, data, args = ppo_setup(truth)
        zeros = watch(nets.critic)
        loss = scalar(script.critic_loss(nets, data, args))
        loss.backward()
        return {"loss": loss, "slope at V(s)": "none" if zeros.grad is None else zeros.grad}

    nets, data, _ = ppo_setup(truth)
    v, R = plain(nets.critic(data.observations)), plain(data.returns)
    mistakes = [
        ("Which factor has the equation?", ((v - R) ** 2).mean()),
        ("(4, 1) and (4,) make (4, 4).", 0.5 * ((v - R[:, None]) ** 2).mean()),
    ]
    hint = "The error is that of V(s) against R."
    compare(script, truth, call, {"V(s)": v, "R": R}, hint, mistakes)


def check_surrogate(script, truth, name):
    """PPO's actor_loss: ratio, clip, normalised advantages and entropy, one after the other."""
    outside = (0.5, 0.5, -0.5, -0.5)
    for settings, hint in [
        ({}, "The objective is the mean of ρA: is ρ a ratio for all dimensions of the action?"),
        ({"log_ratios": outside}, "Where ρ has left [1 - ε, 1 + ε], which product counts?"),
        ({"norm_adv": True, "repeat": 64}, "The advantages of a batch get mean 0 and deviation 1."),
        ({"ent_coef": 0.1}, "A policy of higher entropy has a lower loss."),
    ]:

        def call(script, settings=settings):
            nets, data, args = ppo_setup(truth, **settings)
            loss = scalar(script.actor_loss(nets, data, args))
            loss.backward()
            return {"loss": loss} | gradients(nets)

        nets, data, args = ppo_setup(truth, **settings)
        policy = nets.actor.distribution(data.observations)
        ratio = plain((policy.log_prob(data.actions).sum(-1) - data.log_probs).exp())
        a = plain(data.advantages)
        clipped = ratio.clip(1 - args.clip_coef, 1 + args.clip_coef) * a
        given = {"norm_adv": args.norm_adv, "ent_coef": args.ent_coef, "ε": args.clip_coef}
        given |= {"ρ": ratio[:4], "A": a[:4]} | ({"…": "64 times"} if args.norm_adv else {})
        given |= {"entropy": policy.entropy().sum(-1).mean()} if args.ent_coef else {}
        mistakes = [
            ("An optimizer makes a loss smaller: which way is better?", (ratio * a).mean()),
            ("Which of two probabilities is divided by which?", -(a / ratio).mean()),
            ("Which of both products is the cautious one?", -np.maximum(ratio * a, clipped).mean()),
            ("When is ρA itself too good to be used?", -(ratio * a).mean()),
            ("When is the clipped product too good to be used?", -clipped.mean()),
        ]
        if args.norm_adv:  # its deviation may divide by n or by n - 1
            compare(script, truth, call, given, hint, rtol=0.02)
        else:
            compare(script, truth, call, given, hint, [] if args.ent_coef else mistakes)


# ---- Action selection ----
def check_act(script, truth, name):
    """Random steps, the policy, its noise and the bounds, whatever of them there is."""
    starts = getattr(truth.Args, "learning_starts", 0)

    def act(script, envs, step=starts, **settings):
        nets, _, args = setup(truth, **settings)
        if step < starts:
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
        last = list(came)[-1]  # what the environments get
        shape = getattr(came[last], "shape", None)
        if not isinstance(came[last], np.ndarray) or shape != (envs, 2):
            what = f"{type(came[last]).__name__} of shape {shape and tuple(shape)}"
            hint = "Each environment gets one action: an array of shape (num_envs, act_dim)."
            raise Problem(f"{last} is no NumPy array of shape ({envs}, 2), but {what}", hint)
        return came, torch.as_tensor(obs).float(), nets

    def random(script):
        actions = act(script, 2000, starts - 1)[0]["actions"]
        return {"mean": actions.mean(0), "standard deviation": actions.std(0)}

    if starts:
        given = {"global_step": starts - 1, "learning_starts": starts, "environments": 2000}
        expected = {"mean": BIAS, "standard deviation": SCALE / 3**0.5}
        hint = "What acts before learning starts, and up to which step?"
        compare(script, expected, random, given | BOUNDS, hint, rtol=0.1, atol=0.25)

    noisy = hasattr(truth.Args, "exploration_noise")
    quiet = {"exploration_noise": 1e-6} if noisy else {}
    _, obs, nets = act(truth, 4, **quiet)
    given = {"obs": obs} | BOUNDS | ({"exploration_noise": "1e-6"} if noisy else {})
    given |= {"global_step": starts, "learning_starts": starts} if starts else {}
    hint = "Which network acts, on which input, and within which bounds?"
    mistakes = [("The policy explores by itself: is this a sample?", nets.actor(obs))]
    if noisy:
        mistakes = [("Two actors could act: which is the newer one?", nets.target_actor(obs))]
        hint = "Which network acts, from which step on? The noise is too small to matter."
    compare(script, truth, lambda script: act(script, 4, **quiet)[0], given, hint, mistakes)
    if not noisy:
        return

    def spread(script):
        came, obs, nets = act(script, 2000, exploration_noise=0.02)
        return spread_of(came["actions"] - plain(nets.actor(obs)), 0.02)

    def extremes(script):
        actions = act(script, 2000, exploration_noise=10.0)[0]["actions"]
        return {"smallest action": actions.min(0), "largest action": actions.max(0)}

    given = {"exploration_noise": 0.02, "scale": SCALE, "environments": 2000}
    compare(script, truth, spread, given, EACH, atol=0.1)
    given = {"exploration_noise": 10.0} | BOUNDS
    compare(script, truth, extremes, given, "Which actions does an environment accept?")


CHECKS = {
    "QNetwork.forward": check_forward,
    "Critic.forward": check_forward,
    "Actor.forward": check_forward,
    "Actor.distribution": check_distribution,
    "Actor.sample": check_sample,
    "critic_loss": check_critic_loss,
    "actor_loss": check_actor_loss,
    "polyak_update": check_polyak_update,
    "estimate_advantages": check_estimate_advantages,
    "act": check_act,
}
PPO_CHECKS = CHECKS | {"critic_loss": check_value_loss, "actor_loss": check_surrogate}
