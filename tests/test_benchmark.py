"""benchmark.sh: no run twice, nothing lost, every failure told; the recipes of docs/benchmark.md.

Most tests run a stand-in that keeps the scripts' contract but sleeps where they train.
GNU parallel, openssh-server, slurm-wlm and shellcheck are needed for all of it.
"""

import errno
import getpass
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, namedtuple

import pytest
from conftest import ROOT
from filelock import FileLock

TWELVE = shlex.split("--scripts ddpg,td3,ppo --env-ids A-v1,B-v1 --seeds 2 --jobs 2")
PORT = 20_000 + os.getpid() % 2_000 * 6  # and five more, below those that the system gives away
Line = namedtuple("Line", "event when step pid node run")


def wait_for(condition):
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + 60, "it takes too long"
        time.sleep(0.05)


def finish(process):
    process.out, process.err = process.communicate(timeout=100)
    return process


def need(tool):
    return shutil.which(tool) or pytest.skip(f"{tool} is not installed")


class Matrix:
    """benchmark.sh beside stand-ins, and a folder with a space in its name to start it in."""

    def __init__(self, root):
        self.root, self.code, self.folder = root, root / "the code", root / "the runs"
        self.code.mkdir(parents=True)
        self.folder.mkdir()
        shutil.copy(ROOT / "benchmark.sh", self.code)
        for name in "ddpg", "ppo", "td3":
            standin = ROOT / "tests" / "benchmark" / "standin.py"
            shutil.copy(standin, self.code / f"{name}_continuous.py")
        self.launcher = ["bash", str(self.code / "benchmark.sh")]
        self.env, self.started = {"PYTHON": sys.executable}, []

    def start(self, *flags, command=None, **env):
        """Start the launcher, or another command, in a process group of its own."""
        command = [*map(str, command or [*self.launcher, *flags])]
        env = os.environ | self.env | {name: str(value) for name, value in env.items()}
        pipes = dict.fromkeys(["stdin", "stdout", "stderr"], subprocess.PIPE)
        how = {"cwd": self.folder, "env": env, "process_group": 0, "text": True}
        self.started.append(subprocess.Popen(command, **how, **pipes))
        return self.started[-1]

    def run(self, *flags, **env):
        return finish(self.start(*flags, **env))

    def alive(self):
        """Return the processes that belong to this matrix."""
        table = subprocess.run(["ps", "-axww", "-o", "pid=,stat=,command="], capture_output=True)
        rows = [line.split(None, 2) for line in table.stdout.decode().splitlines()]
        return [pid for pid, state, own in rows if str(self.root) in own and "Z" not in state]

    def results(self):
        return {path.parent.name for path in self.folder.glob("runs/*/result.json")}

    def diary(self, event=""):
        """Return what happened in all runs, or one kind of it, in order."""
        texts = [(path.read_text(), path.parent.name) for path in self.folder.glob("runs/*/diary")]
        lines = [Line(*line.split(), run) for text, run in texts for line in text.splitlines()]
        return sorted((x for x in lines if event in ("", x.event)), key=lambda x: float(x.when))

    def wait_for(self, event, count):
        wait_for(lambda: len(self.diary(event)) >= count)


@pytest.fixture
def matrices(tmp_path):
    three = [Matrix(tmp_path / f"matrix {n}") for n in range(3)]
    yield three
    for matrix in three:  # end what a failed test has left
        while left := matrix.alive():
            subprocess.run(["kill", "-KILL", *left], capture_output=True)
        for process in matrix.started:
            process.kill()
            process.communicate()


