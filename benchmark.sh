#!/usr/bin/env bash
# Algorithms x environments x seeds, in parallel, on this machine, over ssh or on a Slurm cluster.
#
# The launcher writes what is left to run into a folder of its own, and an engine (GNU parallel,
# xargs or Slurm) calls this script again for each cell: `--one FOLDER LINE`. So an engine handles
# numbers only, every engine runs the same worker, and whether a run is finished is for the run's
# own result.json to say. Launcher and workers speak through files in that folder:
#   settings    what a worker needs to know
#   todo        the cells to run, one a line: run name, script, seed, environment id
#   stop        empty until all runs have to save and end
#   start.LINE  the process of a worker, while it is at work on that cell
#   end.N       of the N-th cell to end: how, its line in todo and exit code; then a line to print
set -u
shopt -s nullglob # bash 3.2 is enough: no associative arrays, no mapfile, no wait -n
here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
self=$here/${BASH_SOURCE[0]##*/}
tab=$'\t'

usage() {
  cat <<'HELP'
Train algorithms x environments x seeds in parallel. What is finished is not run again and what was
stopped goes on, so the same command again continues a matrix, and a larger one adds to it.

usage: ./benchmark.sh [options] [-- arguments for every script]

  --scripts A,B        scripts, without _continuous.py  (default: all that benchmark.sh lies beside)
  --env-ids A,B        ids of gymnasium environments               (default: Hopper-v4)
  --seeds N            seeds of each cell                          (default: 3)
  --start-seed N       the first of them                           (default: 1)
  --jobs N             runs at once (on each host)      (default: cores / threads; Slurm: no limit)
  --threads N          CPU threads of a run                        (default: 1)
  --backend NAME       parallel, xargs, slurm or auto              (default: auto)
                       auto is GNU parallel, or xargs where that is missing
  --hosts FILE         run on these hosts: GNU parallel's --sshloginfile, one a line; the current
                       folder and benchmark.sh's must be shared, at the same paths
  --slurm-args "..."   further arguments for sbatch, such as "--partition=long --time=8:00:00"
  --suite NAME         first part of the runs' names               (default: benchmark)
  --dry-run            check the environments and print the commands that are left to run
  --status             print the matrix as a table; needs no arguments for the scripts

A run is runs/SUITE__SCRIPT__ENV__SEED in the current folder, and its output is train.log in there.
Give each set of arguments for the scripts a --suite of its own. $PYTHON runs the scripts, or else
.venv beside benchmark.sh, or else python3. Ctrl-C, SIGTERM and SIGHUP let all runs save, for which
they have a minute.

exit code: 0 all finished, 1 some failed, 2 usage, 3 engine missing, 4 some unfinished,
           130 stopped by Ctrl-C, 143 by SIGTERM or SIGHUP
HELP
}

die() { # CODE MESSAGE
  printf 'error: %s\n' "$2" >&2
  exit "$1"
}

clock() { printf '%d:%02d:%02d' $(($1 / 3600)) $(($1 % 3600 / 60)) $(($1 % 60)); }

set_name() { # SCRIPT ENV SEED
  local LC_ALL=C
  name=${suite}__$1__${2//[^A-Za-z0-9._-]/-}__$3
}

set_command() { # SCRIPT ENV SEED: $command, and $shown to paste into a shell
  local script=$1 env=$2 seed=$3
  set_name "$script" "$env" "$seed"
  eval "set -- $extra"
  command=("$python" "$here/${script}_continuous.py" --env-id "$env" --seed "$seed"
    --torch-threads "$threads" --resume --run-name "$name" "$@")
  shown=$(printf ' %q' "${command[@]}")
  shown=${shown# }
}

finished() { # NAME SCRIPT: result.json has as many steps as the arguments, or the script, ask for
  local result goal=$steps number='"step"[[:space:]]*:[[:space:]]*([0-9]+)'
  [ "$mode" != status ] || goal=${goal:-0} # or just what the run itself was asked for
  result=$(cat "runs/$1/result.json" 2>/dev/null) && [[ $result =~ $number ]] || return 1
  result=${BASH_REMATCH[1]}
  [ -n "$goal" ] || goal=$(sed -n 's/^ *total_timesteps: int = \([0-9_]*\).*/\1/p' \
    "$here/$2_continuous.py")
  goal=${goal//_/}
  [ "$result" -ge "${goal:-0}" ]
}

# ---- Worker ----
supervise() { # COMMAND: run it, output to $log, pass a request to stop on to it; sets $code
  local child word told='' nap=0.1 began=$SECONDS
  set -m # a process group of its own: a signal to the worker's group must not reach it as well
  "$@" >>"$log" 2>&1 </dev/null &
  child=$!
  set +m
  while kill -0 "$child" 2>/dev/null; do
    # opened each time: on a shared folder that shows what another host wrote
    if [ -z "$asked" ] && read -r word 2>/dev/null <"$launch/stop"; then asked=$word; fi
    if [ -n "$told" ]; then
      [ $((SECONDS - told)) -lt "$grace" ] || kill -KILL "$child" 2>/dev/null
    elif [ -n "$asked" ] && [ "$asked" != scancel ]; then
      told=$SECONDS nap=0.1
      kill -TERM "$child" 2>/dev/null
    elif [ $((SECONDS - began)) -ge 5 ]; then
      nap=1
    fi
    sleep "$nap" &
    wait $! # ends when a signal comes, as sleep alone would not
  done 2>/dev/null # where bash would tell that the child was killed
  wait "$child" 2>/dev/null
  code=$?
}

worker() { # FOLDER LINE: take a cell to its end, or as far as a request to stop lets it
  local script seed env state text n left code=0 asked='' began=$SECONDS
  launch=$1 line=$2
  # shellcheck source=/dev/null
  . "$launch/settings" && cd "$root" || exit 1
  read -r _ <"$launch/stop" && exit 0
  # an engine outlives a launcher that was killed: what runs goes on, but nothing else starts
  [ "$reach" != local ] || kill -0 "$launcher" 2>/dev/null || exit 0
  trap 'asked=${asked:-TERM}' TERM INT HUP
  if [ "$reach" = slurm ]; then
    trap 'asked=USR1' USR1
    # scancel signals the run too, and a second SIGTERM would keep that from saving
    trap 'asked=${asked:-scancel}' TERM
  fi
  trap 'rm -f "$launch/start.$line"' EXIT
  echo $$ >"$launch/start.$line"
  IFS=$tab read -r name script seed env < <(sed -n "${line}p" "$launch/todo")
  set_command "$script" "$env" "$seed"
  export OMP_NUM_THREADS=$threads MKL_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=$threads
  mkdir -p "runs/$name"
  log=runs/$name/train.log
  was=$(cat "runs/$name/benchmark.args" 2>/dev/null || printf %s "$others")
  [ -e "runs/$name/checkpoint.pt" ] || printf '%s\n' "$others" >"runs/$name/benchmark.args"

  until finished "$name" "$script"; do
    printf '+ %s\n' "$shown" >>"$log"
    supervise "${command[@]}"
    [ "$code" -eq 3 ] || break # another process trains in the run's folder
    # trained with other arguments: neither waited for nor taken for this one
    [ "$was" = "$others" ] || { printf '%s\n' "$was" >"runs/$name/benchmark.args" && break; }
    # left by a launcher that was killed: wait until it has ended
    supervise "$python" -c 'import filelock, sys
filelock.FileLock(sys.argv[1]).acquire(poll_interval=1)' "runs/$name/lock"
    [ "$code" -eq 0 ] || break
  done

  state=fail
  if finished "$name" "$script"; then
    state=ok
  elif [ -n "$asked" ] || [ "$code" -eq 75 ] || [ "$code" -eq 130 ] || [ "$code" -eq 143 ]; then
    state=stop
    # Slurm wants the node back: queue for another
    [ "$asked" = USR1 ] && scontrol requeue "$SLURM_JOB_ID" && exit 0
  fi
  printf '= %s, exit code %d\n' "$state" "$code" >>"$log"

  # N is the first number that is free, also when two cells end at once
  set -- "$launch"/end.*
  n=$(($# + 1))
  until (set -C && : >"$launch/end.$n") 2>/dev/null || [ "$n" -gt "$total" ]; do n=$((n + 1)); done
  text="$script $env seed $seed in $(clock $((SECONDS - began)))"
  # runs end in rounds, of as many as run at once
  left=$(($(date +%s) - launched))
  left=$((left * ((count + slots - 1) / slots) / ((n + slots - 1) / slots) - left))
  [ "$n" -ge "$count" ] || left=", $(clock "$left") left"
  [ "$n" -lt "$count" ] || left=
  case $state in
    ok) text="[ok] $((total - count + n))/$total $text$left" ;;
    fail) text="[fail] $((total - count + n))/$total $text$left, exit code $code: $log" ;;
    stop) text="[stop] $text, not finished" ;;
  esac
  printf '%s\n' "$state $line $code" "$text" >"$launch/end.$n"
}

# ---- Options ----
scripts='' env_ids=Hopper-v4 seeds=3 start_seed=1 jobs='' threads=1 backend=auto hosts=''
slurm_args='' suite=benchmark mode=run grace=${BENCHMARK_GRACE:-58} steps='' extra='' others=''
root=$PWD host=$HOSTNAME launcher=$$ launched='' launch='' reach='local' total=0 count=0 slots=1
name=''
python=${PYTHON:-$here/.venv/bin/python}
[ -n "${PYTHON-}" ] || [ -x "$python" ] || python=python3
if [ "${1-}" = --one ]; then
  worker "$2" "$3"
  exit 0
fi

again=${PYTHON:+PYTHON=$(printf '%q' "$PYTHON") }$(printf '%q' "$self")
[ $# -eq 0 ] || again=$again$(printf ' %q' "$@")
while [ $# -gt 0 ]; do
  option=${1%%=*}
  case $option in
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    --dry-run | --status) mode=${option#--} && shift && continue ;;
    --scripts | --env-ids | --seeds | --start-seed | --jobs | --threads) ;;
    --backend | --hosts | --slurm-args | --suite) ;;
    *) die 2 "unknown option $1: --help lists them, and those of the scripts come after --" ;;
  esac
  value=${1#*=}
  if [ "$option" = "$1" ]; then
    [ $# -gt 1 ] || die 2 "$1 needs a value"
    shift
    value=$1
  fi
  shift
  option=${option#--}
  printf -v "${option//-/_}" %s "$value"
done

takes=''
for word; do
  extra="$extra $(printf '%q' "$word")"
  case $takes$word in
    --total[-_]timesteps) takes=value: ;;
    value:*) steps=$word takes='' ;;
    --total[-_]timesteps=*) steps=${word#*=} ;;
    --env[-_]id* | --seed* | --run[-_]name* | --torch[-_]threads* | --resume* | --no[-_]resume*)
      die 2 "$word after --: benchmark.sh gives each run its own" ;;
    *) others="$others $(printf '%q' "$word")" ;;
  esac
done

whole() { # OPTION VALUE LOWEST: sets $number, or exits
  case $2 in
    '' | *[!0-9]* | ??????????*) die 2 "$1 must be a whole number of up to 9 digits, not '$2'" ;;
  esac
  number=$((10#$2))
  [ "$number" -ge "$3" ] || die 2 "$1 must be at least $3, not $2"
}
whole --seeds "$seeds" 1 && seeds=$number
whole --start-seed "$start_seed" 0 && start_seed=$number
whole --threads "$threads" 1 && threads=$number
whole BENCHMARK_GRACE "$grace" 0 && grace=$number
[ -z "$jobs" ] || { whole --jobs "$jobs" 1 && jobs=$number; }
[ -z "$takes$steps" ] || { whole --total-timesteps "${steps//_/}" 1 && steps=$number; }
case $suite in
  '' | [!A-Za-z0-9]* | *[!A-Za-z0-9._-]*) die 2 "--suite must be of letters, digits and . _ -" ;;
esac
case $backend in
  auto | parallel | xargs | slurm) ;;
  *) die 2 "--backend must be auto, parallel, xargs or slurm, not '$backend'" ;;
