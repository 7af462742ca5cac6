"""The checks of `grade.py`: each function of an exercise against numbers that are known.

A check is given the real script with the student's function in it, the real script, and the
function's name. It raises `Wrong` at the first thing that differs.
"""

import traceback
from types import SimpleNamespace

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn

LOW, HIGH = np.float32([-1, -5]), np.float32([3, 5])  # bounds that are not ±1, nor alike
SCALE, BIAS = (HIGH - LOW) / 2, (HIGH + LOW) / 2


# ---- Comparison ----
class Wrong(Exception):
    """A function is wrong; its arguments: what came, a hint, what was given, what was expected."""


class Problem(Exception):
    """What came is nothing that could be compared."""


def plain(value):
    """Return numbers as an array of floats, anything else as text."""
    value = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    if isinstance(value, np.ndarray | np.number | float | int) and np.asarray(value).dtype != object:
        return np.asarray(value, float)
    return str(value)


def show(value) -> str:
    value = plain(value)
    if isinstance(value, str):
        return value
    text = np.array2string(value, precision=3, suppress_small=True, separator=", ", threshold=20)
    return " ".join(text.split()) + (f", shape {value.shape}" if value.ndim > 1 else "")


def close(one, other, rtol, atol) -> bool:
    one, other = plain(one), plain(other)
    if isinstance(one, str) or isinstance(other, str):
        return str(one) == str(other)
    return one.shape == other.shape and np.allclose(one, other, rtol, atol)


def compare(given, call, expected, hints, mistakes=(), rtol=1e-3, atol=1e-4):
    """Raise Wrong if `call()` returns other values, by name, than the expected ones.

    `hints` is a hint for each name, or one for all. `mistakes` are pairs of a hint and the value
    that a known mistake would give to the first name.
    """
    wrong = list(expected)
    try:
        torch.manual_seed(3)
        came = call()
        wrong = [name for name in expected if not close(came[name], expected[name], rtol, atol)]
        came_text = "\n".join(f"{name} = {show(came[name])}" for name in wrong)
    except Problem as problem:
        came, came_text = {}, str(problem)
    except BaseException as error:  # SystemExit is one
        own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == "<student>"]
        where = f" in line {own[-1].lineno}" if own else ""
        came, came_text = {}, f"{type(error).__name__}{where}: {error}"[:500]
    if not wrong:
        return
    hint = hints if isinstance(hints, str) else hints[wrong[0]]
    if came and wrong[0] == next(iter(expected)):
        known = [text for text, value in mistakes if close(came[wrong[0]], value, rtol, atol)]
        hint = known[0] if known else hint
    expected_text = "\n".join(f"{name} = {show(expected[name])}" for name in wrong)
    raise Wrong(came_text, hint, given, expected_text)


def scalar(result):
    """Return the loss of what a loss function returns."""
    if not (isinstance(result, tuple) and len(result) == 2):
        raise Problem(f"no pair of a loss and a dict, but {type(result).__name__}")
    loss, metrics = result
    if not isinstance(loss, torch.Tensor) or loss.ndim > 0:
        raise Problem(f"a loss that is no scalar tensor, but {type(loss).__name__} {show(loss)}")
    if not loss.requires_grad:
        raise Problem("a loss without a gradient")
    if not isinstance(metrics, dict) or any(type(v) is not torch.Tensor for v in metrics.values()):
        raise Problem("a second value that is no dict of tensors")
    return loss


# ---- What the functions are given ----
def networks(script):
    """Return networks, no two of which are alike, all with gradients."""
    torch.manual_seed(0)
    nets = script.Networks(3, 2, LOW, HIGH)
    with torch.no_grad():
        for name, parameter in nets.named_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
            if name.startswith("qf") and name.endswith("fc3.bias"):
                parameter.fill_(5.0 if "target" in name else float(name[2]))
        if hasattr(nets, "log_alpha"):
            nets.log_alpha.fill_(-0.7)
        if hasattr(nets.actor, "obs_normalizer"):
            nets.actor.obs_normalizer.mean.fill_(0.5)
            nets.actor.obs_normalizer.var.fill_(4.0)
    return nets.requires_grad_(True)  # of the target networks, too: a missing no_grad shows


