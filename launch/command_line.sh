# shellcheck shell=bash
# What the scripts here share. The comment that a script begins with is its usage.
set -euo pipefail

usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" | sed '/^shellcheck /d' >&2
  exit 2
}

if [[ "${1:-}" == --help ]]; then usage; fi

dry_run=false
if [[ "${1:-}" == --dry_run ]]; then
  dry_run=true
  shift
fi

# What the environment must hold.
need() {
  local name
  for name in "$@"; do
    [[ -n "${!name:-}" ]] || { echo "${0##*/}: set $name" >&2; exit 2; }
  done
}

show() {
  printf '%q ' "$@"
  echo
}

do_it() {
  if $dry_run; then
    show "$@"
  elif command -v "$1" >/dev/null; then
    "$@"
  else
    echo "${0##*/}: $1 is not installed here" >&2
    exit 2
  fi
}
