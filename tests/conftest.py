"""The scripts under test and the toy environments, whose values are known in closed form."""

import contextlib
import importlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import save
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parent.parent
torch.set_num_threads(1)  # as a run does
os.fsync = lambda file: None  # slow, and no test takes the power away
sys.path[:0] = map(str, [ROOT, ROOT / "docs", ROOT / "lecture", ROOT / "benchmarks"])
# A shell's `&` and `nohup` let what they start ignore these signals, and that is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Settings of a run of seconds: every interval is reached.
QUICK = {
    "env_id": "toy/Count-v0",
    "total_timesteps": 300,
    "checkpoint_interval": 100,
    "eval_interval": 100,
    "eval_episodes": 2,
}
REPLAY = {"learning_starts": 100, "buffer_size": 1000, "batch_size": 16}
# with one step and one update an iteration it learns as the others do
AC = {"max_episode_steps": None, "steps_per_iteration": 1, "updates_per_iteration": 1}
PPO = {"num_steps": 50, "num_minibatches": 4, "update_epochs": 3}
CRITIC = {"losses/qf1_loss", "losses/qf1_values", "losses/actor_loss"}
TWIN = {"losses/qf2_loss", "losses/qf2_values"}
A2C = {"num_envs": 4, "num_steps": 5}
A2C_TAGS = {
    *("losses/policy_loss", "losses/value_loss", "losses/entropy"),
    *("losses/explained_variance", "charts/learning_rate"),
}
# One row for each script: what it needs besides QUICK, and which tags it logs besides TAGS.
TABLE = {
    "ddpg_continuous": (REPLAY, CRITIC),
    "td3_continuous": (REPLAY, CRITIC | TWIN),
    "svg0_continuous": (REPLAY, CRITIC | {"losses/policy_std"}),
    "sac_continuous": (REPLAY, CRITIC | TWIN | {"losses/entropy", "losses/alpha"}),
    "tqc_continuous": (REPLAY, CRITIC | TWIN | {"losses/entropy", "losses/alpha"}),
    "naf_continuous": (REPLAY, CRITIC - {"losses/actor_loss"}),
    "d4pg_continuous": (REPLAY, CRITIC | {"losses/v_min_mass", "losses/v_max_mass"}),
    "ac_reparam_continuous": (REPLAY | AC, CRITIC | {"losses/policy_std"}),
    "ppo_continuous": (PPO, A2C_TAGS | {"losses/approx_kl", "losses/clipfrac"}),
    "a2c_continuous": (A2C, A2C_TAGS),
    "reinforce_continuous": ({"num_steps": 5}, A2C_TAGS),
    "a3c_continuous": (A2C | {"num_workers": 1}, A2C_TAGS),
}
TAGS = {
    *("charts/episodic_return", "charts/episodic_length", "charts/SPS"),
    *("eval/episodic_return", "eval/episodic_return_std", "eval/discounted_return"),
}
SCRIPTS = list(TABLE)
OWN = {name: settings for name, (settings, _) in TABLE.items()}


def only(scripts):
    """Mark what tests `scripts` alone."""
    return pytest.mark.parametrize("script", scripts, indirect=True)


# the Run section is the same in every script
DDPG = only(["ddpg_continuous"])
OFF_POLICY = only([name for name in SCRIPTS if "buffer_size" in OWN[name]])
DETERMINISTIC = only(["ddpg_continuous", "td3_continuous"])


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
    """Reward 1 at every step, without an end."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}


class Regulator(gym.Env):
    """x' = x + u/2 with reward -(x² + u²/2), 5 steps: a linear-quadratic problem."""

    A, B, Q, R, HORIZON = 1.0, 0.5, 1.0, 0.5, 5
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


class TooMuch(Count):
    """Its reward is nothing that float32 can hold after the 150th step of its life."""

    steps = 0

    def reward(self, action):
        self.steps += 1
        return 1e39 if self.steps > 150 else 1.0


class NanElsewhere(Count):
    """Only the first one, in which a run trains, has rewards that are numbers."""

    steps = 0

    def reward(self, action):
        self.steps += 1
        assert self.steps < 1000, "an evaluation goes on and on"
        return 1.0 if self.name == 0 else float("nan")


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


class Only(Count):
    """A simulator of which a process can have one."""

    alive = 0

    def __init__(self):
        super().__init__()
        Only.alive += 1
        if Only.alive > 1:
            raise RuntimeError("only one at a time")

    def close(self):
        Only.alive -= 1


gym.register("toy/Count-v0", Count)
gym.register("toy/OneSided-v0", Count, kwargs={"low": (0.0, 0.1), "high": (2.0, 0.7)})
gym.register("toy/Truncates-v0", Constant, max_episode_steps=1)
gym.register("toy/Regulator-v0", Regulator, max_episode_steps=Regulator.HORIZON)
gym.register("toy/TooMuch-v0", TooMuch)
gym.register("toy/NanElsewhere-v0", NanElsewhere)
gym.register("toy/Sleepy-v0", Sleepy)
gym.register("toy/Image-v0", Image)
gym.register("toy/Dict-v0", DictObs)
gym.register("toy/Unbounded-v0", Count, kwargs={"low": (-np.inf,) * 2, "high": (np.inf,) * 2})
gym.register("toy/Integer-v0", Integer)
LARGEST = float(np.finfo(np.float32).max)
gym.register("toy/Huge-v0", Count, kwargs={"low": (-LARGEST,) * 2, "high": (LARGEST,) * 2})
gym.register("toy/Equal-v0", Count, kwargs={"low": (-1.0, 2.0), "high": (1.0, 2.0)})
gym.register("toy/Only-v0", Only)
gym.register("toy/Normalized-v0", lambda: gym.wrappers.NormalizeReward(Count()))


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


