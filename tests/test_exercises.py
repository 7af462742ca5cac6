"""Exercises: blank where they should be, graded where the mistake is, trained when finished."""

import ast
import itertools
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from zlib import crc32

import exercise
import grade
import measure
import pytest
from conftest import ROOT
from diffs import source

README = (ROOT / "lecture" / "README.md").read_text()
NAMES = list(exercise.EXERCISES)


def above(algorithm):
    """Return the script without its Run section, which nothing here reads."""
    return source(algorithm).partition("# ---- Run ----")[0]


def changed(algorithm, *replacements):
    """Return the script above its Run section with some text replaced."""
    own = above(algorithm)
    for old, new in replacements:
        assert own.count(old) == 1, f"it does not fit: {old}"
        own = own.replace(old, new)
    return own


def wrong(algorithm, text, names=()):
    """Return which functions, of all or of those named, are found wrong, with the reports."""
    tree, names = ast.parse(text), names or exercise.EXERCISES[algorithm]
    found = {name: grade.check(tree, algorithm, name) for name in names}
    return {name: report for name, report in found.items() if report}


def written(text, name, body):
    """Return a script in which a function has another body."""
    lines, (old, start, stop) = text.splitlines(), exercise.find(ast.parse(text), name)
    body = textwrap.indent(textwrap.dedent(body).strip("\n"), " " * old[start].col_offset)
    lines[old[start].lineno - 1 : old[stop - 1].end_lineno] = [body]
    return "\n".join(lines)


@pytest.fixture(params=["repository", "bundle"])
def place(request, monkeypatch):
    """The grader with the real script around a function, and with the file's own functions."""
    for algorithm, names in exercise.EXERCISES.items():
        grade.record(algorithm)
        for name in names:
            grade.expected(algorithm, name)
    monkeypatch.setattr(grade, "BUNDLE", request.param == "bundle")


# ---- The exercise ----
@pytest.mark.parametrize("algorithm", NAMES)
def test_exercise_is_blank_and_nothing_else_has_changed(algorithm):
    names, real = exercise.EXERCISES[algorithm], ast.parse(source(algorithm))
    text = exercise.blank(source(algorithm), names)
    assert grade.changed_besides(ast.parse(text), algorithm) == []
    equations = [line.strip() for line in source(algorithm).splitlines() if "# y = " in line]
    assert all(line in text for line in equations)
    reports = [grade.report(*report) for report in wrong(algorithm, text).items()]
    assert [report.split() for report in reports] == [[name, "blank"] for name in names]
    # no call, sum or comparison of a function is left in a comment
    comments = re.sub(r"\s", "", "".join(re.findall("#.*", text.split("# ---- Run")[0])))
    for name in names:
        body, start, stop = exercise.find(real, name)
        for node in itertools.chain(*map(ast.walk, body[start:stop])):
            if isinstance(node, ast.Call | ast.BinOp | ast.Compare | ast.Assign):
                assert re.sub(r"\s", "", ast.unparse(node)) not in comments, name


def test_blank_names_what_it_reads_and_logs():
    text = exercise.blank(source("td3"), exercise.EXERCISES["td3"])
    part = text[text.index("def critic_loss") : text.index("def actor_loss")]
    for words in (
        *('"""Return the mean squared', "target policy smoothing", "min(Q_1'(s', a'), Q_2'(s',"),
        *("args.gamma, args.noise_clip, args.policy_noise", "data.rewards (batch, 1)", "qf1_loss"),
    ):
        assert words in part
    assert "it uses F.relu, torch.tanh" in " ".join(text.replace("#", "").split())
    text = exercise.blank("def f(x):\n    # [A 2015]\n    return x + 1  # x plus 1\n", ["f"])
    assert text == 'def f(x):\n    # [A 2015]\n    raise NotImplementedError("f")\n'


def test_shapes_are_those_of_a_batch():
    sizes, seen = {4: "batch", 3: "obs_dim", 2: "act_dim", 1: "1"}, {}
    ppo = measure.ppo_setup(grade.real_script("ppo"), [0.0] * 4)[1]._asdict()
    ddpg = measure.setup(grade.real_script("ddpg"))[1]._asdict()
    for field, value in (ppo | dict(list(ddpg.items())[:5])).items():
        shape = [sizes[size] for size in value.shape]
        seen[f"data.{field}"] = f"({', '.join(shape)})".replace("(batch)", "(batch,)")
    assert seen == {k: v for k, v in exercise.SHAPES.items() if k.startswith("data.")}


