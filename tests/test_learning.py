"""A problem with a known optimum is solved."""

import gymnasium as gym
import numpy as np
import torch
from conftest import SCRIPTS, Regulator, only

import ddpg_continuous


def optimal_cost_per_x2():
    """Return P with -P x² as the best return of an episode that starts in x (Riccati recursion)."""
    a, b, q, r = Regulator.A, Regulator.B, Regulator.Q, Regulator.R
    p = 0.0
    for _ in range(Regulator.HORIZON):
        p = q + a * a * p - (a * b * p) ** 2 / (r + b * b * p)
    return p


def curvature_of_q(gamma):
    """Return -∂²Q/∂u² of the endless problem, which a run solves: time limits are bootstrapped."""
    a, b, q, r = Regulator.A, Regulator.B, Regulator.Q, Regulator.R
    p = 0.0
    for _ in range(1000):
        p = q + gamma * a * a * p - (gamma * a * b * p) ** 2 / (r + gamma * b * b * p)
    return 2 * (r + gamma * b * b * p)


OFF_POLICY = {
    "total_timesteps": 1500,
    "learning_starts": 300,
    "buffer_size": 10_000,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "tau": 0.05,
}
A2C = {"total_timesteps": 12_000, "num_envs": 16, "num_steps": 5}
SETTINGS = {
    "naf_continuous": OFF_POLICY
    | {"total_timesteps": 3000, "batch_size": 256, "learning_rate": 1e-3},
    # the rewards of longer windows are those of the random policy
    "d4pg_continuous": OFF_POLICY | {"v_min": -10.0, "v_max": 0.0, "n_steps": 1},
    "ppo_continuous": {
        "total_timesteps": 10_000,
        "num_steps": 500,
        "num_minibatches": 8,
        "update_epochs": 10,
        "learning_rate": 3e-3,
    },
    "a2c_continuous": A2C,
    "reinforce_continuous": A2C | {"num_envs": 20},
    "a3c_continuous": A2C | {"num_workers": 1},
}


def solve(quick, script):
    """Train; return the run's folder, and what share of the optimal cost the policy's cost is.

    Over the episodes of the last evaluation, whose initial states are known by their seeds.
    """
    episodes, seed = 20, 1
    run_dir, result = quick(
        env_id="toy/Regulator-v0",
        seed=seed,
        checkpoint_interval=0,
        eval_interval=0,
        eval_episodes=episodes,
        **SETTINGS.get(script.__name__, OFF_POLICY),
    )
    envs = gym.make_vec("toy/Regulator-v0", episodes, "sync")
    seeds = np.random.SeedSequence([seed, 0, 1]).generate_state(episodes)
    obs, _ = envs.reset(seed=seeds.tolist())
    return run_dir, -result["eval_mean"] / (optimal_cost_per_x2() * (obs**2).mean())


@only([name for name in SCRIPTS if name != "naf_continuous"])
def test_linear_quadratic_problem_is_solved_to_within_5_percent(quick, script, monkeypatch):
    if script.__name__ == "ac_reparam_continuous":  # its tanh critic fits a quadratic too slowly
        monkeypatch.setattr(script.QNetwork, "forward", ddpg_continuous.QNetwork.forward)
    _, cost = solve(quick, script)
    assert 0.9999 <= cost <= 1.05


@only(["naf_continuous"])
def test_naf_solves_it_to_within_1_percent_and_finds_the_curvature(quick, script):
    """Its Q can be exact here: the true one is quadratic in the action."""
    run_dir, cost = solve(quick, script)
    assert 0.9999 <= cost <= 1.01
    nets = script.Networks(1, 1, np.array([-2.0]), np.array([2.0]))
    nets.load_state_dict(torch.load(run_dir / "model.pt", weights_only=True))
    _, _, factor = nets.qf1.heads(torch.linspace(-1, 1, 9)[:, None])
    curvature = factor.detach().flatten() ** 2 / nets.qf1.action_scale**2
    np.testing.assert_allclose(curvature, curvature_of_q(0.99), rtol=0.1)
