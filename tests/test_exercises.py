"""Exercises: blank where they should be, graded where the mistake is, trained when finished."""

import ast
import itertools
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / "lecture"))
import checks
import exercise
import grade

torch.set_num_threads(1)  # as the grader's processes

TASKS = [(algorithm, name) for algorithm, names in exercise.EXERCISES.items() for name in names]
NAMES = list(exercise.EXERCISES)


def source(algorithm):
    return exercise.script_path(algorithm).read_text()


def changed(algorithm, *replacements):
    """Return the script with some text above its Run section replaced."""
    own, ruler, rest = source(algorithm).partition("# ---- Run ----")
    for old, new in replacements:
        assert own.count(old) == 1, f"it does not fit: {old}"
        own = own.replace(old, new)
    return own + ruler + rest


def wrong(algorithm, text, names=()):
    """Return which functions, of all or of those named, are found wrong, with the reports."""
    tree, names = ast.parse(text), names or exercise.EXERCISES[algorithm]
    found = {name: grade.check(tree, algorithm, name) for name in names}
    return {name: report for name, report in found.items() if report}


def filled_in(algorithm):
    """Return the exercise with the script's own lines in its blanks."""
    text, real = exercise.blank(source(algorithm), exercise.EXERCISES[algorithm]), source(algorithm)
    for name in exercise.EXERCISES[algorithm]:
        body, start, stop = exercise.find(ast.parse(real), name)
        lines = real.splitlines()[body[start].lineno - 1 : body[stop - 1].end_lineno]
        (gap,) = [line for line in text.splitlines() if f'NotImplementedError("{name}")' in line]
        text = text.replace(gap, "\n".join(lines))
    return text


# ---- The exercise ----
@pytest.mark.parametrize("algorithm", NAMES)
def test_blank_exercise_has_all_but_the_bodies(algorithm):
    text = exercise.blank(source(algorithm), exercise.EXERCISES[algorithm])
    assert text.count("NotImplementedError(") == len(exercise.EXERCISES[algorithm])
    assert grade.changed_besides(ast.parse(text), algorithm) == []
    equations = [line.strip() for line in source(algorithm).splitlines() if "# y = " in line]
    assert all(line in text for line in equations)
    assert ast.dump(ast.parse(filled_in(algorithm))) == ast.dump(ast.parse(source(algorithm)))


@pytest.mark.parametrize("algorithm", NAMES)
def test_blank_exercise_fails_everywhere(algorithm):
    reports = wrong(algorithm, exercise.blank(source(algorithm), exercise.EXERCISES[algorithm]))
    lines = [grade.report(name, report).split() for name, report in reports.items()]
    assert lines == [[name, "blank"] for name in exercise.EXERCISES[algorithm]]


def test_blank_shows_equation_settings_and_what_is_logged():
    text = exercise.blank(source("td3"), exercise.EXERCISES["td3"])
    tree = ast.parse(text)
    function = exercise.definition(tree, "critic_loss")
    assert ast.get_docstring(function) == ast.get_docstring(
        exercise.definition(ast.parse(source("td3")), "critic_loss")
    )
    part = text[text.index("def critic_loss") : text.index("def actor_loss")]
    assert "target policy smoothing" in part
    assert "min(Q_1'(s', a'), Q_2'(s', a'))" in part
    assert "args.gamma, args.noise_clip, args.policy_noise" in part
    assert "data.rewards (batch, 1)" in part
    assert "qf1_loss" in part
    assert "torch." not in part


@pytest.mark.parametrize("algorithm", NAMES)
def test_no_comment_has_the_answer(algorithm):
    """No call, sum or comparison of a function is left in its blank."""
    real, names = ast.parse(source(algorithm)), exercise.EXERCISES[algorithm]
    text = exercise.blank(source(algorithm), names)
    comments = re.sub(r"\s", "", "".join(re.findall("#.*", text.split("# ---- Run")[0])))
    for name in names:
        body, start, stop = exercise.find(real, name)
        for node in itertools.chain(*map(ast.walk, body[start:stop])):
            if isinstance(node, ast.Call | ast.BinOp | ast.Compare | ast.Assign):
                assert re.sub(r"\s", "", ast.unparse(node)) not in comments, name