esac
if [ -n "$hosts" ]; then
  [ -r "$hosts" ] || die 2 "cannot read --hosts $hosts"
  [ "$backend" = auto ] || [ "$backend" = parallel ] || die 2 "--hosts is for GNU parallel"
  backend=parallel
  [ "${hosts#/}" != "$hosts" ] || hosts=$root/$hosts
fi

# ---- Matrix ----
known=$(cd "$here" && printf '%s\n' *_continuous.py | sed 's/_continuous\.py$//' | paste -s -d , -)
scripts=${scripts:-$known}
[ -n "$scripts" ] || die 2 "there is no script beside benchmark.sh"
case ,$env_ids, in
  *,,* | *[[:cntrl:]]*) die 2 "an environment id is empty or has a control character" ;;
esac
set -f
IFS=,
for script in $scripts; do
  case ,$known, in *,"$script",*) ;; *) die 2 "no script '$script', only $known" ;; esac
done
if [ "$mode" = dry-run ]; then
  command -v "$python" >/dev/null || die 3 "there is no $python"
  check='import sys
sys.path[0] = sys.argv[1]  # as for the scripts
import gymnasium
gymnasium.logger.min_level = gymnasium.logger.ERROR
for env_id in sys.argv[2:]:
    try:
        gymnasium.make(env_id).close()
    except Exception as error:
        sys.exit(f"error: cannot make {env_id}: {error}")'
  # shellcheck disable=SC2086 # several ids
  "$python" -c "$check" "$here" $env_ids >/dev/null || exit 2
