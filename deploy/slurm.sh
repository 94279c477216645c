#!/usr/bin/env bash
# One run as a Slurm job: the first node has the head and the learner, all others are rollout nodes.
#
#   sbatch --nodes=3 deploy/slurm.sh unisd_star cluster --run.dir /shared/runs --rollout.actors 2
#   sbatch --nodes=3 deploy/slurm.sh --resume /shared/runs/arithmetic
#
# What follows the script's name goes to `python -m unisd_rl.run`. The working tree and run.dir lie on a file system that
# all nodes see; .venv was made by `make setup`. Ten minutes before the time is up the run is asked to stop: it
# leaves a checkpoint, and --resume goes on from there.
#
# GPUs must be asked for (`sbatch --gpus-per-node=N`, or as your site has it): those that a node of one's own brings along are
# not passed on to what `srun` starts.
#SBATCH --job-name=unisd-rl
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@600
set -euo pipefail

[[ $# -gt 0 ]] || set -- unisd_star cluster
cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}"
PATH=$PWD/.venv/bin:$PATH
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
rollouts=("${nodes[@]:1}")
[[ ${#rollouts[@]} -gt 0 ]] || rollouts=("$head")

export RAY_AUTH_MODE=token UNISD_HEAD=$head
export UNISD_TEMP=${UNISD_TEMP:-/tmp/ray-$SLURM_JOB_ID}
export RAY_API_SERVER_ADDRESS=http://127.0.0.1:${UNISD_DASHBOARD_PORT:-8265} # the head's: this script runs on its node
no_proxy=${no_proxy:-${NO_PROXY:-}}
export no_proxy=${no_proxy:+$no_proxy,}127.0.0.1 # the site's proxy does not know it
submission=slurm-$SLURM_JOB_ID

# The steps of a node share all it has, and none is bound to the one core that Slurm counts for a task.
on=(srun --overlap --nodes=1 --ntasks=1 --cpu-bind=none)
start() { # start NODE ROLE: again if it fails, as Ray does where a node takes more than 30 s to come up
    for _ in 1 2 3; do
        "${on[@]}" --nodelist="$1" deploy/node.sh "$2" --block && break
    done
}
set -m # each node's processes are a group, so that they can be ended together
# shellcheck disable=SC2154 # the loop assigns it
trap 'for job in $(jobs -p); do kill -- "-$job" 2>/dev/null || true; done' EXIT
# The address by which another node knows the head: Ray itself would take the one that leads out of the cluster, or the
# loopback where none does.
address=$("${on[@]}" --nodelist="${rollouts[-1]}" getent ahostsv4 "$head" | awk 'NR == 1 {print $1}') || true
UNISD_IP=$address start "$head" head &
deploy/node.sh wait
export UNISD_AGENT_PORT=0 # where nodes share a machine, each agent takes a free port
start "$head" learner &
for node in "${rollouts[@]}"; do
    start "$node" rollout &
done

trap 'ray job stop "$submission" &' TERM
ray job submit --submission-id "$submission" -- python -m unisd_rl.run "$@" &
follower=$!
status=0
wait "$follower" || status=$?
# A trapped signal ends `wait`, not the job: wait for its end.
while kill -0 "$follower" 2>/dev/null; do
    status=0
    wait "$follower" || status=$?
done
exit "$status"
