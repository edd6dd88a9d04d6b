#!/usr/bin/env bash
# Runs the demo in .demo. With KEEP=1 it goes on in the background after all is shown; `hack/demo.sh stop` ends it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dir=$PWD/.demo
pid_file=$PWD/.demo.pid
log=$PWD/.demo.log

# By name too: after a restart of the machine the id may be another program's.
running() { [ -e "$pid_file" ] && grep -qsE 'localplane|demo\.sh' "/proc/$(cat "$pid_file")/cmdline"; }

stop() {
  if running; then
    kill -TERM "$(cat "$pid_file")"
    while running; do sleep 0.2; done
    echo "demo: stopped"
  fi
  rm -f "$pid_file"
}

if [ "${1:-}" = stop ]; then
  stop
  exit
fi

stop
arguments=(--dir "$dir" demo)
[ -n "${PROMPT:-}" ] && arguments+=(--prompt "$PROMPT")
if [ -z "${KEEP:-}" ]; then
  exec target/debug/localplane "${arguments[@]}"
fi

: >"$log"
setsid target/debug/localplane "${arguments[@]}" --keep >>"$log" 2>&1 &
echo $! >"$pid_file"
tail -n +1 -f --pid="$(cat "$pid_file")" "$log" &
tail_pid=$!
while running && ! grep -q '^demo: ok' "$log"; do sleep 0.2; done
sleep 0.3 # let tail print the last lines
kill "$tail_pid" 2>/dev/null || true
if ! grep -q '^demo: ok' "$log"; then
  rm -f "$pid_file"
  exit 1
fi
echo "it stays until: make demo-stop"
