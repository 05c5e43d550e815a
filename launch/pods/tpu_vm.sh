#!/usr/bin/env bash
# Trains on a slice of Cloud TPU VMs: the same command on every host; jax finds the others by itself.
#
#   TPU=my-slice ZONE=us-east5-a BUCKET=/mnt/runs bash launch/pods/tpu_vm.sh configs/xnemo.py:stage1 --config.mesh.fsdp=8
#
# TPU, ZONE: a slice that is there (gcloud compute tpus tpu-vm create). BUCKET: a folder that all hosts share, such as a
# Cloud Storage bucket mounted with gcsfuse. PYTHON: 3.11 or newer on the hosts, if their python3 is older. DRY_RUN=1 prints the commands and runs none.
set -euo pipefail

: "${TPU:?the name of the slice}" "${ZONE:?its zone}" "${BUCKET:?a folder that all hosts share}"
CONFIG="${1:?a config and its stage, such as configs/xnemo.py:stage1}"
shift
REPOSITORY="${REPOSITORY:-$(git config --get remote.origin.url || echo .)}"
REVISION="${REVISION:-$(git rev-parse HEAD)}"

on_every_host() {
  local command=(gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1")
  if [ -n "${DRY_RUN:-}" ]; then printf '%q ' "${command[@]}"; echo; else "${command[@]}"; fi
}

on_every_host "set -e; [ -d portrait-jax ] || git clone --quiet $REPOSITORY portrait-jax; cd portrait-jax; \
git fetch --quiet; git checkout --quiet $REVISION; [ -d .venv ] || ${PYTHON:-python3} -m venv .venv; \
.venv/bin/pip install --quiet --upgrade -e '.[tpu,data]'"
on_every_host "cd portrait-jax; JAX_COMPILATION_CACHE_DIR=$BUCKET/compiled .venv/bin/python -m launch.train \
--config=$CONFIG --workdir=$BUCKET/runs --coordinator=auto $*"
