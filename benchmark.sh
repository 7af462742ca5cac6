#!/usr/bin/env bash
# Train algorithms x environments x seeds in parallel. What is finished is not run again and what
# was stopped goes on: the same command again continues a matrix, and a larger one adds to it.
#
# usage: ./benchmark.sh [options] [-- arguments for every script]
#
# --scripts A,B        scripts, without _continuous.py  (default: all that benchmark.sh lies beside)
# --env-ids A,B        ids of gymnasium environments               (default: Hopper-v4)
# --seeds N            seeds of each cell                          (default: 3)
# --start-seed N       the first of them                           (default: 1)
# --jobs N             runs at once (on each host)      (default: cores / threads; Slurm: no limit)
# --threads N          CPU threads of a run                        (default: 1)
# --backend NAME       parallel, xargs or slurm         (default: GNU parallel, or xargs without it)
# --hosts FILE         run on these hosts: GNU parallel's --sshloginfile, one a line; the current
#                      folder and benchmark.sh's must be shared, at the same paths
# --slurm-args "..."   further arguments for sbatch, such as "--partition=long --time=8:00:00"
# --suite NAME         first part of the runs' names               (default: benchmark)
# --dry-run            print the commands that are left to run
# --status             print how each run stands; needs no arguments for the scripts
#
# A run is runs/SUITE__SCRIPT__ENV__SEED in the current folder, its output is train.log in there.
# Give each set of arguments for the scripts a --suite of its own. $PYTHON runs the scripts, or
# else .venv beside benchmark.sh, or else python3. Ctrl-C, SIGTERM and SIGHUP let all runs save.
#
# exit code: 0 all finished, 1 some failed, 2 usage, 3 engine missing, 4 some unfinished,
#            130 stopped by Ctrl-C, 143 by SIGTERM or SIGHUP

