#!/bin/sh
# The first process of the namespaces (network, mounts, processes) in which the bare cluster's control plane and its
# host node live. Makes them look like a machine of their own, says "ready", and stays: its end is the end of all.
# Usage: sandbox-init.sh WORK_FOLDER
set -eu
work=$1

# The node's own state; the machine's is out of sight, so that nothing of it is changed or left over.
for folder in lib log kernel; do mkdir -p "$work/$folder"; done
mount --bind "$work/lib" /var/lib
mount --bind "$work/log" /var/log
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock /run/netns
# The kubelet makes sure of some settings of the kernel. It shall read what it wants, and leave the machine's alone.
while read -r setting value; do
  echo "$value" >"$work/kernel/${setting##*/}"
  [ ! -e "/proc/sys/$setting" ] || mount --bind "$work/kernel/${setting##*/}" "/proc/sys/$setting"
done <<'SETTINGS'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SETTINGS
# As on a machine with systemd: what a node's pods mount for each other must be seen by all of them.
mount --make-rshared /

ip link set lo up
# The node's address, and those of services; the kubelet refuses a loopback address.
ip link add vdnode0 type bridge
ip address add 10.77.1.1/32 dev vdnode0
ip address add 10.96.0.1/32 dev vdnode0
ip link set vdnode0 up
echo 1 >/proc/sys/net/ipv4/ip_forward

echo ready
# Reaps what others leave behind.
while :; do
  sleep 3600 &
  wait $! || true
done