# ---- Mistakes ----
NO_GRAD = "    with torch.no_grad():\n        next_st"
TRACED = "    if True:\n        next_st"
NEXT_MU = "nets.target_actor(data.next_observations)"
ONLINE = "nets.qf1_target, nets.qf2_target = nets.qf1, nets.qf2"
# as README.md lists them: where; what is replaced by what; words of the hint
TYPICAL = {
    "the online network in place of its slow copy": (
        *("ddpg critic_loss", "nets.qf1_target(", "nets.qf1(", "slow copies"),
    ),
    "a target that is not held constant": (
        *("ddpg critic_loss", NO_GRAD, TRACED, "y is a constant"),
    ),
    "no (1 - d)": ("ddpg critic_loss", "1 - data.dones.flatten()", "1", "episode that has ended"),
    "an array of shape (N, 1) beside one of shape (N,)": (
        *("ddpg critic_loss", "data.rewards.flatten()", "data.rewards", "(4, 1) and (4,)"),
    ),
    "the buffer's action in the actor's loss": (
        *("ddpg actor_loss", "nets.actor(data.observations))", "data.actions)", "the batch's"),
    ),
    "the sign of the actor's loss": ("ddpg actor_loss", "-nets.qf1(", "nets.qf1(", "smaller"),
    "τ for 1 - τ": ("ddpg polyak_update", "(param, tau)", "(param, 1 - tau)", "which part is τ"),
    "noise that is not scaled to the bounds": (
        *("ddpg act", "noise * nets.actor.action_scale", "noise", "of the right size"),
    ),
    "actions beyond the bounds": (
        *("td3 act", ".clip(run.act_low, run.act_high)", "", "does an environment accept"),
    ),
    "`sample` for `rsample`": ("sac Actor.sample", ".rsample()", ".sample()", "rsample or sample"),
    "the density of the scaled action": (
        "ac_reparam actor_loss",
        *("coef * policy.log_prob(actions)", "coef * policy.log_prob(bounded)", "of tanh(u)"),
    ),
    "a time limit taken for a termination": (
        "ppo estimate_advantages",
        *("(1 - rollout.terminations)", "(1 - rollout.dones)", "A time limit is no termination"),
    ),
    "both slow copies forgotten": (
        *("ddpg critic_loss", NEXT_MU),
        *("nets.actor(data.next_observations); nets.qf1_target = nets.qf1", "uses neither"),
    ),
    "the online critic, traced": (
        *("ddpg critic_loss", NO_GRAD, f"    nets.qf1_target = nets.qf1\n{TRACED}"),
        "critic that learns, and y is not held constant",
    ),
    "s for s'": (
        *("ddpg critic_loss", "_target(data.next_obs", "_target(data.obs", "after the step"),
    ),
}
TD3_MIN = "torch.min(qf1_next_target, qf2_next_target)"
UNITS = "(a - self.action_bias) / self.action_scale"
LAYERS = "], 1)\n        x = F.relu(self.fc1(x))\n        x = F.relu(self.fc2(x))\n"
LAYERS += "        return self.fc3(x)"
MISTAKES = [
    *TYPICAL.values(),
    ("ddpg QNetwork.forward", "fc3(x).squeeze(-1)", "fc3(x)", "shape"),
    ("ddpg QNetwork.forward", UNITS, "a", "units"),
    ("ddpg QNetwork.forward", UNITS, "a.sub_(self.action_bias).div_(self.action_scale)", "caller"),
    ("ddpg QNetwork.forward", UNITS + LAYERS + ".squeeze(-1)", "a" + LAYERS, "shape"),
    ("td3 QNetwork.forward", ".squeeze(-1)", ".squeeze()", "batch of 1"),
    *((f"{name} QNetwork.forward", "self.fc3(x)", "F.relu(self.fc3(x))", "layers")
      for name in ("ddpg", "td3")),
    ("ac_reparam QNetwork.forward", "cat([x, ", "cat([x.flip(1), ", "layers"),
    ("sac QNetwork.forward", "F.relu(self.fc2(x))\n        return", "self.fc2(x)\n        return",
     "layers"),
    ("ddpg Actor.forward", "torch.tanh(self.fc_mu(x))", "self.fc_mu(x)", "keeps"),
    ("td3 Actor.forward", " * self.action_scale + ", " + ", "bounds"),
    ("td3 Actor.forward", "x.float()", "x", ""),  # what PyTorch says is enough
    ("sac Actor.forward", "x * self.action_scale + self.action_bias\n", "x * self.action_scale\n",
     "bounds"),
    ("ddpg critic_loss", NEXT_MU, "nets.target_actor(data.observations)", "after the step"),
    ("ddpg critic_loss", "next_q_value)", "next_q_value, reduction='sum')", "mean"),
    ("ddpg critic_loss", "next_state_actions)", "next_state_actions)[:, None]", "(4, 1) and (4,)"),
    ("ddpg critic_loss", "return qf1_loss, {", "return {", "dict of tensors"),
    ("ddpg actor_loss", "-nets.qf1(", "-nets.qf1_target(", "critic that learns"),
    ("ddpg act", "step < args.learn", "step <= args.learn", "from which step"),
    ("ddpg act", "torch.randn_like(actions)", "torch.randn_like(actions[0])", "own"),
    ("ddpg act", "torch.randn_like(actions)", "torch.rand_like(actions)", "above"),
    ("ddpg actor_loss", "    loss = -", "    nets.qf1.requires_grad_(False)\n    loss = -", "next"),
    ("td3 critic_loss", "1 - data.dones.flatten()", "data.dones.flatten()", "d remove"),
    ("td3 critic_loss", "nets.qf2_target(", "nets.qf2(", "slow copies"),
    ("td3 critic_loss", "nets.target_actor(data", "nets.actor(data", "Whose action is a'"),
    ("td3 critic_loss", "loss(qf1_a_values,", "loss(qf1_a_values.detach(),", "through"),
    ("td3 critic_loss", "noise.clamp(-args.noise_clip, args.noise_clip)", "noise", "clipped"),
    ("td3 critic_loss", "randn_like(data.actions)", "randn_like(data.actions[:1])", "own"),
    ("td3 critic_loss", "randn_like(data.actions)", "randn_like(data.rewards)", "own"),
    ("td3 critic_loss", ".clamp(bias - scale, bias + scale)", "", "may a' lie"),
    ("td3 critic_loss", "torch.min(qf1_next", "torch.max(qf1_next", "two critics"),
    ("td3 critic_loss", TD3_MIN, "qf1_next_target", "two critics"),
    ("td3 critic_loss", TD3_MIN, "qf2_next_target", "two critics"),
    ("td3 critic_loss", "return qf1_loss + qf2_loss,", "return qf1_loss,", "through"),
    ("td3 critic_loss", NEXT_MU, f"nets.actor(data.next_observations); {ONLINE}", "uses neither"),
    ("td3 critic_loss", NO_GRAD, f"    {ONLINE}\n{TRACED}", "held constant"),
    ("td3 critic_loss", "nets.qf2_target(data.next_observations, next_state_actions)",
     "nets.qf2_target(data.next_observations, nets.target_actor(data.next_observations))",
     "the same a'"),
    ("td3 actor_loss", "(data.observations))", "(data.observations).detach())", "cut off"),
    ("td3 actor_loss", "nets.qf1(data.observations, nets.actor(data.observations))",
     "torch.min(nets.qf1(data.observations, nets.actor(data.observations)), "
     "nets.qf2(data.observations, nets.actor(data.observations)))", "two critics"),
    ("td3 polyak_update", "target_param.lerp_(param", "param.lerp_(target_param", "follows"),
    ("td3 act", "actions = nets.actor(", "actions = nets.target_actor(", "newer"),
    ("ac_reparam Actor.distribution", "TanhTransform(cache_size=1)", "TanhTransform()", "remember"),
    ("ac_reparam Actor.sample", "(x).rsample()", "(x).sample()", "rsample"),
    ("ac_reparam Actor.sample", "rsample() * self.action_scale + self.action_bias", "rsample()",
     "±1"),
    ("ac_reparam critic_loss", "actor.sample(data.next", "actor(data.next", "a'"),
    ("ac_reparam critic_loss", "actor.sample(data.next_observations)",
     "actor.distribution(data.next_observations).sample()", "±1"),
    ("ac_reparam critic_loss", "not_done * args.gamma", "not_done", "later"),
    ("ac_reparam critic_loss", "next_q_value)", "next_q_value[:, None])", "(4, 1)"),
    ("ac_reparam actor_loss", 'args.estimator == "pathwise"', "True", "log π"),
    ("ac_reparam actor_loss", "objective.detach()", "objective", "constant"),
    ("ac_reparam actor_loss", "policy.log_prob(actions) * obj",
     "policy.log_prob(policy.sample()) * obj", "which Q has valued"),
    ("ac_reparam actor_loss", "objective = nets", "policy.sample(); objective = nets", "once"),
    ("ac_reparam actor_loss", "actions * nets.actor.action_scale + nets.actor.action_bias",
     "actions", "±1"),
    ("ac_reparam actor_loss", "args.entropy_coef > 0", "False", "Q - α log π"),
    ("ac_reparam polyak_update", "target_param.lerp_(", "target_param = target_param.lerp(",
     "Nothing moved"),
    ("ac_reparam act", "actor.sample(torch", "actor(torch", "sample"),
    ("sac Actor.distribution", "[TanhTransform(cache_size=1)]", "[]", "become"),
    ("sac Actor.distribution", "Independent(Normal(self.fc_mu(x), log_std.exp(), "
     "validate_args=False), 1)", "Normal(self.fc_mu(x), log_std.exp())", "independent dimensions"),
    ("sac Actor.distribution", ".clamp(-20, 2)", "", "log σ"),
    ("sac Actor.distribution", ".clamp(-20, 2)", ".clamp(max=2)", "log σ"),
    ("sac Actor.sample", ", policy.log_prob(actions)", "", "docstring"),
    ("sac Actor.sample", "log_prob(actions)", "log_prob(policy.rsample())", "its log π"),
    ("sac Actor.sample", "= policy.rsample()", "= policy.base_dist.mean.tanh()", "drawn at random"),
    ("sac Actor.sample", "policy.rsample()\n", "policy.rsample() * self.action_scale + "
     "self.action_bias\n        return actions, policy.log_prob(actions)\n", "of tanh(u)"),
    ("sac critic_loss", "torch.min(qf1_next_target, qf2_next_target)",
     "torch.cat([qf1_next_target, qf2_next_target]).min()", "y"),
    ("sac critic_loss", "min_qf_next_target - alpha", "min_qf_next_target - 0 * alpha", "entropy"),
    ("sac critic_loss", "min_qf_next_target - alpha", "min_qf_next_target + alpha", "sign"),
    ("sac critic_loss", "nets.log_alpha.exp() if args.autotune else args.alpha\n        #",
     "nets.log_alpha.exp()\n        #", "term by term"),
    ("sac critic_loss", "nets.log_alpha.exp() if args.autotune else args.alpha\n        #",
     "args.alpha\n        #", "term by term"),
    ("sac critic_loss", "sample(data.next_obs", "sample(data.obs", "after the step"),
    ("sac actor_loss", "qf1(data.observations, actions)", "qf1(data.observations, "
     "actions.detach())", "terms"),
    ("sac actor_loss", "torch.min(qf1_a_values, qf2_a_values)", "qf1_a_values", "two critics"),
    ("sac actor_loss", "nets.log_alpha.exp().detach() if", "nets.log_alpha.exp() if", "alone"),
    ("sac actor_loss", ".detach() if args.autotune else args.alpha", ".detach()", "terms"),
    ("sac actor_loss", "- data.actions.shape[1]", "+ data.actions.shape[1]", "H₀"),
    ("sac polyak_update", "@torch.no_grad()\ndef polyak", "def polyak", "hold on"),
    ("sac act", "run.global_step < args.learning_starts", "False", "before learning"),
    ("ppo Critic.forward", ".squeeze(-1)", "", "shape"),
    ("ppo Critic.forward", ".squeeze(-1)", "[:, 0]", "make_batch"),
    ("ppo Actor.forward", "self.obs_normalizer(obs)", "obs.float()", "layers"),
    ("ppo Actor.distribution", "self.log_std.exp()", "self.log_std", "Gaussian"),
    ("ppo Actor.distribution", "Normal(self.mu(normalized), self.log_std.exp(), "
     "validate_args=False)", "torch.distributions.Independent(Normal(self.mu(normalized), "
     "self.log_std.exp()), 1)", "sum log π"),
    ("ppo estimate_advantages", "(1 - rollout.terminations)", "1", "termination"),
    ("ppo Actor.distribution", "Normal(self.mu(normalized), self.log_std.exp(), "
     "validate_args=False)", "Normal(self.mu(normalized), self.log_std, validate_args=True)",
     "logarithm"),
    ("ppo Actor.distribution", "self.mu(normalized)", "self.mu(normalized).clamp(-1, 1)",
     "bounded"),
    ("ppo estimate_advantages", "return advantages", "values[:] = 0\n    return advantages",
     "needs V"),
    ("ppo estimate_advantages", "deltas = rewards", "deltas = rollout.rewards", "scaled for V"),
    ("ppo estimate_advantages", "- rollout.dones)", "- rollout.terminations)", "Until when"),
    ("ppo critic_loss", "0.5 * ((values", "1.0 * ((values", "factor"),
    ("ppo critic_loss", "((values - data", "((values[:, None] - data", "(4, 4)"),
    ("ppo actor_loss", "advantages).mean()\n    ent", "advantages).mul(log_probs).mean()\n    ent",
     "misprinted"),
    ("ppo actor_loss", "torch.min(ratio * advantages, clipped * advantages)",
     "(log_probs * advantages)", "the ratio to"),
    ("ppo actor_loss", "entropy().sum(-1).mean()", "entropy().mean()", "over its dimensions"),
    ("ppo actor_loss", "ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)",
     "ratio.clamp(0.8, 1.2)", "left"),
    ("ppo actor_loss", "log_ratio.exp()", "(-log_ratio).exp()", "divided"),
    ("ppo actor_loss", "torch.min(ratio", "torch.max(ratio", "cautious"),
    ("ppo actor_loss", "(data.actions).sum(-1)", "(data.actions)[:, 0]", "dimensions"),
    ("ppo actor_loss", "if args.norm_adv:", "if False:", "mean 0"),
    ("ppo actor_loss", "policy_loss - args.ent_coef * entropy", "policy_loss", "higher entropy"),
    ("ppo actor_loss", "policy_loss - args.ent", "policy_loss + args.ent", "higher entropy"),
    ("ppo act", "bounded = actions *", "actions = actions.clamp(-1, 1); bounded = actions *",
     "network"),
    ("ppo act", "bounded = bounded.cpu()", "actions = actions.numpy(); bounded = bounded.cpu()",
     "train"),
    ("ppo act",
     "    actions = nets.actor.distribution(x).sample()\n                bounded = actions *",
     "    pass\n                actions = nets.actor.distribution(x).rsample()\n"
     "                bounded = actions.detach() *", "train"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(("where", "old", "new", "word"), MISTAKES)
def test_mistake_is_found_and_the_hint_fits(place, where, old, new, word):
    algorithm, name = where.split()
    came, hint, given, expected = wrong(algorithm, changed(algorithm, (old, new)), [name])[
        name
    ].args
    assert word in hint if word else hint == ""
    assert came
    assert algorithm != "sac" or "loss" not in name or "autotune = " in given
    if "no tensor" not in came:
        assert came != expected != ""
    if old == "torch.randn_like(actions)":  # one noise for all: nothing to divide by
        assert not re.search(r"e\+|inf|nan", came)


def test_every_function_has_a_mistake_and_readme_lists_the_typical_ones():
    names = {name for names in exercise.EXERCISES.values() for name in names}
    assert {where.split()[1] for where, *_ in MISTAKES} == names
    assert "; ".join(TYPICAL) + "." in " ".join(README.split())


@pytest.mark.parametrize("algorithm", NAMES)
def test_mistake_is_found_where_it_is(algorithm):
    """Half of the functions have one, and no other is found wrong."""
    first = {where: change for where, *change in reversed(MISTAKES)}
    places = [where for where in sorted(first) if where.startswith(f"{algorithm} ")][::2]
    text = changed(algorithm, *[first[where][:2] for where in places])
    assert {f"{algorithm} {name}" for name in wrong(algorithm, text)} == set(places)


def test_file_of_another_python_is_unchanged():
    """From 3.12 on `ast.unparse` writes an f-string with other quotes."""
    (checksum,) = exercise.parts(ast.parse("""f"{a['b']}\""""), []).values()
    assert checksum == crc32(b"f'{a['b']}'")


# ---- Right in other words ----
ADAPTED = {  # what a body that several scripts share has in each
    "ac_reparam": {"relu": "tanh", "STD": "self.log_std.exp()", "[0]#": "",
                   "nets.target_actor(": "nets.actor.sample("},
    "sac": {"STD": "self.fc_log_std(h).clamp(LOWEST, HIGHEST).exp()"},
}  # fmt: skip
WORDS = (ROOT / "tests" / "other_words.txt").read_text()
OTHER_WORDS, HELPERS = WORDS.split("## helpers\n")


def right():
    """Return algorithm, function and body of each way to write one."""
    ways = []
    for part in re.split("^## ", OTHER_WORDS, flags=re.M)[1:]:
        head, bodies = part.split("\n", 1)
        *algorithms, name = head.split()
        for algorithm, body in itertools.product(algorithms, re.split("^#\n", bodies, flags=re.M)):
            for old, new in ADAPTED.get(algorithm, {}).items():
                body = body.replace(old, new)
            ways.append((algorithm, name, body))
    return ways


@pytest.mark.parametrize(("algorithm", "name", "body"), right())
def test_other_words_are_right(place, algorithm, name, body):
    """Helpers and imports of the file's own are found."""
    text = written(above(algorithm), name, body) + "\n" + HELPERS
    assert wrong(algorithm, text, [name]) == {}


def test_every_function_is_right_in_at_least_three_ways(place):
    tried = [way[:2] for way in right()]
    for algorithm, names in exercise.EXERCISES.items():
        assert wrong(algorithm, above(algorithm)) == {}
        assert all(tried.count((algorithm, name)) >= 2 for name in names)


def test_constant_of_the_class_is_found(place):
    text = changed(
        "sac",
        ("class Actor(nn.Module):\n", "class Actor(nn.Module):\n    LOWEST = -20\n\n"),
        ("clamp(-20, 2)", "clamp(self.LOWEST, 2)"),
    )
    assert wrong("sac", text, ["Actor.distribution"]) == {}


def test_own_policy_is_used_where_it_is_right():
    """By the functions that read a mean off it, which the script's policy does not have there."""
    name, mean = "Actor.forward", "self.distribution(x).u.loc.tanh()"
    body = f"return {mean} * self.action_scale + self.action_bias"
    text = written(above("ac_reparam"), name, body) + "\n" + HELPERS
    assert "AttributeError" in wrong("ac_reparam", text, [name])[name].args[0]
    own = next(body for *_, body in right() if "OwnPolicy" in body and "log_std(" not in body)
    text = written(text, "Actor.distribution", own)
    assert wrong("ac_reparam", text, ["Actor.distribution", name]) == {}
    assert wrong("ac_reparam", text.replace(mean, f"1.1 * {mean}"), [name])


# ---- What a student's file may do ----
LOSS = "    loss = -nets.qf1("
BEHAVIOURS = {
    "while True: pass": "nothing within 2 seconds",
    "import os; os._exit(0)": "process ended, with code 0",
    "import os; os.kill(os.getpid(), 9)": "process ended, with code -9",
    "import sys; sys.exit(0)": "SystemExit in line",
    "input()": "EOFError in line",
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
    """In a process of its own: it may end, hang, print and ask. An error's hint is the error."""
    tree = ast.parse(changed("ddpg", (LOSS, f"    {line}\n{LOSS}")))
    report = grade.grade(tree, "ddpg", "actor_loss", 2 if "while" in line else 60)
    assert BEHAVIOURS[line] in report.args[0]
    assert ("hint" in grade.report("actor_loss", report)) == ("in line" not in BEHAVIOURS[line])
    assert len(grade.report("actor_loss", report)) < 2000


def test_file_is_graded_as_far_as_it_goes():
    assert grade.grade(ast.parse(changed("ddpg", (LOSS, f"    print('here')\n{LOSS}"))), "ddpg",
                       "actor_loss", 60) is None  # fmt: skip
    narrow = "self.fc1 = nn.Linear(obs_dim + act_dim, 256)", "self.fc1 = nn.Linear(9, 9)"
    text = changed("ddpg", ("gamma: float = 0.99", "gamma: float = 0.9"), narrow)
    text += source("ddpg").removeprefix(above("ddpg"))
    names = ["Args.gamma: float = 0.99", "QNetwork.__init__"]
    assert grade.changed_besides(ast.parse(text), "ddpg") == names
    text = changed("ddpg", ("            # Act\n", "            # Act\n            break\n"))
    assert "'break' outside loop" in wrong("ddpg", text, ["act"])["act"].args[0]
    text = changed("ddpg", ("def polyak_update(", "def polyak("))
    assert "no polyak_update" in wrong("ddpg", text)["polyak_update"].args[1]


# ---- Command lines ----
def command(tool, monkeypatch, capsys, *words):
    """Run a tool in this process; return its exit code and what it prints."""
    monkeypatch.setattr(sys, "argv", [tool.__name__, *map(str, words)])
    try:
        tool.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code)
    return code, *capsys.readouterr()


def test_commands_as_the_readme_has_them(tmp_path):
    first, second = [["python", "lecture/exercise.py", "ddpg"],
                     ["python", "lecture/grade.py", "my_ddpg.py"]]  # fmt: skip
    assert f"{' '.join(first)}\n{' '.join(second)}\n" in README
    done = []
    for _, tool, word in first, second:
        words = [sys.executable, str(ROOT / tool), word]
        done.append(subprocess.run(words, capture_output=True, text=True, cwd=tmp_path))
    assert [(run.returncode, run.stderr) for run in done] == [(0, ""), (1, "")]
    assert "my_ddpg.py" in done[0].stdout
    assert done[1].stdout.count(" blank\n") == 6
    assert done[1].stdout.endswith("0 of 6 passed\n")


def test_grader_prints_what_came(tmp_path, monkeypatch, capsys):
    path = tmp_path / "my_ddpg.py"
    path.write_text(changed("ddpg", ("lerp_(param, tau)", "lerp_(param, 1 - tau)")))
    code, out, _ = command(grade, monkeypatch, capsys, path)
    found = dict(line.split()[:2] for line in out.splitlines() if line[:1].isalpha())
    passed = dict.fromkeys(exercise.EXERCISES["ddpg"], "passed") | {"polyak_update": "wrong"}
    assert (code, found) == (1, found | passed)
    for words in "given     τ = 0.1", "[[9.1, 9.4]]", "[[1.9, 4.6]]", "hint      τ = 0.5":
        assert words in out
    path.write_text(source("ddpg"))
    code, out, _ = command(grade, monkeypatch, capsys, path)
    assert (code, out.splitlines()[-1]) == (0, "6 of 6 passed")


BAD_FILES = {
    "missing": (None, "cannot read"),
    "syntax": (b'"""x"""\ndef f(:\n', "syntax error in line 2"),
    "null bytes": (b"x = 1\0", "file"),
    "not UTF-8": (b"\xff\xfe\xff", "no Python file"),
    "nested": (b"x = " + b"-" * 50_000 + b"1", "no Python file"),
    "empty": (b"", "is no exercise"),
    "another script": (source("naf").encode(), "is no exercise"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_file_that_cannot_be_graded(tmp_path, monkeypatch, capsys, name):
    content, words = BAD_FILES[name]
    path = tmp_path / "my.py"
    if content is not None:
        path.write_bytes(content)
    code, out, err = command(grade, monkeypatch, capsys, path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


@pytest.mark.parametrize("words", ["foo", "", "ddpg --out taken.py", "ddpg --out no/folder.py"])
def test_exercise_refuses(tmp_path, monkeypatch, capsys, words):
    """With one line, and an existing file stays as it is."""
    monkeypatch.chdir(tmp_path)
    Path("taken.py").write_text("mine")
    code, out, err = command(exercise, monkeypatch, capsys, *words.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
