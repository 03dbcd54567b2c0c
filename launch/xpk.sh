#!/usr/bin/env bash
# A run on a TPU slice of a GKE cluster that xpk made.
#
#   launch/xpk.sh [--dry_run] run --config=... --workdir=...
#   launch/xpk.sh [--dry_run] delete
#
# From the environment: NAME (of the workload), CLUSTER, ZONE, TYPE (v5litepod-64, ...), and
# XPK_FLAGS for all else (--project=..., --storage=... for the disk of --workdir). xpk builds the
# image from this checkout, and starts the workload again, up to 100 times, after all but an error
# that would come again (status 2). Needs an xpk that has --restart-on-exit-codes.
# shellcheck disable=SC2153 # in capitals: from the environment
# shellcheck source-path=SCRIPTDIR source=command_line.sh
. "$(dirname "$0")/command_line.sh"
[[ $# -ge 1 ]] || usage
verb=$1
shift
need NAME CLUSTER ZONE
read -ra flags <<<"${XPK_FLAGS:-}"

case $verb in
  run)
    [[ $# -ge 1 ]] || usage
    need TYPE
    checkout=$(cd "$(dirname "$0")/.." && pwd)
    main="python -m kt_jax.main $(printf '%q ' "$@")"
    do_it xpk workload create --workload="$NAME" --cluster="$CLUSTER" --zone="$ZONE" \
      --tpu-type="$TYPE" --max-restarts=100 --restart-on-exit-codes=1,75 \
      --termination-grace-period-seconds=120 --base-docker-image=python:3.12 \
      --script-dir="$checkout" --command="pip install --quiet -e . 'jax[tpu]' && $main" \
      "${flags[@]}"
    ;;
  delete)
    do_it xpk workload delete --workload="$NAME" --cluster="$CLUSTER" --zone="$ZONE" "${flags[@]}"
    ;;
  *) usage ;;
esac
