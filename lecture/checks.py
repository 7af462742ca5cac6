"""What is expected of the functions of an exercise, and which mistakes look like what.

`cases` asks the real script, so that its answers are those of the script as it is now; two of them
are the numbers that the homework prints. grade.py compares them with what the measures of
measure.py find in a student's function. This file has the answers: a bundle has none of it.
"""

import numpy as np
import torch
from measure import (
    DENSITY_AT,
    HIGH,
    LOW,
    MEASURES,
    ROLLOUT,
    act,
    critics,
    inputs,
    networks,
    plain,
    ppo_setup,
    q_values,
    setup,
    show,
)

SCALE, BIAS = (HIGH - LOW) / 2, (HIGH + LOW) / 2
BOUNDS = {"bounds of the actions": f"{LOW.tolist()} to {HIGH.tolist()}"}


def cases(script, name: str) -> list[dict]:
    """Return what is expected of a function: arguments of measure.compare, as JSON has them."""
    check = (PPO_CHECKS if script.__name__ == "ppo" else CHECKS)[name]
    return list(check(script, name))


def case(
    script, measure, given, hints, mistakes=(), expected=None, free=(), tolerances=(), **settings
):
    """Return a case for `compare`: what the script's own function has, if nothing is expected.

    `hints` is a hint for each name that is measured, or one for all.
    """

    def listed(value):
        value = plain(value)
        if isinstance(value, str):
            return value
        return np.reshape([float(f"{x:.8g}") for x in value.flat], value.shape).tolist()

    expected = expected or MEASURES[measure](script, **settings)
    return {
        "measure": measure,
        "settings": settings,
        "expected": {name: listed(value) for name, value in expected.items()},
        "given": show(given),
        "hints": dict.fromkeys(expected, hints) if isinstance(hints, str) else hints,
        "mistakes": [[hint, listed(value)] for hint, value in mistakes],
        "free": list(free),
        "tolerances": dict(tolerances),
    }


def to_bounds(a):
    return a * torch.tensor(SCALE) + torch.tensor(BIAS)


def to_unit(a):
    return (a.detach() - torch.tensor(BIAS)) / torch.tensor(SCALE)


def draw(nets, obs):
    """Return what a stochastic actor draws, as the environment gets it, and log π of it."""
    policy = nets.actor.distribution(obs)
    actions = policy.sample()
    return to_bounds(actions), policy.log_prob(actions)


# ---- Networks ----
def check_forward(script, name):
    """QNetwork, Critic or Actor, for several samples, for one and, of an actor, in float64."""
    net = {"QNetwork": "qf1", "Critic": "critic", "Actor": "actor"}[name.split(".")[0]]
    more = {"qf1": [], "critic": ["s of a rollout"], "actor": ["s, float64"]}[net]
    # what only evaluations ask needs no gradient
    only_played = net == "actor" and hasattr(networks(script).actor, "distribution")
    free = ["has a gradient"] if only_played else []
    for kind in "s", "one s", *more:
        x = inputs(net, kind)
        given = {kind: x[0]} | ({"a": x[1]} if net == "qf1" else {})
        value = plain(getattr(networks(script), net)(*x))
        hint = "Which layers are there, in which order, and what stands between them?"
        if kind == "s of a rollout":
            hint = "`make_batch` gives states as (2, num_steps, num_envs, obs_dim)."
        mistakes = [("One number for each sample: shape (batch,).", value[..., None])]
        mistakes += [("One number for each sample, for a batch of 1, too.", value.squeeze())]
        if net == "qf1":
            raw = networks(script).qf1(x[0], to_bounds(x[1]))
            mistakes += [("Q sees actions in units of half their range: (a - bias) / scale.", raw)]
            mistakes += [("One number for each sample: shape (batch,).", raw.unsqueeze(-1))]
        if net == "actor":
            unit = (value - BIAS) / SCALE
            bounded = "Not every action has the bounds -1 and 1: what do scale and bias do?"
            mistakes = [(bounded, v) for v in (unit, unit * SCALE, unit + BIAS, unit * HIGH)]
            unbounded = np.arctanh(unit.clip(-0.99, 0.99)) * SCALE + BIAS
            mistakes += [("Which function keeps an action within its bounds?", unbounded)]
        mistakes += [("`-=`, `/=` and what ends in _ change what the caller holds.", "changed")]
        given |= BOUNDS if net != "critic" else {}
        yield case(script, "forward", given, hint, mistakes, free=free, net=net, kind=kind)