def test_comment_behind_code_goes():
    text = exercise.blank("def f(x):\n    # [A 2015]\n    return x + 1  # x plus 1\n", ["f"])
    assert text == 'def f(x):\n    # [A 2015]\n    raise NotImplementedError("f")\n'


def test_shapes_are_those_of_a_batch():
    sizes = {4: "batch", 3: "obs_dim", 2: "act_dim", 1: "1"}
    seen = {}
    for setup, name in (checks.setup, "ddpg"), (checks.ppo_setup, "ppo"):
        data = setup(grade.real_script(name))[1]._asdict()
        for field, value in data.items() if name == "ppo" else list(data.items())[:5]:
            shape = [sizes[size] for size in value.shape]
            seen[f"data.{field}"] = f"({', '.join(shape)})".replace("(batch)", "(batch,)")
    batch = {name: text for name, text in exercise.SHAPES.items() if name.startswith("data.")}
    assert seen == batch


# ---- The grader ----
@pytest.mark.parametrize("algorithm", NAMES)
def test_original_passes(algorithm):
    assert wrong(algorithm, source(algorithm)) == {}


# script and function: what is wrong, what is replaced by what, and words of the hint
Y = "    with torch.no_grad():\n        "
TO_BOUNDS = " * nets.actor.action_scale + nets.actor.action_bias"
MISTAKES = {
    "ddpg QNetwork.forward": [
        ("Q of shape (batch, 1)", "fc3(x).squeeze(-1)", "fc3(x)", "shape"),
        ("action as it is", "(a - self.action_bias) / self.action_scale", "a", "units"),
    ],
    "ddpg Actor.forward": [
        ("no tanh", "torch.tanh(self.fc_mu(x))", "self.fc_mu(x)", "keeps"),
    ],
    "ddpg critic_loss": [
        ("no detach", f"{Y}next_st", "    if True:\n        next_st", "constant"),
        ("no terminal mask", "1 - data.dones.flatten()", "1", "ended"),
        ("online critic", "nets.qf1_target(", "nets.qf1(", "slow copies"),
        (
            "both targets forgotten",
            "nets.target_actor(data.next_observations)",
            "nets.actor(data.next_observations); nets.qf1_target = nets.qf1",
            "uses neither",
        ),
        (
            "online critic, no detach",
            f"{Y}next_st",
            "    nets.qf1_target = nets.qf1\n    if True:\n        next_st",
            "held constant",
        ),
        (
            "observations for next ones",
            "nets.qf1_target(data.next_observations",
            "nets.qf1_target(data.observations",
            "after the step",
        ),
        (
            "action of the state before",
            "nets.target_actor(data.next_observations)",
            "nets.target_actor(data.observations)",
            "after the step",
        ),
        ("(N, 1) rewards", "data.rewards.flatten()", "data.rewards", "(4, 4)"),
        (
            "sum for mean",
            "a_values, next_q_value)",
            "a_values, next_q_value, reduction='sum')",
            "mean",
        ),
        ("no pair", "return qf1_loss, {", "return {", "docstring"),
    ],
    "ddpg actor_loss": [
        ("actor descends Q", "-nets.qf1(", "nets.qf1(", "smaller"),
        ("actor ignores its state", "nets.actor(data.observations))", "data.actions)", "Whose"),
        ("slow critic", "-nets.qf1(", "-nets.qf1_target(", "learns"),
    ],
    "ddpg polyak_update": [
        ("swapped Polyak", "lerp_(param, tau)", "lerp_(param, 1 - tau)", "part is τ"),
    ],
    "ddpg act": [
        ("one random step more", "step < args.learn", "step <= args.learn", "from which step"),
        ("noise not scaled", "noise * nets.actor.action_scale", "noise", "right size"),
        ("one noise for all", "torch.randn_like(actions)", "torch.randn_like(actions[0])", "own"),
    ],
    "td3 QNetwork.forward": [
        ("Q of one sample", ".squeeze(-1)", ".squeeze()", "batch of 1"),
    ],
    "td3 Actor.forward": [
        ("no scale", " * self.action_scale + ", " + ", "bounds"),
        ("no cast", "x.float()", "x", ""),
    ],
    "td3 critic_loss": [
        ("mask the wrong way", "1 - data.dones.flatten()", "data.dones.flatten()", "d remove"),
        ("online second critic", "nets.qf2_target(", "nets.qf2(", "slow copies"),
        ("online actor", "nets.target_actor(data", "nets.actor(data", "a'"),
        ("critic detached", "mse_loss(qf1_a_values,", "mse_loss(qf1_a_values.detach(),", "through"),
        ("noise not clipped", "noise.clamp(-args.noise_clip, args.noise_clip)", "noise", "clipped"),
        ("one noise a batch", "randn_like(data.actions)", "randn_like(data.actions[:1])", "own"),
        ("one noise a sample", "randn_like(data.actions)", "randn_like(data.rewards)", "own"),
        ("next action out of bounds", ".clamp(bias - scale, bias + scale)", "", "lie"),
        ("maximum", "torch.min(qf1_next", "torch.max(qf1_next", "two critics"),
        ("second critic not trained", "return qf1_loss + qf2_loss,", "return qf1_loss,", "through"),
        (
            "all targets forgotten",
            "nets.target_actor(data.next_observations)",
            "nets.actor(data.next_observations)\n"
            "        nets.qf1_target, nets.qf2_target = nets.qf1, nets.qf2",
            "uses neither",
        ),
        (
            "online critics, no detach",
            f"{Y}next_st",
            "    nets.qf1_target, nets.qf2_target = nets.qf1, nets.qf2\n"
            "    if True:\n        next_st",
            "held constant",
        ),
    ],
    "td3 actor_loss": [
        (
            "action detached",
            "nets.actor(data.observations)",
            "nets.actor(data.observations).detach()",
            "way free",
        ),
    ],
    "td3 polyak_update": [
        ("Polyak the wrong way", "target_param.lerp_(param", "param.lerp_(target_param", "follows"),
    ],
    "td3 act": [
        ("target acts", "actions = nets.actor(", "actions = nets.target_actor(", "newer"),
        ("actions not clipped", ".clip(run.act_low, run.act_high)", "", "accept"),
    ],
    "ac_reparam QNetwork.forward": [
        ("action before state", "cat([x, ", "cat([x.flip(1), ", "layers"),
    ],
    "ac_reparam Actor.sample": [
        ("sample for rsample", "(x).rsample()", "(x).sample()", "rsample"),
        ("draw within ±1", "rsample() * self.action_scale + self.action_bias", "rsample()", "±1"),
    ],
    "ac_reparam critic_loss": [
        ("median of the policy", "actor.sample(data.next", "actor(data.next", "a'"),
        (
            "π within ±1",
            "nets.actor.sample(data.next_observations)",
            "nets.actor.distribution(data.next_observations).sample()",
            "±1",
        ),
        ("no discount", "not_done * args.gamma", "not_done", "later"),
        ("(N, 1) values", "values, next_q_value)", "values, next_q_value[:, None])", "(4, 4)"),
    ],
    "ac_reparam actor_loss": [
        ("score through the sample", 'args.estimator == "pathwise"', "True", "log π"),
        ("Q not detached", "objective.detach()", "objective", "constant"),
        ("sampled twice", "objective = nets", "policy.sample(); objective = nets", "once"),
        ("π within ±1", f"actions{TO_BOUNDS}", "actions", "±1"),
        ("no entropy", "args.entropy_coef > 0", "False", "Q - α log π"),
        (
            "density of the scaled action",
            "entropy_coef * policy.log_prob(actions)",
            "entropy_coef * policy.log_prob(bounded)",
            "density of tanh(u)",
        ),
    ],
    "ac_reparam Actor.distribution": [
        ("no cache", "TanhTransform(cache_size=1)", "TanhTransform()", "remember"),
    ],
    "ac_reparam polyak_update": [
        (
            "Polyak into a variable",
            "target_param.lerp_(",
            "target_param = target_param.lerp(",
            "Nothing moved",
        ),
    ],
    "ac_reparam act": [
        ("median acts", "actor.sample(torch", "actor(torch", "sample"),
    ],
    "sac QNetwork.forward": [
        (
            "no activation",
            "F.relu(self.fc2(x))\n        return",
            "self.fc2(x)\n        return",
            "layers",
        ),
    ],
    "sac Actor.forward": [
        (
            "no bias",
            "return x * self.action_scale + self.action_bias",
            "return x * self.action_scale",
            "bounds",
        ),
    ],
    "sac Actor.sample": [
        ("no density", ", policy.log_prob(actions)", "", "docstring"),
        ("median", "actions = policy.rsample()", "actions = policy.base_dist.mean.tanh()", "drawn"),
        (
            "density of the scaled action",
            "policy.rsample()\n",
            "policy.rsample() * self.action_scale + self.action_bias\n        "
            "return actions, policy.log_prob(actions)\n",
            "density of tanh(u)",
        ),
    ],
    "sac critic_loss": [
        (
            "minimum over the batch",
            "torch.min(qf1_next_target, qf2_next_target)",
            "torch.cat([qf1_next_target, qf2_next_target]).min()",
            "y",
        ),
        ("no entropy", "min_qf_next_target - alpha", "min_qf_next_target - 0 * alpha", "entropy"),
        ("entropy shunned", "min_qf_next_target - alpha", "min_qf_next_target + alpha", "sign"),
        (
            "fixed α ignored",
            "nets.log_alpha.exp() if args.autotune else args.alpha\n        # y",
            "nets.log_alpha.exp()\n        # y",
            "term by term",
        ),
        ("observations for next ones", "sample(data.next_obs", "sample(data.obs", "after the step"),
    ],
    "sac actor_loss": [
        (
            "action without a gradient",
            "nets.qf1(data.observations, actions)",
            "nets.qf1(data.observations, actions.detach())",
            "terms",
        ),
        (
            "one critic in the objective",
            "torch.min(qf1_a_values, qf2_a_values)",
            "qf1_a_values",
            "two critics",
        ),
        ("gradients mixed", "nets.log_alpha.exp().detach() if", "nets.log_alpha.exp() if", "alone"),
        (
            "fixed α ignored",
            "nets.log_alpha.exp().detach() if args.autotune else args.alpha",
            "nets.log_alpha.exp().detach()",
            "terms",
        ),
    ],
    "sac Actor.distribution": [
        ("density of u, not of a", "[TanhTransform(cache_size=1)]", "[]", "become"),
        (
            "a density a dimension",
            "Independent(Normal(self.fc_mu(x), log_std.exp(), validate_args=False), 1)",
            "Normal(self.fc_mu(x), log_std.exp())",
            "independent dimensions",
        ),
        ("spread without bounds", ".clamp(-20, 2)", "", "log σ"),
    ],
    "sac polyak_update": [
        ("Polyak in the graph", "@torch.no_grad()\ndef polyak", "def polyak", "hold on"),
    ],
    "sac act": [
        ("no random steps", "run.global_step < args.learning_starts", "False", "before learning"),
    ],
    "ppo Critic.forward": [
        ("V of shape (batch, 1)", ".squeeze(-1)", "", "shape"),
    ],
    "ppo Actor.forward": [
        ("observations as they are", "self.obs_normalizer(obs)", "obs.float()", "layers"),
    ],
    "ppo Actor.distribution": [
        ("log σ for σ", "self.log_std.exp()", "self.log_std", "distribution"),
        (
            "a density a sample",
            "return Normal(self.mu(normalized), self.log_std.exp(), validate_args=False)",
            "return torch.distributions.Independent("
            "Normal(self.mu(normalized), self.log_std.exp()), 1)",
            "add log π",
        ),
    ],
    "ppo estimate_advantages": [
        (
            "time limit ends the return",
            "(1 - rollout.terminations)",
            "(1 - rollout.dones)",
            "time limit",
        ),
        ("termination ignored", "(1 - rollout.terminations)", "1", "termination"),
        ("λ runs on", "- rollout.dones)", "- rollout.terminations)", "Until when"),
    ],
    "ppo critic_loss": [
        ("no ½", "0.5 * ((values", "1.0 * ((values", "factor"),
        ("(N, 1) values", "((values - data", "((values[:, None] - data", "(4, 4)"),
    ],
    "ppo actor_loss": [
        ("ratio upside down", "log_ratio.exp()", "(-log_ratio).exp()", "divided"),
        ("larger product", "torch.min(ratio", "torch.max(ratio", "cautious"),
        (
            "density of one dimension",
            "(data.actions).sum(-1)",
            "(data.actions)[:, 0]",
            "dimensions",
        ),
        ("advantages as they are", "if args.norm_adv:", "if False:", "mean 0"),
        ("no entropy", "policy_loss - args.ent_coef * entropy", "policy_loss", "higher entropy"),
        ("entropy shunned", "policy_loss - args.ent", "policy_loss + args.ent", "higher entropy"),
    ],
    "ppo act": [
        (
            "clipped action is stored",
            "bounded = actions *",
            "actions = actions.clamp(-1, 1); bounded = actions *",
            "network",
        ),
    ],
}


