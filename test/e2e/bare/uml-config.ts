/** The files that configure containerd and the kubelet of a user-mode-linux node, and the network of its pods. */
import { umlNetwork } from './uml-network.ts';

/** Its data is on the node's disk, all else in memory; it has a kernel for itself, so scores need no limit. */
export function containerdConfig(pauseImage: string): string {
  return `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.erofs"]
[grpc]
  address = "/run/containerd.sock"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  stats_collect_period = 3600
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "${pauseImage}"
[plugins.'io.containerd.cri.v1.runtime']
  # By default, each container's shim is asked every second.
  stats_collect_period = "1h"
  stats_retention_period = "2h"
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/var/lib/node/cni"]
  conf_dir = "/run/node/cni"
  # Without a program that is started for each pod.
  use_internal_loopback = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    SystemdCgroup = false
`;
}

/** A link to the host for each pod. Addresses are given out anew after each boot. */
export const podNetworkConfig = {
  cniVersion: '0.4.0',
  name: 'pods',
  plugins: [
    {
      type: 'ptp',
      ipMasq: false,
      ipam: {
        type: 'host-local',
        subnet: umlNetwork.podCidr,
        dataDir: '/run/ipam',
        routes: [{ dst: '0.0.0.0/0' }],
      },
    },
  ],
};

/** JSON, which is YAML. */
export const kubeletConfig: Readonly<Record<string, unknown>> = {
  apiVersion: 'kubelet.config.k8s.io/v1beta1',
  kind: 'KubeletConfiguration',
  cgroupDriver: 'cgroupfs',
  enforceNodeAllocatable: [],
  containerRuntimeEndpoint: 'unix:///run/containerd.sock',
  address: umlNetwork.address,
  // uml-guest.sh asks there.
  healthzPort: 10248,
  readOnlyPort: 0,
  failSwapOn: false,
  authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
  authorization: { mode: 'AlwaysAllow' },
  volumePluginDir: '/var/lib/kubelet/volume-plugins',
  resolvConf: '',
  // The images are there from the start, and nothing brings them back.
  imageGCHighThresholdPercent: 100,
  evictionHard: { 'nodefs.available': '1%', 'imagefs.available': '1%', 'memory.available': '50Mi' },
};