def setup(script, **settings):
    """Return networks, a batch of 4 steps, of which the second terminates, and Args.

    A stochastic policy draws the same noise at each draw, so that their number and order are free.
    """
    nets = networks(script)
    if hasattr(nets.actor, "distribution"):
        distribution = nets.actor.distribution

        def with_same_noise(x):
            policy = distribution(x)
            for name in "sample", "rsample":
                draw = getattr(policy, name)
                again = lambda *shape, draw=draw: torch.manual_seed(3) and draw(*shape)  # noqa: E731
                setattr(policy, name, again)
            return policy

        nets.actor.distribution = with_same_noise
    obs, next_obs = torch.randn(2, 4, 3)
    actions = torch.rand(4, 2) * 2 - 0.5
    dones, rewards = torch.tensor([[0.0, 1, 0, 0], [1, 2, -1, 0.5]])[:, :, None]
    data = ReplayBufferSamples(obs, actions, next_obs, dones, rewards)
    args = script.Args()
    vars(args).update({"gamma": 0.9, "policy_noise": 0.0} | settings)
    return nets, data, args


def watch(critic, batch=4):
    """Add zeros to a critic's values, so that the slope of a loss at each of them can be read."""
    forward, zeros = critic.forward, torch.zeros(batch, requires_grad=True)
    critic.forward = lambda *inputs: forward(*inputs) + zeros
    return zeros


def gradients(nets, names):
    found = {name: nets.get_parameter(name).grad for name in names}
    return {f"gradient of {k}": "none" if v is None else v for k, v in found.items()}


def spread(nets):
    """Return the name of the parameter that a stochastic policy's σ depends on."""
    names = [name for name, _ in nets.named_parameters()]
    return [name for name in names if name.endswith(("log_std", "fc_log_std.bias"))]


# ---- Checks ----
def check_network(script, truth, name):
    """forward of QNetwork, Critic or Actor."""
    net = {"QNetwork": "qf1", "Critic": "critic", "Actor": "actor"}[name.split(".")[0]]
    for batch in 3, 1:
        inputs = [torch.randn(batch, 3), torch.randn(batch, 2)][: 2 if net == "qf1" else 1]

        def call(script=script, inputs=inputs):
            value = getattr(networks(script), net)(*inputs)
            return {name: value, "has a gradient": getattr(value, "requires_grad", False)}

        expected = call(truth)
        value = plain(expected[name])
        mistakes = [("One number for each sample: shape (batch,).", value[:, None])]
        mistakes += [("One number for each sample, for a batch of 1, too.", value.squeeze())]
        hint = "Which layers are there, in which order, with which activation between them?"
        if net == "actor":
            unscaled = (value - BIAS) / SCALE
            bounds = "Not every action has the bounds -1 and 1: what do scale and bias do?"
            mistakes = [(bounds, v) for v in (unscaled, unscaled * SCALE, unscaled + BIAS)]
        given = "\n".join(f"{n} = {show(x)}" for n, x in zip("sa", inputs, strict=False))
        given += f"\nbounds of the actions: {show(LOW)} to {show(HIGH)}" if net == "actor" else ""
        compare(given, call, expected, hint, mistakes)


def check_distribution(script, truth, name):
    """Actor.distribution: density, samples and, where it has one, the mode."""
    obs, actions = torch.randn(3, 3), torch.rand(3, 2) - 0.3

    def call(script=script, **biases):
        nets = networks(script)
        for layer, bias in biases.items():
            nn.init.constant_(getattr(nets.actor, layer).bias, bias)
        policy = nets.actor.distribution(obs)
        log_prob = policy.log_prob(actions)
        log_prob.sum().backward()
        torch.manual_seed(3)
        sample = policy.rsample()
        came = {"log π(a|s)": log_prob, "a ~ π(·|s)": sample, "μ(s)": nets.actor(obs)}
        if biases:
            came["log π of a sample is finite"] = bool(policy.log_prob(sample).isfinite().all())
        return came | gradients(nets, spread(nets))

    given = f"s = {show(obs)}\na = {show(actions)}"
    hint = "Which distribution has u, and what is done to u to get a?"
    compare(given, call, call(truth), hint)
    if hasattr(truth, "TanhTransform"):
        hint = "tanh(30) is 1 in floats, and atanh(1) is infinite: can a transform remember its input?"
        given += "\nmeans of u near 30"
        compare(given, lambda: call(fc_mu=30.0), call(truth, fc_mu=30.0), hint)
    if hasattr(networks(truth).actor, "fc_log_std"):
        for bias in 100.0, -100.0:
            hint = "log σ is kept between -20 and 2."
            given = f"s = {show(obs)}, a = {show(actions)}\nfc_log_std returns about {bias:g}"
            expected = call(truth, fc_log_std=bias)
            compare(given, lambda b=bias: call(fc_log_std=b), expected, hint, rtol=1e-2)