@pytest.fixture
def matrix(matrices):
    return matrices[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--sedes 3", "unknown option --sedes"),
        ("--seeds", "--seeds needs a value"),
        ("--seeds 0", "--seeds must be a whole number"),
        ("--start-seed=-1", "--start-seed must be a whole number"),
        ("--jobs 2x", "--jobs must be a whole number"),
        ("--scripts ddpg,sac", "no script 'sac', only ddpg,ppo,td3"),
        ("--scripts ''", "is empty"),
        ("--env-ids 'A\nB'", "control character"),
        ("-- --seed 3", "--seed after --"),
        ("-- --run_name=a", "--run_name=a after --"),
        ("--env-ids a/b,A-b", "would both be runs/benchmark__ddpg__"),
        ("--status", "false lacks the packages"),
        ("--jobs 2", "cannot write"),
    ],
)
def test_bad_input_costs_a_line(matrix, flags, message):
    (matrix.folder / "runs").touch()  # no folder
    python = "false" if message.startswith("false") else sys.executable
    done = matrix.run(*shlex.split(flags), PYTHON=python)
    assert (done.returncode, done.out, done.err.count("\n")) == (2, "", 1)
    assert re.match(f"error: .*{re.escape(message)}", done.err)


def test_source():
    """It has nothing that bash 3.2 lacks or shellcheck finds, and --help names every option."""
    code = re.sub(r"(?m)(^| )#.*", "", (ROOT / "benchmark.sh").read_text())
    later = r"declare -[An]|local -n|mapfile|readarray|wait -[np]|\$\{\w+[\^,@]|&>>|\|&|coproc"
    assert not re.search(later + r"|=~ [^$]", code)  # a pattern with () is for a variable
    told = subprocess.check_output(["bash", ROOT / "benchmark.sh", "--help"], text=True)
    options = re.findall(r"--[a-z-]+(?= [|]|\))", code.split("while", 1)[1])
    assert [option for option in options if option not in told] == ["--help"]
    subprocess.run([need("shellcheck"), ROOT / "benchmark.sh"], check=True)


def test_print(matrix):
    """The commands are whole and quoted, and all cells get a seed before any gets the next."""
    flags = "--scripts", "td3,ddpg", "--env-ids", "A,own:ns/B-v1", "--start-seed=7", "--seeds", 2
    done = matrix.run(*flags, "--suite", "low rate", "--print", "--", "--learning-rate", "1e-4")
    commands = [shlex.split(line) for line in done.out.splitlines()]
    cells = itertools.product("78", ["A", "own:ns/B-v1"], ["td3", "ddpg"])
    for command, (seed, env, script) in zip(commands, cells, strict=True):
        name = f"low-rate__{script}__{env.replace(':', '-').replace('/', '-')}__{seed}"
        assert command == [
            *(sys.executable, str(matrix.code / f"{script}_continuous.py")),
            *("--learning-rate", "1e-4", "--env-id", env, "--seed", seed),
            *("--resume", "--run-name", name),
        ]


def test_without_arguments_it_runs_a_small_matrix_and_a_larger_one_adds_to_it(matrix):
    done = matrix.run(STEP_TIME=0)
    first = f"9 runs, {len(os.sched_getaffinity(0))} at once: ddpg,ppo,td3 x Hopper-v4 x 3 seeds"
    assert (done.returncode, done.out.startswith(first)) == (0, True)
    assert done.out.endswith("\n\n9 of 9 finished\n")
    assert matrix.run("--start-seed", 3, "--seeds", 2, STEP_TIME=0).returncode == 0
    launcher = matrix.start("--seeds", 1, "--", "--total-timesteps", 15, STEP_TIME=0)
    launcher.stdout.close()  # the reader of what it prints goes away
    assert launcher.wait(30) == 0
    assert [line.step for line in matrix.diary("start")] == ["0"] * 12 + ["10"] * 3


def test_any_environment_id_is_safe(matrix):
    ids = ["; touch hacked", "$(touch hacked)", "it's", 'a "b"', "*", "{}", "\\", " x ", "é", "%s"]
    ids = [f"{i}{name}" for i, name in enumerate(ids)]
    flags = "--scripts", "ddpg", "--seeds", 1, "--env-ids", ",".join(ids)
    assert matrix.run(*flags, STEP_TIME=0).returncode == 0
    settings = [json.loads(path.read_text()) for path in matrix.folder.glob("runs/*/args.json")]
    assert sorted(each["env_id"] for each in settings) == ids
    assert [path.name for path in matrix.folder.iterdir()] == ["runs"]