# Processes that can be killed are forked from one that has done the imports, Adam's late one too.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["conftest", "torch._dynamo", *SCRIPTS])


def train_and_die(name, folder, settings, die_at):
    """Train in `folder`; at step `die_at` get killed, with all that was logged on disk."""
    script = importlib.import_module(name)

    class Mortal(script.Run):
        def step(self, actions):
            if self.global_step >= die_at:
                self.writer.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().step(actions)

    script.Run = Mortal
    os.chdir(folder)
    with open("stdout", "w") as file, contextlib.redirect_stdout(file):
        script.train(script.Args(**settings))


@pytest.fixture
def start(script, tmp_path, monkeypatch):
    """Start a QUICK run on a real environment, some settings changed, in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    started = []

    def run(die_at=math.inf, **settings):
        settings = QUICK | {"env_id": "InvertedPendulum-v4"} | OWN[script.__name__] | settings
        args = script.__name__, tmp_path, settings, die_at
        started.append(PROCESSES.Process(target=train_and_die, args=args))
        started[-1].start()
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.join()


def weights(run_dir):
    return torch.load(run_dir / "model.pt", weights_only=True)


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def scalars(run_dir):
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0}).Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


# ---- The site, in a browser ----
PROJECTOR = {"width": 1280, "height": 720}
BODIES = "HalfCheetah-v4", "Hopper-v4", "Walker2d-v4"
RANDOM = {name.removesuffix("_continuous"): BODIES[n % 3] for n, name in enumerate(OWN)}


def copy_of_repo(folder):
    """Copy what a build reads; of the curves, which take long to draw, only DDPG's."""
    for name in "docs", "lecture", "policies", "results", "tests":
        shutil.copytree(ROOT / name, folder / name)
    for path in [*ROOT.glob("*_continuous.py"), ROOT / "plot.py", ROOT / "stats.py"]:
        shutil.copy(path, folder)
    head, *lines = (ROOT / "results" / "curves.csv").read_text().splitlines()
    few = [head, *(line for line in lines if line.startswith("ddpg,"))]
    (folder / "results" / "curves.csv").write_text("\n".join(few))
    return folder


def build(folder):
    command = [sys.executable, "lecture/build.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def write_random(folder, name, body):
    """Write a policy of random weights, far from where training begins."""
    import evaluate

    script, env = importlib.import_module(f"{name}_continuous"), gym.make(body)
    args, space = script.Args(env_id=body), env.action_space
    nets = script.Networks(
        env.observation_space.shape[0], space.shape[0], space.low, space.high, args
    )
    weights = evaluate.kept(nets)
    for key, w in weights.items():
        if "normalizer" in key:
            w.copy_(torch.rand_like(w) + 0.5)
        elif "log_std" in key or key.endswith("mu.4.weight"):
            w.copy_(torch.randn_like(w) / 3)
        elif w.dim() == 2:
            w *= 1.5
    about = {"args": vars(args) | {"script": f"{name}_continuous.py"}, "result": {"step": 7000}}
    file = folder / f"{name}_{body}_7000.safetensors"
    file.write_bytes(save(weights, {key: json.dumps(value) for key, value in about.items()}))


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """With policies of random weights; built once, for all workers of the suite."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "repository"
    with FileLock(f"{folder}.lock"):
        if not (folder / "site" / "watch-data.js").exists():  # written last
            shutil.rmtree(folder, ignore_errors=True)
            torch.manual_seed(1)
            copy_of_repo(folder)
            with torch.no_grad():
                for name, body in RANDOM.items():
                    write_random(folder / "policies", name, body)
            done = build(folder)
            assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def browser():
    from playwright import sync_api

    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("no browser here (Debian: chromium)")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def screens():
    """Open pages, by their options: to open a new one takes long."""
    return {}


@pytest.fixture
def tab(browser, site, screens):
    """Return a function that opens a page of the site with no network; then say what went wrong."""

    def new_page(**options):
        context = browser.new_context(**options)
        context.set_offline(True)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.faults, page.files = [], []
        page.on("console", lambda message: page.faults.append(message.text))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("requestfailed", lambda request: page.faults.append(f"failed: {request.url}"))
        page.on("request", lambda request: page.files.append(request.url))
        return page

    def open_page(name, **options):
        options = {"viewport": PROJECTOR} | options
        if str(options) not in screens:
            screens[str(options)] = new_page(**options)
        page = screens[str(options)]
        page.set_viewport_size(options["viewport"])
        page.goto(f"{site.as_uri()}/{name}")
        return page

    yield open_page
    faults, here = [], (site.as_uri(), "data:", "blob:", "about:")
    for page in screens.values():
        faults += page.faults + [url for url in page.files if not url.startswith(here)]
        page.goto("about:blank")
        page.faults.clear()
        page.files.clear()
    assert faults == []
