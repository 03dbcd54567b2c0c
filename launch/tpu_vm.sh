#!/usr/bin/env bash
# A run on all workers of a Cloud TPU VM.
#
#   launch/tpu_vm.sh [--dry_run] create     a TPU, now
#   launch/tpu_vm.sh [--dry_run] queue      a TPU, when there is one (queued resources)
#   launch/tpu_vm.sh [--dry_run] install    this checkout and its packages, on every worker
#   launch/tpu_vm.sh [--dry_run] run --config=... --workdir=...     started in the background
#   launch/tpu_vm.sh [--dry_run] tail       what worker 0 says
#   launch/tpu_vm.sh [--dry_run] stop       SIGTERM on every worker: the run saves; run resumes
#   launch/tpu_vm.sh [--dry_run] delete     the TPU, queued or there
#
# NAME, ZONE, TYPE (v5litepod-64, ...) and VERSION (v2-alpha-tpuv5-lite, ...) come from the
# environment; GCLOUD_FLAGS are added to every command (--project=..., --spot for create and queue).
# --workdir must be on a disk that all workers see (Filestore, or a bucket mounted by gcsfuse).
# shellcheck disable=SC2153 # in capitals: from the environment
# shellcheck source-path=SCRIPTDIR source=command_line.sh
. "$(dirname "$0")/command_line.sh"
[[ $# -ge 1 ]] || usage
verb=$1
shift
need NAME ZONE
if [[ $verb == create || $verb == queue ]]; then
  need TYPE VERSION
fi
read -ra flags <<<"${GCLOUD_FLAGS:-}"

tpus() { do_it gcloud compute tpus "$@" --zone="$ZONE" "${flags[@]}"; }

on() { # WORKER COMMAND
  tpus tpu-vm ssh "$NAME" --worker="$1" --command="$2"
}

case $verb in
  create) tpus tpu-vm create "$NAME" --accelerator-type="$TYPE" --version="$VERSION" ;;
  queue)
    tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" \
      --runtime-version="$VERSION"
    ;;
  install)
    checkout=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
    bundle=$(mktemp -d)
    trap 'rm -rf "$bundle"' EXIT
    git -C "$checkout" archive --format=tar.gz --output="$bundle/kt_jax.tar.gz" HEAD
    tpus tpu-vm scp "$bundle/kt_jax.tar.gz" "$NAME:" --worker=all
    on all "mkdir -p kt_jax && tar -xzf kt_jax.tar.gz -C kt_jax && cd kt_jax &&
python3 -m venv .venv && .venv/bin/pip install --quiet -e . 'jax[tpu]'"
    ;;
  run)
    [[ $# -ge 1 ]] || usage
    # Told to stop, left by another worker or killed, it is started again; an error is not.
    again="for attempt in {1..100}; do
.venv/bin/python -m kt_jax.main --coordinator=auto $(printf '%q ' "$@")
status=\$?; [[ \$status != 0 && \$status != 2 ]] || break; sleep 10; done; exit \$status"
    # What it starts inherits the lock, and lets go of it when it ends.
    on all "cd kt_jax && { flock --nonblock 9 || { echo 'a run is going on here: stop it first' >&2
exit 3; }; nohup bash -c $(printf '%q' "$again") >run.log 2>&1 </dev/null & } 9>run.lock"
    ;;
  tail) on 0 "tail -n 100 -F kt_jax/run.log" ;;
  stop) on all "pkill -TERM -f '[f]or attempt in'; pkill -TERM -f '[k]t_jax.main'" ;;
  delete)
    tpus tpu-vm delete "$NAME" --quiet ||
      tpus queued-resources delete "$NAME" --quiet --force
    ;;
  *) usage ;;
esac