def check_homework_targets(script, truth):
    """The five targets that the homework prints; the next actions are all 1."""
    rng = np.random.RandomState(0)
    arrays = rng.normal(size=(5, 11)), rng.choice(3, size=5), rng.normal(size=(5, 11)), np.eye(5)
    obs, _, next_obs, eye = arrays
    rewards, actions = rng.normal(size=(5, 1)), np.zeros((5, 3))
    arrays = obs, actions, next_obs, eye[:, :1], rewards
    data = ReplayBufferSamples(*[torch.as_tensor(array).float() for array in arrays])
    torch.manual_seed(2)
    nets = SimpleNamespace(qf1=truth.QNetwork(11, 3), qf1_target=truth.QNetwork(11, 3))
    nets.qf1_target.load_state_dict(nets.qf1.state_dict())
    ones = SimpleNamespace(sample=lambda: torch.ones(5, 3), rsample=lambda: torch.ones(5, 3))
    nets.actor = SimpleNamespace(distribution=lambda obs: ones)
    q = nets.qf1(data.observations, data.actions)
    next_q = nets.qf1_target(data.next_observations, ones.sample())
    zeros = watch(nets.qf1, batch=5)

    def call():
        scalar(script.critic_loss(nets, data, truth.Args())).backward()
        return {"y": q - zeros.grad * 5 / 2}

    given = f"the homework's batch: r = {show(rewards[:, 0])}, d = [1, 0, 0, 0, 0], γ = 0.99"
    expected = {"y": np.array([-0.9167948, -0.11123351, -0.36787638, -2.1131861, -0.13868617])}
    hint = "y has the reward and, unless the episode ended, the discounted value of what follows."
    compare(f"{given}\nQ'(s', a') = {show(next_q)}", call, expected, hint)


