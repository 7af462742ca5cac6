#!/usr/bin/env bash
# Train algorithms x environments x seeds, several runs at once. The same command again goes on:
# a finished run ends at once, one that was stopped or killed continues from its checkpoint.
#
# usage: ./benchmark.sh [options] [-- arguments for every script]
# --scripts A,B     scripts, without _continuous.py   (default: all that lie beside benchmark.sh)
# --env-ids A,B     ids of gymnasium environments     (default: Hopper-v4)
# --seeds N         seeds of each cell                (default: 3)
# --start-seed N    the first of them                 (default: 1)
# --jobs N          runs at once                      (default: as many as there are cores)
# --suite NAME      first part of the runs' names     (default: benchmark)
# --print           print the commands, one a line, for another engine: docs/benchmark.md
# --status          print how each run stands
#
# A run is runs/SUITE__SCRIPT__ENV__SEED in the current folder, its output is train.log in there.
# Give each set of arguments for the scripts a --suite of its own. $PYTHON runs the scripts, or
# else .venv beside benchmark.sh, or else python3. Ctrl-C, SIGTERM and SIGHUP let all runs save.
# exit code: 0 all finished, 1 some failed, 2 bad input, 75 some are left, 130 stopped by Ctrl-C

set -u # bash 3.2 is enough; it wants regular expressions in variables
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
python=${PYTHON:-$here/.venv/bin/python}
[ -n "${PYTHON-}" ] || [ -x "$python" ] || python=python3
die() { printf 'error: %s\n' "$1" >&2; exit 2; }

# ---- Options ----
known=$(cd "$here" && printf '%s\n' *_continuous.py | sed 's/_continuous\.py$//' | paste -s -d , -)
scripts=$known env_ids=Hopper-v4 seeds=3 start_seed=1 suite=benchmark mode=run
jobs=$(OMP_NUM_THREADS='' nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit ;; # the lines above
    --) shift && break ;;
    --print | --status) mode=${1#--} && shift ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    --scripts | --env-ids | --seeds | --start-seed | --jobs | --suite)
      [ $# -gt 1 ] || die "$1 needs a value"
      printf -v "$(tr - _ <<<"${1#--}")" %s "$2"
      shift 2 ;;
    *) die "unknown option $1: --help lists them, and those of the scripts come after --" ;;
  esac
done
whole='^[1-9][0-9]{0,8}$' own='^(-h|--(env[-_]id|seed|run[-_]name|(no[-_])?resume|help))(=|$)'
for name in seeds start_seed jobs; do
  [[ $name${!name} = start_seed0 || ${!name} =~ $whole ]] ||
    die "--${name/_/-} must be a whole number, 1 to 999999999, not '${!name}'"
done
[[ ,$scripts,$env_ids, != *,,* && $env_ids != *[[:cntrl:]]* ]] ||
  die "a name in --scripts or --env-ids is empty or has a control character"
for word; do
  [[ ! $word =~ $own ]] || die "$word after --: no run takes it, or benchmark.sh gives each its own"
done

# ---- Matrix ----
commands=$(set -f && IFS=, && for ((seed = start_seed; seed < start_seed + seeds; seed++)); do
  for env in $env_ids; do
    for script in $scripts; do
      [[ ,$known, = *,"$script",* ]] || die "no script '$script', only $known"
      name=$(printf %s "${suite}__${script}__${env}__$seed" | LC_ALL=C tr -c 'A-Za-z0-9._-' - | sed 's/^-/_/')
      printf '%q ' "$python" "$here/${script}_continuous.py" "$@" --env-id "$env" --seed "$seed"
      printf '%s\n' "--resume --run-name $name" # the last word, for `names` and `train`
    done
  done
done) || exit
names=$(awk '{ print $NF }' <<<"$commands")
twice=$(LC_ALL=C sort -f <<<"$names" | uniq -di | head -n 1) # a file system may ignore case
[ -z "$twice" ] || die "two cells of the matrix would both be runs/$twice"
[ "$mode" != print ] || { printf '%s\n' "$commands" && exit; }
"$python" -c 'import filelock' 2>/dev/null || die "$python lacks the packages of requirements.txt"
[ "$mode" != status ] || exec "$python" -W ignore -c '
import filelock, pathlib, sys  # the lock of the scripts, also where there is no flock
for name in sys.stdin.read().split():
    run = pathlib.Path("runs", name)
    state = "finished" if (run / "result.json").exists() else "unfinished" if run.exists() else "-"
    try:
        if state == "unfinished":
            filelock.FileLock(run / "lock").acquire(timeout=0)
    except OSError as error:
        state = "running" if isinstance(error, filelock.Timeout) else "unknown"
    print(f"{state:10} ", name)' <<<"$names"

# ---- Run ----
train() { # COMMAND: run it and tell its exit code
  # start nothing more for a launcher that was killed, which is a zombie (Z) if nobody waits for it
  kill -0 "$launcher" && [[ $(ps -o stat= -p "$launcher" 2>/dev/null) != Z* ]] || exit 255
  name=${1##* } && mkdir -p "runs/$name"
  trap : TERM # for the run, which has got it too: let it save
  eval "$1" >>"runs/$name/train.log" 2>&1
  echo "$? $name"
}
report() { # what `train` tells, and at the end what failed
  n=0 finished=0 failed='' left=75
  trap '' TERM
  while read -r code name; do
    case $code in
      0) end=finished finished=$((finished + 1)) ;;
      3 | 75 | 130 | 143) end="unfinished, exit code $code" ;;
      *) end="failed with exit code $code" left=1 failed="$failed $name" ;;
    esac
    printf '%d/%d %s %s\n' $((n += 1)) "$total" "$name" "$end"
  done
  for name in $failed; do
    printf '\nfailed: runs/%s/train.log\n' "$name"
    tail -n 5 "runs/$name/train.log" | sed 's/^/  | /'
  done
  printf '\n%d of %d finished\n' "$finished" "$total"
  [ "$finished" -eq "$total" ] || exit "$left"
}
stop() { stopped=$1 && trap - INT TERM HUP && kill -TERM %1; } # a second signal does not wait

[ -w runs/ ] || mkdir runs 2>/dev/null || die "cannot write $PWD/runs"
trap '' PIPE # the runs go on when the reader of all this is gone
total=$(wc -l <<<"$names") stopped=''
echo "$((total)) runs, $jobs at once: $scripts x $env_ids x $seeds seeds from $start_seed"
export launcher=$$ && export -f train
set -m # a process group of its own: Ctrl-C is for the launcher alone
tr '\n' '\0' <<<"$commands" | xargs -0 -n 1 -P "$jobs" "$BASH" -c "train \"\$1\"" - | report &
trap 'stop 130' INT; trap 'stop 75' TERM HUP
while wait $!; code=$?; kill -0 $! 2>/dev/null; do :; done # a signal ends `wait` early
[ "$code" -eq 0 ] || exit "${stopped:-$code}"
