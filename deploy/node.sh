#!/usr/bin/env bash
# One part of a UniSD-RL cluster: deploy/node.sh head|learner|rollout|node|job|wait|healthy [option of `ray start` ...]
#
#   head     the driver of every job runs here, and nothing that computes
#   learner  takes learner ranks:    offers UNISD_PLACES of the custom resource `learner`
#   rollout  takes rollout actors:   offers UNISD_PLACES of the custom resource `rollout`
#   node     what it offers is said by whoever starts it (Ray's cluster launcher)
#   job      no node: waits for the head, submits UNISD_JOB, follows its log and ends as it ends
#   wait     starts nothing: returns when the head takes jobs
#   healthy  starts nothing: exit code 0 if the node on this machine lives; `healthy head`: and takes jobs
#
# `--block` keeps a node in the foreground. The rest is said by the environment:
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
#   UNISD_JOB             what follows `python -m unisd_rl.run`, quoted as in a shell (unisd_star cluster)
#   UNISD_WAIT_S          seconds that a node or a job waits for the head (300)
#   RAY_API_SERVER_ADDRESS  where jobs are submitted (http://UNISD_HEAD:UNISD_DASHBOARD_PORT)
#   RAY_AUTH_TOKEN_PATH   file with the token that every party shows (~/.ray/auth_token)
set -euo pipefail

role=${1:?say what to start: head, learner, rollout, node or job}
shift
agent=${UNISD_AGENT_PORT:-52365}
head=${UNISD_HEAD:-127.0.0.1} port=${UNISD_PORT:-6379}
export RAY_API_SERVER_ADDRESS=${RAY_API_SERVER_ADDRESS:-http://$head:${UNISD_DASHBOARD_PORT:-8265}}

# A proxy for the outside (http_proxy) is not asked for the cluster itself: neither below nor by `ray job`.
no_proxy=${no_proxy:-${NO_PROXY:-}}
export no_proxy=${no_proxy:+$no_proxy,}127.0.0.1,localhost,$head

# Whoever cannot show the token is refused: by nodes, drivers and the dashboard alike.
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
export RAY_USAGE_STATS_ENABLED=${RAY_USAGE_STATS_ENABLED:-0}
# `ray job stop` asks the job to stop and kills it after so many seconds (Ray: 3). A step and a checkpoint take longer.
export RAY_JOB_STOP_WAIT_TIME_S=${RAY_JOB_STOP_WAIT_TIME_S:-900}

# Memory of rollouts and weights that were read is used again at once, not after Ray's second.
export RAY_free_objects_period_milliseconds=${RAY_free_objects_period_milliseconds:-10}

# Ray opens a file for each connection: the usual limit of 1,024 is soon reached.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"

# ask URL: exit code 0 if it answers whoever shows the token, 3 if it refuses the token, and a line that says why if not.
ask() {
    python3 -c '
import os, sys, urllib.error, urllib.request
from pathlib import Path
url, file = sys.argv[1], Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
token = os.environ.get("RAY_AUTH_TOKEN") or (file.read_text().strip() if file.exists() else "")
try:
    urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"}), timeout=4)
except OSError as error:
    print(url, getattr(error, "reason", error), sep=": ", file=sys.stderr)
    sys.exit(3 if getattr(error, "code", 0) in (401, 403) else 1)
' "$1"
}
node_lives() { ask "http://127.0.0.1:$agent/api/local_raylet_healthz"; }
takes_jobs() { ask "${RAY_API_SERVER_ADDRESS%/}/api/version"; } # what `ray job submit` asks first, where it asks it
head_answers() { takes_jobs || [[ $? == 3 ]]; } # who shows a wrong token is told so by `ray job submit`
nodes_are_let_in() { timeout 4 bash -c "exec 3<>/dev/tcp/$head/$port"; }

wait_for() { # wait_for WHAT COMMAND: until the command succeeds
    local limit_s=${UNISD_WAIT_S:-300} since=$SECONDS reason
    ! reason=$("$2" 2>&1) || return 0
    echo "waiting up to $limit_s s for $1"
    until reason=$("$2" 2>&1); do
        if ((SECONDS - since >= limit_s)); then
            echo "deploy/node.sh: waited $limit_s s for $1 (${reason##*$'\n'}); start it, or raise UNISD_WAIT_S" >&2
            exit 1
        fi
        sleep 1
    done
}

# Workers take any free port, so that several nodes can share a machine.
options=(--min-worker-port=0 --max-worker-port=0 --disable-usage-stats "--dashboard-agent-listen-port=$agent")
option() { [[ -z $2 ]] || options+=("$1=$2"); } # option NAME VALUE: left to Ray where the value is empty
option --node-ip-address "${UNISD_IP:-}"
option --object-store-memory "${UNISD_OBJECT_STORE:-}"
option --temp-dir "${UNISD_TEMP:-}"

case $role in
head)
    options+=(--head "--port=$port" "--num-cpus=${UNISD_CPUS:-0}" "--num-gpus=${UNISD_GPUS:-0}")
    options+=("--dashboard-host=${UNISD_DASHBOARD_HOST:-127.0.0.1}" "--dashboard-port=${UNISD_DASHBOARD_PORT:-8265}")
    ;;
learner | rollout | node)
    options+=("--address=$head:$port")
    option --num-cpus "${UNISD_CPUS:-}"
    option --num-gpus "${UNISD_GPUS:-}"
    [[ $role == node ]] || options+=("--resources={\"$role\": ${UNISD_PLACES:-1}}")
    wait_for "the head at $head:$port" nodes_are_let_in
    ;;
job)
    # xargs splits as a shell does, quotes included, and expands nothing.
    words=$(xargs -n 1 printf '%s\n' <<<"${UNISD_JOB:-unisd_star cluster}")
    mapfile -t words <<<"$words"
    wait_for "the head at $RAY_API_SERVER_ADDRESS" head_answers
    exec ray job submit -- python -m unisd_rl.run "${words[@]}"
    ;;
wait)
    wait_for "the head at $RAY_API_SERVER_ADDRESS" takes_jobs
    exit
    ;;
healthy)
    node_lives
    [[ ${1:-} != head ]] || takes_jobs
    exit
    ;;
*)
    echo "deploy/node.sh: there is no role $role; say head, learner, rollout, node, job, wait or healthy" >&2
    exit 2
    ;;
esac
exec ray start "${options[@]}" "$@"