def test_failing_cells_are_reported_and_the_others_finish(matrix):
    done = matrix.run(*TWELVE, "--jobs", 3, FAIL="*__[dt]*__B-v1__*", STEP_TIME=0.03)
    failing = {f"benchmark__{s}__B-v1__{n}" for s in ("ddpg", "td3") for n in (1, 2)}
    assert (done.returncode, len(matrix.results() - failing)) == (1, 8)
    changes = {"start": 1, "end": -1, "fail": -1}
    assert max(itertools.accumulate(changes[line.event] for line in matrix.diary())) == 3
    ends = re.findall(r"(?m)^\d+/12 (\S+) (.*)$", done.out)
    assert {name for name, end in ends if end == "failed with exit code 1"} == failing
    report = "\nfailed: runs/{}/train.log\n  | step five\n  | error: told to fail\n"
    assert all(done.out.count(report.format(name)) == 1 for name in failing)
    assert done.out.endswith("\n\n8 of 12 finished\n")
    assert matrix.run(*TWELVE, STEP_TIME=0).returncode == 0  # these go on, and nothing else does
    assert len(matrix.diary("start")) == 16
    assert "told to fail" in (matrix.folder / "runs" / failing.pop() / "train.log").read_text()


def test_stops_let_the_runs_save(matrices):
    names, codes = ["INT", "TERM", "HUP"], [130, 75, 75]
    launchers = [matrix.start(*TWELVE, STEP_TIME=0.3) for matrix in matrices]
    for name, matrix, launcher in zip(names, matrices, launchers, strict=True):
        matrix.wait_for("start", 2)
        os.killpg(launcher.pid, getattr(signal, f"SIG{name}"))  # as a terminal does
    for code, matrix, launcher in zip(codes, matrices, launchers, strict=True):
        done = finish(launcher)
        assert (done.returncode, matrix.alive()) == (code, [])
        assert done.out.count("unfinished, exit code 75\n") == 2
        assert done.out.endswith("\n0 of 12 finished\n")
        events = Counter(line.event for line in matrix.diary())
        assert events == {"start": 2, "SIGTERM": 2, "end": 2}  # a second SIGTERM would be the end


def test_a_second_stop_does_not_wait(matrix):
    launcher = matrix.start("--scripts", "ddpg", "--seeds", 1, DEAF="*", STEP_TIME=1)
    for event in "start", "SIGTERM":
        matrix.wait_for(event, 1)
        launcher.terminate()
    assert launcher.wait(5) == -signal.SIGTERM


def test_matrix_survives(matrix):
    """The launcher is killed, two runs are, two are told to stop, and then all."""
    launcher = matrix.start(*TWELVE, STEP_TIME=0.8)  # longer than what follows needs
    matrix.wait_for("start", 2)
    os.killpg(launcher.pid, signal.SIGKILL)  # its runs go on to their end, no other starts
    launcher.wait()
    beside = matrix.run("--scripts", "ddpg", "--env-ids", "A-v1", "--seeds", 1)
    assert (beside.returncode, "unfinished, exit code 3\n" in beside.out) == (75, True)
    launcher = matrix.start(*TWELVE, STEP_TIME=0.2)
    for first, signals in (2, ["KILL", "KILL"]), (4, ["INT", "TERM"]):
        matrix.wait_for("start", first + 2)
        for line, name in zip(matrix.diary("start")[first:], signals, strict=True):
            os.kill(int(line.pid), getattr(signal, f"SIG{name}"))
    matrix.wait_for("start", 8)
    launcher.send_signal(signal.SIGINT)
    done = finish(launcher)
    assert done.returncode == 130
    ends = Counter(re.findall(r"(\w+)(?: with|,) exit code (\d+)\n", done.out))
    left = {("unfinished", "3"): 2, ("unfinished", "130"): 1, ("unfinished", "75"): 3}
    assert ends == left | {("failed", "137"): 2}
    wait_for(lambda: not matrix.alive())
    assert len(matrix.results()) == 2  # those of the first launcher
    done = matrix.run(*TWELVE, STEP_TIME=0)
    assert (done.returncode, len(matrix.results())) == (0, 12)
    assert len(matrix.diary("start")) == 8 + 10


