#!/usr/bin/env bash
# Runs one part of a job and notes how long it took; `summary` prints the minutes of all parts.
# Usage: hack/part.sh NAME COMMAND [ARGUMENT ...] | hack/part.sh summary
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
log=target/parts.tsv
mkdir -p target

if [ "$1" = summary ]; then
  echo
  echo "minutes per part:"
  awk -F'\t' '{printf "  %-16s %6.1f\n", $1, $2 / 60; total += $2} END {printf "  %-16s %6.1f\n", "total", total / 60}' "$log"
  rm -f "$log"
  exit
fi

name=$1
shift
printf '%s %s: %s\n' "$(date +%H:%M:%S)" "$name" "$*"
start=$(date +%s)
"$@"
seconds=$(($(date +%s) - start))
printf '%s %s: done in %d min %02d s\n' "$(date +%H:%M:%S)" "$name" $((seconds / 60)) $((seconds % 60))
printf '%s\t%s\n' "$name" "$seconds" >>"$log"
