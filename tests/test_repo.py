"""Pins, defaults, printed commands, and where the handout's listing fails."""

import importlib
import re
import shlex
import tomllib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import DETERMINISTIC, OFF_POLICY, ROOT

HANDOUT = {
    "env_id": "Hopper-v4",
    "total_timesteps": 1_000_000,
    "learning_rate": 3e-4,
    "buffer_size": 1_000_000,
    "gamma": 0.99,
    "tau": 0.005,
    "batch_size": 256,
    "exploration_noise": 0.1,
    "learning_starts": 25_000,
    "policy_frequency": 2,
    "noise_clip": 0.5,
}
EVERY_RUN = {
    "seed": 1,
    "torch_threads": 1,
    "run_name": None,
    "resume": False,
    "checkpoint_interval": 50_000,
    "eval_interval": 10_000,
    "eval_episodes": 10,
    "compile": False,
}


def test_script_header_pins_what_requirements_pin(script):
    source = (ROOT / f"{script.__name__}.py").read_text()
    header = re.search(r"^# /// script\n(.*?)^# ///$", source, re.MULTILINE | re.DOTALL)[1]
    pins = tomllib.loads(re.sub(r"^# ?", "", header, flags=re.MULTILINE))["dependencies"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = [
        line.split("#")[0].strip()
        for line in lines
        if "# plot.py" not in line and "# evaluate.py" not in line
    ]
    assert sorted(pins) == sorted(filter(None, required))
    assert all("==" in pin for pin in pins)


@DETERMINISTIC
def test_defaults_are_the_handouts(script):
    args = vars(script.Args())
    assert {name: args[name] for name in HANDOUT} == HANDOUT
    assert {name: type(args[name]) for name in HANDOUT} == {n: type(v) for n, v in HANDOUT.items()}


def test_defaults_of_every_run(script):
    args, expected = vars(script.Args()), EVERY_RUN | {"exp_name": script.__name__}
    assert {name: args[name] for name in expected} == expected


@OFF_POLICY
def test_values_of_a_batch_have_one_dimension(script):
    nets = script.Networks(11, 3, -np.ones(3), np.ones(3), script.Args())
    assert nets.qf1(torch.zeros(4, 11), torch.zeros(4, 3)).shape == (4,)


def test_handout_target_broadcasts_to_a_matrix():
    """(N,) rewards plus (N, 1) values: each prediction is drawn to the mean reward plus its γQ'."""
    rewards, values = torch.tensor([0.0, 10.0]), torch.tensor([[4.0], [8.0]])
    target = rewards + 0.5 * values
    assert target.shape == (2, 2)
    predictions = torch.zeros(2, 1, requires_grad=True)
    with pytest.warns(UserWarning, match="target size"):
        F.mse_loss(predictions, target).backward()
    assert predictions.grad.flatten().tolist() == [-7.0, -9.0]  # and not [-2, -14]


def commands():
    """Yield each command of the README, the docs and speed.py that starts a script or a tool."""
    pages = ROOT / "README.md", ROOT / "benchmarks/speed.py", *sorted((ROOT / "docs").glob("*.md"))
    for page in pages:
        for line in page.read_text().replace("\\\n", "").splitlines():
            names = r"\w+_continuous|evaluate|plot|benchmarks/speed"
            if found := re.search(rf"python ({names})\.py ([^#`]*)", line):
                yield pytest.param(*found.groups(), id=f"{page.name}: {found[2].strip()}")


@pytest.mark.parametrize(("name", "flags"), list(commands()))
def test_printed_command_is_understood(name, flags):
    module = importlib.import_module(name.removeprefix("benchmarks/"))
    words = shlex.split(flags)
    if "--help" in words:
        with pytest.raises(SystemExit, match="0"):
            module.tyro.cli(module.Args, args=words)
    else:
        args = module.tyro.cli(module.Args, args=words)
        if name.endswith("_continuous"):
            module.check_args(args, ())
        if name == "benchmarks/speed":
            assert (ROOT / f"{args.script}.py").exists()


def headings(page):
    """Return the anchors that a code host gives to the headings of a page."""
    texts = re.findall(r"^#+ (.*)", re.sub(r"(?ms)^```.*?^```", "", page.read_text()), re.M)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in texts}


PAGES = *ROOT.glob("*.md"), *ROOT.glob("[!.]*/*.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page):
    for link, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), f"{link}#{anchor}"