fi
# every cell gets its first seed before any gets its second
cells=$(
  for ((seed = start_seed; seed < start_seed + seeds; seed++)); do
    for env in $env_ids; do
      for script in $scripts; do
        set_name "$script" "$env" "$seed"
        printf '%s\t%s\t%s\t%s\n' "$name" "$script" "$seed" "$env"
      done
    done
  done
)
unset IFS
set +f
# some file systems take names for one that differ in case alone
twice=$(printf '%s\n' "$cells" | cut -f 1 | sort -f | uniq -d -i | head -n 1)
[ -z "$twice" ] || die 2 "two cells of the matrix would both be runs/$twice"

status() { # a line for each script and environment, a column for each seed
  local held state seed
  held='import fcntl, sys
for name in sys.argv[1:]:
    try:
        fcntl.flock(open(f"runs/{name}/lock", "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(name)
    except OSError:
        pass'
  # shellcheck disable=SC2046 # names have no blanks
  held=$("$python" -c "$held" $(printf '%s\n' "$cells" | cut -f 1))$'\n'
  printf '%-12s  %-24s' script environment
  for ((seed = start_seed; seed < start_seed + seeds; seed++)); do
    printf '  %-9s' "seed $seed"
  done
  while IFS=$tab read -r script env; do
    printf '\n%-12s  %-24s' "$script" "$env"
    for ((seed = start_seed; seed < start_seed + seeds; seed++)); do
      set_name "$script" "$env" "$seed"
      if finished "$name" "$script"; then
        state=finished
        count=$((count + 1))
      elif [[ $'\n'$held = *$'\n'$name$'\n'* ]]; then
        state=running
      else
        state=$(tail -n 1 "runs/$name/train.log" 2>/dev/null)
        case $state in
          '') state=- ;;
          '= fail'*) state="failed ${state##* }" ;;
          *) state=stopped ;;
        esac
      fi
      printf '  %-9s' "$state"
    done
  done < <(printf '%s\n' "$cells" | cut -f 2,4 | sort -u)
  printf '\n%d of %d finished\n' "$count" "$(printf '%s\n' "$cells" | wc -l)"
}
if [ "$mode" = status ]; then
  status
  exit 0
