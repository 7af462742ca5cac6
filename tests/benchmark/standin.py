"""Keeps the contract of a training script, but sleeps where that trains.

The environment may say, as fnmatch patterns of run names: FAIL, which exit with 1 after some steps,
and DEAF, which do not heed SIGTERM; and STEP_TIME, the seconds of a step.
"""

import argparse
import fcntl
import json
import os
import signal
import sys
import time
from fnmatch import fnmatch
from pathlib import Path

parser = argparse.ArgumentParser(allow_abbrev=False)
for name in "--env-id", "--seed", "--run-name":
    parser.add_argument(name)
parser.add_argument("--resume", action="store_true")
parser.add_argument("--total-timesteps", type=int, default=10)
args = parser.parse_args()

run_dir = Path("runs", args.run_name)
run_dir.mkdir(parents=True, exist_ok=args.resume)
result, checkpoint = run_dir / "result.json", run_dir / "checkpoint.pt"
lock = os.open(run_dir / "lock", os.O_RDWR | os.O_CREAT)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print(f"error: another process is training in {run_dir}", file=sys.stderr)
    raise SystemExit(3) from None
if result.exists() and json.loads(result.read_text())["step"] >= args.total_timesteps:
    print(f"{run_dir} is finished")
    raise SystemExit
result.unlink(missing_ok=True)


def tell(event: str) -> None:
    """Add a line to the run's diary: what happened, when, where and to whom."""
    node = os.environ.get("SLURMD_NODENAME") or os.environ.get("SSH_CONNECTION", "here").split()[-1]
    words = event, time.time(), step, os.getpid(), node
    with open(run_dir / "diary", "a") as file:
        print(*words, file=file)


def write(path: Path, content: dict) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2))
    temporary.replace(path)


def stop(signum: int, _) -> None:
    tell(signal.Signals(signum).name)
    stops.append(signum)


write(run_dir / "args.json", vars(args))
step = json.loads(checkpoint.read_text())["step"] if checkpoint.exists() else 0
stops, begun = [], step
for signum in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
    signal.signal(signum, stop)
tell("start")
deaf, fails = (fnmatch(args.run_name, os.environ.get(name, "")) for name in ("DEAF", "FAIL"))
while step < args.total_timesteps and (deaf or not stops):
    time.sleep(float(os.environ.get("STEP_TIME", "0.03")))
    step += 1
    if fails and step - begun == 5:
        tell("fail")
        print("step five\nerror: told to fail", file=sys.stderr)
        raise SystemExit(1)
    if stops or step % 5 == 0:
        write(checkpoint, {"step": step})
tell("end")
if step < args.total_timesteps:
    print(f"stopped at step {step}")
    raise SystemExit(75 if signal.SIGTERM in stops else 130)
write(result, {"step": step})
