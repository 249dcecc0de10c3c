/** What the objects of the chart say, checked against each other, the product and Kubernetes. */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect, test } from '@jest/globals';
import { parse } from 'yaml';
import { resources } from '../../src/kubernetes/api-request.ts';
import { describeRequires } from '../support/requires.ts';
import { unknownFields } from './known-fields.ts';
import {
  chart,
  containers,
  helm,
  podSpecs,
  renderObjects,
  valuesFile,
  type KubernetesObject,
} from './render.ts';

const root = resolve(import.meta.dirname, '../..');
const full = { files: [valuesFile('full')] };
const second = { files: [valuesFile('second')], release: 'second' };

interface Rule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
}

test('fields that Kubernetes does not know are found', () => {
  const spec = {
    template: { spec: { hostNetwork: true, containers: [{ name: 'a', imgae: 'b' }] } },
  };
  const object = { apiVersion: 'apps/v1', kind: 'DaemonSet', metadata: { name: 'a' }, spec };
  expect(unknownFields(object)).toEqual(['spec.template.spec.containers[0].imgae']);
});

describeRequires(['helm'], 'the chart', () => {
  test('passes helm lint', () => {
    expect(helm(['lint', chart, '--strict', '--kube-version=1.36.0'])).toContain(
      '0 chart(s) failed',
    );
  });

  test('has the version of the product', () => {
    const read = (path: string): Record<string, unknown> =>
      parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
    const { version } = read(join(root, 'package.json'));
    expect(read(join(chart, 'Chart.yaml'))).toMatchObject({ version, appVersion: version });
  });

  test.each([
    ['by default', {}],
    ['with everything', full],
  ])('has fields that Kubernetes knows, %s', (_when, rendering) => {
    for (const object of renderObjects(rendering)) {
      const where = `${object.kind} ${object.metadata.name}`;
      const isForeign = /^(snapshot\.storage\.k8s\.io|monitoring\.coreos\.com)\//.test(
        object.apiVersion,
      );
      expect([where, unknownFields(object)]).toEqual([where, isForeign ? null : []]);
    }
  });

  test('lets a second installation live beside it', () => {
    const [one, two] = [renderObjects(), renderObjects(second)];
    expect(
      one.map(identityOf).filter((identity) => two.map(identityOf).includes(identity)),
    ).toEqual([]);
    const shared = hostPaths(one).filter((path) => hostPaths(two).includes(path));
    expect(new Set(shared)).toEqual(
      new Set(['/dev', '/lib/modules', '/var/lib/kubelet', '/var/lib/kubelet/plugins_registry']),
    );
    const ports = hostPorts(one);
    expect(ports).toHaveLength(3);
    expect(hostPorts(two).filter((port) => ports.includes(port))).toEqual([]);
  });

  test('names and labels its objects as it is told', () => {
    const set = ['fullnameOverride=blocks', 'nameOverride=x', 'commonLabels.team=storage'];
    for (const { kind, metadata } of renderObjects({ ...full, set })) {
      const isNamedByUser = kind.endsWith('Class') || kind === 'CSIDriver';
      expect([metadata.name, metadata.name.startsWith('blocks')]).toEqual([
        metadata.name,
        !isNamedByUser || kind === 'CSIDriver',
      ]);
      expect(metadata.labels).toMatchObject({ team: 'storage', 'app.kubernetes.io/name': 'x' });
    }
  });

  test('keeps a disk that is mounted later from running volumedrivers', () => {
    const [volumedriver] = containers(renderObjects()).filter(
      ({ name }) => name === 'volumedriver',
    );
    const data = volumedriver?.volumeMounts?.find(({ name }) => name === 'host');
    expect(data?.mountPath).toBe('/var/lib/csi.volumedriver.io');
    expect(data?.mountPropagation ?? 'None').toBe('None');
  });

  test('waits for the disk of the volumes, where it has one', () => {
    const early = (set: string[]): string[] =>
      podSpecs(renderObjects({ set })).flatMap(({ initContainers = [] }) =>
        initContainers.map(({ name }) => name),
      );
    expect(early([])).toEqual([]);
    expect(early(['dataPlane.requireMount=true'])).toEqual(['disk']);
  });

  test('needs no VolumeSnapshot API', () => {
    const objects = renderObjects({ snapshotApi: false });
    expect(objects.filter(({ kind }) => kind === 'VolumeSnapshotClass')).toEqual([]);
    expect(containers(objects).map(({ name }) => name)).not.toContain('csi-snapshotter');
  });

  test('lets the controller do all that it asks of Kubernetes', () => {
    const rules = renderObjects()
      .filter(({ kind }) => kind === 'ClusterRole' || kind === 'Role')
      .flatMap((role) => role['rules'] as Rule[]);
    const missing = Object.values(resources).filter(
      ({ group, plural }) =>
        !rules.some((rule) => rule.apiGroups.includes(group) && rule.resources.includes(plural)),
    );
    expect(missing).toEqual([]);
  });
});

function hostPaths(objects: readonly KubernetesObject[]): string[] {
  return podSpecs(objects).flatMap(({ volumes }) =>
    volumes.flatMap(({ hostPath }) => hostPath?.path ?? []),
  );
}

function hostPorts(objects: readonly KubernetesObject[]): number[] {
  return containers(objects).flatMap(({ ports = [] }) =>
    ports.flatMap(({ hostPort }) => hostPort ?? []),
  );
}

function identityOf({ apiVersion, kind, metadata }: KubernetesObject): string {
  return [apiVersion, kind, metadata.namespace ?? '', metadata.name].join(' ');
}