fi

todo=''
while IFS=$tab read -r name script seed env; do
  total=$((total + 1))
  if [ -e "runs/$name/result.json" ] || [ -e "runs/$name/checkpoint.pt" ]; then
    was=$(cat "runs/$name/benchmark.args" 2>/dev/null || printf %s "$others")
    [ "$was" = "$others" ] ||
      die 2 "runs/$name was made with the arguments${was:- none}; give these a --suite of their own"
  fi
  finished "$name" "$script" && continue
  count=$((count + 1))
  todo=$todo$name$tab$script$tab$seed$tab$env$'\n'
  if [ "$mode" = dry-run ]; then
    set_command "$script" "$env" "$seed"
    printf '%s\n' "$shown"
  fi
done <<<"$cells"
[ "$mode" = run ] || exit 0
trap '' PIPE # a reader that goes away is no reason to leave the runs alone
printf '%d runs: %s x %s x seeds %d to %d; %d are finished\n' \
  "$total" "$scripts" "$env_ids" "$start_seed" $((start_seed + seeds - 1)) $((total - count))
[ "$count" -gt 0 ] || exit 0

# ---- Engine ----
gnu_parallel() { parallel --version 2>/dev/null | grep -q 'GNU parallel'; }
if [ "$backend" = auto ]; then
  if gnu_parallel; then backend=parallel; else backend='xargs'; fi
