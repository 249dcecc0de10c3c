import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  driverName,
  putNode,
  startKubeFixture,
  type KubeFixture,
} from '../../test/support/kube-fixture.ts';
import { Nodes } from './nodes.ts';

let kube: KubeFixture;
let nodes: Nodes;

beforeEach(async () => {
  kube = await startKubeFixture({ callTimeoutMs: 500 });
  nodes = new Nodes({ cluster: kube.cluster, driverName });
});

afterEach(async () => {
  await kube.close();
});

const outOfService = 'node.kubernetes.io/out-of-service';
const states = [
  { name: 'ready', facts: {}, state: { ready: true, outOfService: false }, gone: false },
  {
    name: 'not ready, which is not gone: it may still write',
    facts: { ready: false, taints: ['node.kubernetes.io/unreachable'] },
    state: { ready: false, outOfService: false },
    gone: false,
  },
  {
    name: 'out of service',
    facts: { ready: false, taints: ['a', outOfService] },
    state: { ready: false, outOfService: true },
    gone: true,
  },
  {
    name: 'out of service, although ready',
    facts: { taints: [outOfService] },
    state: { ready: true, outOfService: true },
    gone: true,
  },
];

describe('the state of a node', () => {
  test.each(states)('that is $name', async ({ facts, state, gone }) => {
    putNode(kube.server, 'n1', facts);
    expect(await nodes.state('n1')).toEqual({ nodeId: 'n1', exists: true, ...state });
    expect(await nodes.isGone('n1')).toBe(gone);
    expect(await nodes.list()).toEqual([{ nodeId: 'n1', exists: true, ...state }]);
  });

  test.each(['n9', '', 'No Such Node'])('that is missing (%p)', async (nodeId) => {
    const missing = { nodeId, exists: false, ready: false, outOfService: false };
    expect(await nodes.state(nodeId)).toEqual(missing);
    expect(await nodes.isGone(nodeId)).toBe(true);
  });

  test('is read each time', async () => {
    putNode(kube.server, 'n1', { taints: [outOfService] });
    expect(await nodes.isGone('n1')).toBe(true);
    putNode(kube.server, 'n1');
    expect(await nodes.isGone('n1')).toBe(false);
    kube.server.store.delete('nodes', undefined, 'n1');
    expect(await nodes.isGone('n1')).toBe(true);
  });

  const doubtful = [
    { name: 'no answer', fault: { kind: 'hang' }, kind: 'unavailable' },
    {
      name: 'a refusal',
      fault: { kind: 'status', code: 403, reason: 'Forbidden' },
      kind: 'forbidden',
    },
    {
      name: "somebody else's 404",
      fault: { kind: 'raw', code: 404, body: 'nginx' },
      kind: 'protocol',
    },
    {
      name: 'something that is no Node',
      fault: { kind: 'raw', code: 200, body: '{"metadata":{}}' },
      kind: 'protocol',
    },
  ] as const;
  test.each(doubtful)('is never taken for gone after $name', async ({ fault, kind }) => {
    kube.server.inject({ answer: fault });
    await expect(nodes.isGone('n1')).rejects.toMatchObject({ kind });
    await expect(nodes.isKnownNode('n1')).rejects.toMatchObject({ kind });
  });

  test('is never that of another node', async () => {
    putNode(kube.server, 'n2');
    const other = JSON.stringify(kube.server.store.get('nodes', undefined, 'n2'));
    kube.server.inject({ answer: { kind: 'raw', code: 200, body: other } });
    await expect(nodes.state('n1')).rejects.toMatchObject({ kind: 'protocol' });
  });
});

describe('a known node', () => {
  const drivers = [
    { name: 'with the driver', drivers: [{ name: driverName, nodeID: 'n1' }], known: true },
    { name: 'with another driver', drivers: [{ name: 'other', nodeID: 'n1' }], known: false },
    { name: 'with another id', drivers: [{ name: driverName, nodeID: 'x' }], known: false },
    { name: 'with no driver', drivers: null, known: false },
  ];
  test.each(drivers)('$name: $known', async ({ drivers, known }) => {
    kube.server.store.put('csinodes', { metadata: { name: 'n1' }, spec: { drivers } });
    expect(await nodes.isKnownNode('n1')).toBe(known);
  });

  test.each(['n9', '', '../n1'])('is not %p', async (nodeId) => {
    expect(await nodes.isKnownNode(nodeId)).toBe(false);
  });
});