def mistakes():
    return [
        pytest.param(*place.split(), *mistake, id=f"{place}: {name}")
        for place, group in MISTAKES.items()
        for name, *mistake in group
    ]


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(("algorithm", "function", "old", "new", "word"), mistakes())
def test_mistake_is_found_and_the_hint_fits(algorithm, function, old, new, word):
    found = wrong(algorithm, changed(algorithm, (old, new)), [function])
    came, hint, given, expected = found[function].args
    assert word in hint if word else hint == ""  # what Python says is enough
    assert came != expected != ""
    assert algorithm != "sac" or "loss" not in function or "autotune = " in given
    if old == "torch.randn_like(actions)":  # one noise for all: nothing to divide by
        assert not re.search(r"e\+|inf|nan", came)
    assert given


@pytest.mark.parametrize("algorithm", NAMES)
def test_mistake_is_found_where_it_is(algorithm):
    """Half of the functions have one, and no other is found wrong."""
    places = [place.split()[1] for place in MISTAKES if place.startswith(f"{algorithm} ")][::2]
    text = changed(algorithm, *[MISTAKES[f"{algorithm} {name}"][0][1:3] for name in places])
    assert set(wrong(algorithm, text)) == set(places)


def test_every_function_has_a_mistake():
    assert {place.split()[1] for place in MISTAKES} == {name for _, name in TASKS}


