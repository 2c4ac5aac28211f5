#!/usr/bin/env bash
# Trains on a TPU v5e slice of Google Cloud, through queued resources.
#
#   launch/tpu_v5e.sh run [options] -- train.py --config configs/resnet.py --workdir gs://BUCKET/runs/resnet
#   launch/tpu_v5e.sh status|log|stop|delete [options]
#
# run     requests the slice unless it exists, waits for it, copies and installs the commit's code,
#         runs the program on all hosts and waits for it to end. Runs the program again after status
#         75 or a lost host, and requests a preempted slice again. Deletes the slice at the end.
#         After Ctrl-C the slice keeps working; the same command resumes waiting.
# status  the state of the slice and of the program on each host
# log     the end of the program's output on all hosts
# stop    SIGTERM to the program on all hosts: it saves and exits with status 75
# delete  deletes the slice and its disks
#
# Options and defaults; each is also an environment variable, such as AGCNN_TPU_ZONE, AGCNN_TPU_SPOT=1:
#   --name NAME              name of the queued resource and its node; agcnn
#   --zone ZONE
#   --project PROJECT        by default gcloud's
#   --type TYPE              v5litepod-1, -4, -8, -16, ... -256; v5litepod-16
#   --runtime VERSION        v2-alpha-tpuv5-lite
#   --spot                   preemptible and cheaper
#   --service-account EMAIL  an account that may read and write the buckets
#   --create-flags "FLAGS"   further flags of gcloud for create, such as "--reserved --network=NETWORK"
#   --commit COMMIT          the code to copy; HEAD
#   --repo URL               clone the code from URL instead of copying it from this folder
#   --setup "COMMAND"        run in the folder of the code on each host after installing
#   --keep                   keep the slice at the end
#   --poll SECONDS           between checks of the slice; 60
#   --max-tries N            start the program at most N times; 100
#   --lines N                lines of the log; 20
#   --dry-run                print the commands without running them
set -euo pipefail

readonly MISTAKE=2
readonly RUN_AGAIN=75
# Consecutive failures to reach or start the hosts before giving up.
readonly MAX_FAILURES=10

say() {
  echo "tpu_v5e.sh: $*" >&2
}

fail() {
  say "error: $*"
  exit "$MISTAKE"
}

# For when the slice may still exist and cost money.
give_up() {
  say "error: $*; $name is not deleted (launch/tpu_v5e.sh delete --name $name --zone $zone)"
  exit 1
}

name=${AGCNN_TPU_NAME:-agcnn}
zone=${AGCNN_TPU_ZONE:-}
project=${AGCNN_TPU_PROJECT:-}
type=${AGCNN_TPU_TYPE:-v5litepod-16}
runtime=${AGCNN_TPU_RUNTIME:-v2-alpha-tpuv5-lite}
spot=${AGCNN_TPU_SPOT:-}
service_account=${AGCNN_TPU_SERVICE_ACCOUNT:-}
create_flags=${AGCNN_TPU_CREATE_FLAGS:-}
commit=${AGCNN_TPU_COMMIT:-HEAD}
repo=${AGCNN_TPU_REPO:-}
setup=${AGCNN_TPU_SETUP:-}
keep=${AGCNN_TPU_KEEP:-}
poll=${AGCNN_TPU_POLL:-60}
max_tries=${AGCNN_TPU_MAX_TRIES:-100}
lines=${AGCNN_TPU_LINES:-20}
dry_run=${AGCNN_TPU_DRY_RUN:-}
program=()

action=${1:-}
[[ -z $action ]] || shift
case $action in
  run | status | log | stop | delete) ;;
  -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "$0" && exit ;;
  *) fail "'$action' is not one of run, status, log, stop, delete; see --help" ;;
esac
while [[ $# -gt 0 ]]; do
  case $1 in
    --) shift && program=("$@") && break ;;
    --spot) spot=1 && shift ;;
    --keep) keep=1 && shift ;;
    --dry-run) dry_run=1 && shift ;;
    --name | --zone | --project | --type | --runtime | --service-account | --create-flags | \
      --commit | --repo | --setup | --poll | --max-tries | --lines)
      [[ $# -gt 1 && -n $2 ]] || fail "$1 needs a value"
      option=${1#--}
      printf -v "${option//-/_}" %s "$2"
      shift 2
      ;;
    *) fail "unexpected argument '$1'; write options as --zone ZONE, and the program after --" ;;
  esac
done
code=$(cd "$(dirname "$0")/.." && pwd)

# Prints the workdir given in the program's options.
workdir() {
  local argument previous=''
  for argument in "${program[@]}"; do
    case $argument in
      --workdir=* | --config.workdir=*) echo "${argument#*=}" ;;
    esac
    case $previous in
      --workdir | --config.workdir) echo "$argument" ;;
    esac
    previous=$argument
  done
}

