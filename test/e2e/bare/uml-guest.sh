#!/bin/bash
# What runs inside the user-mode-linux node. Without arguments it is the kernel's first process: it mounts, brings the
# network up, and then runs the jobs that the host names on the console. With one, it is such a job (see the end).
# The root is the host's file system, read-only. What may be written is the node's own: tmpfs for /run and /tmp, the
# node's disk for /var/lib and /var/log, and NODE_FOLDER of the host, at /run/node, for jobs and their output.
# The large programs are on the disk, for hostfs is slow. In the environment, from the kernel's command line: NODE_NAME
# NODE_FOLDER NODE_ADDRESS NODE_GATEWAY.
export PATH=/var/lib/node/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run LC_ALL=C
guest=${BASH_SOURCE[0]}
containerd_socket=/run/containerd.sock
tasks=/run/containerd/io.containerd.runtime.v2.task/k8s.io

# --- the first process -----------------------------------------------------------------------------------------------

mount_everything() {
  mount -t proc proc /proc
  # User-mode Linux 6.12 maps the rings of io_uring wrongly, and Node uses them where they are.
  [ ! -e /proc/sys/kernel/io_uring_disabled ] || echo 2 >/proc/sys/kernel/io_uring_disabled
  mount -t sysfs sysfs /sys
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  # What udev adds elsewhere.
  ln -s /proc/self/fd /dev/fd
  ln -s fd/0 /dev/stdin
  ln -s fd/1 /dev/stdout
  ln -s fd/2 /dev/stderr
  mkdir -p /dev/pts /dev/shm
  mount -t devpts -o ptmxmode=0666 devpts /dev/pts
  mount -t tmpfs shm /dev/shm
  mount -t tmpfs -o mode=755 run /run
  mkdir /run/node
  mount -t hostfs -o "$NODE_FOLDER" none /run/node
  mount -t ext4 -o errors=panic /dev/ubda /var/lib
  mkdir -p /var/lib/log && mount --bind /var/lib/log /var/log
  mount -t tmpfs -o mode=1777 tmp /tmp
  # cAdvisor wants to know how fast the processor is, and this kernel does not say.
  { sed '/^$/d' /proc/cpuinfo; echo 'cpu MHz : 1000.000'; echo; } >/run/cpuinfo
  mount --bind /run/cpuinfo /proc/cpuinfo
  mount --make-rshared /
}

