/** Values that cannot work are refused before anything is installed, in words that say what to do. */
import { expect, test } from '@jest/globals';
import { describeRequires } from '../support/requires.ts';
import { render } from './render.ts';

const long = 'a'.repeat(70);

const refusals: { set: string; says: string }[] = [
  {
    set: 'driverName=Blocks',
    says: 'driverName: "Blocks" is no name of a CSI driver. Use at most 63',
  },
  { set: 'driverName=a_b', says: 'driverName: "a_b" is no name of a CSI driver' },
  { set: 'driverName=-a', says: 'driverName: "-a" is no name of a CSI driver' },
  { set: 'driverName=', says: 'driverName: "" is no name of a CSI driver' },
  { set: `driverName=${long}`, says: 'is no name of a CSI driver. Use at most 63' },
  {
    set: 'node.kubeletPath=var/lib/kubelet',
    says: 'node.kubeletPath: "var/lib/kubelet" is no absolute',
  },
  {
    set: 'node.kubeletPath=/var/../kubelet',
    says: 'node.kubeletPath: "/var/../kubelet" has a part',
  },
  { set: 'dataPlane.hostPath=data', says: 'dataPlane.hostPath: "data" is no absolute path' },
  { set: 'dataPlane.hostPath=/', says: 'dataPlane.hostPath: "" is no absolute path' },
  { set: 'dataPlane.runPath=/run/a b', says: 'dataPlane.runPath: "/run/a b" is no absolute path' },
  {
    set: 'dataPlane.runPath=/var/lib/csi.volumedriver.io/run',
    says: 'dataPlane.runPath: /var/lib/csi.volumedriver.io/run and dataPlane.hostPath',
  },
  {
    set: `dataPlane.runPath=/run/${long}${long}`,
    says: 'dataPlane.runPath: sockets below it would have paths of 159 bytes',
  },
  {
    set: `dataPlane.hostPath=/srv/${long}`,
    says: 'dataPlane.hostPath: sockets below it would have',
  },
  { set: `node.kubeletPath=/srv/${long}`, says: 'node.kubeletPath: sockets below it would have' },
  {
    set: 'dataPlane.ports.remoteApi=9811',
    says: 'dataPlane.ports.remoteApi: 9811 is the port of attacherMetrics as well',
  },
  {
    set: 'dataPlane.ports.remoteApi=70000',
    says: "'/dataPlane/ports/remoteApi': maximum: got 70,000",
  },
  { set: 'dataPlane.ports.remoteApi=null', says: "missing property 'remoteApi'" },
  { set: 'dataPlane.mapMemory=256M', says: 'dataPlane.mapMemory: "256M" is no size' },
  { set: 'dataPlane.strategy=nbd', says: "value must be one of 'auto', 'kernel', 'fuse'" },
  { set: 'dataPlane.connections=17', says: "'/dataPlane/connections': maximum: got 17, want 16" },
  { set: 'controller.replicas=0', says: "'/controller/replicas': minimum: got 0, want 1" },
  { set: 'controller.logLevel=trace', says: "'error', 'warn', 'info', 'debug'" },
  { set: 'controller.extraArgs[0]=verbose', says: "'/controller/extraArgs/0'" },
  { set: 'image.tga=1', says: "additional properties 'tga' not allowed" },
  { set: 'replicas=2', says: "additional properties 'replicas' not allowed" },
  {
    set: 'sidecars.provisoner.image.tag=1',
    says: "additional properties 'provisoner' not allowed",
  },
  { set: 'snapshots.enabled=sometimes', says: "value must be one of 'auto', true, false" },
  { set: 'storageClasses[0].fsType=ext3', says: "value must be one of 'ext4', 'xfs'" },
  { set: 'storageClasses[0].fsType=xfs', says: 'storageClasses[0].name: it is missing' },
  { set: 'storageClasses[0].name=Fast', says: 'storageClasses[0].name: "Fast" is no name' },
  {
    set: 'storageClasses[0].name=a,storageClasses[1].name=a',
    says: 'storageClasses[1].name: there are two of the name a',
  },
  {
    set: 'storageClasses[0].parameters.flushto=local',
    says: "'/storageClasses/0/parameters': additional properties 'flushto' not allowed",
  },
  {
    set: 'storageClasses[0].parameters.flushTo=disk',
    says: "value must be one of 'local', 'backend'",
  },
  {
    set: 'storageClasses[0].name=a,storageClasses[0].default=true,storageClasses[1].name=b,storageClasses[1].default=true',
    says: 'storageClasses[1].default: a is the default class already',
  },
  { set: 'volumeSnapshotClasses[0].deletionPolicy=Keep', says: "one of 'Delete', 'Retain'" },
  { set: 'volumeSnapshotClasses[0].parameters.a=b', says: "additional properties 'parameters'" },
  { set: 'tls.ca.existingSecret=ours', says: 'there is no Secret storage/ours that Helm can read' },
  {
    set: 'tls.ca.bundle=-----BEGIN CERTIFICATE-----\n-----BEGIN EC PRIVATE KEY-----',
    says: 'tls.ca.bundle: it holds a private key',
  },
  { set: 'tls.ca.bundle=x', says: 'tls.ca.bundle: it holds no certificate' },
  { set: 'monitoring.podMonitor.interval=often', says: "'/monitoring/podMonitor/interval'" },
];

describeRequires(['helm'], 'the chart refuses', () => {
  test.each(refusals)('$set', ({ set, says }) => {
    expect(() => render({ set: [set] })).toThrow(says);
  });

  test('all that is wrong at once', () => {
    const set = ['driverName=A', 'node.kubeletPath=kubelet', 'dataPlane.reserve=none'];
    const problems = (): string => render({ set });
    expect(problems).toThrow('driverName: "A"');
    expect(problems).toThrow('node.kubeletPath: "kubelet"');
    expect(problems).toThrow('dataPlane.reserve: "none" is no size');
  });
});

describeRequires(['helm'], 'the chart takes', () => {
  test.each([
    ['the longest driver name', `driverName=${'a'.repeat(63)}`],
    ['the smallest driver name', 'driverName=a'],
    ['a path with a slash at its end', 'node.kubeletPath=/var/lib/kubelet/'],
  ])('%s', (_what, set) => {
    expect(render({ set: [set] })).toContain('kind: CSIDriver');
  });
});
