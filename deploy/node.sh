#!/usr/bin/env bash
# One node of a UniSD-RL cluster: deploy/node.sh head|learner|rollout|node [option of `ray start` ...]
#
#   head     the driver of every job runs here, and nothing that computes
#   learner  takes learner ranks:    offers UNISD_PLACES of the custom resource `learner`
#   rollout  takes rollout actors:   offers UNISD_PLACES of the custom resource `rollout`
#   node     what it offers is said by whoever starts it (Ray's cluster launcher)
#   healthy  starts nothing: exit code 0 if the node on this machine lives
#
# `--block` keeps it in the foreground. The rest is said by the environment:
#
#   UNISD_HEAD            host of the head, for all other nodes (127.0.0.1)
#   UNISD_PORT            its port (6379)
#   UNISD_DASHBOARD_PORT  port for submitting jobs and looking on, at the head (8265)
#   UNISD_DASHBOARD_HOST  address on which the head offers that (127.0.0.1)
#   UNISD_IP              address of this node (Ray finds it)
#   UNISD_PLACES          learner ranks or rollout actors that this node takes (1)
#   UNISD_CPUS            cores it offers (all; the head: 0)
#   UNISD_GPUS            GPUs it offers (all that CUDA_VISIBLE_DEVICES leaves; the head: 0)
#   UNISD_OBJECT_STORE    bytes of its object store (Ray: 30 % of the memory)
#   UNISD_AGENT_PORT      port of its agent; several nodes on one machine need one each (52365)
#   UNISD_TEMP            folder of Ray's logs and sockets, a short path (/tmp/ray)
#   RAY_AUTH_TOKEN_PATH   file with the token that every party shows (~/.ray/auth_token)
set -euo pipefail

role=${1:?say what to start: head, learner, rollout or node}
shift
agent=${UNISD_AGENT_PORT:-52365}

# Whoever cannot show the token is refused: by nodes, drivers and the dashboard alike.
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
export RAY_USAGE_STATS_ENABLED=${RAY_USAGE_STATS_ENABLED:-0}
# `ray job stop` asks the job to stop and kills it after so many seconds (Ray: 3). A step and a checkpoint take longer.
export RAY_JOB_STOP_WAIT_TIME_S=${RAY_JOB_STOP_WAIT_TIME_S:-900}

# Memory of rollouts and weights that were read is used again at once, not after Ray's second.
export RAY_free_objects_period_milliseconds=${RAY_free_objects_period_milliseconds:-10}

# Ray opens a file for each connection: the usual limit of 1,024 is soon reached.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"

# Workers take any free port, so that several nodes can share a machine.
options=(--min-worker-port=0 --max-worker-port=0 --disable-usage-stats "--dashboard-agent-listen-port=$agent")
option() { [[ -z $2 ]] || options+=("$1=$2"); } # option NAME VALUE: left to Ray where the value is empty
option --node-ip-address "${UNISD_IP:-}"
option --object-store-memory "${UNISD_OBJECT_STORE:-}"
option --temp-dir "${UNISD_TEMP:-}"

case $role in
head)
    options+=(--head "--port=${UNISD_PORT:-6379}" "--num-cpus=${UNISD_CPUS:-0}" "--num-gpus=${UNISD_GPUS:-0}")
    options+=("--dashboard-host=${UNISD_DASHBOARD_HOST:-127.0.0.1}" "--dashboard-port=${UNISD_DASHBOARD_PORT:-8265}")
    ;;
learner | rollout | node)
    options+=("--address=${UNISD_HEAD:-127.0.0.1}:${UNISD_PORT:-6379}")
    option --num-cpus "${UNISD_CPUS:-}"
    option --num-gpus "${UNISD_GPUS:-}"
    [[ $role == node ]] || options+=("--resources={\"$role\": ${UNISD_PLACES:-1}}")
    ;;
healthy)
    exec python3 -c 'import sys, urllib.request as web; web.urlopen(sys.argv[1], timeout=5)' \
        "http://127.0.0.1:$agent/api/local_raylet_healthz"
    ;;
*)
    echo "deploy/node.sh: there is no role $role; say head, learner, rollout or node" >&2
    exit 2
    ;;
esac
exec ray start "${options[@]}" "$@"
