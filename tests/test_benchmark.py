"""benchmark.sh: nothing is run twice, nothing is lost, and every engine does the same.

Most tests run a stand-in that keeps the scripts' contract but sleeps where they train.
"""

import fcntl
import itertools
import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT

# GNU parallel, openssh-server, slurm-wlm and shellcheck are needed for all of it
STANDIN = Path(__file__).parent / "benchmark" / "standin.py"
SCRIPTS = ["ddpg", "ppo", "td3"]
needs = {
    name: pytest.mark.skipif(not shutil.which(tool), reason=f"{tool} is not installed")
    for name, tool in {"parallel": "parallel", "ssh": "sshd", "slurm": "sbatch"}.items()
}
both = pytest.mark.parametrize(
    "backend", [pytest.param("parallel", marks=needs["parallel"]), "xargs"]
)


def wait_for(condition, seconds=30):
    """Wait until the condition holds and return its value."""
    for _ in range(int(seconds / 0.05)):
        if value := condition():
            return value
        time.sleep(0.05)
    raise TimeoutError(condition)


class Matrix:
    """benchmark.sh beside stand-ins, and a folder with a space in its name to start it in."""

    def __init__(self, folder: Path):
        self.code, self.folder = folder / "the code", folder / "the runs"
        self.code.mkdir()
        self.folder.mkdir()
        shutil.copy(ROOT / "benchmark.sh", self.code)
        for name in SCRIPTS:
            shutil.copy(STANDIN, self.code / f"{name}_continuous.py")
        self.env, self.started = {}, []

    def start(self, *flags, **env):
        """Start the launcher in a process group of its own, as a shell does."""
        command = ["bash", str(self.code / "benchmark.sh"), *map(str, flags)]
        env = os.environ | {"PYTHON": sys.executable} | self.env | env
        env = {name: str(value) for name, value in env.items()}
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, cwd=self.folder, env=env, stdout=pipe, stderr=pipe, text=True, process_group=0
        )
        self.started.append(process)
        return process

    def finish(self, process, seconds=100):
        """Wait for a launcher; return its exit code and what it printed."""
        out, err = process.communicate(timeout=seconds)
        return SimpleNamespace(returncode=process.returncode, out=out, err=err)

    def run(self, *flags, **env):
        return self.finish(self.start(*flags, **env))

    def alive(self):
        """Return the processes, launchers and engines included, that belong to this matrix."""
        table = subprocess.run(["ps", "-axww", "-o", "pid=,stat=,command="], capture_output=True)
        rows = [line.split(None, 2) for line in table.stdout.decode().splitlines()]
        return {
            int(pid): command
            for pid, state, command in rows
            if str(self.code.parent) in command and "Z" not in state
        }

    def training(self):
        """Return the process ids of the runs themselves."""
        return [
            pid for pid, command in self.alive().items() if "_continuous.py --env-id" in command
        ]

    def run_dirs(self):
        return sorted(path for path in self.folder.glob("runs/[!.]*") if path.is_dir())

    def results(self):
        return {path.parent.name for path in self.folder.glob("runs/*/result.json")}

    def diary(self, run_dir):
        """Return what happened in a run: (event, time, step, process, threads, node)."""
        path = run_dir / "diary"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(e, float(t), int(s), int(p), n, h) for e, t, s, p, n, h in map(str.split, lines)]

    def events(self, event):
        return [
            (when, run_dir.name)
            for run_dir in self.run_dirs()
            for name, when, *_ in self.diary(run_dir)
            if name == event
        ]

    def check_never_twice(self):
        """No two processes of a run at once, nothing lost between them, none after the last."""
        for run_dir in self.run_dirs():
            before, last, process = "end", 0, None
            for event, _, step, pid, *_ in self.diary(run_dir):
                if event == "start":
                    assert step == last or before != "end", f"{run_dir.name} lost steps"
                    assert step < 10, f"{run_dir.name} was trained after its end"
                    process = pid
                assert pid == process, f"{run_dir.name} was trained by two at once"
                before, last = event, step

    def kill(self, pid, signum=signal.SIGKILL):
        """Kill one process, which may have ended."""
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            return False
        return True


@pytest.fixture
def matrix(tmp_path):
    matrix = Matrix(tmp_path)
    yield matrix
    # end what a failed test has left
    for _ in range(20):
        left = matrix.alive()
        for pid in left:
            matrix.kill(pid)
        if not left:
            break
        time.sleep(0.1)
    for process in matrix.started:
        process.communicate()


def wait_for_starts(matrix, count):
    """Wait until so many processes have begun to train."""
    wait_for(lambda: len(matrix.events("start")) >= count)


