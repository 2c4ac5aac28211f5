#!/usr/bin/env bash
# tpu_v5e.sh runs this on each host of a slice. All files are in ~/agcnn: code/, log, and the program's
# command, pid and, once it has ended, status.
#
#   tpu_worker.sh install             the Python environment, code/.venv
#   tpu_worker.sh start PROGRAM ...   train.py, eval.py or -m agcnn_jax.experiments with its options,
#                                     detached
#   tpu_worker.sh status              a line: agcnn-worker NUMBER STATE PROGRAM ...; STATE is running,
#                                     none, stopped (by stop), or the program's status
#   tpu_worker.sh log [LINES]         the end of the program's output
#   tpu_worker.sh stop                SIGTERM: the program saves and exits
set -euo pipefail

readonly HOME_DIR=$HOME/agcnn
readonly CODE=$HOME_DIR/code

# The host's number in the slice; outside Google Cloud, its name.
number() {
  local name
  name=$(hostname)
  echo "${name##*-w-}"
}

# Succeeds if the process of start is still this program; numbers are reused after a reboot.
running() {
  local pid
  pid=$(cat "$HOME_DIR/pid" 2>/dev/null) || return 1
  kill -0 "$pid" 2>/dev/null && grep -qsF "$CODE/.venv" "/proc/$pid/environ"
}

install() {
  cd "$CODE"
  # The system's Python may be too old; uv brings its own.
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --python 3.12 .venv
  python3 -m uv pip install --quiet --python .venv/bin/python -c requirements.lock -e '.[train,tpu,gcs]'
}

start() {
  if running; then
    echo "tpu_worker.sh: error: a program is running on host $(number); stop it first" >&2
    exit 2
  fi
  rm -f "$HOME_DIR/status" "$HOME_DIR/pid" "$HOME_DIR/stopped"
  printf '%s\n' "$*" >"$HOME_DIR/command"
  # In its own session, the program outlives the connection that started it.
  setsid "$CODE/launch/tpu_worker.sh" supervise "$@" >>"$HOME_DIR/log" 2>&1 </dev/null &
  for _ in {1..100}; do
    [[ -e $HOME_DIR/pid ]] && return
    sleep 0.1
  done
  echo "tpu_worker.sh: error: the program did not start on host $(number); see $HOME_DIR/log" >&2
  exit 1
}

# Runs the program and writes its status to a file.
supervise() {
  cd "$CODE"
  local status=0
  VIRTUAL_ENV=$CODE/.venv .venv/bin/python "$@" &
  echo $! >"$HOME_DIR/pid.new"
  mv "$HOME_DIR/pid.new" "$HOME_DIR/pid"
  wait $! || status=$?
  echo "$status" >"$HOME_DIR/status.new"
  mv "$HOME_DIR/status.new" "$HOME_DIR/status"
}

status() {
  local state=none
  # The status of a program that has just ended comes in a moment; after a restart of the host, never.
  for _ in {1..20}; do
    if [[ -e $HOME_DIR/status ]]; then
      state=$(cat "$HOME_DIR/status")
      [[ ! -e $HOME_DIR/stopped ]] || state=stopped
      break
    elif running; then
      state=running
      break
    elif [[ ! -e $HOME_DIR/pid ]]; then
      break
    fi
    sleep 0.1
  done
  echo "agcnn-worker $(number) $state $(cat "$HOME_DIR/command" 2>/dev/null || true)"
}

log() {
  tail -n "${1:-20}" "$HOME_DIR/log" 2>/dev/null || true
}

stop() {
  if running; then
    touch "$HOME_DIR/stopped"
    kill -s TERM "$(cat "$HOME_DIR/pid")"
  fi
}

action=${1:-}
case $action in
  install | start | supervise | status | log | stop) shift && "$action" "$@" ;;
  *)
    echo "tpu_worker.sh: error: '$action' is none of install, start, status, log, stop" >&2
    exit 2
    ;;
esac