# script and function: right, in other words
OTHER_WORDS = {
    "ddpg critic_loss": [
        """
        s = data.next_observations
        q = nets.qf1_target(s, nets.target_actor(s))
        y = (data.rewards.view(-1) + (1 - data.dones.view(-1)) * args.gamma * q).detach()
        return ((nets.qf1.forward(data.observations, data.actions) - y) ** 2).mean(), {}
        """,
        """
        with torch.no_grad():
            q = nets.qf1_target(data.next_observations, nets.target_actor(data.next_observations))
            y = data.rewards + (1 - data.dones) * args.gamma * q.unsqueeze(1)
        q = nets.qf1(data.observations, data.actions)[:, None]
        loss = torch.nn.MSELoss()(q, y)
        return loss, {"qf1_loss": loss.detach()}
        """,
        """
        with torch.inference_mode():
            q = nets.qf1_target(data.next_observations, nets.target_actor(data.next_observations))
        y = torch.where(data.dones[:, 0] == 1, 0.0, args.gamma * q) + data.rewards[:, 0]
        return (nets.qf1(data.observations, data.actions) - y).square().mean(), {}
        """,
    ],
    "td3 polyak_update": [
        """
        for param, target_param in zip(net.parameters(), target.parameters()):
            target_param.data.copy_(tau * param.data + (1 - tau) * target_param.data)
        """,
        """
        for param, target_param in zip(net.parameters(), target.parameters()):
            target_param += tau * (param - target_param)
        """,
    ],
    "ddpg act": [
        """
        if run.global_step >= args.learning_starts:
            with torch.no_grad():
                actions = nets.actor(torch.tensor(obs, dtype=torch.float32)).numpy()
            scale = args.exploration_noise * (run.act_high - run.act_low) / 2
            actions = actions + np.random.normal(size=actions.shape) * scale
            actions = np.clip(actions, run.act_low, run.act_high)
        else:
            actions = np.stack([run.action_space.sample() for _ in range(run.envs.num_envs)])
        """,
        """
        if run.global_step < args.learning_starts:
            shape = run.envs.num_envs, run.act_dim
            actions = np.random.uniform(run.act_low, run.act_high, shape)
        else:
            mu = nets.actor(torch.from_numpy(obs).float()).detach()
            sigma = args.exploration_noise * nets.actor.action_scale
            actions = torch.distributions.Normal(mu, sigma).sample().numpy()
            actions = actions.clip(run.act_low, run.act_high)
        """,
    ],
    "ac_reparam Actor.distribution": [
        """
        x = torch.tanh(self.fc2(torch.tanh(self.fc1(x.float()))))
        u = Normal(self.fc_mu(x), self.log_std.exp())
        return Independent(TransformedDistribution(u, [TanhTransform(cache_size=1)]), 1)
        """,
        """
        x = torch.tanh(self.fc2(torch.tanh(self.fc1(x.float()))))
        u = torch.distributions.MultivariateNormal(
            self.fc_mu(x), scale_tril=torch.diag(self.log_std.exp())
        )
        return TransformedDistribution(u, TanhTransform(cache_size=1))
        """,
        """
        return OwnPolicy(self, x.float())
        """,
    ],
    "ac_reparam Actor.sample": [
        """
        return own_sample(self, x)
        """,
    ],
    "ac_reparam actor_loss": [
        """
        policy = nets.actor.distribution(data.observations)
        a = policy.rsample() if args.estimator == "pathwise" else policy.sample()
        q = nets.qf1(data.observations, a * nets.actor.action_scale + nets.actor.action_bias)
        log_prob = policy.log_prob(a)
        if args.estimator == "pathwise":
            return -(q - args.entropy_coef * log_prob).mean(), {}
        weight = (q - args.entropy_coef * log_prob).detach()
        return -(weight * log_prob).mean(), {}
        """,
    ],
    "sac Actor.sample": [
        """
        normal = self.distribution(x).base_dist.base_dist
        u = normal.loc + normal.scale * torch.randn_like(normal.loc)
        log_prob = normal.log_prob(u) - 2 * (math.log(2) - u - F.softplus(-2 * u))
        return u.tanh() * self.action_scale + self.action_bias, log_prob.sum(1)
        """,
    ],
    "sac critic_loss": [
        """
        s = data.next_observations
        a, log_prob = nets.actor.sample(s)
        alpha = nets.log_alpha.exp().item() if args.autotune else args.alpha
        v = torch.minimum(nets.qf1_target(s, a), nets.qf2_target(s, a)) - alpha * log_prob
        y = (data.rewards[:, 0] + args.gamma * (1 - data.dones[:, 0]) * v).detach()
        q1, q2 = (q(data.observations, data.actions) for q in (nets.qf1, nets.qf2))
        return F.mse_loss(q1, y) + F.mse_loss(q2, y), {}
        """,
    ],
    "sac actor_loss": [
        """
        s = data.observations
        a, log_prob = nets.actor.sample(s)
        alpha = nets.log_alpha.exp().item() if args.autotune else args.alpha
        q = torch.minimum(nets.qf1(s, a), nets.qf2(s, a))
        loss = (alpha * log_prob - q).mean()
        if args.autotune:
            target = -a.shape[1]
            loss = loss - (nets.log_alpha.exp() * (log_prob + target).detach()).mean()
        return loss, {"entropy": -log_prob.detach()}
        """,
    ],
    "ppo estimate_advantages": [
        """
        deltas = rewards + args.gamma * ~rollout.terminations * next_values - values
        A = np.zeros((len(deltas) + 1, deltas.shape[1]))
        for t in range(len(deltas) - 1, -1, -1):
            A[t] = deltas[t] + args.gamma * args.gae_lambda * A[t + 1] * ~rollout.dones[t]
        return A[:-1]
        """,
        """
        T, advantages = len(rewards), []
        for env in range(rewards.shape[1]):
            for t in range(T):
                total, weight = 0.0, 1.0
                for k in range(t, T):
                    after = 0 if rollout.terminations[k, env] else next_values[k, env]
                    total += weight * (rewards[k, env] + args.gamma * after - values[k, env])
                    weight *= args.gamma * args.gae_lambda
                    if rollout.dones[k, env]:
                        break
                advantages.append(total)
        return np.reshape(advantages, (-1, T)).T
        """,
    ],
    "ppo actor_loss": [
        """
        A = data.advantages
        if args.norm_adv:
            A = (A - A.mean()) / (A.std(correction=0) + 1e-5)
        policy = nets.actor.distribution(data.observations)
        ratio = torch.exp(policy.log_prob(data.actions).sum(1) - data.log_probs)
        bound = torch.where(A > 0, 1 + args.clip_coef, 1 - args.clip_coef)
        surrogate = torch.minimum(ratio * A, bound * A)
        return -(surrogate + args.ent_coef * policy.entropy().sum(1)).mean(), {}
        """,
    ],
}
HELPERS = """

import math


class OwnPolicy:
    def __init__(self, actor, x):
        x = torch.tanh(actor.fc2(torch.tanh(actor.fc1(x))))
        self.u = Normal(actor.fc_mu(x), actor.log_std.exp())

    def rsample(self):
        self.last = self.u.rsample()
        self.drawn = self.last.tanh()
        return self.drawn

    def log_prob(self, a):
        u = self.last if a is getattr(self, "drawn", None) else torch.atanh(a)
        return (self.u.log_prob(u) - 2 * (math.log(2) - u - F.softplus(-2 * u))).sum(1)


def own_sample(actor, x):
    x = torch.tanh(actor.fc2(torch.tanh(actor.fc1(x))))
    u = actor.fc_mu(x) + actor.log_std.exp() * torch.randn(len(x), actor.fc_mu.out_features)
    return torch.tanh(u) * actor.action_scale + actor.action_bias
"""


