#!/usr/bin/env bash
# Starts one training run on every host of a TPU VM slice, from your own machine.
#   TPU=my-slice ZONE=us-central2-b launch/tpu_pod.sh configs/stage1.py /mnt/bucket/runs/stage1 [options]
# The run's folder must be shared by the hosts (a bucket mounted by gcsfuse, Filestore).
# ~/tvt_jax on the hosts holds the code and .venv: make setup, then
#   .venv/bin/pip install -r requirements.txt "jax[tpu]"
set -euo pipefail
config=$1 workdir=$2
shift 2
gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command \
  "cd ~/tvt_jax && .venv/bin/python -m tvt_jax.train --distributed $(printf '%q ' --config "$config" --workdir "$workdir" "$@")"
