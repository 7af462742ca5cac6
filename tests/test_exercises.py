"""Exercises: blank where they should be, graded where the mistake is, trained when finished."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import OWN, QUICK, ROOT

sys.path.insert(0, str(ROOT / "lecture"))
import exercise
import grade

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


def wrong(algorithm, text):
    """Return the functions that the grader finds wrong, with what it reports."""
    tree = ast.parse(text)
    found = {name: grade.check(tree, algorithm, name) for name in exercise.EXERCISES[algorithm]}
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
    assert "qf1_loss" in part
    assert "torch." not in part


@pytest.mark.parametrize("algorithm", NAMES)
def test_finished_copy_trains(algorithm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_copy.py").write_text(filled_in(algorithm))
    spec = importlib.util.spec_from_file_location("my_copy", tmp_path / "my_copy.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    settings = {"total_timesteps": 150, "checkpoint_interval": 0, "run_name": "copy"}
    result = script.train(script.Args(**QUICK | OWN[f"{algorithm}_continuous"] | settings))
    assert result["step"] == 150
    assert Path("runs/copy/result.json").exists()


# ---- The grader ----
@pytest.mark.parametrize("algorithm", NAMES)
def test_original_passes(algorithm):
    assert wrong(algorithm, source(algorithm)) == {}


# algorithm, function, what is replaced by what, and a word of the hint
MISTAKES = {
    "Q of shape (batch, 1)": ("ddpg", "QNetwork.forward", "fc3(x).squeeze(-1)", "fc3(x)", "shape"),
    "Q of one sample": ("td3", "QNetwork.forward", ".squeeze(-1)", ".squeeze()", "batch of 1"),
    "no activation": ("sac", "QNetwork.forward", "F.relu(self.fc2(x))\n        return", "self.fc2(x)\n        return", "layers"),
    "action before state": ("ac_reparam", "QNetwork.forward", "cat([x, a]", "cat([a, x]", "layers"),
    "no tanh": ("ddpg", "Actor.forward", "torch.tanh(self.fc_mu(x))", "self.fc_mu(x)", "keeps"),
    "no scale": ("td3", "Actor.forward", " * self.action_scale + ", " + ", "bounds"),
    "no bias": ("sac", "Actor.forward", " * self.action_scale + self.action_bias", " * self.action_scale", "bounds"),
    "no detach": ("ddpg", "critic_loss", "with torch.no_grad():\n        next_st", "if True:\n        next_st", "constant"),
    "no detach in SAC": ("sac", "critic_loss", "with torch.no_grad():\n        policy", "if True:\n        policy", "constant"),
    "no terminal mask": ("ddpg", "critic_loss", "1 - data.dones.flatten()", "1", "ended"),
    "mask the wrong way": ("td3", "critic_loss", "1 - data.dones.flatten()", "data.dones.flatten()", "d remove"),
    "online critic": ("ddpg", "critic_loss", "nets.qf1_target(", "nets.qf1(", "slow copies"),
    "online second critic": ("td3", "critic_loss", "nets.qf2_target(", "nets.qf2(", "slow copies"),
    "online critic, seen not by the homework": ("ac_reparam", "critic_loss", "nets.qf1_target(", "nets.qf1(", "slow copies"),
    "online actor": ("td3", "critic_loss", "nets.target_actor(data", "nets.actor(data", "a'"),
    "mode of the policy": ("ac_reparam", "critic_loss", ".distribution(data.next_observations).rsample()", "(data.next_observations)", "a'"),
    "no discount": ("ac_reparam", "critic_loss", "not_done * args.gamma", "not_done", "later"),
    "(N, 1) rewards": ("ddpg", "critic_loss", "data.rewards.flatten()", "data.rewards", "(4, 4)"),
    "(N, 1) mask": ("sac", "critic_loss", "data.dones.flatten()", "data.dones", "(4, 4)"),
    "(N, 1) values": ("ac_reparam", "critic_loss", "mse_loss(qf1_a_values, next_q_value)", "mse_loss(qf1_a_values, next_q_value[:, None])", "(4, 4)"),
    "sum for mean": ("ddpg", "critic_loss", "next_q_value)\n    return", "next_q_value, reduction='sum')\n    return", "mean"),
    "critic without a gradient": ("td3", "critic_loss", "F.mse_loss(qf1_a_values,", "F.mse_loss(qf1_a_values.detach(),", "through"),
    "no pair": ("ddpg", "critic_loss", "return qf1_loss, {", "return {", "docstring"),
    "noise not clipped": ("td3", "critic_loss", "noise.clamp(-args.noise_clip, args.noise_clip)", "noise", "clipped"),
    "one noise a batch": ("td3", "critic_loss", "randn_like(data.actions)", "randn_like(data.actions[:1])", "own"),
    "one noise a sample": ("td3", "critic_loss", "randn_like(data.actions)", "randn_like(data.rewards)", "own"),
    "next action out of bounds": ("td3", "critic_loss", ".clamp(low, high)", "", "lie"),
    "maximum": ("td3", "critic_loss", "torch.min(qf1_next", "torch.max(qf1_next", "two critics"),
    "minimum over the batch": ("sac", "critic_loss", "torch.min(qf1_next_target, qf2_next_target)", "torch.cat([qf1_next_target, qf2_next_target]).min()", "y"),
    "second critic not trained": ("td3", "critic_loss", "return qf1_loss + qf2_loss,", "return qf1_loss,", "through"),
    "no entropy": ("sac", "critic_loss", "min_qf_next_target - alpha", "min_qf_next_target - 0 * alpha", "entropy"),
    "entropy shunned": ("sac", "critic_loss", "min_qf_next_target - alpha", "min_qf_next_target + alpha", "sign"),
    "actor descends Q": ("ddpg", "actor_loss", "-nets.qf1(", "nets.qf1(", "smaller"),
    "action detached": ("td3", "actor_loss", "nets.actor(data.observations)", "nets.actor(data.observations).detach()", "way free"),
    "actor ignores its state": ("ddpg", "actor_loss", "nets.actor(data.observations))", "data.actions)", "Whose"),
    "slow critic": ("ddpg", "actor_loss", "-nets.qf1(", "-nets.qf1_target(", "learns"),
    "sample without a gradient": ("sac", "actor_loss", "policy.rsample()\n    log", "policy.sample()\n    log", "terms"),
    "score through the sample": ("ac_reparam", "actor_loss", 'args.estimator == "pathwise"', "True", "log π"),
    "Q not detached": ("ac_reparam", "actor_loss", "objective.detach()", "objective", "constant"),
    "sampled twice": ("ac_reparam", "actor_loss", "objective = nets", "policy.sample(); objective = nets", "once"),
    "one critic in the objective": ("sac", "actor_loss", "torch.min(qf1_a_values, qf2_a_values)", "qf1_a_values", "two critics"),
    "gradients mixed": ("sac", "actor_loss", "nets.log_alpha.exp().detach() if", "nets.log_alpha.exp() if", "alone"),
    "density of u, not of a": ("sac", "Actor.distribution", "[TanhTransform(1), rescale]", "[rescale]", "become"),
    "no cache": ("ac_reparam", "Actor.distribution", ", 1, cache_size=1)", ", 1)", "remember"),
    "spread without bounds": ("sac", "Actor.distribution", ".clamp(-20, 2)", "", "log σ"),
    "swapped Polyak": ("ddpg", "polyak_update", "lerp_(param, tau)", "lerp_(param, 1 - tau)", "part is τ"),
    "Polyak the wrong way": ("td3", "polyak_update", "target_param.lerp_(param", "param.lerp_(target_param", "follows"),
    "Polyak in the graph": ("sac", "polyak_update", "@torch.no_grad()\ndef polyak", "def polyak", "hold on"),
    "Polyak into a variable": ("ac_reparam", "polyak_update", "target_param.lerp_(", "target_param = target_param.lerp(", "Nothing moved"),
    "no random steps": ("sac", "act", "run.global_step < args.learning_starts", "False", "before learning"),
    "one random step more": ("ddpg", "act", "step < args.learning_starts", "step <= args.learning_starts", "from which step"),
    "mode acts": ("ac_reparam", "act", "nets.actor.distribution(x).rsample()", "nets.actor(x)", "sample"),
    "target acts": ("td3", "act", "actions = nets.actor(x)", "actions = nets.target_actor(x)", "newer"),
    "noise not scaled": ("ddpg", "act", "noise * nets.actor.action_scale", "noise", "right size"),
    "actions not clipped": ("td3", "act", ".clip(run.action_low, run.action_high)", "", "accept"),
    "V of shape (batch, 1)": ("ppo", "Critic.forward", ".squeeze(-1)", "", "shape"),
    "observations as they are": ("ppo", "Actor.forward", "self.obs_normalizer(x)", "x", "layers"),
    "log σ for σ": ("ppo", "Actor.distribution", "self.log_std.exp()", "self.log_std", "distribution"),
    "time limit ends the return": ("ppo", "estimate_advantages", "(1 - rollout.terminations)", "(1 - rollout.dones)", "time limit"),
    "termination ignored": ("ppo", "estimate_advantages", "(1 - rollout.terminations)", "1", "termination"),
    "λ runs on through a time limit": ("ppo", "estimate_advantages", "- rollout.dones)", "- rollout.terminations)", "Until when"),
    "no ½": ("ppo", "critic_loss", "0.5 * errors", "errors", "factor"),
    "value clip the wrong way": ("ppo", "critic_loss", "torch.max(errors", "torch.min(errors", "keep"),
    "ratio upside down": ("ppo", "actor_loss", "log_ratio.exp()", "(-log_ratio).exp()", "divided"),
    "larger product": ("ppo", "actor_loss", "torch.min(ratio", "torch.max(ratio", "cautious"),
    "density of one dimension": ("ppo", "actor_loss", "(data.actions).sum(-1)", "(data.actions)[:, 0]", "dimensions"),
    "advantages as they are": ("ppo", "actor_loss", "if args.norm_adv:", "if False:", "mean 0"),
    "clipped action is stored": ("ppo", "act", "bounded = actions *", "actions = actions.clamp(-1, 1); bounded = actions *", "network"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_found_where_it_is(name):
    """The function that it is in is wrong, no other, and the hint fits."""
    algorithm, function, old, new, word = MISTAKES[name]
    found = wrong(algorithm, changed(algorithm, (old, new)))
    assert list(found) == [function]
    came, hint, given, expected = found[function].args
    assert word in hint
    assert came != expected != ""
    assert given


def test_mistakes_are_in_every_function():
    assert {(mistake[0], mistake[1]) for mistake in MISTAKES.values()} <= set(TASKS)
    assert {mistake[1] for mistake in MISTAKES.values()} == {name for _, name in TASKS}


# algorithm, what is replaced by what: right, in other words
ALTERNATIVES = {
    "the handout's target and loss": (
        "ddpg",
        "    with torch.no_grad():\n        next_state_actions = nets.target",
        "    s = data.next_observations\n"
        "    q = nets.qf1_target(s, nets.target_actor(s))\n"
        "    y = (data.rewards.view(-1) + (1 - data.dones.view(-1)) * args.gamma * q).detach()\n"
        "    return ((nets.qf1.forward(data.observations, data.actions) - y) ** 2).mean(), {}\n"
        "    with torch.no_grad():\n        next_state_actions = nets.target",
    ),
    "the handout's Polyak": (
        "td3",
        "target_param.lerp_(param, tau)",
        "target_param.data.copy_(tau * param.data + (1 - tau) * target_param.data)",
    ),
    "noise by hand": (
        "ac_reparam",
        "nets.actor.distribution(data.next_observations).rsample()",
        "own_sample(nets.actor, data.next_observations)",
    ),
    "sample without a gradient, under no_grad": (
        "sac",
        "next_state_actions = policy.rsample()",
        "next_state_actions = policy.sample()",
    ),
    "NumPy's noise": (
        "ddpg",
        "actions = actions.cpu().numpy()",
        "actions = nets.actor(x).detach().numpy()\n"
        "                scale = args.exploration_noise * (run.action_high - run.action_low) / 2\n"
        "                actions = actions + np.random.normal(size=actions.shape) * scale\n"
        "                actions = actions",
    ),
    "deviation that divides by n": (
        "ppo",
        "advantages.std() + 1e-8",
        "advantages.std(correction=0) + 1e-5",
    ),
    "return in place of the advantage's recursion": (
        "ppo",
        "following = deltas[t] + decay[t] * following",
        "following = deltas[t] + (0 if t == len(deltas) - 1 else decay[t] * advantages[t + 1])",
    ),
}
HELPER = """