def written(text, name, body):
    """Return a script in which a function has another body, with HELPERS at its end."""
    lines, (old, start, stop) = text.splitlines(), exercise.find(ast.parse(text), name)
    body = textwrap.indent(textwrap.dedent(body), " " * old[start].col_offset)
    lines[old[start].lineno - 1 : old[stop - 1].end_lineno] = [body]
    return "\n".join(lines) + HELPERS


@pytest.mark.parametrize(
    ("place", "body"),
    [pytest.param(place, body, id=place) for place, all_ in OTHER_WORDS.items() for body in all_],
)
def test_other_words_are_right(place, body):
    """Helpers and imports of the file's own are found."""
    algorithm, name = place.split()
    assert wrong(algorithm, written(source(algorithm), name, body), [name]) == {}


def test_own_policy_is_used_where_it_is_right():
    """By the functions that read a mean off it, which the script's policy does not have there."""
    name, mean = "Actor.forward", "self.distribution(x).u.loc.tanh()"
    body = f"return {mean} * self.action_scale + self.action_bias"
    text = written(source("ac_reparam"), name, body)
    assert "AttributeError" in wrong("ac_reparam", text, [name])[name].args[0]
    text = written(text, "Actor.distribution", "return OwnPolicy(self, x.float())")
    assert wrong("ac_reparam", text, ["Actor.distribution", name]) == {}
    assert wrong("ac_reparam", text.replace(mean, f"1.1 * {mean}"), [name])