# How it works: the launcher writes the commands that are left to run into a folder of its own, and
# an engine (GNU parallel, xargs or Slurm) calls this script again for each: `--one FOLDER LINE`.
# The engine starts and stops these workers; locks, checkpoints and exit codes are the scripts' own.
set -u
shopt -s nullglob # bash 3.2 is enough: no associative arrays, no mapfile, no wait -n
here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
self=$here/${BASH_SOURCE[0]##*/}

die() { # CODE MESSAGE
  printf 'error: %s\n' "$2" >&2
  exit "$1"
}

held() { # does some process train the run $name? It holds the lock then
  [ -e "runs/$name/lock" ] && ! "$python" -c 'import fcntl, sys
fcntl.flock(open(sys.argv[1], "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)' "runs/$name/lock" 2>/dev/null
}

python=${PYTHON:-$here/.venv/bin/python}
[ -n "${PYTHON-}" ] || [ -x "$python" ] || python=python3

# ---- Worker ----
worker() { # FOLDER LINE: run the command on that line of FOLDER/todo and note how it ended
  local name command log code=3 state=fail stopped='' requeue=''
  cd "$1/../../.." || exit 1
  IFS=$'\t' read -r name command < <(sed -n "$2p" "$1/todo")
  eval "command=($command)" # quoted by printf %q
  python=${command[0]} log=runs/$name/train.log
  # The engine's SIGTERM is for the whole process group, so the run has got it too. It has not got
  # the SIGHUP of a lost connection, nor the USR1 by which Slurm says that the time is over.
  trap 'stopped=yes' TERM INT
  trap 'stopped=yes && kill -TERM "$!"' HUP
  trap 'requeue=yes && kill -TERM "$!"' USR1
  mkdir -p "runs/$name"
  [ -e "runs/$name/args.json" ] || cp "$1/arguments" "runs/$name/benchmark.args"

  while [ "$code" -eq 3 ] && [ -z "$stopped" ]; do
    printf '+ %s\n' "${command[*]}" >>"$log"
    nohup "${command[@]}" >>"$log" 2>&1 </dev/null &
    while kill -0 "$!"; do wait "$!"; done 2>/dev/null # a signal ends `wait` early
    wait "$!" 2>/dev/null
    code=$?
    # 3: another process trains in the run's folder. Go on when that has ended, in whatever way
    [ "$code" -ne 3 ] || sleep 1
    while [ "$code" -eq 3 ] && [ -z "$stopped" ] && held; do sleep 1; done
  done

  case $code$stopped in
    0*) state=ok ;;
    75 | 130 | 143 | *yes) state=stop ;;
  esac
  # for Slurm a run that has saved goes on in another job, or on another node
  [ "$state" = ok ] || [ -z "$requeue" ] || ! scontrol requeue "$SLURM_JOB_ID" || return
  printf '= %s, exit code %d\n' "$state" "$code" >>"$log"
  echo "$name $code" >"$1/$state.$2"
  echo "$state $log" # to the printer below
}
if [ "${1-}" = --one ]; then
  worker "$2" "$3"
  exit 0
fi

# ---- Options ----
scripts='' env_ids=Hopper-v4 seeds=3 start_seed=1 jobs='' threads=1 backend=auto hosts=''
slurm_args='' suite=benchmark mode=run
while [ $# -gt 0 ]; do
  option=${1%%=*} value=${1#*=}
  case $option in
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$self" && exit 0 ;; # the lines above
    --) shift && break ;;
    --dry-run | --status) mode=${option#--} && shift && continue ;;
    --scripts | --env-ids | --seeds | --start-seed | --jobs | --threads) ;;
    --backend | --hosts | --slurm-args | --suite) ;;
    *) die 2 "unknown option $1: --help lists them, and those of the scripts come after --" ;;
  esac
  if [ "$option" = "$1" ]; then
    [ $# -gt 1 ] || die 2 "$1 needs a value"
    value=$2
    shift
  fi
  shift
  option=${option#--}
  printf -v "${option//-/_}" %s "$value"
done

whole() { # OPTION VALUE LOWEST: sets $number, or exits
  [[ $2 =~ ^0*([0-9]{1,9})$ ]] || die 2 "$1 must be a whole number of up to 9 digits, not '$2'"
  number=${BASH_REMATCH[1]}
  [ "$number" -ge "$3" ] || die 2 "$1 must be at least $3, not $2"
}
whole --seeds "$seeds" 1 && seeds=$number
whole --start-seed "$start_seed" 0 && start_seed=$number
whole --threads "$threads" 1 && threads=$number
[ -z "$jobs" ] || { whole --jobs "$jobs" 1 && jobs=$number; }
[[ $suite =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] ||
  die 2 "--suite must be of letters, digits and . _ -, not '$suite'"
[[ $backend =~ ^(auto|parallel|xargs|slurm)$ ]] ||
  die 2 "--backend must be auto, parallel, xargs or slurm, not '$backend'"
if [ -n "$hosts" ]; then
  [ -r "$hosts" ] || die 2 "cannot read --hosts $hosts"
  [ "$backend" = auto ] || [ "$backend" = parallel ] || die 2 "--hosts is for GNU parallel"
  backend=parallel
fi

extra='' steps='' own='^--(env[-_]id|seed|run[-_]name|torch[-_]threads|resume|no[-_]resume)'
for word; do
  [[ ! $word =~ $own ]] || die 2 "$word after --: benchmark.sh gives each run its own"
  extra="$extra $(printf '%q' "$word")"
done
others=$extra # --total-timesteps may change, the others are a suite's own
pattern=' --total[-_]timesteps[= ]([^ ]*)'
if [[ "$extra " =~ $pattern ]]; then
  others=${extra/"${BASH_REMATCH[0]}"/}
  whole --total-timesteps "${BASH_REMATCH[1]//_/}" 1 && steps=$number
fi

[ "$mode" = dry-run ] || command -v "$python" >/dev/null || die 3 "there is no $python"

# ---- Matrix ----
known=$(cd "$here" && printf '%s\n' *_continuous.py | sed 's/_continuous\.py$//' | paste -s -d , -)
scripts=${scripts:-$known}
IFS=, read -ra script_list <<<"$scripts"
for script in "${script_list[@]}"; do
  [[ ,$known, = *,"$script",* ]] || die 2 "no script '$script', only $known"
done
[[ ,$env_ids, != *,,* && $env_ids != *[[:cntrl:]]* ]] ||
  die 2 "an environment id is empty or has a control character"
IFS=, read -ra env_list <<<"$env_ids"

finished() { # does result.json have as many steps as the arguments, or the script, ask for?
  local goal=$steps step
  step=$(sed -n 's/.*"step" *: *\([0-9]*\).*/\1/p' "runs/$name/result.json" 2>/dev/null)
  [ -n "$step" ] || return 1
  [ "$mode$goal" != status ] || return 0 # without arguments: as many as the run itself had to do
  [ -n "$goal" ] || goal=$(sed -n 's/^ *total_timesteps: int = \([0-9_]*\).*/\1/p' \
    "$here/${script}_continuous.py")
  [ "$step" -ge "${goal//_/}" ]
}

add_cell() { # of $script, $env and $seed
  local was last state
  name=${suite}__${script}__$(printf %s "$env" | LC_ALL=C tr -c 'A-Za-z0-9._-' -)__$seed
  # some file systems take names for one that differ in case alone
  ! grep -qixF -e "$name" <<<"$names" || die 2 "two cells of the matrix would both be runs/$name"
  names=$names$name$'\n'
  # what began without benchmark.sh has no note of its arguments: the script itself compares them
  was=$(cat "runs/$name/benchmark.args" 2>/dev/null || printf %s "$others")
  [ "$mode" = status ] || [ "$was" = "$others" ] || [ ! -e "runs/$name/args.json" ] ||
    die 2 "runs/$name was made with the arguments${was:- none}; give these a --suite of their own"
  last=$(tail -n 1 "runs/$name/train.log" 2>/dev/null)
  if finished; then state=finished
  elif [ "$mode" = status ] && held; then state=running
  elif [ -z "$last" ]; then state=-
  elif [[ $last = '= fail'* ]]; then state="failed ${last##* }"
  else state=stopped
  fi
  [ "$mode" != status ] || printf '%-10s  %s\n' "$state" "$name"
  [ "$state" != finished ] || return 0
  todo=$todo$name$'\t'$(printf '%q ' "$python" "$here/${script}_continuous.py" --env-id "$env" \
    --seed "$seed" --torch-threads "$threads" --resume --run-name "$name")${extra# }$'\n'
}

names='' todo=''
for ((seed = start_seed; seed < start_seed + seeds; seed++)); do
  for env in "${env_list[@]}"; do
    for script in "${script_list[@]}"; do
      add_cell
    done
  done
done
total=$(printf %s "$names" | wc -l)
count=$(printf %s "$todo" | wc -l)
already=$((total - count)) # finished before this
[ "$mode" != status ] || printf '%d of %d finished\n' "$already" "$total"
[ "$mode" != dry-run ] || printf %s "$todo" | cut -f 2-
[ "$mode" = run ] || exit 0
trap '' PIPE # a reader that goes away is no reason to leave the runs alone
printf '%d runs: %s x %s x seeds %d to %d; %d are finished\n' \
  "$total" "$scripts" "$env_ids" "$start_seed" $((start_seed + seeds - 1)) "$already"
[ "$count" -gt 0 ] || exit 0

# ---- Engine ----
gnu_parallel() { parallel --version 2>/dev/null | grep -q 'GNU parallel'; }
if [ "$backend" = auto ]; then
  if gnu_parallel; then backend=parallel; else backend='xargs'; fi
fi
[ "$backend" != parallel ] || gnu_parallel || die 3 "GNU parallel is not installed"
[ "$backend" != xargs ] || command -v xargs >/dev/null || die 3 "xargs is not installed"
[ "$backend" != slurm ] || command -v sbatch >/dev/null || die 3 "Slurm's sbatch is not installed"
if [ -z "$jobs$hosts" ] && [ "$backend" != slurm ]; then
  jobs=$(OMP_NUM_THREADS='' nproc 2>/dev/null || getconf _NPROCESSORS_ONLN || echo 1)
  jobs=$((jobs > threads ? jobs / threads : 1))
fi
export OMP_NUM_THREADS=$threads MKL_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=$threads

launch=$(mkdir -p runs/.benchmark && mktemp -d "$PWD/runs/.benchmark/$suite.XXXXXX") || exit 2
printf %s "$todo" >"$launch/todo"
printf '%s\n' "$others" >"$launch/arguments"
worker="bash $(printf '%q' "$self") --one $(printf '%q' "$launch")"
# Slurm's name for the jobs of this matrix, those of a launcher that was killed included
job=$suite-$(printf '%s\n' "$PWD" "$names" | cksum | cut -d ' ' -f 1)

engine() {
  case $backend in
    parallel)
      # at SIGINT it sends SIGTERM to the workers and gives them a minute
      set -- --plain --will-cite --ungroup --termseq "TERM,${BENCHMARK_GRACE:-60}000,KILL,25"
      set -- "$@" --jobs "${jobs:-$((threads < 100 ? 100 / threads : 1))%}"
      # cells of a host that can't be reached go to another
      [ -z "$hosts" ] || set -- "$@" --sshloginfile "$hosts" --retries 3 \
        --env OMP_NUM_THREADS --env MKL_NUM_THREADS --env OPENBLAS_NUM_THREADS
      seq "$count" | parallel "$@" "$worker"
      ;;
    xargs)
      seq "$count" | xargs -n 1 -P "$jobs" bash "$self" --one "$launch"
      ;;
    slurm)
      scancel --quiet --name "$job" --state PENDING
      set -f
      # shellcheck disable=SC2086 # several arguments
      sbatch --wait --quiet --job-name "$job" --array "1-$count${jobs:+%$jobs}" --ntasks 1 \
        --cpus-per-task "$threads" --requeue --signal B:USR1@60 --open-mode append \
        --output "$launch/slurm.log" $slurm_args --wrap "exec $worker \$SLURM_ARRAY_TASK_ID"
      cat "$launch/slurm.log" 2>/dev/null
      ;;
  esac
}

stop_engine() { # let all runs save and end
  case $backend in
    parallel) kill -INT -- "-$group" ;;
    xargs) kill -TERM -- "-$group" ;;
    slurm) scancel --quiet --name "$job" ;;
  esac 2>/dev/null
}

