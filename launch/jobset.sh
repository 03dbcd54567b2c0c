#!/usr/bin/env bash
# A run on a TPU slice of GKE, as a JobSet (launch/jobset.yaml).
#
#   launch/jobset.sh [--dry_run] apply --config=... --workdir=/runs/...
#   launch/jobset.sh [--dry_run] tail
#   launch/jobset.sh [--dry_run] delete
#
# From the environment: NAME; for apply also IMAGE (built from launch/Dockerfile), ACCELERATOR
# (tpu-v5-lite-podslice, ...), TOPOLOGY (8x8, ...), HOSTS and CHIPS of each (16 and 4 for 8x8), and
# CLAIM, a ReadWriteMany volume claim (Filestore, or a bucket by gcsfuse), mounted at /runs.
# shellcheck disable=SC2153 # in capitals: from the environment
# shellcheck source-path=SCRIPTDIR source=command_line.sh
. "$(dirname "$0")/command_line.sh"
[[ $# -ge 1 ]] || usage
verb=$1
shift
need NAME
case $verb in
  apply)
    [[ $# -ge 1 ]] || usage
    names=(NAME IMAGE ACCELERATOR TOPOLOGY HOSTS CHIPS CLAIM)
    need "${names[@]}"
    yaml=$(<"$(dirname "$0")/jobset.yaml")
    for name in "${names[@]}"; do
      yaml=${yaml//"@$name@"/"${!name}"}
    done
    # A JSON list is YAML too.
    list=""
    for argument in "$@"; do
      argument=${argument//\\/\\\\}
      list+="\"${argument//\"/\\\"}\", "
    done
    yaml=${yaml//"@ARGUMENTS@"/"[${list%, }]"}
    if $dry_run; then
      echo "$yaml"
    else
      kubectl apply --filename=- <<<"$yaml"
    fi
    ;;
  tail)
    do_it kubectl logs --follow --tail=100 \
      --selector="jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
    ;;
  delete) do_it kubectl delete jobset "$NAME" ;;
  *) usage ;;
esac
