#!/usr/bin/env bash
# Runs a command again for as long as it leaves with status 75, "run the same command again".
#
#   launch/until_done.sh .venv/bin/python train.py --config configs/resnet.py
#
# Any other status is passed on. SIGTERM, SIGINT and SIGHUP go on to the command, which is then not
# run again: whoever sends them wants the machine back. The status is then the command's own.
#
#   UNTIL_DONE_MAX_TRIES  how often the command is run at most; 0, the default, for no limit
#   UNTIL_DONE_WAIT       seconds before the second run, doubled before each further one; 10
#   UNTIL_DONE_MAX_WAIT   the longest wait; 300. A run that lasted longer than this was no early
#                         failure: the wait after it starts from UNTIL_DONE_WAIT again.
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
    fail "UNTIL_DONE_MAX_TRIES, UNTIL_DONE_WAIT and UNTIL_DONE_MAX_WAIT are whole numbers, not '$value'"
done
[[ $# -gt 0 ]] || fail "no command given; try: launch/until_done.sh .venv/bin/python train.py --config configs/demo.py"

# Job control gives the command a process group of its own, with the default handling of signals: a
# background command of a script without it ignores Ctrl-C, and Python then does so too. A signal to
# our whole group reaches the command once, from here.
set -m
child=''
stopping='' # the signal that told us to

stop() {
  stopping=$1
  [[ -z $child ]] || kill -s "$stopping" "$child" 2>/dev/null
}
trap 'stop TERM' TERM HUP
trap 'stop INT' INT

# Waits for a background process, however often a signal interrupts the waiting.
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

# Runs a command that gets the signals that we get.
attend() {
  local status
  "$@" &
  child=$!
  # A signal that came before we knew its process.
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
  say "status $status after try $try; the same command again in $pause s"
  attend sleep "$pause"
  [[ -z $stopping ]] || exit "$status"
  pause=$((pause * 2 < max_wait ? pause * 2 : max_wait))
done