def own_sample(actor, x):
    x = torch.tanh(actor.fc2(torch.tanh(actor.fc1(x))))
    mean = actor.fc_mu(x)
    u = mean + actor.log_std.exp() * torch.randn(mean.shape)
    return math.tanh(1) * torch.tanh(u) / math.tanh(1) * actor.action_scale + actor.action_bias
"""


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_other_words_are_right(name):
    """Helpers and imports of the file's own are found."""
    algorithm, old, new = ALTERNATIVES[name]
    text = (
        changed(algorithm, (old, new)).replace("import json", "import json\nimport math") + HELPER
    )
    assert wrong(algorithm, text) == {}


# ---- What a student's file may do ----
def graded(*replacement, name="actor_loss", timeout=60):
    tree = ast.parse(changed("ddpg", replacement))
    return grade.grade(tree, "ddpg", name, timeout)


LOSS = "    actor_loss = -nets.qf1("
BEHAVIOURS = {
    "while True: pass": "nothing within 2 seconds",
    "import os; os._exit(0)": "process ended, with code 0",
    "import os; os.kill(os.getpid(), 11)": "process ended, with code -11",
    "import sys; sys.exit(0)": "SystemExit",
    "input()": "EOFError",
    "print('x' * 10**7); raise ValueError('see line')": "ValueError in line",
    "return actor_loss(nets, data, args)": "RecursionError",
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
    text = changed("ddpg", ("gamma: float = 0.99", "gamma: float = 0.9"), ("fc1(x)", "fc2(x)"))
    assert grade.changed_besides(ast.parse(text), "ddpg") == ["Args.gamma"]


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
    assert [line.split()[:2] for line in lines if line[:1].isalpha()][1:-1] == [
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