def check_distribution(script, name):
    """Density and samples of the policy; float64; extreme means and spreads."""
    (s,), a, squashed = inputs("actor", "s"), DENSITY_AT, hasattr(script, "TanhTransform")
    policy = networks(script).actor.distribution(s)
    rows = "The losses sum log π over dimensions: here, return one for each dimension."
    mistakes = [(rows, policy.log_prob(a).sum(-1))]
    if squashed:
        each = script.TransformedDistribution(policy.base_dist.base_dist, policy.transforms)
        rows = "One number for each sample: what is the density of independent dimensions?"
        units = "π is in units of half the range, within ±1: scaling comes after it."
        density = policy.log_prob(to_unit(a)).detach() - np.log(SCALE).sum()
        mistakes = [(rows, each.log_prob(a)), (units, density)]
    given = {"s": s, "a": a}
    hint = "Which Gaussian is it: with which mean, and which σ?"
    if squashed:
        hint = "How is u distributed, and how does u become a?"
    yield case(script, "distribution", given, hint, mistakes)
    if not squashed:
        extreme = given | {"mean": "about 3"}
        hint = "Is the mean bounded? `act` clips what the environment gets."
        yield case(script, "distribution", extreme, hint, **{"mu.4": 3.0})
    if squashed:
        double = {"s, float64": s, "a": a}
        yield case(script, "distribution", double, hint, kind="s, float64")
        hint = "tanh(30) is 1 in floats and atanh(1) infinite: can a transform remember its input?"
        extreme = given | {"mean of u": "about 30"}
        yield case(script, "distribution", extreme, hint, fc_mu=30.0)
    for bias in (100.0, -100.0) if hasattr(networks(script).actor, "fc_log_std") else ():
        extreme = given | {"output of fc_log_std": f"about {bias:g}"}
        hint = "σ can become neither 0 nor infinite: log σ stays between -20 and 2."
        loose = {"rtol": 0.01}
        yield case(script, "distribution", extreme, hint, tolerances=loose, fc_log_std=bias)


def check_sample(script, name):
    """The action drawn, within its bounds and with a gradient; where it is asked for, its log π."""
    nets, data, _ = setup(script)
    pair = isinstance(nets.actor.sample(data.observations), tuple)
    a, _ = draw(nets, data.observations)
    unit, within = plain(to_unit(a)), "π draws within ±1: what do scale and bias do?"
    units = "log π is the density of tanh(u), within ±1: at which a was it taken?"
    mistakes = [(within, unit), (within, unit * SCALE), (within, unit + BIAS)]
    mistakes += [("Is that drawn at random?", nets.actor(data.observations))]
    mistakes += [(units, np.full(4, np.nan)), ("rsample or sample: which has a gradient?", False)]
    given = {"s": data.observations} | BOUNDS
    hint = "One draw of π, its log π, then its bounds."
    yield case(script, "sample", given, hint, mistakes, pair=pair)