def check_critic_loss(script, truth, name):
    """The Bellman error of an off-policy script: targets, loss, and where a gradient may go."""
    if hasattr(truth.Args, "estimator"):
        check_homework_targets(script, truth)
    for settings in [{}, {"autotune": False, "alpha": 0.3}] if "alpha" in vars(truth.Args) else [{}]:
        nets, data, args = setup(truth, **settings)
        r, d, s = data.rewards.numpy()[:, 0], data.dones.numpy()[:, 0], data.next_observations
        critics = [name for name in ("qf1", "qf2") if hasattr(nets, name)]
        bonus, formula = 0, "μ'(s')"
        with torch.no_grad():
            if hasattr(nets, "target_actor"):
                a = nets.target_actor(s)
            else:
                policy, formula = nets.actor.distribution(s), "a sample of π(·|s')"
                a = policy.sample()
            if hasattr(nets, "log_alpha"):
                alpha = settings.get("alpha", np.exp(-0.7))
                bonus = -alpha * policy.log_prob(a).numpy()

            def q(suffix, a, nets=nets, critics=critics, s=s):
                return np.array([nets.get_submodule(n + suffix)(s, a).numpy() for n in critics])

            def y(value, r=r, d=d, gamma=0.9, bonus=bonus):
                return r + gamma * (1 - d) * (value + bonus)

            slow, online, other = q("_target", a), q("", a), q("_target", nets.actor(s))
            before = {n: nets.get_submodule(n)(data.observations, data.actions) for n in critics}
        v, right = slow.min(0), y(slow.min(0))
        column, rows = np.s_[:, None], [(r, d[:, None]), (r[:, None], d), (r[:, None], d[:, None])]
        error = before["qf1"].numpy() - right
        mistakes = [
            ("Two networks value states: which of them is the slow one?", y(online.min(0))),
            ("Whose action is a'? Compare with the equation.", y(other.min(0))),
            ("What is still to come in an episode that has ended?", y(v, d=0)),
            ("For which steps does d remove the future, and for which not?", y(v, d=1 - d)),
            ("What is a reward worth that comes one step later?", y(v, gamma=1)),
            ("There are two critics: which of both values is to be used?", y(slow.max(0))),
            ("There are two critics: which of both values is to be used?", y(slow[0])),
            ("The value of s' includes the policy's entropy there.", y(v, bonus=0)),
            ("Is a likely action worth more or less? See the sign of log π.", y(v, bonus=-bonus)),
            *[("(4, 1) and (4,) make (4, 4): see all shapes.", y(v, *row).mean(0)) for row in rows],
            ("(4, 1) and (4,) make (4, 4): see all shapes.", 0 * right + right.mean()),
            ("Is the loss the mean over the batch?", before["qf1"].numpy() - 4 * error),
            ("Is the loss the squared error itself, without a factor?", right + error / 2),
        ]

        def call(settings=settings, critics=critics, before=before):
            nets, data, args = setup(truth, **settings)
            zeros = {name: watch(nets.get_submodule(name)) for name in critics}
            loss = scalar(script.critic_loss(nets, data, args))
            loss.backward()
            came = {"loss": loss}
            for n in critics:  # the slope of the loss is 2 (Q - y) / 4
                slope = zeros[n].grad
                came[f"y of {n}"] = "no gradient" if slope is None else before[n] - 2 * slope
            reached = {n.split(".")[0] for n, p in nets.named_parameters() if p.grad is not None}
            return came | {"networks with a gradient": ", ".join(sorted(reached))}

        lines = [f"r = {show(r)}, d = {show(d)}, γ = 0.9; a' = {formula}"]
        lines += [f"{n}_target(s', a') = {show(x)}" for n, x in zip(critics, slow, strict=True)]
        lines += [f"{n}(s, a) = {show(before[n])}" for n in critics]
        if hasattr(nets, "log_alpha"):
            lines += [f"log π(a'|s') = {show(-bonus / alpha)}, α = {show(alpha)}"]
        expected = {f"y of {n}": right for n in critics}
        expected["loss"] = sum(((before[n].numpy() - right) ** 2).mean() for n in critics)
        expected["networks with a gradient"] = ", ".join(critics)
        hints = dict.fromkeys(expected, "Compare y with its equation, one term at a time.")
        hints["y of qf2"] = "Do both critics learn, and from the same y?"
        hints["loss"] = "y is right. Is the loss the mean of the squared errors?"
        hints["networks with a gradient"] = "y is a constant: which lines must not be traced?"
        compare("\n".join(lines), call, expected, hints, mistakes)
    if getattr(truth.Args, "policy_noise", 0) > 0:
        check_smoothing(script, truth)