def test_status(matrix, tmp_path):
    flags = "--env-ids", "ns/B"
    matrix.run(*flags, "--seeds", 1, FAIL="*td3*", STEP_TIME=0)
    ppo, td3 = (matrix.folder / "runs" / f"benchmark__{name}__ns-B__1" for name in ("ppo", "td3"))
    (ppo / "result.json").unlink()
    with FileLock(ppo / "lock"):
        done = matrix.run(*flags, "--seeds", 2, "--status")
    states = [line.split()[0] for line in done.out.splitlines()]
    assert (done.returncode, states[:4]) == (0, ["finished", "running", "unfinished", "-"])
    # a file system without flock
    (td3 / "lock").unlink()
    no = "def flock(*_): raise OSError(int(os.environ['ERRNO']), '')"
    (tmp_path / "sitecustomize.py").write_text(f"import fcntl, os\n{no}\nfcntl.flock = flock")
    for number, state in (errno.ENOSYS, "unfinished"), (errno.ENOLCK, "unknown"):
        done = matrix.run(*flags, "--status", PYTHONPATH=tmp_path, ERRNO=number)
        assert f"\n{state:11} {td3.name}\n" in done.out


def recipe(heading):
    """Return the code blocks below a heading of docs/benchmark.md."""
    page = (ROOT / "docs" / "benchmark.md").read_text()
    return re.findall(r"(?s)```\n(.*?)```", page.split(f"### {heading}\n")[1].split("\n##")[0])


def test_several_hosts(matrix, tmp_path):
    """Two ports of a server are hosts, a third is down; Ctrl-C saves, and the same goes on."""
    need("parallel")
    matrix.folder, ports, key = matrix.code, range(PORT, PORT + 3), tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)
    options = f"ListenAddress=127.0.0.1 Port={ports[0]} Port={ports[1]} HostKey={key} PidFile=none"
    options += f" AuthorizedKeysFile={key}.pub StrictModes=no UsePAM=no AcceptEnv=* MaxStartups=99"
    matrix.start(command=[need("sshd"), "-D", *(f"-o{word}" for word in options.split())])
    options = "UserKnownHostsFile=/dev/null StrictHostKeyChecking=no LogLevel=ERROR SendEnv=*"
    ssh = ["ssh", "-i", str(key), *(f"-o{word}" for word in options.split())]
    wait_for(lambda: subprocess.call([*ssh, "-p", str(ports[1]), "127.0.0.1", "true"]) == 0)
    (matrix.code / "hosts").write_text("".join(f"127.0.0.1:{port}\n" for port in ports))
    matrix.env["PARALLEL_SSH"] = shlex.join(ssh)
    command = ["bash", "-c", *recipe("Several hosts")]
    engine = matrix.start(command=command, STEP_TIME=0.3)
    matrix.wait_for("start", 8)
    os.killpg(engine.pid, signal.SIGINT)
    engine.wait()
    matrix.wait_for("end", 8)
    assert len(matrix.diary("SIGTERM")) == len(matrix.diary("start")) == 8
    assert {line.node for line in matrix.diary()} == {str(port) for port in ports[:2]}
    done = matrix.run(command=command, FAIL="*td3*Hopper*__1", STEP_TIME=0)
    assert len(matrix.results()) == 11
    assert re.findall(r"run-name (\S+)'", done.out) == ["benchmark__td3__Hopper-v4__1"]


