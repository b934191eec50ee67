#!/usr/bin/env bash
# Trains on a TPU slice of one host or of many. Run it on a machine of your own that has gcloud:
#   TPU=NAME ZONE=ZONE launch/tpu.sh --config configs/stage1.py --workdir gs://BUCKET/stage1 [options]
# TYPE=v5litepod-16 makes it a spot slice: requested if it is not there, and again whenever it is
# taken away, and deleted when the run has ended well. VERSION is its software. The last commit of
# this folder is what runs. For several hosts, the work folder must be in a bucket or shared. When
# this command is interrupted the run goes on; the same command then resumes it.
set -euo pipefail
: "${TPU:?is the name of the slice}" "${ZONE:?is its zone}"
cd "$(dirname "$0")/.."

tpus() { gcloud compute tpus "$@" --zone "$ZONE"; }
on_hosts() { tpus tpu-vm ssh "$TPU" --worker=all --command "$1"; }
state() { tpus queued-resources list --filter "name ~ /$TPU$" --format "value(state.state)"; }

# Returns when the spot slice is there.
acquire() {
  local now
  while :; do
    now=$(state) || now=UNKNOWN # the network
    case $now in
      ACTIVE) return ;;
      "") tpus queued-resources create "$TPU" --node-id "$TPU" --accelerator-type "$TYPE" \
        --runtime-version "${VERSION:-v2-alpha-tpuv5-lite}" --spot ;;
      SUSPENDED | FAILED) tpus queued-resources delete "$TPU" --force --quiet ;;
    esac
    sleep "${PAUSE:-60}"
  done
}

# Copies the code to the hosts and installs what it needs. Their own Python is too old.
# shellcheck disable=SC2016  # the hosts expand $HOME and $uv
install() {
  git archive --format=tar.gz --output="$archive" HEAD &&
    tpus tpu-vm scp "$archive" "$TPU:tvt_jax.tar.gz" --worker=all &&
    on_hosts 'mkdir -p tvt_jax && tar -xzf tvt_jax.tar.gz -C tvt_jax && cd tvt_jax &&
      python3 -m pip install --quiet --user uv && uv=$HOME/.local/bin/uv &&
      { [ -d .venv ] || $uv venv --quiet --python 3.12 .venv; } &&
      $uv pip install --quiet --python .venv -r requirements.txt ".[tpu,gcs]"'
}

# A run whose connection was lost still holds the TPU: it is told to save and end.
train() {
  local old="'python -m [t]vt_jax[.]train'" # not this very command
  on_hosts "pkill -f $old; while pgrep -f $old >/dev/null; do sleep 1; done
    cd tvt_jax && exec launch/run.sh --distributed $(printf '%q ' "$@")"
}

archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
while :; do
  if [ -n "${TYPE:-}" ]; then acquire; fi
  status=0
  { install && train "$@"; } || status=$?
  if [ -z "${TYPE:-}" ]; then exit "$status"; fi
  case $status in
    0)
      tpus queued-resources delete "$TPU" --force --quiet
      exit
      ;;
    143 | 255) sleep "${PAUSE:-60}" ;; # told to end, or the connection is lost: taken away
    *)
      echo "exit status $status; $TPU is still there, and costs: gcloud compute tpus" \
        "queued-resources delete $TPU --zone $ZONE --force" >&2
      exit "$status"
      ;;
  esac
done