printer() { # what the workers print, until the engine and the last worker have ended
  local state log n=$already
  trap '' INT TERM HUP
  while read -r state log; do
    case $state in
      ok | fail | stop) n=$((n + 1)) && printf '[%s] %d/%d %s\n' "$state" "$n" "$total" "$log" ;;
      *) printf '%s %s\n' "$state" "$log" ;; # from the engine itself
    esac
  done
}

interrupt() { # CODE
  trap - INT TERM HUP # a second signal does not wait
  stopped=$1 group=$(jobs -p %1 2>/dev/null)
  [ -n "$group" ] || exit "$stopped"
  printf '\nstopping: the runs save\n' >&2
  [ -z "$watch" ] || kill "$watch"
  stop_engine
}

# ---- Launcher ----
launcher=$$ stopped='' watch=''
trap 'interrupt 130' INT
trap 'interrupt 143' TERM HUP
printf '%d to go, %s at once (%s)\n' "$count" "${jobs:-many}" "$backend"
set -m # process groups of their own: Ctrl-C is for the launcher alone, who lets the runs save
engine </dev/null | printer &
printer=$! group=$(jobs -p %1)
# when the launcher is killed the runs save; Slurm needs no launcher
[ "$backend" = slurm ] || {
  while kill -0 "$launcher"; do sleep 1; done
  stop_engine
} >/dev/null 2>&1 &
watch=$!
set +m
while kill -0 "$printer" 2>/dev/null; do wait "$printer"; done # a signal ends `wait` early
kill "$watch" 2>/dev/null

# ---- Report ----
ok=("$launch"/ok.*) failed=("$launch"/fail.*)
left=$((count - ${#ok[@]} - ${#failed[@]}))
for file in "$launch"/fail.*; do
  read -r name code <"$file"
  printf '\nfailed with exit code %d, log %s\n' "$code" "runs/$name/train.log"
  tail -n 6 "runs/$name/train.log" | sed -e '/^[+=] /d' -e 's/^/  | /'
done
printf '\n%d of %d runs finished, %d failed, %d left\n' \
  $((already + ${#ok[@]})) "$total" "${#failed[@]}" "$left"
[ ${#ok[@]} -eq "$count" ] || echo "to go on, the same command again"
rm -rf "$launch"
[ "$left" -eq 0 ] || [ -z "$stopped" ] || exit "$stopped"
[ ${#failed[@]} -eq 0 ] || exit 1
[ "$left" -eq 0 ] || exit 4