# ---- Losses of the off-policy scripts ----
def check_critic_loss(script, name):
    sac = "autotune" in vars(script.Args)
    for settings in [{}, {"autotune": False, "alpha": 0.3}] if sac else [{}]:
        nets, data, args = setup(script, **settings)
        obs, actions, next_obs, *_ = data
        r, d = data.rewards[:, 0].numpy(), data.dones[:, 0].numpy()
        random = hasattr(nets.actor, "distribution")

        def choose(obs, nets=nets, random=random):
            return draw(nets, obs) if random else (nets.target_actor(obs), torch.zeros(()))

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
            (shapes, y(v.mean())),
            ("Which action does Q(s, a) value?", here[0] - (other_q - y(v))),
            ("The gradient reaches a critic through its Q(s, a).", "none"),
            ("Is the loss the mean over the batch?", here[0] - 4 * error),
            ("Is the loss the squared error itself, without a factor?", here[0] - error / 2),
        ]
        hints = dict.fromkeys(
            [f"y of {net}" for net in critics(nets)], "Compare y with its equation, term by term."
        )
        hints["loss"] = "y is right. Is the loss the sum of the critics' mean squared errors?"
        hints["networks with a gradient"] = "y is a constant: which lines must not be traced?"
        yield case(script, "critic_loss", given, hints, mistakes, **settings)
    if hasattr(script.Args, "estimator"):
        expected = {"y": np.array([-0.9167948, -0.11123351, -0.36787638, -2.1131861, -0.13868617])}
        r = MEASURES["homework_targets"](script)["r"]
        given = {"the homework's batch, r": r, "d": np.eye(5)[0], "γ": 0.99}
        hint = "Compare y with its equation, term by term."
        yield case(script, "homework_targets", given, hint, expected=expected)
    if getattr(script.Args, "policy_noise", 0) > 0:
        noise = {"policy_noise": 1e6, "noise_clip": 0.1}
        hint = "The noise is clipped, then scaled to the range of the actions, then added."
        yield case(script, "noise_clipped", noise | {"scale": SCALE}, hint, **noise)
        noise = {"policy_noise": 0.05, "noise_clip": 10.0}
        given = noise | {"scale": SCALE, "steps in the batch": 2000}
        yield case(script, "noise_spread", given, SPREAD, tolerances={"atol": 0.1}, **noise)
        noise["policy_noise"] = 1e6
        hint = "Where may a' lie, whatever the noise?"
        yield case(script, "noise_extremes", noise | BOUNDS, hint, **noise)


EACH = "Has each sample and each dimension noise of its own, of the right size?"
SPREAD = {
    "mean / (noise · scale)": "Is the noise as often below 0 as above?",
    "standard deviation / (noise · scale)": EACH,
    "correlation": EACH,
}
PATHWISE = "The gradient goes from Q through the action into the policy's weights: is it cut off?"
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


def check_actor_loss(script, name):
    for settings, hint in ACTOR_CASES.get(script.__name__, [({}, PATHWISE)]):
        nets, data, args = setup(script, **settings)
        obs = data.observations
        random = hasattr(nets.actor, "distribution")
        a, log_prob = draw(nets, obs) if random else (nets.actor(obs), None)
        q, slow = q_values(nets, "", obs, a), q_values(nets, "_target", obs, a)
        given = {"autotune": args.autotune} if hasattr(args, "autotune") else {}
        given |= settings | {"a, a sample of π(·|s)" if random else "a = μ(s)": a}
        given |= {f"{net}(s, a)": q[i] for i, net in enumerate(critics(nets))}
        given |= {"log π(a|s)": log_prob} if random else {}
        own = MEASURES["actor_loss"](script, **settings)
        loss, hints = plain(own["loss"]), dict.fromkeys(own, hint)
        if given.get("autotune"):
            hints["loss"] = "Is E[-α (log π + H₀)], H₀ = -dim(A), added in the code?"
        values = [q[0], q[-1], q.max(0), q.min(0)]
        now = q.min(0) if script.__name__ == "sac" else q[0]
        given_actions = q_values(nets, "", obs, data.actions)[0]
        unit_q = q_values(nets, "", obs, to_unit(a))
        unit_now = unit_q.min(0) if script.__name__ == "sac" else unit_q[0]
        two = "There are two critics: which values does the equation take?"
        mistakes = [
            ("An optimizer makes a loss smaller: which way should Q go?", -loss),
            ("Is the loss the mean over the batch?", 4 * loss),
            ("The actor follows the critic that learns: which one is that?", -slow[0].mean()),
            ("Whose actions are judged, the batch's or the actor's?", -given_actions.mean()),
            ("log π is the density of tanh(u), within ±1: at which a was it taken?", np.nan),
            (
                "π draws within ±1: which actions does a critic know?",
                loss + (now - unit_now).mean(),
            ),
            *[(two, loss + (now - value).mean()) for value in values if abs(now - value).max() > 0],
        ]
        # of a deterministic actor's loss the gradient counts: Eq. 7 of the handout has the same
        free = [] if random else ["loss"]
        yield case(script, "actor_loss", given, hints, mistakes, free=free, **settings)
    if hasattr(script.Args, "estimator"):
        given = {"Q(s, a) of the homework": "the sum of a + 1 and of s over the whole batch"}
        expected = {"first loss": -17.083496, "loss after 5 steps": -30.103575}
        hint = "Does the loss draw one sample of the policy, and only once?"
        exact = {"rtol": 1e-5}
        yield case(script, "homework_losses", given, hint, expected=expected, tolerances=exact)
        given = {"estimator": "score", "Q(s, a)": "the sum of a", "samples": 20_000}
        hint = "Is log π that of the action which Q has valued?"
        yield case(script, "score_mean", given, hint, tolerances={"rtol": 0.2, "atol": 0.1})