# ---- Arguments and the matrix ----
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--sedes 3", "unknown option --sedes"),
        ("ddpg", "unknown option ddpg"),
        ("--seeds", "--seeds needs a value"),
        ("--seeds 0", "--seeds must be at least 1"),
        ("--seeds=3x", "--seeds must be a whole number"),
        ("--seeds=", "--seeds must be a whole number"),
        ("--start-seed=-1", "--start-seed must be a whole number"),
        ("--jobs 0", "--jobs must be at least 1"),
        ("--threads 1.5", "--threads must be a whole number"),
        ("--backend make", "--backend must be"),
        ("--suite a/b", "--suite must be"),
        ("--suite ''", "--suite must be"),
        ("--scripts sac", "no script 'sac'"),
        ("--scripts ddpg,,td3", "no script ''"),
        ("--scripts ../the", "no script '../the'"),
        ("--env-ids ''", "an environment id is empty"),
        ("--env-ids A,", "an environment id is empty"),
        ("--env-ids $'A\\nB'", "control character"),
        ("--hosts nowhere", "cannot read --hosts"),
        ("--hosts . --backend slurm", "--hosts is for GNU parallel"),
        ("-- --seed 3", "--seed after --"),
        ("-- --env-id=A", "--env-id=A after --"),
        ("-- --run_name a", "--run_name after --"),
        ("-- --total-timesteps", "--total-timesteps must be a whole number"),
        ("-- --total-timesteps 1e6", "--total-timesteps must be a whole number"),
        ("-- --total-timesteps 9999999999", "--total-timesteps must be a whole number of up to 9"),
        # two cells in one folder
        ("--env-ids a/b,a-b", "would both be runs/benchmark__ddpg__a-b__1"),
        ("--env-ids A-v1,a-v1", "would both be runs/benchmark__ddpg__"),
        ("--env-ids A,A", "would both be"),
        ("--scripts td3,td3", "would both be"),
    ],
)
def test_what_no_matrix_can_be_is_refused(matrix, flags, message):
    flags = ["A\nB" if flag.startswith("$") else flag for flag in shlex.split(flags)]
    done = matrix.run(*flags)
    assert (done.returncode, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not matrix.run_dirs()


def test_help_names_every_option(matrix):
    done = matrix.run("--help")
    assert done.returncode == 0
    source = (ROOT / "benchmark.sh").read_text()
    options = set(re.findall(r"--[a-z-]+(?= [|]|\) ;;)", source.split("# ---- Options")[1]))
    assert len(options) > 8
    assert all(option in done.out for option in options)


def test_source():
    """What bash 3.2 does not have; what shellcheck finds."""
    source = (ROOT / "benchmark.sh").read_text()
    code = re.sub(r"(?m)(^| )#.*", "", source)
    later = r"declare -[An]|local -n|mapfile|readarray|wait -[np]|\$\{\w+[\^,@]|&>>|\|&|coproc"
    assert not re.search(later, code)
    assert max(map(len, source.splitlines())) <= 100
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", ROOT / "benchmark.sh"], check=True)


def test_without_arguments_it_tells_a_small_matrix_and_runs_it(matrix):
    done = matrix.run(STEP_TIME=0)
    assert done.returncode == 0
    first = done.out.splitlines()[0]
    assert first == "9 runs: ddpg,ppo,td3 x Hopper-v4 x seeds 1 to 3; 0 are finished"
    assert len(matrix.results()) == 9
    names = {f"benchmark__{s}__Hopper-v4__{n}" for s in SCRIPTS for n in (1, 2, 3)}
    assert matrix.results() == names


def test_dry_run_prints_commands_that_work(matrix):
    entry = "gymnasium.envs.classic_control:PendulumEnv"
    source = f"import gymnasium\ngymnasium.register('ns/B-v1', '{entry}')\n"
    (matrix.code / "own.py").write_text(source)
    flags = "--scripts", "td3,ddpg", "--env-ids", "Hopper-v4,own:ns/B-v1", "--seeds", 2
    done = matrix.run(*flags, "--dry-run", "--", "--total-timesteps", 3)
    commands = [shlex.split(line) for line in done.out.splitlines()]
    assert done.returncode == 0
    assert len(commands) == 8
    assert not matrix.run_dirs()
    assert commands[2][1:] == [
        *(str(matrix.code / "td3_continuous.py"), "--env-id", "own:ns/B-v1"),
        *("--seed", "1", "--torch-threads", "1", "--resume"),
        *("--run-name", "benchmark__td3__own-ns-B-v1__1", "--total-timesteps", "3"),
    ]
    line = done.out.splitlines()[2]
    subprocess.run(["bash", "-c", line], check=True, cwd=matrix.folder)
    assert matrix.results() == {"benchmark__td3__own-ns-B-v1__1"}
    done = matrix.run(*flags, "--dry-run", "--", "--total-timesteps", 3)
    assert len(done.out.splitlines()) == 7  # what is left


def test_first_seed_of_all_cells_comes_before_the_second_of_any(matrix):
    matrix.run(*["--env-ids", "A,B", "--seeds", "2", "--jobs", "1"], STEP_TIME=0)
    order = [name for _, name in sorted(matrix.events("start"))]
    seeds = [name[-1] for name in order]
    assert seeds == ["1"] * 6 + ["2"] * 6


def test_a_larger_matrix_runs_only_what_is_missing(matrix):
    assert matrix.run("--seeds", 1, "--scripts", "ddpg", STEP_TIME=0).returncode == 0
    flags = "--seeds", 2, "--scripts", "ddpg,td3"
    done = matrix.run(*flags, STEP_TIME=0)
    assert done.returncode == 0
    assert done.out.startswith("4 runs: ddpg,td3 x Hopper-v4 x seeds 1 to 2; 1 are finished\n3 to")
    assert "4 of 4 runs finished" in done.out
    # more steps: all go on from where they are
    done = matrix.run(*flags, "--", "--total-timesteps=1_5", STEP_TIME=0)
    assert done.returncode == 0
    starts = [s for d in matrix.run_dirs() for e, _, s, *_ in matrix.diary(d) if e == "start"]
    assert sorted(starts) == [0] * 4 + [10] * 4
    # and nothing is left to do, for these steps or fewer
    for extra in ["--", "--total_timesteps", 15], ["--", "--total-timesteps", 12], []:
        done = matrix.run(*flags, *extra)
        assert (done.returncode, len(done.out.splitlines())) == (0, 1)
    assert len(matrix.events("start")) == 8


@pytest.mark.parametrize("content", ['{"step":10}', '{\n "a": 1,\n "step" :  10,\n "b": 2}'])
def test_only_result_json_says_that_a_run_is_finished(matrix, content):
    one = matrix.folder / "runs" / "benchmark__ddpg__Hopper-v4__1"
    one.mkdir(parents=True)
    (one / "result.json").write_text(content)
    done = matrix.run("--scripts", "ddpg", "--seeds", 1)
    assert done.out.endswith("1 are finished\n")
    for bad in '{"step": 9}', '{"steps": 10}', "", '{"step": nan}':
        (one / "result.json").write_text(bad)
        assert matrix.run("--scripts", "ddpg", "--seeds", 1, "--dry-run").out.count("\n") == 1


def test_runs_made_with_other_arguments_are_not_taken_for_these(matrix):
    flags = "--scripts", "ddpg", "--seeds", 1
    assert matrix.run(*flags, "--", "--learning-rate", "0.1", STEP_TIME=0).returncode == 0
    for other in [], ["--", "--learning-rate", "0.2"]:
        done = matrix.run(*flags, *other)
        assert done.returncode == 2
        assert "was made with the arguments --learning-rate 0.1;" in done.err
    assert matrix.run(*flags, "--suite", "two", STEP_TIME=0).returncode == 0
    assert matrix.results() == {f"{suite}__ddpg__Hopper-v4__1" for suite in ("benchmark", "two")}


@both
def test_any_environment_id_is_safe(matrix, backend):
    ids = [
        "ns/B-v1",
        "; touch hacked",
        "$(touch hacked)",
        "`touch hacked`",
        "it's",
        'a "b"',
        "*",
        "{}",
    ]
    ids += ["\\", " x ", "é", "a|b&c", "~", "%s"]
    ids = ids if backend == "xargs" else ids[:4] + ["{}"]
    flags = "--scripts", "ddpg", "--seeds", 1, "--backend", backend, "--env-ids"
    ids = [f"{i}{name}" for i, name in enumerate(ids)]
    done = matrix.run(*flags, ",".join(ids), STEP_TIME=0)
    assert done.returncode == 0, done
    seen = {json.loads((d / "args.json").read_text())["env_id"] for d in matrix.run_dirs()}
    assert seen == set(ids)
    assert {path.name for path in matrix.folder.iterdir()} == {"runs"}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", path.name) for path in matrix.run_dirs())
    assert matrix.run(*flags, ",".join(ids)).out.count("\n") == 1


# ---- How runs and launchers end ----
TWELVE = shlex.split("--scripts ddpg,td3,ppo --env-ids A-v1,B-v1 --seeds 2 --jobs 2")


@both
def test_failing_cells_are_reported_and_the_others_finish(matrix, backend):
    flags = *TWELVE, "--backend", backend
    done = matrix.run(*flags, FAIL="*__[dt]*__B-v1__*", STEP_TIME=0)
    assert done.returncode == 1
    failing = {f"benchmark__{s}__B-v1__{n}" for s in ("ddpg", "td3") for n in (1, 2)}
    assert len(matrix.results()) == 8
    assert not failing & matrix.results()
    lines = [line for line in done.out.splitlines() if line.startswith("[")]
    assert sorted(line.split()[0] for line in lines) == ["[fail]"] * 4 + ["[ok]"] * 8
    assert [line.split()[1] for line in lines] == [f"{n}/12" for n in range(1, 13)]
    report = done.out.split("\nfailed with ")[1:]
    assert {re.search(r"runs/(\S+)/train.log", text)[1] for text in report} == failing
    for text in report:
        first, *rest = text.splitlines()
        assert first.startswith("exit code 1, log runs/")
        assert rest[:2] == ["  | step five", "  | error: told to fail"]
    assert "8 of 12 runs finished, 4 failed, 0 left" in done.out
    # once mended they go on from their checkpoints, and nothing else runs
    assert matrix.run(*flags, STEP_TIME=0).returncode == 0
    assert len(matrix.events("start")) == 16
    matrix.check_never_twice()


@both
@pytest.mark.parametrize(("signum", "code"), [("INT", 130), ("TERM", 143), ("HUP", 143)])
def test_signals_let_the_runs_save(matrix, backend, signum, code):
    flags = *TWELVE, "--backend", backend
    launcher = matrix.start(*flags, STEP_TIME=0.2)
    wait_for_starts(matrix, 2)
    time.sleep(0.5)
    number = getattr(signal, f"SIG{signum}")
    (os.killpg if signum == "INT" else os.kill)(launcher.pid, number)
    done = matrix.finish(launcher, 50)  # less than they are granted
    assert done.returncode == code
    assert matrix.alive() == {}
    assert "0 of 12 runs finished, 0 failed, 12 left\nto go on, the same command" in done.out
    assert done.out.count("[stop] ") == 2
    assert not list(matrix.folder.glob("runs/.benchmark/*"))
    for run_dir in matrix.run_dirs():
        # told once, because a second signal would keep it from saving
        assert [event for event, *_ in matrix.diary(run_dir)] == ["start", "SIGTERM", "end"]
    saved = {d.name: matrix.diary(d)[-1][2] for d in matrix.run_dirs()}
    assert matrix.run(*flags, STEP_TIME=0).returncode == 0
    for name, step in saved.items():
        assert matrix.diary(matrix.folder / "runs" / name)[3][2] == step > 0
    matrix.check_never_twice()


@needs["parallel"]
def test_ctrl_c_at_a_terminal(matrix):
    """The terminal sends the signal to the launcher and all that it has in the foreground."""
    command = ["bash", str(matrix.code / "benchmark.sh"), *TWELVE]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(matrix.folder)
        os.environ |= {"PYTHON": sys.executable, "STEP_TIME": "0.2"}
        os.execvp("bash", command)
    wait_for_starts(matrix, 2)
    os.write(terminal, b"\x03")
    printed = b""
    try:
        while block := os.read(terminal, 1000):
            printed += block
    except OSError:
        pass  # it is closed
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert b"12 left" in printed
    assert matrix.alive() == {}
    assert {d.name for d in matrix.run_dirs()} == {name for _, name in matrix.events("end")}


@needs["parallel"]  # xargs has no such time-out
def test_what_does_not_save_is_killed(matrix):
    flags = "--scripts", "ddpg,td3", "--seeds", 1, "--jobs", 2
    launcher = matrix.start(*flags, STEP_TIME=0.5, DEAF="*td3*", BENCHMARK_GRACE=2)
    wait_for_starts(matrix, 2)
    launcher.terminate()
    assert matrix.finish(launcher, 50).returncode == 143
    assert matrix.alive() == {}
    assert len(matrix.events("end")) == 1


@both
def test_killed_launcher(matrix, backend):
    """Its runs save and end; the same command goes on, with no more than --jobs at any time."""
    flags = "--env-ids", "A,B", "--seeds", 1, "--jobs", 2, "--backend", backend
    launcher = matrix.start(*flags, STEP_TIME=0.2)
    wait_for_starts(matrix, 2)
    os.killpg(launcher.pid, signal.SIGKILL)  # as `kill -9 %1` in a shell
    launcher.wait()
    done = matrix.run(*flags, STEP_TIME=0.05)
    assert done.returncode == 0
    assert len(matrix.events("SIGTERM")) == 2
    assert len(matrix.events("start")) == 8
    assert most_at_once(matrix) == 2
    matrix.check_never_twice()
    assert matrix.alive() == {}


def most_at_once(matrix, since=0.0):
    """Return how many runs trained side by side."""
    events = [(when, 1) for when, _ in matrix.events("start")]
    events += [(when, -1) for when, _ in matrix.events("end") + matrix.events("fail")]
    changes = [change for when, change in sorted(events) if when > since]
    return max(itertools.accumulate(changes))


def test_run_already_going_with_other_arguments(matrix):
    flags = "--scripts", "ddpg", "--seeds", 1, "--", "--learning-rate"
    first = matrix.start(*flags, 0.1, STEP_TIME=0.2)  # its first checkpoint takes a while
    wait_for_starts(matrix, 1)
    for _ in "now", "when it is finished":
        done = matrix.run(*flags, 0.2)
        assert (done.returncode, done.out) == (2, "")
        assert "was made with the arguments --learning-rate 0.1;" in done.err
        if first.poll() is None:
            assert matrix.finish(first).returncode == 0
    assert len(matrix.events("start")) == 1


@both
def test_killed_launcher_and_nothing_more(matrix, backend):
    """The runs save, no other starts, and nothing is left running."""
    flags = "--jobs", 2, "--backend", backend
    launcher = matrix.start(*flags, STEP_TIME=0.2)
    wait_for_starts(matrix, 2)
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not matrix.alive(), 20)
    assert len(matrix.events("start")) == len(matrix.events("end")) == 2
    assert not matrix.results()
    matrix.check_never_twice()


