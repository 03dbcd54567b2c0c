#!/usr/bin/env bash
# N processes of one run on this machine: what a pod does, without one.
#
#   launch/local_procs.sh [--dry_run] N python -m kt_jax.main --config=... --workdir=...
#
# Process 0 speaks to this console, the others into $LOGS/process-I.log (LOGS: a new temporary
# directory). When one fails the others are told to stop, and the status is that of the first that
# failed (75: told to stop; run the same again). PORT: of process 0 (a random one).
# shellcheck source-path=SCRIPTDIR source=command_line.sh
. "$(dirname "$0")/command_line.sh"
[[ $# -ge 2 && "$1" =~ ^[1-9][0-9]*$ ]] || usage
count=$1
shift

port=${PORT:-$((20000 + RANDOM % 20000))}
command_of() {
  printf '%s\0' "${@:2}" "--coordinator=127.0.0.1:$port" "--num_processes=$count" "--process_id=$1"
}

if $dry_run; then
  for ((i = 0; i < count; i++)); do
    mapfile -d '' -t words < <(command_of "$i" "$@")
    show "${words[@]}"
  done
  exit
fi

logs=${LOGS:-$(mktemp -d)}
mkdir -p "$logs"
pids=()
told=false
stop() { kill -TERM "${pids[@]}" 2>/dev/null || true; }
trap 'told=true; stop' INT TERM
for ((i = 0; i < count; i++)); do
  mapfile -d '' -t words < <(command_of "$i" "$@")
  if ((i == 0)); then
    "${words[@]}" &
  else
    "${words[@]}" >"$logs/process-$i.log" 2>&1 &
  fi
  pids+=($!)
done

status=0
for ((left = count; left > 0; left--)); do
  code=0
  wait -n || code=$?
  if $told; then # the signal ended the wait, not a process
    told=false
    left=$((left + 1))
    continue
  fi
  if ((code != 0 && status == 0)); then
    status=$code
    stop
  fi
done
if ((status != 0)); then
  echo "local_procs.sh: a process ended with status $status; the others' words are in $logs" >&2
  # It may be one of those that failed first.
  if ((count > 1)); then tail -n 3 -v "$logs"/process-*.log >&2; fi
fi
exit "$status"