# ---- What a student's file may do ----
def graded(*replacement, name="actor_loss", timeout=60):
    tree = ast.parse(changed("ddpg", replacement))
    return grade.grade(tree, "ddpg", name, timeout)


LOSS = "    loss = -nets.qf1("
BEHAVIOURS = {
    "while True: pass": "nothing within 2 seconds",
    "import os; os._exit(0)": "process ended, with code 0",
    "import os; os.kill(os.getpid(), 9)": "process ended, with code -9",
    "import sys; sys.exit(0)": "SystemExit",
    "input()": "EOFError",
    "nets.qf3": "AttributeError in line",
    "print('x' * 10**7); raise ValueError('see line')": "ValueError in line",
    "f = lambda: f(); f()": "RecursionError in line",
    "return None": "no pair",
    "return 'x' * 10**7, {}": "no scalar tensor, but str",
    "return torch.zeros(3, requires_grad=True), {}": "of shape (3,)",
    "return nets.qf1(data.observations, data.actions).mean(), {'loss': 1.0}": "no dict of tensors",
}


@pytest.mark.parametrize("line", BEHAVIOURS)
def test_behaviour_is_reported(line):
    """In a process of its own: it may end, hang, print and ask."""
    report = graded(LOSS, f"    {line}\n{LOSS}", timeout=2 if "while" in line else 60)
    assert BEHAVIOURS[line] in report.args[0]
    assert len(grade.report("actor_loss", report)) < 2000