fi
case $backend in
  parallel) gnu_parallel || die 3 "GNU parallel is not installed" ;;
  xargs) command -v xargs >/dev/null || die 3 "xargs is not installed" ;;
  slurm) command -v sbatch >/dev/null || die 3 "Slurm's sbatch is not installed" ;;
esac
command -v "$python" >/dev/null || die 3 "there is no $python"
[ -z "$hosts" ] || reach=hosts
[ "$backend" != slurm ] || reach=slurm
if [ "$reach" = local ] && [ -z "$jobs" ]; then
  jobs=$(OMP_NUM_THREADS='' nproc 2>/dev/null || getconf _NPROCESSORS_ONLN || echo 1)
  jobs=$((jobs > threads ? jobs / threads : 1))
fi
[ "$reach" = hosts ] || slots=${jobs:-1}

mkdir -p runs/.benchmark && launch=$root/$(mktemp -d "runs/.benchmark/$suite.XXXXXX") || exit 2
launched=$(date +%s) was=$reach
printf %s "$todo" >"$launch/todo"
: >"$launch/stop"
for name in root python threads extra others steps suite grace reach host launcher launched total \
  count slots; do
  printf '%s=%q\n' "$name" "${!name}"
done >"$launch/settings"

job_name() { echo "benchmark-${1##*.}"; } # FOLDER
cancel() { # ARGUMENTS for scancel
  [ "$reach" = slurm ] || return 0
  for folder in "${folders[@]}"; do scancel --quiet --name "$(job_name "$folder")" "$@"; done
}

