"""What a run logs and writes, with which values and when, and what it does not."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DDPG, only, scalars
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem
from test_runs import checkpoint_step, refused


@DDPG
def test_files_are_written_in_an_order_that_loses_nothing(quick, script, monkeypatch):
    """A checkpoint knows the evaluation at its step; what was logged is on disk before it, even
    where that takes its time; a result is of what has a checkpoint.
    """
    append, real, names = LocalFileSystem.append, script.save, []

    def slow(*words):
        time.sleep(0.01)
        append(*words)

    def save(path, content):
        names.append(path.name)
        if path.name == "checkpoint.pt" and (step := 100 * names.count("model.pt")):
            assert scalars(path.parent)["eval/episodic_return_std"][-1].step == step
        real(path, content)

    monkeypatch.setattr(LocalFileSystem, "append", slow)
    monkeypatch.setattr(script, "save", save)
    quick(total_timesteps=200, learning_starts=10**6)
    order = ["args.json", "checkpoint.pt", *("model.pt", "checkpoint.pt") * 2, "result.json"]
    assert [name for name in names if name != "best_model.pt"] == order


@DDPG
def test_speed_is_that_since_the_last_point(quick, script, monkeypatch):
    """Here each step takes a second, and from the 200th on four."""
    now, step = [0.0], script.Run.step

    def stepped(run, actions):
        now[0] += 4 if run.global_step >= 200 else 1
        return step(run, actions)

    monkeypatch.setattr(script.Run, "step", stepped)
    monkeypatch.setattr(script.time, "perf_counter", lambda: now[0])
    run_dir, result = quick(learning_starts=10**6)
    points = [(event.step, event.value) for event in scalars(run_dir)["charts/SPS"]]
    assert points == [(100, 1), (200, 1), (300, 0.25)]
    assert (result["seconds"], result["SPS"]) == (600, 0.5)


@DDPG
def test_a_point_is_logged_at_each_1000_steps_evaluation_and_boundary(quick):
    settings = {"checkpoint_interval": 700, "eval_interval": 900, "total_timesteps": 2200}
    run_dir, _ = quick(num_envs=8, learning_starts=10**6, **settings)
    found = {tag: [event.step for event in events] for tag, events in scalars(run_dir).items()}
    assert found["charts/SPS"] == [704, 904, 1000, 1400, 1800, 2000, 2104, 2200]
    assert found["eval/episodic_return"] == [904, 1800, 2200]


@DDPG
def test_what_is_logged_is_the_mean_over_the_last_batch(quick, script, monkeypatch):
    real, metrics = script.critic_loss, []

    def critic_loss(*words):
        loss, logged = real(*words)
        metrics.append(logged)
        assert words[0].actor.training  # after an evaluation as well
        return loss, logged

    monkeypatch.setattr(script, "critic_loss", critic_loss)
    run_dir, _ = quick(total_timesteps=110)
    (point,) = scalars(run_dir)["losses/qf1_values"]
    values = metrics[-1]["qf1_values"]
    assert values.shape == (16,)
    assert point.value == pytest.approx(values.mean().item())


@DDPG
def test_threads_are_those_that_are_asked_for(quick):
    before = torch.get_num_threads()
    try:
        quick(torch_threads=before + 1, total_timesteps=10)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@DDPG
@pytest.mark.parametrize("what", ["eval_interval", "checkpoint_interval", "total_timesteps"])
def test_weights_that_are_not_finite_reach_no_file(quick, script, monkeypatch, capsys, what):
    """The gradient of the update before one is not, while its loss is."""
    real, updates = script.critic_backward, []

    def backward(nets, *words):
        metrics = real(nets, *words)
        updates.append(metrics)
        if len(updates) == 100:
            nets.qf1.fc1.weight.grad[0, 0] = np.nan
        return metrics

    monkeypatch.setattr(script, "critic_backward", backward)
    settings = {"eval_interval": 0, "checkpoint_interval": 0} | {what: 200}
    error = refused(capsys, quick, 1, run_name="x", **settings)
    assert re.fullmatch("error: .*qf1.fc1.weight is not finite at step 200 of runs/x\n", error)
    assert {path.name for path in Path("runs/x").glob("[!el]*")} == {"args.json", "checkpoint.pt"}
    assert checkpoint_step(Path("runs/x")) == 0


@only(["ppo_continuous"])
def test_statistics_that_are_not_finite_reach_no_checkpoint(quick, script, monkeypatch, capsys):
    real = script.Run.end_iteration

    def spoilt(run, *words):
        if run.at_boundary():
            run.state["nets"].actor.obs_normalizer.mean[0] = np.nan
        return real(run, *words)

    monkeypatch.setattr(script.Run, "end_iteration", spoilt)
    error = refused(capsys, quick, 1, run_name="x")
    assert "actor.obs_normalizer.mean is not finite at step 100" in error
    assert checkpoint_step(Path("runs/x")) == 0