load_modules() {
  local folder module
  folder=$(echo /usr/lib/uml/modules/*/kernel)
  for module in fs/overlayfs/overlay fs/fuse/fuse drivers/block/loop drivers/net/veth; do
    busybox insmod "$folder/$module.ko" || echo "no module $module"
  done
  # The attacher makes its devices itself; max_part as the product documents it.
  busybox insmod "$folder/drivers/block/nbd.ko" nbds_max=0 max_part=0 || echo 'no module nbd'
}

start_network() {
  hostname "$NODE_NAME"
  ip link set lo up
  ip address add "$NODE_ADDRESS/24" dev vec0
  ip link set vec0 up
  ip route add default via "$NODE_GATEWAY"
  echo 1 >/proc/sys/net/ipv4/ip_forward
}

# Each has a session of its own, whose id is told for killing it. The output is on the host's disk before the end is told.
run_job() {
  local folder=/run/node/jobs/$1 code
  setsid bash "$folder/command" >"$folder/stdout" 2>"$folder/stderr" </dev/null &
  echo $! >"/run/jobs/$1"
  wait $!
  code=$?
  sync "$folder/stdout" "$folder/stderr"
  rm "/run/jobs/$1"
  echo "@@done $1 $code"
}

first_process() {
  mount_everything
  load_modules
  start_network
  stty -echo
  stty -F /dev/ttyS0 raw -echo
  stty -F /dev/ttyS1 raw -echo
  mkdir /run/jobs
  echo "@@ready $(cut -d' ' -f1 /proc/uptime)"
  # The kernel panics if this loop ends, as when the host's end of the console is gone: so does the guest.
  while read -r verb job; do
    case $verb in
      run) run_job "$job" & ;;
      kill) kill -KILL -- "-$(cat "/run/jobs/$job")" ;;
    esac
  done
}

# --- jobs ------------------------------------------------------------------------------------------------------------

# Waits until a command succeeds: SECONDS COMMAND...
within() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.2
  done
}

is_gone() {
  ! kill -0 "$1" 2>/dev/null
}

# TERM, then KILL after so many seconds: NAME SECONDS.
end_service() {
  local pid
  pid=$(cat "/run/$1.pid" 2>/dev/null) || return 0
  kill -TERM "$pid" 2>/dev/null
  within "$2" is_gone "$pid" || { echo "$1 is killed"; kill -KILL "$pid"; within 10 is_gone "$pid"; }
  rm -f "/run/$1.pid"
}

start_service() {
  local name=$1 terminal=$2
  shift 2
  setsid "$@" >"$terminal" 2>&1 </dev/null &
  echo $! >"/run/$name.pid"
}

start_containerd() {
  start_service containerd /dev/ttyS0 containerd --config /run/node/containerd.toml --log-level warn
  within 60 test -S $containerd_socket
}

start_kubelet() {
  start_service kubelet /dev/ttyS1 kubelet --config=/run/node/kubelet.json --kubeconfig=/run/node/kubeconfig \
    --cert-dir=/var/lib/kubelet/pki --hostname-override="$NODE_NAME" --node-ip="$NODE_ADDRESS" --v=1 \
    --housekeeping-interval=30s
  within 120 answers 10248 /healthz
}

# Over HTTP, on this node: PORT PATH. No program is started, for that takes time.
answers() {
  local status=none
  { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
  printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3
  read -r -t 5 -u 3 _ status _
  exec 3>&-
  [ "$status" = 200 ]
}

# Containers that run, each a folder of containerd: those of agents of the node (with host paths), or all the others.
containers_of() {
  local folder
  for folder in "$tasks"/*/; do
    [ -e "$folder/init.pid" ] || continue
    if grep -oE '"source":"/[^"]*"' "$folder/config.json" |
      grep -qvE '"/(var/lib/kubelet/pods|var/lib/containerd|run/containerd|sys/fs/cgroup)/'; then
      [ "$1" = agents ] && echo "$folder"
    else
      [ "$1" = others ] && echo "$folder"
    fi
  done
}

# TERM to the first process of each container, KILL to what is left after so many seconds: agents|others SECONDS.
end_containers() {
  local pids=() pid folder
  for folder in $(containers_of "$1"); do pids+=("$(cat "$folder/init.pid")"); done
  echo "${#pids[@]} containers of $1"
  [ ${#pids[@]} -gt 0 ] || return 0
  kill -TERM "${pids[@]}" 2>/dev/null
  local end=$((SECONDS + $2))
  for pid in "${pids[@]}"; do
    within $((end > SECONDS ? end - SECONDS : 0)) is_gone "$pid" || { echo "$pid is killed"; kill -KILL "$pid"; }
  done
}

# The other way round than they were mounted: PATTERN of mount points. What is busy is tried again.
unmount_all() {
  local paths try
  for try in 1 2 3; do
    readarray -t paths < <(cut -d' ' -f2 /proc/self/mounts | grep -E "$1" | tac)
    [ ${#paths[@]} -gt 0 ] || return 0
    echo "unmounting ${#paths[@]}"
    umount "${paths[@]}" && return
    sleep 1
  done
  echo "mounted still: ${paths[*]}"
}

# What the kubelet does on a host with systemd (graceful node shutdown): first the pods that are not critical, then
# their volumes, while the pods that serve them still run, at last those. The times are those of Kubernetes' own example
# (30 s, of which 10 s for critical pods). What fails is told, and does not stop it.
shut_down() {
  end_service kubelet 10
  echo "the kubelet is gone at $SECONDS s"
  end_containers others 20
  echo "pods are gone at $SECONDS s"
  unmount_all '^/var/lib/kubelet/(pods/[^/]*/(volumes/kubernetes.io~csi|volume-subpaths|volumeDevices)|plugins/kubernetes.io/csi)/'
  # A raw block volume has no file system that unmounting would have written back.
  timeout 60 sync
  echo "volumes are unmounted at $SECONDS s"
  end_containers agents 10
  end_service containerd 10
  pkill -KILL -f containerd-shim
  sleep 0.2
  unmount_all '^/(var/lib|run/(containerd|netns)|var/log)(/|$)'
  if grep -q '^/dev/ubda ' /proc/self/mounts; then
    grep '^/dev/ubda ' /proc/self/mounts
    mount -o remount,ro /var/lib
  fi
  sync
}

case ${1:-first_process} in
  first_process) first_process ;;
  start_containerd | start_kubelet | shut_down) "$1" ;;
  stop_kubelet) end_service kubelet 20 ;;
  power_off) busybox poweroff -f ;;
  *) echo "$guest: no such job: $1" >&2; exit 2 ;;
esac
