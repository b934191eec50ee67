#!/usr/bin/env bash
# Trains on this machine, and resumes the run after a crash.
#   launch/run.sh --config configs/stage1.py --workdir runs/stage1 [options of tvt_jax.train]
# A mistake (exit status 2) ends it, and so do SIGTERM and Ctrl-C, after the run is saved. On a spot
# machine, this line in crontab resumes the run when the machine is back:
#   @reboot cd tvt_jax && launch/run.sh --config configs/stage1.py --workdir runs/stage1 >>run.log 2>&1
# RETRIES (20) and PAUSE (10 seconds) say how often and when.
set -uo pipefail
stopped=
trap 'stopped=1; kill -TERM "$run" 2>/dev/null' TERM INT
for ((crashes = 0; crashes <= ${RETRIES:-20}; crashes++)); do
  .venv/bin/python -m tvt_jax.train "$@" &
  run=$!
  wait "$run"
  status=$?
  while kill -0 "$run" 2>/dev/null; do # a signal ended `wait`, and the run is being saved
    wait "$run"
    status=$?
  done
  if [ -n "$stopped" ]; then exit 143; fi
  case $status in 0 | 2 | 143) exit "$status" ;; esac
  echo "exit status $status; resuming in ${PAUSE:-10} s" >&2
  sleep "${PAUSE:-10}"
  if [ -n "$stopped" ]; then exit 143; fi
done
exit "$status"
