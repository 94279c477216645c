#!/usr/bin/env bash
# Installs Podman and podman-compose on Debian or Ubuntu, as root, for docker-compose.yml and `make test-containers`:
#
#   deploy/install_podman.sh        packages, podman-compose in a folder of its own, settings if there are none
#   deploy/install_podman.sh base   and a base image of Debian's packages under the name that deploy/Dockerfile starts
#                                   from, for a machine that reaches no registry of images
set -euo pipefail

image=docker.io/library/python:3.11-slim-bookworm
tools=/opt/podman-compose
settings=/etc/containers/containers.conf
[[ $EUID == 0 ]] || { echo "deploy/install_podman.sh installs packages: run it as root" >&2; exit 2; }
[[ ${1:-} == "" || $1 == base ]] || { echo "deploy/install_podman.sh: there is no $1; say base, or nothing" >&2; exit 2; }

apt() { DEBIAN_FRONTEND=noninteractive apt-get "$@"; }
there_is() { apt-cache show "$1" >/dev/null 2>&1; }
apt update --quiet
packages=(podman runc catatonit iptables python3-venv mmdebstrap)
# Names of containers in their network: dnsname up to Podman 4.3, aardvark-dns since.
if there_is golang-github-containernetworking-plugin-dnsname; then
    packages+=(containernetworking-plugins golang-github-containernetworking-plugin-dnsname)
else
    packages+=(netavark aardvark-dns)
fi
apt install --quiet --yes --no-install-recommends "${packages[@]}"

python3 -m venv "$tools"
"$tools/bin/pip" install --quiet 'podman-compose>=1.6,<2'
ln -sf "$tools/bin/podman-compose" /usr/local/bin/podman-compose

if [[ -e $settings ]]; then
    echo "$settings is left as it is"
else
    # Podman's own defaults are more than a process may have that lies in a container or a small virtual machine itself,
    # and Podman has no more processes than the kernel has numbers for.
    least() { printf '%s\n' "$@" | grep -v unlimited | sort -n | head -1; }
    files=$(least "$(ulimit -Hn)" 1048576)
    processes=$(least "$(ulimit -Hu)" "$(</proc/sys/kernel/pid_max)")
    {
        echo "[containers]"
        echo "default_ulimits = [\"nofile=$files:$files\", \"nproc=$processes:$processes\"]"
        echo "[engine]"
        [[ -e /sys/fs/cgroup/cgroup.controllers ]] || echo 'runtime = "runc"' # crun refuses hybrid cgroups
        [[ -d /run/systemd/system ]] || printf '%s\n' 'cgroup_manager = "cgroupfs"' 'events_logger = "file"'
    } >"$settings"
fi

if [[ ${1:-} == base ]]; then
    mmdebstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm - |
        podman import - "$image"
fi
podman --version
podman-compose --version
