"""The code that docs/your_own_work.md prints does what the page says."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import OWN, QUICK, ROOT, only

import ddpg_continuous as ddpg
import evaluate

SHORT = QUICK | {"env_id": "toy/Regulator-v0", "total_timesteps": 120}
PAGE = (ROOT / "docs" / "your_own_work.md").read_text()


def block(text: str) -> str:
    """Return the Python block of the page that contains `text`."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (found,) = [code for code in blocks if text in code]
    return found


@only(["ddpg_continuous", "ppo_continuous"])
def test_policy_plays_as_the_evaluations_do(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = script.Args(**SHORT | OWN[script.__name__] | {"run_name": "cheetah-2"})
    result = script.train(args)

    code = block("def policy").replace("ddpg_continuous", script.__name__)
    names = {}
    exec(code.replace("HalfCheetah-v4", args.env_id), names)
    env, returns = names["env"], []
    for seed in np.random.SeedSequence([args.seed, 0, 1]).generate_state(args.eval_episodes):
        obs, _ = env.reset(seed=int(seed))
        rewards, done = [], False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(names["policy"](obs))
            rewards.append(reward)
            done = terminated or truncated
        returns.append(sum(rewards))
    assert np.mean(returns) == pytest.approx(result["eval_mean"], rel=1e-4)


def test_q_of_a_file_of_policies(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(block("open_run"), names)
    assert (names["q"].shape, names["q"].dtype) == ((1,), torch.float32)


def test_a_copy_may_have_sizes_in_a_tuple_or_a_list(tmp_path):
    """JSON has no tuple: each is itself again in a resumed run and in evaluate.py."""
    text = (ROOT / "ddpg_continuous.py").read_text("utf-8")
    text = text.replace("import dataclass", "import dataclass, field", 1)
    own = '    sizes: tuple[int, ...] = (3,)\n    alpha: float | str = "auto"\n'
    own += "    more: list[int] = field(default_factory=lambda: [4])\n"
    text = text.replace("    seed: int", own + "    seed: int", 1)
    layer = "self.extra = nn.Linear(*args.sizes + (), *args.more + [])\n        "
    (tmp_path / "mine.py").write_text(
        text.replace("self.actor =", layer + "self.actor =", 1), "utf-8"
    )
    options = "--env-id InvertedPendulum-v4 --learning-starts 50 --eval-episodes 1"
    options += " --sizes 5 --alpha 0.1"
    for further in f"{options} --total-timesteps 60", "--resume --total-timesteps 80":
        command = [sys.executable, "mine.py", "--run-name", "x", *further.split()]
        process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (process.returncode, process.stderr) == (0, "")
    run = tmp_path / "runs" / "x"
    (played,) = evaluate.main(evaluate.Args((run,), script=tmp_path / "mine.py"))
    assert len(played["returns"]) == 1


def test_own_environment_trains_and_is_filmed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_envs.py").write_text(block("class Reach"))
    settings = {"env_id": "my_envs:Reach-v0", "run_name": "reach"}
    ddpg.train(ddpg.Args(**SHORT | OWN["ddpg_continuous"] | settings))
    evaluate.main(evaluate.Args((tmp_path / "runs/reach",), video=tmp_path / "reach.mp4"))
    assert (tmp_path / "reach.mp4").stat().st_size > 0