def survives(matrix, engine):
    """The launcher is killed, two runs are, all is stopped: the same command ends it."""
    matrix.env = engine.env
    flags = *TWELVE, *engine.flags
    launcher = matrix.start(*flags, STEP_TIME=0.2)
    wait_for_starts(matrix, 2)
    launcher.kill()
    launcher.wait()

    launcher = matrix.start(*flags, STEP_TIME=0.2)
    wait_for_starts(matrix, 3)
    wait_for(lambda: len(matrix.training()) == 2)
    assert any([matrix.kill(pid) for pid in matrix.training()])
    wait_for_starts(matrix, 5)

    os.killpg(launcher.pid, signal.SIGINT)
    done = matrix.finish(launcher)
    assert done.returncode == 130
    assert " 0 left" not in done.out

    done = matrix.run(*flags, STEP_TIME=0.02)
    assert done.returncode == 0, done
    assert "12 of 12 runs finished, 0 failed, 0 left" in done.out
    assert len(matrix.results()) == 12
    matrix.check_never_twice()
    wait_for(lambda: not matrix.alive())


@both
def test_matrix_survives(matrix, backend):
    survives(matrix, SimpleNamespace(flags=["--backend", backend], env={}))


def test_killed_run_is_reported(matrix):
    flags = "--scripts", "ddpg,td3", "--seeds", 1, "--jobs", 2
    launcher = matrix.start(*flags, STEP_TIME=0.2)
    wait_for_starts(matrix, 2)
    matrix.kill(matrix.training()[0])
    done = matrix.finish(launcher)
    assert done.returncode == 1
    assert "failed with exit code 137" in done.out
    assert matrix.run(*flags, STEP_TIME=0).returncode == 0


