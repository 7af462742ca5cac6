"""Exercises: blank where they should be, graded where the mistake is, trained when finished."""

import ast
import importlib.util
import re
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


# script and function: what is wrong, what is replaced by what, and words of the hint
MISTAKES = {
    "ddpg QNetwork.forward": [
        ("Q of shape (batch, 1)", "fc3(x).squeeze(-1)", "fc3(x)", "shape"),
    ],
    "ddpg Actor.forward": [
        ("no tanh", "torch.tanh(self.fc_mu(x))", "self.fc_mu(x)", "keeps"),
    ],
    "ddpg critic_loss": [
        (
            "no detach",
            "with torch.no_grad():\n        next_st",
            "if True:\n        next_st",
            "constant",
        ),
        ("no terminal mask", "1 - data.dones.flatten()", "1", "ended"),
        ("online critic", "nets.qf1_target(", "nets.qf1(", "slow copies"),
        ("(N, 1) rewards", "data.rewards.flatten()", "data.rewards", "(4, 4)"),
        (
            "sum for mean",
            "next_q_value)\n    return",
            "next_q_value, reduction='sum')\n    return",
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
        (
            "one random step more",
            "step < args.learning_starts",
            "step <= args.learning_starts",
            "from which step",
        ),
        ("noise not scaled", "noise * nets.actor.action_scale", "noise", "right size"),
        ("one noise for all", "torch.randn_like(actions)", "torch.randn_like(actions[0])", "own"),
    ],
    "td3 QNetwork.forward": [
        ("Q of one sample", ".squeeze(-1)", ".squeeze()", "batch of 1"),
    ],
    "td3 Actor.forward": [
        ("no scale", " * self.action_scale + ", " + ", "bounds"),
    ],
    "td3 critic_loss": [
        ("mask the wrong way", "1 - data.dones.flatten()", "data.dones.flatten()", "d remove"),
        ("online second critic", "nets.qf2_target(", "nets.qf2(", "slow copies"),
        ("online actor", "nets.target_actor(data", "nets.actor(data", "a'"),
        (
            "critic without a gradient",
            "F.mse_loss(qf1_a_values,",
            "F.mse_loss(qf1_a_values.detach(),",
            "through",
        ),
        ("noise not clipped", "noise.clamp(-args.noise_clip, args.noise_clip)", "noise", "clipped"),
        ("one noise a batch", "randn_like(data.actions)", "randn_like(data.actions[:1])", "own"),
        ("one noise a sample", "randn_like(data.actions)", "randn_like(data.rewards)", "own"),
        ("next action out of bounds", ".clamp(low, high)", "", "lie"),
        ("maximum", "torch.min(qf1_next", "torch.max(qf1_next", "two critics"),
        ("second critic not trained", "return qf1_loss + qf2_loss,", "return qf1_loss,", "through"),
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
        ("target acts", "actions = nets.actor(x)", "actions = nets.target_actor(x)", "newer"),
        ("actions not clipped", ".clip(run.action_low, run.action_high)", "", "accept"),
    ],
    "ac_reparam QNetwork.forward": [
        ("action before state", "cat([x, a]", "cat([a, x]", "layers"),
    ],
    "ac_reparam critic_loss": [
        ("online critic", "nets.qf1_target(", "nets.qf1(", "slow copies"),
        (
            "median of the policy",
            ".distribution(data.next_observations).rsample()",
            "(data.next_observations)",
            "a'",
        ),
        ("no discount", "not_done * args.gamma", "not_done", "later"),
        (
            "(N, 1) values",
            "mse_loss(qf1_a_values, next_q_value)",
            "mse_loss(qf1_a_values, next_q_value[:, None])",
            "(4, 4)",
        ),
    ],
    "ac_reparam actor_loss": [
        ("score through the sample", 'args.estimator == "pathwise"', "True", "log π"),
        ("Q not detached", "objective.detach()", "objective", "constant"),
        ("sampled twice", "objective = nets", "policy.sample(); objective = nets", "once"),
    ],
    "ac_reparam Actor.distribution": [
        ("no cache", ", 1, cache_size=1)", ", 1)", "remember"),
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
        ("mode acts", "nets.actor.distribution(x).rsample()", "nets.actor(x)", "sample"),
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
        ("no bias", " * self.action_scale + self.action_bias", " * self.action_scale", "bounds"),
    ],
    "sac critic_loss": [
        (
            "no detach",
            "with torch.no_grad():\n        policy",
            "if True:\n        policy",
            "constant",
        ),
        ("(N, 1) mask", "data.dones.flatten()", "data.dones", "(4, 4)"),
        (
            "minimum over the batch",
            "torch.min(qf1_next_target, qf2_next_target)",
            "torch.cat([qf1_next_target, qf2_next_target]).min()",
            "y",
        ),
        ("no entropy", "min_qf_next_target - alpha", "min_qf_next_target - 0 * alpha", "entropy"),
        ("entropy shunned", "min_qf_next_target - alpha", "min_qf_next_target + alpha", "sign"),
    ],
    "sac actor_loss": [
        (
            "sample without a gradient",
            "policy.rsample()\n    log",
            "policy.sample()\n    log",
            "terms",
        ),
        (
            "one critic in the objective",
            "torch.min(qf1_a_values, qf2_a_values)",
            "qf1_a_values",
            "two critics",
        ),
        ("gradients mixed", "nets.log_alpha.exp().detach() if", "nets.log_alpha.exp() if", "alone"),
    ],
    "sac Actor.distribution": [
        ("density of u, not of a", "[TanhTransform(1), rescale]", "[rescale]", "become"),
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
        ("observations as they are", "self.obs_normalizer(x)", "x", "layers"),
    ],
    "ppo Actor.distribution": [
        ("log σ for σ", "self.log_std.exp()", "self.log_std", "distribution"),
    ],
    "ppo estimate_advantages": [
        (
            "time limit ends the return",
            "(1 - rollout.terminations)",
            "(1 - rollout.dones)",
            "time limit",
        ),
        ("termination ignored", "(1 - rollout.terminations)", "1", "termination"),
        (
            "λ runs on through a time limit",
            "- rollout.dones)",
            "- rollout.terminations)",
            "Until when",
        ),
    ],
    "ppo critic_loss": [
        ("no ½", "0.5 * errors", "errors", "factor"),
        ("value clip the wrong way", "torch.max(errors", "torch.min(errors", "keep"),
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
        pytest.param(*place.split(), number, *mistake, id=f"{place}: {name}")
        for place, group in MISTAKES.items()
        for number, (name, *mistake) in enumerate(group)
    ]


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(("algorithm", "function", "number", "old", "new", "word"), mistakes())
def test_mistake_is_found_where_it_is(algorithm, function, number, old, new, word):
    """The function that it is in is wrong, and the hint fits; no other is, seen for the first."""
    names = [function] if number > 0 else ()
    found = wrong(algorithm, changed(algorithm, (old, new)), names)
    assert list(found) == [function]
    came, hint, given, expected = found[function].args
    assert word in hint
    assert came != expected != ""
    if old == "torch.randn_like(actions)":  # one noise for all: nothing to divide by
        assert not re.search(r"e\+|inf|nan", came)
    assert given


def test_every_function_has_a_mistake():
    assert {place.split()[1] for place in MISTAKES} == {name for _, name in TASKS}


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
    "import os; os.kill(os.getpid(), 9)": "process ended, with code -9",
    "import sys; sys.exit(0)": "SystemExit",
    "input()": "EOFError",
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
