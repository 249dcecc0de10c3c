/** Claims, pods and snapshots as the steps want them. Plain objects; nothing here talks to the API. */
import type {
  KubernetesObject,
  V1Container,
  V1PersistentVolumeClaim,
  V1PersistentVolumeClaimSpec,
  V1Pod,
  V1TypedObjectReference,
  V1Volume,
} from '@kubernetes/client-node';

/** StorageClasses that main.ts has the chart make. */
export const storageClasses = {
  /** ext4, WaitForFirstConsumer. What steps use when nothing else matters. */
  ext4: 'e2e-ext4',
  xfs: 'e2e-xfs',
  immediate: 'e2e-immediate',
  mountOptions: 'e2e-mount-options',
} as const;
export const snapshotClass = 'e2e-snapshots';

export interface ClaimWish {
  readonly storageClass?: string;
  readonly size?: string;
  readonly mode?: 'Filesystem' | 'Block';
  readonly access?: 'ReadWriteOnce' | 'ReadWriteOncePod' | 'ReadOnlyMany' | 'ReadWriteMany';
  readonly source?: {
    readonly kind: 'VolumeSnapshot' | 'PersistentVolumeClaim';
    readonly name: string;
  };
  /** Of a PV that exists. */
  readonly volumeName?: string;
}

export interface PodWish {
  /** Run by sh. It sleeps when there is none. */
  readonly script?: string;
  readonly image: string;
  /** Claims by the path of their mount, or, for raw block, of their device. */
  readonly mounts?: Readonly<Record<string, string>>;
  readonly devices?: Readonly<Record<string, string>>;
  /** A generic ephemeral volume by the path of its mount. */
  readonly ephemeral?: Readonly<Record<string, ClaimWish>>;
  readonly node?: string;
  /** Runs on nodes that have this label, with the value `yes`. */
  readonly nodeLabel?: string;
  readonly fsGroup?: number;
  readonly runAs?: number;
  readonly restartPolicy?: 'Always' | 'Never';
  readonly graceSeconds?: number;
}

export function claim(
  namespace: string,
  name: string,
  wish: ClaimWish = {},
): V1PersistentVolumeClaim {
  return {
    apiVersion: 'v1',
    kind: 'PersistentVolumeClaim',
    metadata: { name, namespace },
    spec: claimSpec(wish),
  };
}

export function claimSpec(wish: ClaimWish): V1PersistentVolumeClaimSpec {
  return {
    storageClassName: wish.storageClass ?? storageClasses.ext4,
    accessModes: [wish.access ?? 'ReadWriteOnce'],
    resources: { requests: { storage: wish.size ?? '64Mi' } },
    ...(wish.mode === undefined ? {} : { volumeMode: wish.mode }),
    ...(wish.source === undefined ? {} : { dataSource: sourceReference(wish.source) }),
    ...(wish.volumeName === undefined ? {} : { volumeName: wish.volumeName }),
  };
}

function sourceReference({ kind, name }: { kind: string; name: string }): V1TypedObjectReference {
  return kind === 'VolumeSnapshot'
    ? { apiGroup: 'snapshot.storage.k8s.io', kind, name }
    : { kind, name };
}

/** One container, named `main`. */
export function pod(namespace: string, name: string, wish: PodWish): V1Pod {
  const volumes = volumesOf(wish);
  const container: V1Container = {
    name: 'main',
    image: wish.image,
    imagePullPolicy: 'IfNotPresent',
    command: ['/bin/sh', '-c', wish.script ?? sleepScript],
    volumeMounts: volumes.mounts,
    ...(volumes.devices.length === 0 ? {} : { volumeDevices: volumes.devices }),
  };
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace, labels: { app: name } },
    spec: {
      containers: [container],
      volumes: volumes.volumes,
      restartPolicy: wish.restartPolicy ?? 'Never',
      terminationGracePeriodSeconds: wish.graceSeconds ?? 2,
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      ...(wish.node === undefined ? {} : { nodeSelector: { 'kubernetes.io/hostname': wish.node } }),
      ...(wish.nodeLabel === undefined ? {} : { nodeSelector: { [wish.nodeLabel]: 'yes' } }),
      securityContext: {
        ...(wish.fsGroup === undefined ? {} : { fsGroup: wish.fsGroup }),
        ...(wish.runAs === undefined ? {} : { runAsUser: wish.runAs }),
      },
      // A node that was just killed keeps its pods until the step says otherwise.
      tolerations: ['not-ready', 'unreachable'].map((state) => ({
        key: `node.kubernetes.io/${state}`,
        operator: 'Exists',
        effect: 'NoExecute',
      })),
    },
  };
}

/** Ends at once on SIGTERM. */
const sleepScript = 'trap "exit 0" TERM; while :; do sleep 1; done';

interface PodVolumes {
  readonly volumes: V1Volume[];
  readonly mounts: { name: string; mountPath: string }[];
  readonly devices: { name: string; devicePath: string }[];
}

function volumesOf(wish: PodWish): PodVolumes {
  const found: PodVolumes = { volumes: [], mounts: [], devices: [] };
  for (const [path, claimName] of Object.entries(wish.mounts ?? {})) {
    const name = `mount-${found.volumes.length}`;
    found.volumes.push({ name, persistentVolumeClaim: { claimName } });
    found.mounts.push({ name, mountPath: path });
  }
  for (const [path, claimName] of Object.entries(wish.devices ?? {})) {
    const name = `device-${found.volumes.length}`;
    found.volumes.push({ name, persistentVolumeClaim: { claimName } });
    found.devices.push({ name, devicePath: path });
  }
  for (const [path, wanted] of Object.entries(wish.ephemeral ?? {})) {
    const name = `ephemeral-${found.volumes.length}`;
    found.volumes.push({ name, ephemeral: { volumeClaimTemplate: { spec: claimSpec(wanted) } } });
    found.mounts.push({ name, mountPath: path });
  }
  return found;
}

export interface VolumeSnapshot extends KubernetesObject {
  spec: { volumeSnapshotClassName: string; source: { persistentVolumeClaimName: string } };
  status?: {
    readyToUse?: boolean;
    restoreSize?: string;
    boundVolumeSnapshotContentName?: string;
    error?: { message?: string };
  };
}

export function snapshot(namespace: string, name: string, claimName: string): VolumeSnapshot {
  return {
    apiVersion: 'snapshot.storage.k8s.io/v1',
    kind: 'VolumeSnapshot',
    metadata: { name, namespace },
    spec: {
      volumeSnapshotClassName: snapshotClass,
      source: { persistentVolumeClaimName: claimName },
    },
  };
}