def test_run_stopped_by_someone_else_is_unfinished(matrix):
    flags = "--scripts", "ddpg,td3", "--seeds", 1, "--jobs", 2
    launcher = matrix.start(*flags, STEP_TIME=0.2)
    wait_for_starts(matrix, 2)
    matrix.kill(matrix.training()[0], signal.SIGTERM)
    done = matrix.finish(launcher)
    assert done.returncode == 4
    assert "1 of 2 runs finished, 0 failed, 1 left" in done.out
    assert matrix.run(*flags, STEP_TIME=0).returncode == 0


@both
def test_killed_engine(matrix, backend):
    launcher = matrix.start("--jobs", 2, "--backend", backend, STEP_TIME=0.2)
    wait_for_starts(matrix, 2)
    engine = "/parallel --plain" if backend == "parallel" else "xargs -n 1 -P"
    engines = [pid for pid, command in matrix.alive().items() if engine in command]
    assert engines
    for pid in engines:
        matrix.kill(pid)
    done = matrix.finish(launcher)
    assert done.returncode == 4
    assert matrix.alive() == {}
    assert len(matrix.events("end")) == 2  # they could save


def train_by_hand(matrix, flags):
    """Start the first cell, and stop its time: it holds the lock until SIGCONT."""
    line = matrix.run(*flags, "--dry-run").out.splitlines()[0]
    by_hand = subprocess.Popen(shlex.split(line), cwd=matrix.folder)
    wait_for_starts(matrix, 1)
    by_hand.send_signal(signal.SIGSTOP)
    return by_hand, matrix.folder / "runs/benchmark__ddpg__Hopper-v4__1/train.log"