# take over what is left of launchers that were killed, to stop it with the rest
folders=("$launch")
for folder in "$root"/runs/.benchmark/*; do
  # shellcheck source=/dev/null
  (. "$folder/settings" && [ "$reach$host" = "$was$HOSTNAME" ] && ! kill -0 "$launcher") \
    2>/dev/null && folders+=("$folder")
done
cancel --state PENDING

engine() {
  local worker
  trap - PIPE
  trap : HUP # it tells the engine to start no more, and then this waits for what runs
  worker="bash $(printf '%q' "$self") --one $(printf '%q' "$launch")"
  case $backend in
    parallel)
      export PARALLEL_HOME=$launch/parallel # with --plain: no file of the user's counts or changes
      mkdir "$PARALLEL_HOME"
      set -- --plain --will-cite --halt never --termseq TERM,60000,KILL,25
      set -- "$@" --jobs "${jobs:-$((threads < 100 ? 100 / threads : 1))%}"
      [ ! -t 2 ] || set -- "$@" --bar
      # cells of a host that can't be reached go to another
      [ -z "$hosts" ] || set -- "$@" --sshloginfile "$hosts" --retries 3
      seq "$count" | parallel "$@" "$worker"
      ;;
    xargs)
      seq "$count" | xargs -n 1 -P "$jobs" bash "$self" --one "$launch"
      ;;
    slurm)
      set -f
      # shellcheck disable=SC2016 # for the job to expand
      printf '#!/bin/bash\nexec %s "$SLURM_ARRAY_TASK_ID"\n' "$worker" >"$launch/job"
      # shellcheck disable=SC2086 # several arguments
      sbatch --wait --quiet --job-name "$(job_name "$launch")" \
        --array "1-$count${jobs:+%$jobs}" --ntasks 1 --cpus-per-task "$threads" \
        --requeue --signal B:USR1@60 --open-mode append --chdir "$root" \
        --output "${launch#"$root"/}/slurm.%a.log" $slurm_args "$launch/job"
      ;;
  esac
}

# ---- Launcher ----
signal='' deadline='' engine='' ended=0 nap=0.3
interrupt() { # SIGNAL: let all runs save and end
  for folder in "${folders[@]}"; do echo "$1" >"$folder/stop"; done
  printf '\nstopping: the runs save, which may take them %d s\n' "$grace" >&2
  [ -z "$signal" ] || return
  signal=$1 deadline=$((SECONDS + grace + 10))
  cancel --state PENDING
  [ -z "$engine" ] || kill -HUP -- "-$engine" 2>/dev/null
}

show() { # print the lines of the cells that have ended
  local text
  while { read -r _ && IFS= read -r text; } 2>/dev/null <"$launch/end.$((ended + 1))"; do
    ended=$((ended + 1))
    [ ! -t 1 ] || printf '\r\033[K' # over the bar of parallel
    printf '%s\n' "$text"
  done
}

working() { # is a worker at work?
  local file pid queue
  for folder in "${folders[@]}"; do
    if [ "$reach" = slurm ]; then
      queue=$(squeue --noheader --name "$(job_name "$folder")") || return 0
      [ -n "$queue" ] && return 0
      continue
    fi
    for file in "$folder"/start.*; do
      [ "$reach" != hosts ] || return 0
      read -r pid <"$file" && kill -0 "$pid" && return 0
    done
  done 2>/dev/null
  return 1
}

trap 'interrupt INT' INT
trap 'interrupt TERM' TERM
trap 'interrupt HUP' HUP
printf '%d to go, %s at once (%s)\n' "$count" "${jobs:-many}" "$backend"
set -m # a process group of its own: Ctrl-C is for the launcher alone, who lets the runs save
engine </dev/null &
engine=$!
set +m
while [ "$ended" -lt "$count" ] && kill -0 "$engine" 2>/dev/null; do
  show
  sleep "$nap"
  [ "$SECONDS" -lt 20 ] || nap=1
  [ -z "$signal" ] || [ "$SECONDS" -lt "$deadline" ] || break
done
show
if { [ -n "$signal" ] || [ "$ended" -lt "$count" ]; } && working; then
  [ -n "$signal" ] || interrupt KILL # the engine was killed
  while working && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.2; done
  cancel
  show
fi
# sbatch notices the end late, and an engine that is stuck never
if [ "$reach" = slurm ] || [ "$SECONDS" -ge "${deadline:-$((SECONDS + 1))}" ]; then
  kill -TERM -- "-$engine" 2>/dev/null
fi
wait "$engine"

# ---- Report ----
failed=0 left=0
while IFS=$tab read -r name script seed env; do
  finished "$name" "$script" || left=$((left + 1))
done <"$launch/todo"
for ((n = 1; n <= ended; n++)); do
  read -r state line code <"$launch/end.$n"
  [ "$state" = fail ] || continue
  IFS=$tab read -r name script seed env < <(sed -n "${line}p" "$launch/todo")
  finished "$name" "$script" && continue
  set_command "$script" "$env" "$seed"
  failed=$((failed + 1)) left=$((left - 1))
  printf '\nfailed with exit code %d, log %s\n  %s\n' "$code" "runs/$name/train.log" "$shown"
  tail -n 6 "runs/$name/train.log" | sed -e '/^[+=] /d' -e 's/^/  | /'
done
printf '\n%d of %d runs finished, %d failed, %d left\n' \
  $((total - failed - left)) "$total" "$failed" "$left"
[ $((failed + left)) -eq 0 ] || printf 'to go on, the same command:\n  %s\n' "$again"
working || rm -rf "${folders[@]}"
[ "$left" -eq 0 ] || case $signal in INT) exit 130 ;; TERM | HUP) exit 143 ;; esac
[ "$failed" -eq 0 ] || exit 1
[ "$left" -eq 0 ] || exit 4
