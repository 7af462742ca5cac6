"""The scripts under test and the toy environments, whose values are known in closed form."""

import importlib
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# The scripts, which all keep the run contract; a new one adds its name and what it needs to OWN.
SCRIPTS = ["ddpg_continuous", "td3_continuous", "ac_reparam_continuous", "ppo_continuous"]
# for tests of what not all of them have
DETERMINISTIC = pytest.mark.parametrize("script", SCRIPTS[:2], indirect=True)
OFF_POLICY = pytest.mark.parametrize("script", SCRIPTS[:3], indirect=True)

# Settings of a run of seconds: every interval is reached, one thread.
QUICK = {
    "torch_threads": 1,
    "env_id": "toy/Count-v0",
    "total_timesteps": 300,
    "checkpoint_interval": 100,
    "eval_interval": 100,
    "eval_episodes": 2,
}
REPLAY = {"learning_starts": 100, "buffer_size": 1000, "batch_size": 16}
# with one step and one update an iteration it learns as the others do
AC = {"max_episode_steps": None, "steps_per_iteration": 1, "updates_per_iteration": 1}
OWN = {
    "ddpg_continuous": REPLAY,
    "td3_continuous": REPLAY,
    "ac_reparam_continuous": REPLAY | AC,
    "ppo_continuous": {"num_steps": 50, "num_minibatches": 4, "update_epochs": 3},
}


class Count(gym.Env):
    """Observes (environment, episode, step); ends by termination after 7 or truncation after 5.

    The two kinds take turns, and neighbours start with different ones: they never end in step.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    instances = 0

    def __init__(self, low=(-1.0, -5.0), high=(1.0, 5.0)):
        self.action_space = gym.spaces.Box(np.float32(low), np.float32(high))
        self.name, Count.instances = Count.instances, Count.instances + 1
        self.episode = 0
        self.actions = []

    def obs(self):
        return np.array([self.name, self.episode, self.time], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self.obs(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action} is outside {self.action_space}"
        self.time += 1
        terminates = (self.name + self.episode) % 2 == 0
        return (
            self.obs(),
            self.reward(action),
            terminates and self.time == 7,
            not terminates and self.time == 5,
            {},
        )

    def reward(self, action):
        return 100.0 * self.name + 10.0 * self.episode + self.time


class Constant(gym.Env):
    """Reward 1 at every step; an episode of one step that terminates, or never does."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, terminates):
        self.terminates = terminates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, self.terminates, False, {}


class Regulator(gym.Env):
    """x' = x + u/2 with reward -(x² + u²/2), 20 steps: a linear-quadratic problem."""

    A, B, Q, R, HORIZON = 1.0, 0.5, 1.0, 0.5, 20
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1)
        return np.array([self.x], np.float32), {}

    def step(self, action):
        u = float(action[0])
        reward = -(self.Q * self.x**2 + self.R * u**2)
        self.x = self.A * self.x + self.B * u
        return np.array([self.x], np.float32), reward, False, False, {}


class NanLater(Count):
    """Its reward is not a number after the 150th step of an environment's life."""

    steps = 0

    def reward(self, action):
        self.steps += 1
        return float("nan") if self.steps > 150 else 1.0


class Sleepy(Count):
    """Its 50th step takes an hour; a file says that it has begun."""

    def step(self, action):
        if (self.episode, self.time) == (9, 1):
            Path("asleep").touch()
            time.sleep(3600)
        return super().step(action)


class Image(Count):
    observation_space = gym.spaces.Box(-1, 1, (4, 4), np.float32)


class DictObs(Count):
    observation_space = gym.spaces.Dict({"x": gym.spaces.Box(-1, 1, (1,))})


class Integer(Count):
    def __init__(self):
        super().__init__()
        self.action_space = gym.spaces.Box(0, 3, (2,), np.int64)


class Unbounded(Count):
    def __init__(self):
        super().__init__()
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (2,))


gym.register("toy/Count-v0", Count)
gym.register("toy/OneSided-v0", Count, kwargs={"low": (0.0, 0.1), "high": (2.0, 0.7)})
gym.register("toy/Terminates-v0", Constant, max_episode_steps=10, kwargs={"terminates": True})
gym.register("toy/Truncates-v0", Constant, max_episode_steps=1, kwargs={"terminates": False})
gym.register("toy/Regulator-v0", Regulator, max_episode_steps=Regulator.HORIZON)
gym.register("toy/NanLater-v0", NanLater)
gym.register("toy/Sleepy-v0", Sleepy)
gym.register("toy/Image-v0", Image)
gym.register("toy/Dict-v0", DictObs)
gym.register("toy/Unbounded-v0", Unbounded)
gym.register("toy/Integer-v0", Integer)


@pytest.fixture(params=SCRIPTS)
def script(request):
    """Each script as a module."""
    return importlib.import_module(request.param)


@pytest.fixture
def quick(script, tmp_path, monkeypatch):
    """Train in an empty folder with QUICK settings, some changed; return run folder and result."""
    monkeypatch.chdir(tmp_path)

    def run(**settings):
        Count.instances = 0
        args = script.Args(**(QUICK | OWN[script.__name__] | settings))
        result = script.train(args)
        return Path("runs", args.run_name), result

    return run