def wait_until_it_waits(log):
    wait_for(lambda: log.exists() and "error: another process is training in" in log.read_text())


def test_run_already_going(matrix):
    """Someone trains one of the cells by hand."""
    flags = "--scripts", "ddpg,td3", "--seeds", 1, "--jobs", 2
    by_hand, log = train_by_hand(matrix, flags)
    launcher = matrix.start(*flags, STEP_TIME=0)
    wait_until_it_waits(log)
    by_hand.send_signal(signal.SIGCONT)
    done = matrix.finish(launcher)
    assert by_hand.wait() == 0
    assert done.returncode == 0
    assert done.out.count("[ok]") == 2
    assert len(matrix.events("start")) == 2


def test_run_already_going_is_killed(matrix):
    """Whoever waits for it then goes on with it; a stop while waiting leaves it alone."""
    flags = "--scripts", "ddpg", "--seeds", 1
    by_hand, log = train_by_hand(matrix, flags)
    launcher = matrix.start(*flags)
    wait_until_it_waits(log)
    launcher.terminate()
    assert matrix.finish(launcher).returncode == 143
    assert by_hand.poll() is None
    log.unlink()
    launcher = matrix.start(*flags)
    wait_until_it_waits(log)
    by_hand.kill()
    by_hand.wait()
    assert matrix.finish(launcher).returncode == 0
    assert len(matrix.events("start")) == 2


