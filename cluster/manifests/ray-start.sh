#!/usr/bin/env bash
# A Ray cluster on machines that you have: the same Python packages on all of them, one token, ports open between them only.
#   head:      ./ray-start.sh head
#   workers:   RAY_AUTH_TOKEN=... ./ray-start.sh worker HEAD_IP
#   yourself:  ssh -L 8265:127.0.0.1:8265 HEAD
#              RAY_AUTH_TOKEN=... evo submit search.yaml --address http://127.0.0.1:8265 --storage /shared/runs --follow
# Each runs in the foreground until it is stopped (Ctrl-C, or systemd): `ray stop` would stop every Ray on the machine.
set -euo pipefail

role=${1:?"head, or worker HEAD_IP"}
export RAY_AUTH_MODE=token

case $role in
head)
    if [[ -z ${RAY_AUTH_TOKEN:-} ]]; then
        RAY_AUTH_TOKEN=$(openssl rand -hex 32)
        echo "token for workers and for you: RAY_AUTH_TOKEN=$RAY_AUTH_TOKEN"
    fi
    export RAY_AUTH_TOKEN
    # The job server listens on loopback only. Evaluations run on the head too, unless it is started with EVO_HEAD_CPUS=0.
    exec ray start --head --block --port=6379 --dashboard-host=127.0.0.1 --dashboard-port=8265 \
        --num-cpus="${EVO_HEAD_CPUS:-$(nproc)}" --disable-usage-stats
    ;;
worker)
    : "${RAY_AUTH_TOKEN:?"must be the token that the head printed"}"
    exec ray start --block --address="${2:?"the address of the head"}:6379" --disable-usage-stats
    ;;
*)
    echo "the role must be head or worker, but got $role" >&2
    exit 2
    ;;
esac
