"""The code that docs/your_own_work.md prints does what the page says."""

import re

import numpy as np
import pytest
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


def test_own_environment_trains_and_is_filmed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_envs.py").write_text(block("class Reach"))
    settings = {"env_id": "my_envs:Reach-v0", "run_name": "reach"}
    ddpg.train(ddpg.Args(**SHORT | OWN["ddpg_continuous"] | settings))
    evaluate.main(evaluate.Args((tmp_path / "runs/reach",), video=tmp_path / "reach.mp4"))
    assert (tmp_path / "reach.mp4").stat().st_size > 0
