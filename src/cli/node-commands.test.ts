import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  driverName,
  namespace,
  putNode,
  putPod,
  startKubeFixture,
  type KubeFixture,
} from '../../test/support/kube-fixture.ts';
import { Registrations } from '../kubernetes/registrations.ts';
import { runVdctl } from './vdctl.ts';

let kube: KubeFixture;
let registrations: Registrations;
const labels = {
  'volumedriver.io/driver': driverName,
  'app.kubernetes.io/component': 'data-plane',
};

beforeEach(async () => {
  kube = await startKubeFixture({ callTimeoutMs: 1000 });
  registrations = new Registrations({ cluster: kube.cluster, namespace, driverName });
});

afterEach(async () => {
  await kube.close();
});

interface Result {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

async function vdctl(...args: string[]): Promise<Result> {
  return await run({ KUBECONFIG: kube.kubeconfig }, ...args);
}

async function run(env: Record<string, string>, ...args: string[]): Promise<Result> {
  let out = '';
  let err = '';
  const code = await runVdctl(args, {
    env,
    stdout: (text) => (out += text),
    stderr: (text) => (err += text),
  });
  return { code, out, err };
}

/** n1 works, n2 is lost, n3 has registered nothing, n10's disk is used by all. */
async function putCluster(): Promise<void> {
  putNode(kube.server, 'n1');
  putNode(kube.server, 'n2', { ready: false });
  putNode(kube.server, 'n3', { taints: ['node.kubernetes.io/out-of-service'] });
  putPod(kube.server, { name: 'dp-1', node: 'n1', labels });
  putPod(kube.server, { name: 'dp-2', node: 'n2', ready: false, labels });
  putPod(kube.server, {
    name: 'dp-3',
    node: 'n3',
    deletionTimestamp: '2026-01-01T00:00:00Z',
    labels,
  });
  await registrations.ensure({ backendId: '00000000bb', nodeId: 'n2', shared: false });
  await registrations.ensure({ backendId: '00000000aa', nodeId: 'n1', shared: false });
  await registrations.ensure({ backendId: '00000000cc', nodeId: 'n10', shared: true });
}

describe('vdctl node ls', () => {
  test('shows each backend with its node, and nodes without one', async () => {
    await putCluster();
    await registrations.forget('n2');
    const { code, out, err } = await vdctl('node', 'ls');
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(out.trimEnd().split('\n')).toEqual([
      'NODE  NODE STATE      VOLUMEDRIVER  BACKEND                FORGOTTEN',
      'n1    ready           ready         00000000aa             no',
      'n2    not ready       not ready     00000000bb             yes',
      'n3    out of service  terminating   none yet               no',
      'n10   gone            none          00000000cc (any node)  no',
    ]);
  });

  test('is JSON for programs', async () => {
    await putCluster();
    const { out } = await vdctl('node', 'ls', '-o', 'json');
    expect(JSON.parse(out)).toHaveLength(4);
    expect((JSON.parse(out) as unknown[])[0]).toEqual({
      nodeId: 'n1',
      node: 'ready',
      volumedriver: 'ready',
      backendId: '00000000aa',
      shared: false,
      forgotten: false,
    });
  });

  test('says when there is nothing', async () => {
    const { code, out } = await vdctl('node', 'ls', '--namespace', 'elsewhere');
    expect(code).toBe(0);
    expect(out).toBe(`no node: nothing of driver ${driverName} is in namespace elsewhere\n`);
  });

  test('takes namespace, driver and labels from flags or the environment', async () => {
    const other = new Registrations({ cluster: kube.cluster, namespace: 'ns2', driverName: 'drv' });
    await other.ensure({ backendId: '00000000dd', nodeId: 'n5', shared: false });
    const env = { KUBECONFIG: kube.kubeconfig, VDCTL_NAMESPACE: 'ns2', VDCTL_DRIVER_NAME: 'drv' };
    expect((await run(env, 'node', 'ls')).out).toContain('00000000dd');
    const flags = ['--namespace', 'ns2', '--driver-name', 'drv', '--kubeconfig', kube.kubeconfig];
    expect((await run({}, 'node', ...flags, 'ls')).out).toContain('00000000dd');
    expect((await run({}, 'node', 'ls', ...flags)).out).toContain('00000000dd');
    putPod(kube.server, { name: 'dp', node: 'n9', labels: { a: 'b' } });
    const found = await vdctl('node', 'ls', '--volumedriver-selector', 'a=b');
    expect(found.out).toContain('n9');
  });
});

describe('vdctl node forget', () => {
  test('gives up a lost node, and can be repeated', async () => {
    await putCluster();
    for (let i = 0; i < 2; i += 1) {
      const { code, out } = await vdctl('node', 'forget', 'n2');
      expect(code).toBe(0);
      expect(out).toContain('forgot node n2, with backend 00000000bb\n');
      expect(out).toContain("'vdctl node remember n2'");
    }
    expect(await registrations.get('00000000bb')).toMatchObject({ forgotten: true });
    expect(await registrations.get('00000000aa')).toMatchObject({ forgotten: false });
    const json = await vdctl('node', 'forget', 'n2', '-o', 'json');
    expect(JSON.parse(json.out)).toEqual({ nodeId: 'n2', forgotten: ['00000000bb'] });
  });

  test('refuses while the volumedriver of the node is ready', async () => {
    await putCluster();
    const { code, out, err } = await vdctl('node', 'forget', 'n1');
    expect({ code, out }).toEqual({ code: 1, out: '' });
    expect(err).toMatch(/^vdctl: forget node n1: its volumedriver is ready \(pod dp-1\)[^\n]+\n$/);
    expect(await registrations.get('00000000aa')).toMatchObject({ forgotten: false });
  });

  test('gives up the disk that was replaced, and leaves the new one', async () => {
    await putCluster();
    await registrations.ensure({ backendId: '00000000ee', nodeId: 'n1', shared: false });
    const all = await vdctl('node', 'forget', 'n1');
    expect(all.code).toBe(1);
    expect(all.err).toContain('name it with --backend (00000000aa, 00000000ee)');
    const old = await vdctl('node', 'forget', 'n1', '--backend', '00000000aa');
    expect(old).toMatchObject({ code: 0, err: '' });
    expect(old.out).toContain('forgot node n1, with backend 00000000aa\n');
    expect(await registrations.list()).toMatchObject([
      { backendId: '00000000aa', forgotten: true },
      { backendId: '00000000bb', forgotten: false },
      { backendId: '00000000cc', forgotten: false },
      { backendId: '00000000ee', forgotten: false },
    ]);
    expect((await vdctl('node', 'remember', 'n1', '--backend', '00000000aa')).code).toBe(0);
    expect(await registrations.get('00000000aa')).toMatchObject({ forgotten: false });
  });

  test.each([
    ['the only backend of a node that works', 'n1', '00000000aa', 'its volumedriver is ready'],
    ['a backend of another node', 'n2', '00000000aa', 'no such backend (it has: 00000000bb)'],
  ])('refuses %s', async (_what, node, backend, says) => {
    await putCluster();
    const { code, err } = await vdctl('node', 'forget', node, '--backend', backend);
    expect(code).toBe(1);
    expect(err).toContain(says);
    expect(await registrations.get(backend)).toMatchObject({ forgotten: false });
  });

  test.each(['n3', 'n10', 'n99', '../n2'])(
    'refuses %s, which has nothing of its own',
    async (node) => {
      await putCluster();
      const { code, err } = await vdctl('node', 'forget', node);
      expect(code).toBe(1);
      expect(err).toContain(`forget node ${node}: no backend of its own is registered`);
      expect(err).toContain('(nodes with one: n1, n2)');
    },
  );
});

test('vdctl node remember takes it back', async () => {
  await putCluster();
  await vdctl('node', 'forget', 'n2');
  const { code, out } = await vdctl('node', 'remember', 'n2');
  expect(code).toBe(0);
  expect(out).toContain('node n2 is used again, with backend 00000000bb');
  expect(await registrations.get('00000000bb')).toMatchObject({ forgotten: false });
  expect((await vdctl('node', 'remember', 'n9')).code).toBe(1);
});

describe('what goes wrong', () => {
  test.each<[string, string[], number, string]>([
    ['a driver name', ['node', 'ls', '--driver-name', 'A b'], 2, 'at most 63 of a-z'],
    ['a missing node', ['node', 'forget'], 2, "missing required argument 'node'"],
    ['a missing file', ['node', 'ls', '--kubeconfig', 'no-such-file'], 1, 'no such file'],
  ])('is said in one line: %s', async (_name, args, code, text) => {
    const result = await vdctl(...args);
    expect(result).toMatchObject({ code, out: '' });
    expect(result.err).toMatch(/^vdctl: [^\n]+\n$/);
    expect(result.err).toContain(text);
  });

  test('is said with the permission that is missing', async () => {
    kube.server.inject({
      plural: 'configmaps',
      answer: { kind: 'status', code: 403, reason: 'Forbidden' },
    });
    const { code, err } = await vdctl('node', 'forget', 'n1');
    expect(code).toBe(1);
    expect(err).toContain('resources [configmaps], verbs [list]');
  });

  test('outside of any cluster says what to do', async () => {
    const { code, err } = await run({}, 'node', 'ls');
    expect(code).toBe(1);
    expect(err).toContain('there is no kubeconfig (KUBECONFIG, ~/.kube/config)');
  });
});