def test_status(matrix):
    flags = "--scripts", "ddpg,td3", "--env-ids", "A,ns/B", "--seeds", 2
    matrix.run(*flags[:3], "A", "--seeds", 1, FAIL="*td3*", STEP_TIME=0)
    runs = matrix.folder / "runs"
    stopped, running = (runs / f"benchmark__td3__ns-B__{seed}" for seed in (1, 2))
    for run_dir in stopped, running:
        run_dir.mkdir()
        (run_dir / "train.log").write_text("+ python\nbusy")
    with open(running / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = matrix.run(*flags, "--status")
    assert (done.returncode, done.err) == (0, "")
    states = dict(reversed(line.split("  ", 1)) for line in done.out.splitlines()[:-1])
    assert {name.strip(): state.strip() for name, state in states.items()} == {
        "benchmark__ddpg__A__1": "finished",
        "benchmark__ddpg__A__2": "-",
        "benchmark__ddpg__ns-B__1": "-",
        "benchmark__ddpg__ns-B__2": "-",
        "benchmark__td3__A__1": "failed 1",
        "benchmark__td3__A__2": "-",
        "benchmark__td3__ns-B__1": "stopped",
        "benchmark__td3__ns-B__2": "running",
    }
    assert done.out.endswith("\n1 of 8 finished\n")
    assert len(matrix.events("start")) == 2  # none by --status


def test_status_knows_what_each_run_was_asked_for(matrix):
    flags = "--scripts", "ddpg,td3", "--seeds", 1
    matrix.run(*flags, "--", "--total-timesteps", 3, "--learning-rate", 0.1, STEP_TIME=0)
    assert matrix.run(*flags, "--status").out.endswith("2 of 2 finished\n")
    done = matrix.run(*flags, "--status", "--", "--total-timesteps", 4)
    assert done.out.endswith("0 of 2 finished\n")


@both
def test_no_more_than_jobs_times_threads(matrix, backend):
    jobs, threads = 3, 2
    flags = "--seeds", 2, "--jobs", jobs, "--threads", threads, "--backend", backend
    done = matrix.run(*flags, STEP_TIME=0.1)
    assert done.returncode == 0
    assert most_at_once(matrix) == jobs
    diaries = [line for d in matrix.run_dirs() for line in matrix.diary(d)]
    assert {threads_told for *_, threads_told, _ in diaries} == {str(threads)}
    given = [json.loads((d / "args.json").read_text())["torch_threads"] for d in matrix.run_dirs()]
    assert given == [threads] * 6


def without(tmp_path, *missing):
    """Return a PATH that lacks some tools."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for path in os.environ["PATH"].split(":"):
        for tool in Path(path).glob("*") if Path(path).is_dir() else ():
            if tool.name not in missing and not os.path.lexists(folder / tool.name):
                (folder / tool.name).symlink_to(tool)
    return folder


def test_missing_engines(matrix, tmp_path):
    path = without(tmp_path, "parallel", "sbatch")
    env = {"PATH": path, "STEP_TIME": 0}
    hosts = tmp_path / "hosts"
    hosts.write_text("a\nb\n")
    for flags in ["--backend", "parallel"], ["--backend", "slurm"], ["--hosts", hosts]:
        done = matrix.run(*flags, **env)
        assert done.returncode == 3
        assert "is not installed" in done.err
    for flags in [], ["--status"]:
        assert matrix.run(*flags, PYTHON="/nowhere/python").returncode == 3
    assert not matrix.run_dirs()
    # moreutils has another tool of that name
    (path / "parallel").write_text("#!/bin/sh\necho another\n")
    (path / "parallel").chmod(0o755)
    assert matrix.run("--backend", "parallel", **env).returncode == 3
    done = matrix.run("--scripts", "ddpg", **env)
    assert done.returncode == 0
    assert "(xargs)" in done.out
    (path / "xargs").unlink()
    done = matrix.run("--scripts", "td3", **env)
    assert (done.returncode, done.err) == (3, "error: xargs is not installed\n")


@needs["parallel"]
def test_settings_of_the_user_for_parallel_do_not_matter(matrix, tmp_path):
    home = tmp_path / "home"
    (home / ".parallel").mkdir(parents=True)
    (home / ".parallel" / "config").write_text("--dry-run\n")
    done = matrix.run("--seeds", 1, HOME=home, PARALLEL="--dry-run", STEP_TIME=0)
    assert done.returncode == 0
    assert "citation" not in (done.out + done.err).lower()
    assert len(matrix.results()) == 3


def test_reader_that_goes_away(matrix):
    launcher = matrix.start("--seeds", 1, STEP_TIME=0.1)
    launcher.stdout.close()
    assert launcher.wait(timeout=30) == 0
    assert len(matrix.results()) == 3


# ---- Hosts ----
def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Two names for this machine, and one for a machine that is down."""
    folder = tmp_path_factory.mktemp("ssh")
    ports = free_ports(3)
    keys = folder / "host", folder / "user"
    for key in keys:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    (folder / "sshd_config").write_text(
        f"""ListenAddress 127.0.0.1
Port {ports[0]}
Port {ports[1]}
HostKey {keys[0]}
AuthorizedKeysFile {keys[1]}.pub
PidFile {folder}/pid
StrictModes no
UsePAM no
PermitRootLogin yes
AcceptEnv STEP_TIME FAIL
MaxStartups 100
"""
    )
    (folder / "config").write_text(
        "".join(
            f"Host {name}\n  HostName 127.0.0.1\n  Port {port}\n"
            for name, port in zip(["alpha", "beta", "down"], ports, strict=True)
        )
        + f"""Host *
  IdentityFile {keys[1]}
  IdentitiesOnly yes
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  BatchMode yes
  LogLevel ERROR
  SendEnv STEP_TIME FAIL
"""
    )
    config = ["-F", str(folder / "config")]
    command = [shutil.which("sshd"), "-D", "-e", "-f", str(folder / "sshd_config")]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, stderr=log)

    def answers():
        assert server.poll() is None, (folder / "log").read_text()
        hello = ["ssh", *config, "alpha", "true"]
        return subprocess.run(hello, capture_output=True).returncode == 0

    wait_for(answers)
    (folder / "hosts").write_text("alpha\nbeta\n")
    (folder / "hosts-one-down").write_text("alpha\ndown\n")
    yield SimpleNamespace(
        flags=["--hosts", folder / "hosts", "--jobs", 1],
        one_down=["--hosts", folder / "hosts-one-down", "--jobs", 1],
        env={"PARALLEL_SSH": shlex.join(["ssh", *config])},
        ports={str(port) for port in ports[:2]},
    )
    server.terminate()
    server.wait()


