#!/usr/bin/env bash
# Runs a command again as long as it exits with status 75, "run the same command again".
#
#   launch/until_done.sh .venv/bin/python train.py --config configs/resnet.py
#
# Returns any other status. Forwards SIGTERM, SIGINT and SIGHUP to the command and then does not run
# it again, since the sender wants the machine back; it returns the command's status.
#
#   UNTIL_DONE_MAX_TRIES  how often the command runs at most; 0, the default, for no limit
#   UNTIL_DONE_WAIT       seconds before the second run, doubled before each further one; 10
#   UNTIL_DONE_MAX_WAIT   the longest wait; 300. After a run longer than this, which did not fail
#                         early, the wait starts from UNTIL_DONE_WAIT again.
set -uo pipefail

readonly RUN_AGAIN=75

say() {
  echo "until_done.sh: $*" >&2
}

fail() {
  say "error: $*"
  exit 2
}

max_tries=${UNTIL_DONE_MAX_TRIES:-0}
first_wait=${UNTIL_DONE_WAIT:-10}
max_wait=${UNTIL_DONE_MAX_WAIT:-300}
for value in "$max_tries" "$first_wait" "$max_wait"; do
  [[ $value =~ ^[0-9]+$ ]] ||
    fail "UNTIL_DONE_MAX_TRIES, UNTIL_DONE_WAIT and UNTIL_DONE_MAX_WAIT must be whole numbers, not '$value'"
done
[[ $# -gt 0 ]] || fail "no command given; try: launch/until_done.sh .venv/bin/python train.py --config configs/demo.py"

# Job control gives the command its own process group with default signal handling. Without it, a
# background command of a script ignores Ctrl-C, and so does Python. A signal to our whole group
# reaches the command once, from here.
set -m
child=''
stopping='' # the signal received

stop() {
  stopping=$1
  [[ -z $child ]] || kill -s "$stopping" "$child" 2>/dev/null
}
trap 'stop TERM' TERM HUP
trap 'stop INT' INT

# Waits for a background process, also if signals interrupt the wait.
wait_for() {
  local status
  while true; do
    wait "$1" 2>/dev/null
    status=$?
    kill -0 "$1" 2>/dev/null || break
  done
  # The process may have ended between the signal and the check: ask for its own status.
  wait "$1" 2>/dev/null
  local own=$?
  [[ $own -eq 127 ]] || status=$own
  return "$status"
}

# Runs a command and forwards our signals to it.
attend() {
  local status
  "$@" &
  child=$!
  # A signal arrived before its process was known.
  [[ -z $stopping ]] || kill -s "$stopping" "$child" 2>/dev/null
  wait_for "$child"
  status=$?
  child=''
  return "$status"
}

pause=$first_wait
for ((try = 1; ; try++)); do
  started=$SECONDS
  attend "$@"
  status=$?
  [[ $status -eq $RUN_AGAIN && -z $stopping ]] || exit "$status"
  if [[ $max_tries -gt 0 && $try -ge $max_tries ]]; then
    say "status $status after $try tries; giving up (UNTIL_DONE_MAX_TRIES)"
    exit "$status"
  fi
  ((SECONDS - started <= max_wait)) || pause=$first_wait
  say "status $status after try $try; running the same command again in $pause s"
  attend sleep "$pause"
  [[ -z $stopping ]] || exit "$status"
  pause=$((pause * 2 < max_wait ? pause * 2 : max_wait))
done