def test_slurm(matrix, tmp_path):
    """What is cancelled saves; a task whose time is over is queued again and goes on, no other."""
    host, user, conf = socket.gethostname().split(".")[0], getpass.getuser(), tmp_path / "conf"
    settings = f"""ClusterName=test SlurmctldHost={host}(127.0.0.1) SlurmctldPort={PORT + 3}
        SlurmUser={user} SlurmdUser={user} AuthType=auth/none AuthInfo=cred_expire=5
        CredType=cred/none ProctrackType=proctrack/linuxproc SlurmdParameters=config_overrides
        SelectType=select/cons_tres SelectTypeParameters=CR_Core
        SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
        StateSaveLocation={tmp_path} SlurmdSpoolDir={tmp_path}/spool SlurmctldPidFile={tmp_path}/a
        SlurmdPidFile={tmp_path}/b SlurmctldLogFile={tmp_path}/c SlurmdLogFile={tmp_path}/d"""
    node = f"NodeName=n NodeHostname={host} NodeAddr=127.0.0.1 Port={PORT + 4} CPUs=12"
    lines = *settings.split(), node, "PartitionName=main Nodes=n Default=YES"
    conf.write_text("\n".join(lines))
    matrix.folder, matrix.env["SLURM_CONF"] = matrix.code, str(conf)
    for daemon in [need("slurmctld"), "-D"], ["slurmd", "-D", "-N", "n"]:
        matrix.start(command=daemon)
    wait_for(lambda: "idle" in matrix.run(command=["sinfo"]).out)
    script, command = recipe("Slurm")
    (matrix.code / "train.sbatch").write_text(script)
    job = matrix.run(command=["bash", "-c", command], STEP_TIME=0.3).out.split()[-1]
    matrix.wait_for("start", 8)
    matrix.run(command=["scancel", job])
    wait_for(lambda: not matrix.run(command=["squeue", "-h"]).out)
    assert len(matrix.diary("SIGTERM")) == len(matrix.diary("end")) == 8
    job = matrix.run(command=["bash", "-c", command], STEP_TIME=0.2).out.split()[-1]
    matrix.wait_for("start", 8 + 12)
    matrix.run(command=["scancel", "--signal=TERM", f"{job}_12"])  # as Slurm does
    wait_for(lambda: not matrix.run(command=["squeue", "-h"]).out)
    assert (len(matrix.results()), len(matrix.diary("start"))) == (12, 8 + 12 + 1)
    *_, again = matrix.diary("SIGTERM")
    *_, end, start, _ = (line for line in matrix.diary() if line.run == again.run)
    assert (end.event, start.event, end.step) == ("end", "start", start.step)


def test_real_script(matrix):
    shutil.copy(ROOT / "ddpg_continuous.py", matrix.code)
    flags = ["--scripts", "ddpg", "--seeds", "1", "--jobs", "2", "--env-ids"]
    extra = ["--", "--eval-episodes", "1", "--learning-starts", 10**8, "--total-timesteps"]
    run_dir = matrix.folder / "runs" / "benchmark__ddpg__InvertedPendulum-v4__1"
    launcher = matrix.start(*flags, "InvertedPendulum-v4", *extra, 10**8)
    wait_for((run_dir / "train.log").exists)
    launcher.terminate()  # before it can save
    assert finish(launcher).out.count("unfinished, exit code 143\n") == 1
    launcher = matrix.start(*flags, "InvertedPendulum-v4", *extra, 10**8)
    wait_for(lambda: list(run_dir.glob("events*")))
    launcher.send_signal(signal.SIGINT)
    assert finish(launcher).returncode == 130
    step = int(re.search(r"stopped at step (\d+)", (run_dir / "train.log").read_text())[1])
    assert matrix.run(*flags, "InvertedPendulum-v4", *extra, step + 100).returncode == 0
    assert json.loads((run_dir / "result.json").read_text())["step"] == step + 100