def check_polyak_update(script, name):
    """The homework's τ = 0.5, then what it cannot tell apart."""
    for tau in 0.5, 0.1:
        given = {
            "τ": tau,
            "network": "weights [1, 4], bias 1",
            "target": "weights [10, 10], bias 6",
        }
        part = "Every target parameter moves a fraction τ of the way."
        hints = {
            "weights of the network": "Which of the two networks follows the other?",
            "weights of the target": part,
            "bias of the target": part,
            "the target is part of a graph": "Each update would hold on to all before it.",
        }
        unmoved = "Nothing moved: a new tensor in a variable does not change a network."
        mistakes = [(unmoved, np.array([[10.0, 10.0]]))]
        mistakes += [("τ = 0.5 did not show it: which part is τ?", np.array([[1.9, 4.6]]))]
        yield case(script, "polyak_update", given, hints, mistakes, tau=tau)


# ---- PPO ----
def check_estimate_advantages(script, name):
    """GAE in two environments, with a termination and time limits; λ = 0 first."""
    r, v, after, ends, dones = ROLLOUT.values()
    for lam in 0.0, 0.5:
        given = {"γ": 0.9, "λ": lam}
        for i in 0, 1:
            given |= {f"environment {i}: r": r[:, i]}
            given |= {f"{i}: {name}": 1 * ROLLOUT[name][:, i] for name in list(ROLLOUT)[1:]}
        hint = "At λ = 0, A is the TD error: the reward, the value after and that before the step."
        if lam > 0:
            hint = "A sums TD errors from its step on, each with one more factor γλ. Until when?"
        limit = "A time limit is no termination: what would have followed has a value."
        mistakes = [
            (limit, (r + 0.9 * (1 - dones) * after - v)[:, 0]),
            ("What is still to come after a termination?", (r + 0.9 * after - v)[:, 0]),
            ("What is a value worth one step later?", (r + (1 - ends) * after - v)[:, 0]),
            ("`make_batch` still needs V: `-=` and `[:]` change what it holds.", "changed"),
            (
                "Which rewards: the rollout's, or those that were scaled for V?",
                (10 * r + 0.9 * (1 - ends) * after - v)[:, 0],
            ),
        ]
        yield case(script, "estimate_advantages", given, hint, mistakes, gae_lambda=lam)


def check_value_loss(script, name):
    """PPO's critic_loss."""
    nets, data, _ = ppo_setup(script)
    v, R = plain(nets.critic(data.observations)), plain(data.returns)
    mistakes = [
        ("What factor has the loss in it?", ((v - R) ** 2).mean()),
        ("(4, 1) and (4,) make (4, 4).", 0.5 * ((v - R[:, None]) ** 2).mean()),
    ]
    hint = "The error is that of V(s) against R."
    yield case(script, "value_loss", {"V(s)": v, "R": R}, hint, mistakes)


