"""What is stored is what happened, within the bounds of each dimension; the rest is refused."""

import numpy as np
import pytest
import torch
from conftest import DDPG, OFF_POLICY, scalars
from test_runs import refused

NAME, EPISODE, TIME = 0, 1, 2


def ends(obs):
    """Return whether an observed episode of Count ends by termination, and its length."""
    terminates = (obs[..., NAME] + obs[..., EPISODE]) % 2 == 0
    return terminates, np.where(terminates, 7, 5)


def replay(run_dir):
    state = torch.load(run_dir / "checkpoint.pt", weights_only=True)
    return {name: x.numpy() for name, x in state["rb"].items() if torch.is_tensor(x)}


@DDPG
def test_stored_transitions_are_those_that_happened(quick):
    """Across truncation (5 steps), termination (7 steps) and the ends of segments."""
    num_envs, steps = 3, 100
    run_dir, _ = quick(num_envs=num_envs, learning_starts=10**6)
    rb = replay(run_dir)
    assert rb["observations"].shape == (steps, num_envs, 3)
    for env in range(num_envs):
        obs, next_obs = rb["observations"][:, env], rb["next_observations"][:, env]
        terminates, length = ends(obs)
        assert (obs[:, NAME] == env).all()
        assert (next_obs[:, :TIME] == obs[:, :TIME]).all()
        assert (next_obs[:, TIME] == obs[:, TIME] + 1).all()
        expected = 100 * env + 10 * next_obs[:, EPISODE] + next_obs[:, TIME]
        assert (rb["rewards"][:, env] == expected).all()
        ended = next_obs[:, TIME] == length
        assert (rb["dones"][:, env] == (ended & terminates)).all()
        # the next row continues the episode, or starts one after an end or a segment's boundary
        new = obs[1:, TIME] == 0
        assert (obs[1:, EPISODE] == obs[:-1, EPISODE] + new).all()
        assert (obs[1:, TIME] == np.where(new, 0, next_obs[:-1, TIME])).all()
        row = np.arange(1, steps) * num_envs
        boundary = row % 100 < num_envs
        assert (new == (ended[:-1] | boundary)).all()
        assert (boundary & ~ended[:-1]).any(), "no boundary cut an episode"


@OFF_POLICY
def test_actor_reaches_each_bound(script):
    low, high = np.array([-1.0, 0.0, -5.0]), np.array([1.0, 2.0, 5.0])
    actor = script.Networks(4, 3, low, high, script.Args()).actor
    fc_mu = getattr(actor, "critic", actor).fc_mu  # NAF's is in its critic
    with torch.no_grad():
        fc_mu.bias.fill_(50)
        np.testing.assert_allclose(actor(torch.zeros(2, 4)), [high, high])
        fc_mu.bias.fill_(-50)
        np.testing.assert_allclose(actor(torch.zeros(2, 4)), [low, low])


@DDPG
def test_every_episode_is_logged_with_its_own_length(quick):
    run_dir, _ = quick(num_envs=3, learning_starts=10**6)
    rb, points = replay(run_dir), scalars(run_dir)
    ended = rb["next_observations"][:, :, TIME] == ends(rb["observations"])[1]
    lengths = [event.value for event in points["charts/episodic_length"]]
    returns = [event.value for event in points["charts/episodic_return"]]
    assert lengths == rb["next_observations"][:, :, TIME][ended].tolist()
    k = np.array(lengths)
    name, episode = (rb["next_observations"][:, :, i][ended] for i in (NAME, EPISODE))
    np.testing.assert_allclose(returns, k * (100 * name + 10 * episode) + k * (k + 1) / 2)


@DDPG
def test_after_the_last_step_nothing_begins(quick, script, monkeypatch):
    begins, begin = [], script.Run.begin_segment
    monkeypatch.setattr(
        script.Run, "begin_segment", lambda run: begins.append(run.global_step) or begin(run)
    )
    quick()
    assert begins == [0, 100, 200]


@DDPG
@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"env_id": "CartPole-v1"}, "Discrete"),
        ({"env_id": "toy/Dict-v0"}, "Dict"),
        ({"env_id": "toy/Unbounded-v0"}, "finite bounds"),
        ({"env_id": "toy/Huge-v0"}, "finite bounds"),
        ({"env_id": "toy/Equal-v0"}, "finite bounds"),
        ({"env_id": "toy/Integer-v0"}, "float actions"),
        ({"env_id": "toy/Only-v0"}, "only one at a time"),
        ({"env_id": "toy/Normalized-v0", "num_envs": 2}, "NormalizeReward"),
        ({"env_id": "toy/Image-v0"}, "(4, 4)"),
        ({"env_id": "Nothing-v0"}, "Nothing"),
        ({"env_id": "no_such_module:Nothing-v0"}, "no_such_module"),
        ({"gamma": 1.1}, "--gamma"),
        ({"gamma": float("nan")}, "--gamma"),
        ({"tau": 1.1}, "--tau"),
        ({"total_timesteps": 0}, "--total-timesteps"),
        ({"torch_threads": 0}, "--torch-threads"),
        ({"batch_size": 0}, "--batch-size"),
        ({"policy_frequency": 0}, "--policy-frequency"),
        ({"num_envs": 0}, "--num-envs"),
        ({"eval_episodes": 0}, "--eval-episodes"),
        ({"max_episode_steps": 0}, "--max-episode-steps"),
        ({"learning_rate": -1e-9}, "--learning-rate"),
        ({"seed": -1}, "--seed"),
        ({"learning_rate": float("inf")}, "--learning-rate"),
        ({"run_name": "../elsewhere"}, "--run-name"),
        ({"run_name": "a/b"}, "--run-name"),
        ({"run_name": ".."}, "--run-name"),
        ({"resume": True}, "--run-name"),
    ],
)
def test_unusable_input_gets_one_line_and_exit_code_2(quick, capsys, tmp_path, settings, word):
    assert word in refused(capsys, quick, **settings)
    assert list(tmp_path.iterdir()) == []


@DDPG
def test_buffer_that_fits_no_memory_gets_one_line(quick, script, monkeypatch, capsys, tmp_path):
    def too_large(*_, **__):  # what NumPy raises, at a size that depends on the machine
        raise MemoryError("Unable to allocate 82.0 GiB")

    monkeypatch.setattr(script, "ReplayBuffer", too_large)
    assert refused(capsys, quick) == "error: MemoryError: Unable to allocate 82.0 GiB\n"
    assert list(tmp_path.iterdir()) == []
