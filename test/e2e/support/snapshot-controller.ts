/**
 * The snapshot-controller of the Kubernetes project, which a cluster has once and no driver brings: Deployment and
 * RBAC. What it may do is what its leader election, VolumeSnapshots and the claims and classes they speak of need.
 */
import type { KubernetesObject, V1ClusterRole, V1Deployment } from '@kubernetes/client-node';

export const snapshotControllerNamespace = 'kube-system';
export const snapshotControllerName = 'snapshot-controller';
const group = 'rbac.authorization.k8s.io';
const metadata = { name: snapshotControllerName, namespace: snapshotControllerNamespace };
const subjects = [{ kind: 'ServiceAccount', ...metadata }];

export function snapshotController(image: string): KubernetesObject[] {
  return [
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata },
    clusterRole(),
    {
      apiVersion: `${group}/v1`,
      kind: 'ClusterRoleBinding',
      metadata: { name: snapshotControllerName },
      ...{
        subjects,
        roleRef: { apiGroup: group, kind: 'ClusterRole', name: snapshotControllerName },
      },
    },
    {
      apiVersion: `${group}/v1`,
      kind: 'Role',
      metadata,
      ...{ rules: [{ apiGroups: ['coordination.k8s.io'], resources: ['leases'], verbs: ['*'] }] },
    },
    {
      apiVersion: `${group}/v1`,
      kind: 'RoleBinding',
      metadata,
      ...{ subjects, roleRef: { apiGroup: group, kind: 'Role', name: snapshotControllerName } },
    },
    deployment(image),
  ];
}

function clusterRole(): V1ClusterRole {
  const read = ['get', 'list', 'watch'];
  const write = ['create', 'update', 'patch', 'delete'];
  const snapshots = 'snapshot.storage.k8s.io';
  return {
    apiVersion: `${group}/v1`,
    kind: 'ClusterRole',
    metadata: { name: snapshotControllerName },
    rules: [
      { apiGroups: [''], resources: ['persistentvolumes', 'nodes'], verbs: read },
      { apiGroups: [''], resources: ['persistentvolumeclaims'], verbs: [...read, 'update'] },
      { apiGroups: [''], resources: ['events'], verbs: ['list', 'watch', ...write] },
      { apiGroups: [snapshots], resources: ['volumesnapshotclasses'], verbs: read },
      {
        apiGroups: [snapshots],
        resources: ['volumesnapshots', 'volumesnapshotcontents'],
        verbs: [...read, ...write],
      },
      {
        apiGroups: [snapshots],
        resources: ['volumesnapshots/status', 'volumesnapshotcontents/status'],
        verbs: ['update', 'patch'],
      },
    ],
  };
}

function deployment(image: string): V1Deployment {
  const labels = { app: snapshotControllerName };
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata,
    spec: {
      replicas: 1,
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: {
          serviceAccountName: snapshotControllerName,
          tolerations: [{ operator: 'Exists' }],
          containers: [
            {
              name: snapshotControllerName,
              image,
              imagePullPolicy: 'IfNotPresent',
              args: ['--v=2', '--leader-election=false', '--retry-interval-max=10s'],
            },
          ],
        },
      },
    },
  };
}