check() {
  local number
  [[ -n $zone ]] || fail "--zone is missing; give a zone with v5e, such as us-west4-a"
  [[ $name =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
    fail "--name '$name': use lower-case letters, digits and hyphens, starting with a letter"
  [[ $type =~ ^v5litepod-(1|4|8|16|32|64|128|256)$ ]] ||
    fail "--type '$type': use v5litepod-1, -4, -8, -16, -32, -64, -128 or -256"
  for number in "$poll" "$max_tries" "$lines"; do
    [[ $number =~ ^[0-9]+$ ]] || fail "--poll, --max-tries and --lines must be whole numbers, not '$number'"
  done
  [[ -n $dry_run ]] || command -v gcloud >/dev/null || fail "gcloud is missing; install the Google Cloud CLI"
  [[ $action == run ]] || return 0
  [[ ${program[0]:-} == train.py || ${program[0]:-} == eval.py ||
    "${program[0]:-} ${program[1]:-}" == "-m agcnn_jax.experiments" ]] ||
    fail "give train.py, eval.py or -m agcnn_jax.experiments with its options after --, not '${program[*]:0:2}'"
  [[ $(workdir) == gs://?* || $(workdir) == /?* ]] ||
    fail "--workdir must be gs://BUCKET/... or a folder mounted on all hosts, since their own disks are deleted"
  [[ -n $repo ]] || git -C "$code" rev-parse --quiet --verify "$commit^{commit}" >/dev/null ||
    fail "--commit '$commit' is not a commit of $code"
}
check

# Slices of up to 8 chips have a single host; hosts of larger slices have 4 chips each.
chips=${type##*-}
hosts=$((chips > 8 ? chips / 4 : 1))
place=("--zone=$zone")
[[ -z $project ]] || place+=("--project=$project")
# Relative to the home folder, where ssh starts.
worker=agcnn/code/launch/tpu_worker.sh

execute() {
  if [[ -n $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpus() {
  execute gcloud compute tpus "$@" "${place[@]}"
}

on_all_hosts() {
  tpus tpu-vm ssh "$name" --worker=all --quiet --command="$1"
}

# Prints the state of the queued resource, such as ACTIVE; NONE if it does not exist, UNKNOWN if gcloud
# failed.
state() {
  local answer
  if answer=$(tpus queued-resources describe "$name" '--format=value(state.state)' 2>&1); then
    tail -n 1 <<<"$answer"
  elif [[ $answer == *NOT_FOUND* ]]; then
    echo NONE
  else
    say "$(tail -n 1 <<<"$answer")"
    echo UNKNOWN
  fi
}

create() {
  local flags=("--node-id=$name" "--accelerator-type=$type" "--runtime-version=$runtime") more
  [[ -z $spot ]] || flags+=(--spot)
  [[ -z $service_account ]] || flags+=("--service-account=$service_account")
  if [[ -n $create_flags ]]; then
    read -r -a more <<<"$create_flags"
    flags+=("${more[@]}")
  fi
  tpus queued-resources create "$name" "${flags[@]}"
}

delete() {
  tpus queued-resources delete "$name" --force --quiet
}

# Waits until the slice is active; requests it if it does not exist or no longer exists.
wait_for_slice() {
  local now last='' unknown=0
  while true; do
    now=$(state)
    [[ $now == "$last" ]] || say "$name is $now"
    unknown=$((unknown + 1))
    [[ $now == UNKNOWN ]] || unknown=0
    case $now in
      ACTIVE) return ;;
      NONE) create ;;
      FAILED)
        # A request that failed before this call is replaced by a new one; if that fails, give up.
        [[ -z $last ]] || give_up "the request failed; gcloud compute tpus queued-resources describe says why"
        delete
        ;;
      SUSPENDED)
        say "the slice was preempted; requesting another"
        delete
        ;;
    esac
    [[ $unknown -lt $MAX_FAILURES ]] || give_up "the state of the slice cannot be read"
    last=$now
    sleep "$poll"
  done
}

copy_code() {
  local folder copied=0
  if [[ -n $repo ]]; then
    on_all_hosts "rm -rf agcnn && git clone --quiet $(printf %q "$repo") agcnn/code && git -C agcnn/code checkout --quiet $(printf %q "$commit")"
    return
  fi
  [[ -z $(git -C "$code" status --porcelain --untracked-files=no) ]] ||
    say "note: uncommitted changes are not copied"
  folder=$(mktemp -d)
  execute git -C "$code" archive --format=tar.gz "--output=$folder/agcnn.tar.gz" "$commit" &&
    tpus tpu-vm scp "$folder/agcnn.tar.gz" "$name:agcnn.tar.gz" --worker=all --quiet || copied=$?
  rm -r "$folder"
  [[ $copied -eq 0 ]] || return "$copied"
  on_all_hosts 'rm -rf agcnn && mkdir -p agcnn/code && tar -xzf agcnn.tar.gz -C agcnn/code'
}

install() {
  copy_code && on_all_hosts "$worker install" &&
    { [[ -z $setup ]] || on_all_hosts "cd agcnn/code && $setup"; }
}

start() {
  on_all_hosts "$worker start$(printf ' %q' "${program[@]}")"
}

# Prints the program's state: running, absent (no code on a host), unreachable, none (not started),
# stopped (by our stop), or its status. A user error or a bug on one host outweighs the 75 with which
# the others then exit. A killed program counts as a lost host.
outcome() {
  local states state mistake='' defect='' again=''
  # Each host prints one line; see tpu_worker.sh.
  states=$(on_all_hosts "if [ -x $worker ]; then $worker status; else echo agcnn-worker - absent; fi" 2>/dev/null |
    sed -n 's/^agcnn-worker [^ ]* \([^ ]*\).*/\1/p') || true
  if [[ $(wc -w <<<"$states") -lt $hosts ]]; then
    echo unreachable
    return
  fi
  for state in running absent none stopped; do
    if grep -qx "$state" <<<"$states"; then
      echo "$state"
      return
    fi
  done
  for state in $states; do
    if [[ $state -eq $MISTAKE ]]; then
      mistake=$state
    elif [[ $state -eq $RUN_AGAIN || $state -gt 128 ]]; then
      again=$RUN_AGAIN
    elif [[ $state -ne 0 ]]; then
      defect=$state
    fi
  done
  echo "${mistake:-${defect:-${again:-0}}}"
}

finish() {
  say "the program exited with status $1"
  on_all_hosts "$worker log 5" || true
  if [[ -n $keep ]]; then
    say "$name is kept (launch/tpu_v5e.sh delete --name $name --zone $zone)"
  else
    delete || give_up "gcloud did not delete the slice"
  fi
  exit "$1"
}

run() {
  local now tries=0 failures=0 begun='' ready
  while true; do
    wait_for_slice
    now=$(outcome)
    if [[ $now == running ]]; then
      failures=0
      [[ -n $begun ]] || say "a program is already running there; waiting for it to end"
      begun=yes
    elif [[ $now == unreachable ]]; then
      # A new slice accepts no connections at first; a preempted one stays ACTIVE for a while.
      failures=$((failures + 1))
    elif [[ -n $begun && $now == stopped ]]; then
      finish "$RUN_AGAIN"
    elif [[ -n $begun && $now =~ ^[0-9]+$ && $now -ne $RUN_AGAIN ]]; then
      finish "$now"
    elif [[ $tries -ge $max_tries ]]; then
      say "$tries tries; giving up (--max-tries)"
      finish "$RUN_AGAIN"
    else
      # A program of an earlier call has ended: start with this code.
      ready=yes
      if [[ -z $begun || $now == absent ]]; then
        install || ready=''
      fi
      if [[ -n $ready ]] && start; then
        tries=$((tries + 1))
        failures=0
        begun=yes
        say "started on $hosts host(s), try $tries"
      else
        failures=$((failures + 1))
      fi
    fi
    [[ $failures -lt $MAX_FAILURES ]] || give_up "the hosts cannot be reached or set up"
    sleep "$poll"
  done
}

dry() {
  create
  tpus queued-resources describe "$name" '--format=value(state.state)'
  install
  start
  on_all_hosts "$worker status"
  [[ -n $keep ]] || delete
}

case $action in
  run) if [[ -n $dry_run ]]; then dry; else run; fi ;;
  status)
    tpus queued-resources describe "$name" '--format=value(state.state)'
    on_all_hosts "$worker status"
    ;;
  log) on_all_hosts "$worker log $lines" ;;
  stop) on_all_hosts "$worker stop" ;;
  delete) delete ;;
esac