def check_smoothing(script, truth):
    """Target policy smoothing: clipping, scale, bounds and spread of the noise on a'."""

    def next_actions(batch, **settings):
        nets, data, args = setup(truth, **settings)
        data = ReplayBufferSamples(*[x.repeat(batch // 4, 1) for x in data if x is not None])
        seen, forward = [], nets.qf1_target.forward
        nets.qf1_target.forward = lambda s, a: (seen.append(a.detach().numpy()), forward(s, a))[1]
        scalar(script.critic_loss(nets, data, args))
        if not seen:
            raise Problem("qf1_target was not asked for its value")
        return seen[-1], seen[-1] - nets.target_actor(data.next_observations).detach().numpy()

    bounds = f"bounds of the actions: {show(LOW)} to {show(HIGH)}, so scale = {show(SCALE)}"
    given = f"policy_noise = 1e6, noise_clip = 0.1; {bounds}"
    expected = {"|a' - μ'(s')|": np.tile(0.1 * SCALE, (4, 1))}
    hint = "The noise is clipped, then scaled to the range of the actions, then added."
    settings = {"policy_noise": 1e6, "noise_clip": 0.1}
    compare(given, lambda: {"|a' - μ'(s')|": abs(next_actions(4, **settings)[1])}, expected, hint)

    def extremes():
        actions, _ = next_actions(64, policy_noise=1e6, noise_clip=10)
        return {"smallest a'": actions.min(0), "largest a'": actions.max(0)}

    given = f"policy_noise = 1e6, noise_clip = 10; {bounds}"
    hint = "Where may a' lie, whatever the noise?"
    compare(given, extremes, {"smallest a'": LOW, "largest a'": HIGH}, hint)

    def spread_of_noise():
        _, noise = next_actions(4000, policy_noise=0.05, noise_clip=10)
        correlation = np.corrcoef(noise.T)[0, 1] if noise.std(0).all() else 0.0
        spread = noise.std(0) / SCALE / 0.05
        return {"standard deviation / (policy_noise · scale)": spread, "correlation": correlation}

    given = f"policy_noise = 0.05, noise_clip = 10, a batch of 4000; {bounds}"
    expected = {"standard deviation / (policy_noise · scale)": np.ones(2), "correlation": 0.0}
    hint = "Has each step and each dimension noise of its own, with the right spread?"
    compare(given, spread_of_noise, expected, hint, rtol=0, atol=0.1)


PATHWISE = "The gradient goes from Q through the action into the policy's weights: is the way free?"
ACTOR_CASES = {
    "ac_reparam": [
        ({}, PATHWISE),
        ({"estimator": "score"}, "Here log π alone has a gradient: what is its weight, a constant?"),
        ({"entropy_coef": 0.2}, "The objective is Q - α log π, with both in the gradient."),
    ],
    "sac": [
        ({"autotune": False, "alpha": 0.3}, "Which values, of which sign, does the actor minimise?"),
        ({}, "Two losses are added: each must leave the other's parameters alone."),
    ],
}


def check_actor_loss(script, truth, name):
    """An off-policy script: value of the loss, and its gradient in actor and temperature."""
    for settings, hint in ACTOR_CASES.get(truth.__name__, [({}, PATHWISE)]):

        def call(script=script, settings=settings):
            nets, data, args = setup(truth, **settings)
            loss = scalar(script.actor_loss(nets, data, args))
            loss.backward()
            names = ["actor.fc_mu.bias", *spread(nets)]
            names += ["log_alpha"] if settings == {} and hasattr(nets, "log_alpha") else []
            return {"loss": loss} | gradients(nets, names)

        nets, data, args = setup(truth, **settings)
        critics = [name for name in ("qf1", "qf2") if hasattr(nets, name)]
        policy = getattr(nets.actor, "distribution", lambda s: None)(data.observations)
        a = policy.sample() if policy else nets.actor(data.observations)
        values = {n: nets.get_submodule(n)(data.observations, a).detach() for n in critics}
        given = [f"settings: {settings}"] if settings else []
        given += [f"a = {show(a)}, " + ("a sample of π(·|s)" if policy else "μ(s)")]
        given += [f"{n}(s, a) = {show(value)}" for n, value in values.items()]
        given += [f"log π(a|s) = {show(policy.log_prob(a))}"] if policy else []
        expected = call(truth)
        loss = plain(expected["loss"])
        slow = nets.qf1_target(data.observations, a).mean()
        mistakes = [
            ("An optimizer makes a loss smaller: which way should Q go?", -loss),
            ("Is the loss the mean over the batch?", 4 * loss),
            ("Two networks value actions: the actor follows the one that learns.", -slow),
            ("Whose actions are judged, the batch's or the actor's?", -nets.qf1(*data[:2]).mean()),
        ]
        if "qf2" in values:
            lower, higher = (plain(f(*values.values()).mean()) for f in (torch.min, torch.max))
            first, second = (plain(value.mean()) for value in values.values())
            choice = "There are two critics: which values does the equation take?"
            others = (-v for v in (lower, higher, second))
            others = *others, *(loss + lower - v for v in (higher, first, second))
            mistakes += [(choice, value) for value in others]
        compare("\n".join(given), call, expected, hint, mistakes)


def check_polyak_update(script, truth, name):
    """The homework's check, at τ = 0.5, then what it cannot tell apart."""

    def linear(weight, bias):
        layer = nn.Linear(2, 1)
        layer.weight.data, layer.bias.data = torch.tensor([weight]), torch.tensor([bias])
        return layer

    for tau, expected in (0.5, ([5.5, 7.0], 3.5)), (0.1, ([9.1, 9.4], 5.5)):
        net, target = linear([1.0, 4.0], 1.0), linear([10.0, 10.0], 6.0).requires_grad_(False)

        def call(net=net, target=target, tau=tau):
            script.polyak_update(net, target, tau)
            came = {"weights of the target": target.weight, "bias of the target": target.bias}
            came["weights of the network"] = net.weight
            return came | {"part of the autograd graph": target.weight.requires_grad}

        given = f"τ = {tau}, network: weights [1, 4], bias 1; target: weights [10, 10], bias 6"
        weights, bias = np.array([expected[0]]), np.array([expected[1]])
        expected = {"weights of the target": weights, "bias of the target": bias}
        expected |= {"weights of the network": np.array([[1.0, 4.0]])}
        hints = dict.fromkeys(expected, "Every parameter of the target moves a part τ of the way.")
        hints["weights of the network"] = "Which of the two networks follows the other?"
        hints["part of the autograd graph"] = "Each update would hang on to all those before it."
        mistakes = [
            ("Nothing moved: a new tensor in a variable does not change a network.", [[10.0, 10]]),
            ("At τ = 0.5 both weights are equal: which is τ, which 1 - τ?", [[1.9, 4.6]]),
        ]
        mistakes = [(hint, np.array(value)) for hint, value in mistakes]
        expected["part of the autograd graph"] = False
        compare(given, call, expected, hints, mistakes)


def check_estimate_advantages(script, truth, name):
    """GAE of two environments, by the sum of TD errors; a termination, a time limit."""
    γ, ends = 0.9, np.array([[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool).T
    dones = ends | np.array([[0, 0, 0, 1, 0], [0, 0, 1, 0, 0]], bool).T
    r = np.array([[1.0, 2, 0, 1, 3], [0, 1, 1, 2, 2]]).T
    v = np.array([[4.0, 3, 5, 2, 1], [2, 2, 3, 4, 5]]).T
    after = np.array([[3.0, 9, 2, 8, 6], [2, 3, 7, 5, 6]]).T
    rollout = SimpleNamespace(rewards=r, terminations=ends, dones=dones)

    def deltas(stop, γ=γ):
        return r + γ * (1 - stop) * after - v

    for λ in 0.0, 0.5:
        args = truth.Args(gamma=γ, gae_lambda=λ)

        def call(args=args):
            inputs = [x.copy() for x in (r, v, after)]
            result = script.estimate_advantages(rollout, *inputs, args)
            if getattr(result, "shape", None) != r.shape:
                raise Problem(f"a value of shape {getattr(result, 'shape', None)}, not {r.shape}")
            return {f"A of environment {i}": plain(result)[:, i] for i in (0, 1)}

        sums = np.zeros((5, 2))
        for t, i in np.ndindex(5, 2):
            last = next((k for k in range(t, 5) if dones[k, i]), 4)
            sums[t, i] = sum((γ * λ) ** (k - t) * deltas(ends)[k, i] for k in range(t, last + 1))
        lines = [f"γ = {γ}, λ = {λ}"]
        for i in 0, 1:
            lines += [f"environment {i}: r = {show(r[:, i])}, V(s) = {show(v[:, i])},"]
            lines += [f"  V(s') = {show(after[:, i])}, terminations = {show(ends[:, i] * 1)},"]
            lines += [f"  dones = {show(dones[:, i] * 1)}"]
        expected = {f"A of environment {i}": sums[:, i] for i in (0, 1)}
        hint = "At λ = 0, A is the TD error: reward, value after the step, value before."
        if λ > 0:
            hint = "A sums the TD errors that follow, each weighted by γλ more, and stops where?"
        mistakes = [
            ("A time limit is no termination: what follows it has a value.", deltas(dones)[:, 0]),
            ("What is still to come in an episode that has terminated?", deltas(0 * ends)[:, 0]),
            ("What is a value worth that comes one step later?", deltas(ends, γ=1)[:, 0]),
        ]
        compare("\n".join(lines), call, expected, hint, mistakes if λ == 0 else ())


def ppo_setup(script, offsets=(0.05, -0.05, 0.1, -0.1), repeat=1, **settings):
    """Return networks, a batch with the given log ratios, and Args."""
    nets, batch = networks(script), len(offsets) * repeat
    with torch.no_grad():
        obs, actions = torch.randn(batch, 3), torch.randn(batch, 2)
        log_probs = nets.actor.distribution(obs).log_prob(actions).sum(-1)
        log_probs -= torch.tensor(offsets).repeat(repeat)
        values = nets.critic(obs) - torch.tensor([0.6, -0.6, 0.1, -0.1]).repeat(batch // 4)
        returns = values + torch.tensor([1.0, 1.0, -0.4, 0.3]).repeat(batch // 4)
    advantages = torch.tensor([1.0, -1.0, -2.0, 3.0]).repeat(batch // 4)
    data = script.Batch(obs, actions, log_probs, values, advantages, returns)
    return nets, data, script.Args(**{"norm_adv": False, "clip_vloss": False} | settings)


def check_value_loss(script, truth, name):
    """PPO's critic_loss, without and with the clip."""
    for clip in False, True:

        def call(script=script, clip=clip):
            nets, data, args = ppo_setup(truth, clip_vloss=clip)
            zeros = watch(nets.critic)
            loss = scalar(script.critic_loss(nets, data, args))
            loss.backward()
            slope = "no gradient" if zeros.grad is None else zeros.grad
            return {"loss": loss, "its slope at V(s)": slope}

        nets, data, args = ppo_setup(truth)
        v, old, R = (plain(x) for x in (nets.critic(data.observations), data.values, data.returns))
        moved = old + np.clip(v - old, -args.clip_coef, args.clip_coef) if clip else v
        errors = (v - R) ** 2, (moved - R) ** 2
        given = f"clip_vloss = {clip}, clip_coef = {args.clip_coef}"
        given += f"\nV(s) = {show(v)}\nV_old(s) = {show(old)}\nR = {show(R)}"
        expected = call(truth) | {"loss": 0.5 * np.maximum(*errors).mean()}
        mistakes = [
            ("See the factor of the equation.", np.maximum(*errors).mean()),
            ("Of both errors, the clip takes the one that is harder to please.", 0.5 * np.minimum(*errors).mean()),
            ("V of which network is to learn?", 0.5 * ((old - R) ** 2).mean()),
        ]
        hint = "The error of V(s) against R; with the clip, also that of a V(s) near V_old(s)."
        compare(given, call, expected, hint, mistakes)


def check_surrogate(script, truth, name):
    """PPO's actor_loss: ratio, clip, normalised advantages and entropy, one after the other."""
    outside = (0.5, 0.5, -0.5, -0.5)
    cases = [
        ({}, "The objective is the mean of ρA: what is ρ, from log-probabilities of all dimensions?"),
        ({"offsets": outside}, "Where ρ has left [1 - ε, 1 + ε], which of both products counts?"),
        ({"norm_adv": True, "repeat": 64}, "The advantages of the batch get mean 0 and deviation 1."),
        ({"ent_coef": 0.1}, "A policy of higher entropy is to have a lower loss."),
    ]
    for settings, hint in cases:

        def call(script=script, settings=settings):
            nets, data, args = ppo_setup(truth, **settings)
            loss = scalar(script.actor_loss(nets, data, args))
            loss.backward()
            return {"loss": loss} | gradients(nets, ["actor.mu.4.bias", "actor.log_std"])

        nets, data, args = ppo_setup(truth, **settings)
        policy = nets.actor.distribution(data.observations)
        ratio = plain((policy.log_prob(data.actions).sum(-1) - data.log_probs).exp())
        a = plain(data.advantages)
        given = f"norm_adv = {args.norm_adv}, ent_coef = {args.ent_coef}, ε = {args.clip_coef}"
        given += f"\nρ = {show(ratio)}\nA = {show(a)}"
        given += f"\nentropy of π = {show(policy.entropy().sum(-1).mean())}" * bool(args.ent_coef)
        clipped = ratio.clip(1 - args.clip_coef, 1 + args.clip_coef) * a
        mistakes = [
            ("An optimizer makes a loss smaller: which way should the objective go?", ratio @ a / len(a)),
            ("Which of the two probabilities is above the line?", -(a / ratio).mean()),
            ("Which of both products is the cautious one?", -np.maximum(ratio * a, clipped).mean()),
            ("The clip is missing, or never binds.", -(ratio * a).mean()),
            ("A ρ that has left the range counts as well where that makes things worse.", -clipped.mean()),
        ]
        compare(given, call, call(truth), hint, mistakes, rtol=0.02 if args.norm_adv else 1e-3)


def check_act(script, truth, name):
    """Action selection: random steps, the policy, its noise and the bounds, whatever there is."""

    def call(envs, step=10**6, script=script, **settings):
        nets, _, args = setup(truth, **settings)
        torch.manual_seed(3)
        one = Box(LOW, HIGH, seed=0)
        many = batch_space(one, envs)
        space = SimpleNamespace(num_envs=envs, single_action_space=one, action_space=many)
        run = SimpleNamespace(envs=space, global_step=step, device=torch.device("cpu"))
        vars(run).update(action_low=LOW, action_high=HIGH, action_space=one, obs_dim=3, act_dim=2)
        obs = np.linspace(-1, 1, 12).reshape(4, 3).repeat(envs // 4, 0)  # float64, as MuJoCo's
        came = script.act(run=run, args=args, nets=nets, obs=obs, metrics={}, t=0)
        last = list(came)[-1]  # what goes to the environments
        if not isinstance(came[last], np.ndarray) or came[last].shape != (envs, 2):
            what = f"{type(came[last]).__name__} of shape {getattr(came[last], 'shape', None)}"
            raise Problem(f"{last} that is no NumPy array of shape ({envs}, 2), but {what}")
        return came, nets, obs

    def moments(values):
        return {"mean": values.mean(0), "standard deviation": values.std(0)}

    bounds = f"bounds of the actions: {show(LOW)} to {show(HIGH)}"
    starts = getattr(truth.Args, "learning_starts", 0)
    if starts:
        given = f"global_step = {starts - 1}, learning_starts = {starts}, 4000 steps; {bounds}"
        expected = {"mean": BIAS, "standard deviation": SCALE / 3**0.5}
        hint = "What acts before learning starts, and until which step?"
        random = lambda: moments(call(4000, starts - 1)[0]["actions"])  # noqa: E731
        compare(given, random, expected, hint, rtol=0.05, atol=0.2)
    quiet = {"exploration_noise": 0.0} if hasattr(truth.Args, "exploration_noise") else {}
    expected, nets, obs = call(4, starts, truth, **quiet)
    names = [name for name in expected if name != "bounded"] + ["bounded"] * ("bounded" in expected)
    expected = {name: expected[name] for name in names}
    given = f"obs = {show(obs)}; {bounds}" + f"\nglobal_step = learning_starts = {starts}" * (starts > 0)
    given += "\nexploration_noise = 0" * bool(quiet)
    mode = nets.actor(torch.as_tensor(obs).float())
    mistakes = [("The policy is stochastic: its mode explores nothing.", mode)]
    if quiet:
        slow = nets.target_actor(torch.as_tensor(obs).float())
        mistakes = [("Two actors could act: which is the newer one?", slow)]
    hint = "Which network acts, on which input, and where do its actions lie?"
    compare(given, lambda: call(4, starts, **quiet)[0], expected, hint, mistakes)
    if not quiet:
        return

    def noise(level):
        came, nets, obs = call(4000, exploration_noise=level)
        noise = came["actions"] - nets.actor(torch.as_tensor(obs).float()).detach().numpy()
        correlation = np.corrcoef(noise.T)[0, 1] if noise.std(0).all() else 0.0
        return {"standard deviation / (exploration_noise · scale)": noise.std(0) / SCALE / level,
                "correlation": correlation, "smallest": came["actions"].min(0), "largest": came["actions"].max(0)}

    given = f"exploration_noise = 0.02, 4000 environments; {bounds}, so scale = {show(SCALE)}"
    expected = {"standard deviation / (exploration_noise · scale)": np.ones(2), "correlation": 0.0}
    hint = "Has each environment and each dimension noise of its own, relative to its range?"
    compare(given, lambda: noise(0.02), expected, hint, rtol=0, atol=0.1)
    given = f"exploration_noise = 10; {bounds}"
    hint = "Which actions does an environment accept?"
    compare(given, lambda: noise(10.0), {"smallest": LOW, "largest": HIGH}, hint)


CHECKS = {
    "QNetwork.forward": check_network,
    "Critic.forward": check_network,
    "Actor.forward": check_network,
    "Actor.distribution": check_distribution,
    "critic_loss": check_critic_loss,
    "actor_loss": check_actor_loss,
    "polyak_update": check_polyak_update,
    "estimate_advantages": check_estimate_advantages,
    "act": check_act,
}
PPO_CHECKS = CHECKS | {"critic_loss": check_value_loss, "actor_loss": check_surrogate}