def check_surrogate(script, name):
    """PPO's actor_loss: ratio, clip, normalised advantages and entropy, one after the other."""
    within, outside = (0.05, -0.05, 0.1, -0.1), (0.5, 0.5, -0.5, -0.5)
    for settings, hint in [
        ({}, "The objective is the mean of ρA: is ρ a ratio for all dimensions of the action?"),
        (
            {"log_ratios": outside, "clip_coef": 0.1},
            "Where ρ has left [1 - ε, 1 + ε], which product counts?",
        ),
        ({"norm_adv": True, "repeat": 64}, "The advantages of a batch get mean 0 and deviation 1."),
        ({"ent_coef": 0.1}, "A policy of higher entropy has a lower loss."),
    ]:
        settings = {"log_ratios": within} | settings
        nets, data, args = ppo_setup(script, **settings)
        policy = nets.actor.distribution(data.observations)
        log_prob = policy.log_prob(data.actions).sum(-1)
        ratio, log_prob = plain((log_prob - data.log_probs).exp()), plain(log_prob)
        a = plain(data.advantages)
        clipped = ratio.clip(1 - args.clip_coef, 1 + args.clip_coef) * a
        surrogate = np.minimum(ratio * a, clipped)
        given = {"norm_adv": args.norm_adv, "ent_coef": args.ent_coef, "ε": args.clip_coef}
        given |= {"ρ": ratio[:4], "A": a[:4]} | ({"…": "64 times"} if args.norm_adv else {})
        given |= {"entropy": policy.entropy().sum(-1).mean()} if args.ent_coef else {}
        mistakes = [
            ("An optimizer makes a loss smaller: which way is better?", (ratio * a).mean()),
            ("Which of two probabilities is divided by which?", -(a / ratio).mean()),
            ("Which product is the cautious one?", -np.maximum(ratio * a, clipped).mean()),
            ("When is ρA itself too good to be used?", -(ratio * a).mean()),
            ("When is the clipped product too good to be used?", -clipped.mean()),
            ("Eq. 1 is misprinted: what is its gradient at ρ = 1?", -(surrogate * log_prob).mean()),
            ("Where is the ratio to the old policy?", -(a * log_prob).mean()),
        ]
        mistakes *= not args.norm_adv and not args.ent_coef
        if args.ent_coef:
            mean = -surrogate.mean() - args.ent_coef * plain(policy.entropy().mean())
            mistakes = [("An action's entropy is the sum over its dimensions.", mean)]
        loose = {"rtol": 0.02} if args.norm_adv else {}  # its deviation: by n or by n - 1
        yield case(script, "surrogate", given, hint, mistakes, tolerances=loose, **settings)


# ---- Action selection ----
def check_act(script, name):
    """Random steps, the policy, its noise and the bounds, whatever of them there is."""
    starts = getattr(script.Args, "learning_starts", 0)
    if starts:
        given = {"global_step": starts - 1, "learning_starts": starts, "environments": 2000}
        expected = {"mean": BIAS, "standard deviation": SCALE / 3**0.5}
        hint = "What acts before learning starts, and up to which step?"
        how = {"tolerances": {"rtol": 0.1, "atol": 0.25}, "step": starts - 1}
        yield case(script, "act_at_random", given | BOUNDS, hint, expected=expected, **how)
    noisy = hasattr(script.Args, "exploration_noise")
    quiet = {"exploration_noise": 1e-6} if noisy else {}
    _, nets, obs = act(script, 4, starts, **quiet)
    given = {"obs": obs} | BOUNDS | ({"exploration_noise": "1e-6"} if noisy else {})
    given |= {"global_step": starts, "learning_starts": starts} if starts else {}
    hint = "Which network acts, on which input, and within which bounds?"
    mistakes = [("The policy explores by itself: is this a sample?", nets.actor(obs))]
    if noisy:
        mistakes = [("Two actors could act: which is the newer one?", nets.target_actor(obs))]
        hint = "Which network acts, from which step on? The noise is too small to matter."
    yield case(script, "act_quietly", given, hint, mistakes, step=starts, **quiet)
    if noisy:
        noise = {"exploration_noise": 0.02}
        given = noise | {"scale": SCALE, "environments": 2000}
        loose = {"atol": 0.1}
        yield case(script, "act_spread", given, SPREAD, tolerances=loose, step=starts, **noise)
        noise = {"exploration_noise": 10.0}
        hint = "Which actions does an environment accept?"
        yield case(script, "act_extremes", noise | BOUNDS, hint, step=starts, **noise)


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