def test_right_function_passes_in_its_process():
    assert graded(LOSS, f"    print('here')\n{LOSS}") is None


def test_what_only_the_compiler_sees_is_reported():
    report = graded("            # Act\n", "            # Act\n            break\n", name="act")
    assert "'break' outside loop" in report.args[0]


def test_missing_function_is_reported():
    report = graded("def polyak_update(", "def polyak(", name="polyak_update")
    assert "no polyak_update" in report.args[1]


def test_other_changes_are_named():
    narrow = "self.fc1 = nn.Linear(obs_dim + act_dim, 256)", "self.fc1 = nn.Linear(9, 9)"
    text = changed("ddpg", ("gamma: float = 0.99", "gamma: float = 0.9"), narrow)
    assert grade.changed_besides(ast.parse(text), "ddpg") == [
        "Args.gamma: float = 0.99",
        "QNetwork.__init__",
    ]


# ---- Command lines ----
def command(module, monkeypatch, capsys, *words):
    """Run a tool in this process; return its exit code and what it prints."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    try:
        module.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code)
    return code, *capsys.readouterr()


def test_commands_from_blank_to_finished(tmp_path):
    """The two commands of the README, as typed."""
    path = tmp_path / "my_ddpg.py"
    tools = [sys.executable, str(ROOT / "lecture" / "exercise.py"), "ddpg", "--out", str(path)]
    first = subprocess.run(tools, capture_output=True, text=True, cwd=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    assert str(path) in first.stdout
    tools = [sys.executable, str(ROOT / "lecture" / "grade.py"), str(path)]
    second = subprocess.run(tools, capture_output=True, text=True, cwd=tmp_path)
    assert (second.returncode, second.stderr) == (1, "")
    assert second.stdout.count(" blank\n") == 6
    assert second.stdout.endswith("0 of 6 passed\n")


def test_grader_prints_what_came(tmp_path, monkeypatch, capsys):
    path = tmp_path / "my_ddpg.py"
    path.write_text(changed("ddpg", ("lerp_(param, tau)", "lerp_(param, 1 - tau)")))
    code, out, _ = command(grade, monkeypatch, capsys, path)
    assert code == 1
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines if line[:1].isalpha()] == [
        [name, "wrong" if name == "polyak_update" else "passed"]
        for name in exercise.EXERCISES["ddpg"]
    ]
    for words in "given     τ = 0.1", "[[9.1, 9.4]]", "[[1.9, 4.6]]", "hint      τ = 0.5":
        assert words in out
    path.write_text(source("ddpg"))
    code, out, _ = command(grade, monkeypatch, capsys, path)
    assert (code, out.splitlines()[-1]) == (0, "6 of 6 passed")


BAD_FILES = {
    "missing": (None, "cannot read"),
    "syntax": ('"""x"""\ndef f(:\n', "syntax error in line 2"),
    "null bytes": ("x = 1\0", "file"),
    "not UTF-8": (b"\xff\xfe\xff", "no Python file"),
    "nested": ("x = " + "-" * 50_000 + "1", "no Python file"),
    "empty": ("", "docstring of no script"),
    "another script": (source("naf"), "docstring of no script"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_file_that_cannot_be_graded(tmp_path, monkeypatch, capsys, name):
    content, words = BAD_FILES[name]
    path = tmp_path / "my.py"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = command(grade, monkeypatch, capsys, path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


@pytest.mark.parametrize(
    "words", [["foo"], [], ["ddpg", "--out", "taken.py"], ["ddpg", "--out", "no/such/folder.py"]]
)
def test_exercise_refuses(tmp_path, monkeypatch, capsys, words):
    """With one line, and an existing file stays as it is."""
    monkeypatch.chdir(tmp_path)
    Path("taken.py").write_text("mine")
    code, out, err = command(exercise, monkeypatch, capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert Path("taken.py").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["taken.py"]


def test_readme_shows_what_the_grader_prints():
    readme = (ROOT / "lecture" / "README.md").read_text()
    found = wrong("ddpg", changed("ddpg", ("1 - data.dones.flatten()", "1")), ["critic_loss"])
    assert grade.report("critic_loss", found["critic_loss"]) in readme
    for algorithm, names in exercise.EXERCISES.items():
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| `{algorithm}` |")]
        assert all(f"`{name}`" in row for name in names) or "the same" in row