# one server and one cluster for all of their tests
remote = [needs["parallel"], needs["ssh"], pytest.mark.xdist_group("hosts")]
cluster = [needs["slurm"], pytest.mark.xdist_group("slurm")]


class TestHosts:
    pytestmark = remote

    def test_both_are_used_and_failures_reported(self, matrix, hosts):
        matrix.env = hosts.env
        flags = "--seeds", 2, *hosts.flags
        done = matrix.run(*flags, FAIL="*ppo*", STEP_TIME=0.15)
        assert done.returncode == 1
        assert done.out.count("[ok]") == len(matrix.results()) == 4
        assert done.out.count("failed with exit code 1, log runs/") == 2
        assert most_at_once(matrix) == 2
        diaries = [line for d in matrix.run_dirs() for line in matrix.diary(d)]
        assert {node for *_, node in diaries} == hosts.ports
        assert {threads for *_, threads, _ in diaries} == {"1"}
        assert matrix.run(*flags, STEP_TIME=0).returncode == 0
        matrix.check_never_twice()

    def test_host_that_is_down(self, matrix, hosts):
        matrix.env = hosts.env
        assert matrix.run("--seeds", 1, *hosts.one_down, STEP_TIME=0).returncode == 0
        assert len(matrix.results()) == 3

    def test_matrix_survives(self, matrix, hosts):
        survives(matrix, hosts)

    def test_killed_engine(self, matrix, hosts):
        """The connections break, and what they ran saves."""
        matrix.env = hosts.env
        launcher = matrix.start("--seeds", 2, *hosts.flags, STEP_TIME=0.2)
        wait_for_starts(matrix, 2)
        for pid, command in matrix.alive().items():
            if "/parallel --plain" in command:
                matrix.kill(pid)
        assert matrix.finish(launcher).returncode == 4
        wait_for(lambda: not matrix.alive())
        assert len(matrix.events("end")) == 2
        assert matrix.run("--seeds", 2, *hosts.flags, STEP_TIME=0).returncode == 0
        matrix.check_never_twice()


# ---- Slurm ----
@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A cluster of two nodes with one CPU each, all on this machine."""
    folder = tmp_path_factory.mktemp("slurm")
    ports, host = free_ports(3), socket.gethostname().split(".")[0]
    user = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
    (folder / "slurm.conf").write_text(
        f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
ReturnToService=2
KillWait=5
MinJobAge=4
SlurmdTimeout=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=main Nodes=n1,n2 Default=YES State=UP MaxTime=INFINITE
"""
    )
    env = {"SLURM_CONF": str(folder / "slurm.conf")}

    def call(*command):
        done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True)
        return done.stdout.strip()

    def start_node(name):
        subprocess.run(["slurmd", "-N", name], env=os.environ | env, check=True)
        wait_for(lambda: call("sinfo", "-h", "-n", name, "-o", "%t") == "idle")

    (folder / "state").mkdir()
    subprocess.run(["slurmctld"], env=os.environ | env, check=True)
    start_node("n1")
    start_node("n2")
    yield SimpleNamespace(
        flags=["--backend", "slurm"], env=env, call=call, start_node=start_node, folder=folder
    )
    call("scancel", "--user", user)
    for name in "n1", "n2", "slurmctld":
        pid = folder / f"{name}.pid"
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGTERM)


