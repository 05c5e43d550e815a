#!/usr/bin/env bash
# Trains on a few machines over plain ssh: one process each, the first named being process 0.
#
#   HOSTS="node0 node1" FOLDER=/shared/portrait-jax bash launch/pods/ssh.sh configs/xnemo.py:stage1 --config.mesh.fsdp=16
#
# FOLDER: the repository with its .venv, at the same place on all machines; runs/ in it must be shared. PORT: free on the
# first machine. DRY_RUN=1 prints the commands and runs none. Ends as soon as one process does, and ends the others.
set -euo pipefail

: "${HOSTS:?the machines, separated by spaces}" "${FOLDER:?the repository on each of them}"
CONFIG="${1:?a config and its stage, such as configs/xnemo.py:stage1}"
shift
PORT="${PORT:-8476}"
read -r -a hosts <<<"$HOSTS"

started=()
for index in "${!hosts[@]}"; do
  line="cd $FOLDER && exec .venv/bin/python -m launch.train --config=$CONFIG --workdir=runs"
  line+=" --coordinator=${hosts[0]}:$PORT --processes=${#hosts[@]} --process=$index $*"
  if [ -n "${DRY_RUN:-}" ]; then printf 'ssh %s %q\n' "${hosts[$index]}" "$line"; continue; fi
  ssh -tt "${hosts[$index]}" "$line" &
  started+=("$!")
done
[ -n "${DRY_RUN:-}" ] && exit 0

trap 'kill "${started[@]}" 2>/dev/null || true' EXIT
# The first to end says how it went: the others cannot go on without it.
wait -n "${started[@]}"