class TestSlurm:
    pytestmark = cluster

    def test_both_nodes_are_used_and_failures_reported(self, matrix, slurm):
        matrix.env = slurm.env
        flags = "--env-ids", "A,B", "--seeds", 1, *slurm.flags
        done = matrix.run(*flags, FAIL="*__[dt]*__B__*", STEP_TIME=0.1)
        assert done.returncode == 1
        assert done.out.count("[ok]") == len(matrix.results()) == 4
        assert done.out.count("failed with exit code 1, log runs/") == 2
        assert most_at_once(matrix) == 2
        assert {node for d in matrix.run_dirs() for *_, node in matrix.diary(d)} == {"n1", "n2"}
        assert matrix.run(*flags, STEP_TIME=0).returncode == 0
        matrix.check_never_twice()

    def test_sbatch_refuses(self, matrix, slurm):
        matrix.env = slurm.env
        done = matrix.run("--slurm-args", "--partition=nowhere", *slurm.flags)
        assert done.returncode == 4
        assert "invalid partition specified" in done.err

    def test_scancel(self, matrix, slurm):
        """Slurm signals the runs, they save, and the same command goes on."""
        matrix.env = slurm.env
        flags = "--seeds", 1, "--slurm-args", "--nodelist=n1 --comment=[x]", *slurm.flags
        launcher = matrix.start("--seeds", 1, *slurm.flags, STEP_TIME=0.2)
        wait_for_starts(matrix, 2)
        slurm.call("scancel", *slurm.call("squeue", "-h", "-o", "%F").split()[:1])
        done = matrix.finish(launcher)
        assert done.returncode == 4
        assert "0 of 3 runs finished, 0 failed, 3 left" in done.out
        for run_dir in matrix.run_dirs():
            assert [event for event, *_ in matrix.diary(run_dir)] == ["start", "SIGTERM", "end"]
        begun = time.time()
        assert matrix.run(*flags, "--jobs", 1, STEP_TIME=0.03).returncode == 0
        assert most_at_once(matrix, begun) == 1
        matrix.check_never_twice()

    def test_requeue(self, matrix, slurm):
        """Slurm tells a job that its time is over: the run saves and queues again."""
        matrix.env = slurm.env
        flags = "--scripts", "ddpg", "--seeds", 1, *slurm.flags
        launcher = matrix.start(*flags, STEP_TIME=0.2)
        wait_for_starts(matrix, 1)
        job = slurm.call("squeue", "-h", "-o", "%F")
        slurm.call("scancel", "--batch", "--signal=USR1", f"{job}_1")
        done = matrix.finish(launcher)
        assert done.returncode == 0
        assert done.out.count("[ok]") == 1
        (run_dir,) = matrix.run_dirs()
        events = [event for event, *_ in matrix.diary(run_dir)]
        assert events == ["start", "SIGTERM", "end", "start", "end"]
        assert matrix.diary(run_dir)[2][2] == matrix.diary(run_dir)[3][2] > 0

    def test_matrix_survives(self, matrix, slurm):
        survives(matrix, slurm)

    def test_node_dies(self, matrix, slurm):
        """Its run begins again on the other."""
        matrix.env = slurm.env
        flags = "--scripts", "ddpg,td3", "--seeds", 1, *slurm.flags
        launcher = matrix.start(*flags, STEP_TIME=0.3)
        wait_for_starts(matrix, 2)
        (dead,) = (d for d in matrix.run_dirs() if matrix.diary(d)[0][-1] == "n2")
        parents = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True)
        parents = dict(line.split() for line in parents.stdout.splitlines())
        chain = [str(matrix.diary(dead)[0][3])]  # run, worker, slurmstepd
        chain += [parents[chain[0]], parents[parents[chain[0]]]]
        chain += [(slurm.folder / "n2.pid").read_text().strip()]
        for pid in reversed(chain):
            os.kill(int(pid), signal.SIGKILL)
        # Slurm sees it by itself, but takes half a minute
        slurm.call("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=dead")
        done = matrix.finish(launcher)
        assert done.returncode == 0
        assert [d[-1] for d in matrix.diary(dead) if d[0] == "start"] == ["n2", "n1"]
        matrix.check_never_twice()
        slurm.start_node("n2")


# ---- The scripts themselves ----
def test_scripts_survive(matrix):
    """The launcher is killed, the next one is stopped: the run saves, and goes on."""
    shutil.copy(ROOT / "ddpg_continuous.py", matrix.code)
    flags = "--scripts", "ddpg", "--env-ids", "InvertedPendulum-v4,None-v0", "--seeds", 1
    extra = "--", "--eval-episodes", 1, "--learning-starts", 10**8, "--total-timesteps"
    launcher = matrix.start(*flags, *extra, 10**8)
    run_dir = matrix.folder / "runs" / "benchmark__ddpg__InvertedPendulum-v4__1"
    log = run_dir / "train.log"
    wait_for(lambda: list(run_dir.glob("events*")), 200)
    launcher.kill()
    launcher.wait()
    wait_for(lambda: "= stop, exit code 75" in log.read_text())
    launcher = matrix.start(*flags, *extra, 10**8)
    wait_for(lambda: len(list(run_dir.glob("events*"))) == 2, 200)
    os.killpg(launcher.pid, signal.SIGINT)
    assert matrix.finish(launcher, 200).returncode == 130
    assert matrix.alive() == {}
    first, second = map(int, re.findall(r"stopped at step (\d+)", log.read_text()))
    assert first < second
    done = matrix.finish(matrix.start(*flags, *extra, second + 100), 200)
    assert done.returncode == 1
    assert done.out.count("failed with exit code 2") == 1
    assert "error: cannot make None-v0" in done.out
    assert json.loads((run_dir / "result.json").read_text())["step"] == second + 100
    assert [path.parent for path in matrix.folder.glob("runs/*/result.json")] == [run_dir]
