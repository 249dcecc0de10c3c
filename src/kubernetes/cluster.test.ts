import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { forge, newAuthority } from '../../test/support/certificates.ts';
import { KubeApiServer, type Fault } from '../../test/support/kube-api-server.ts';
import { putNode, startKubeFixture, type KubeFixture } from '../../test/support/kube-fixture.ts';
import { resources } from './api-request.ts';
import { openCluster, type Cluster } from './cluster.ts';
import { isKubernetesError, type KubernetesErrorKind } from './errors.ts';

let kube: KubeFixture;

beforeEach(async () => {
  kube = await startKubeFixture({ callTimeoutMs: 1500 });
  putNode(kube.server, 'n1');
});

afterEach(async () => {
  await kube.close();
});

async function getNode(name = 'n1'): Promise<unknown> {
  return await kube.cluster.request({ verb: 'get', resource: resources.nodes, name });
}

async function failureOf(work: Promise<unknown>): Promise<{ kind: string; message: string }> {
  const error: unknown = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!isKubernetesError(error)) throw new Error('not a KubernetesError', { cause: error });
  return { kind: error.kind, message: error.message };
}

describe('a call', () => {
  test('gets the object, as who the configuration says', async () => {
    expect(await getNode()).toMatchObject({ kind: 'Node', metadata: { name: 'n1' } });
    expect(kube.server.requests).toEqual([
      expect.objectContaining({
        url: '/api/v1/nodes/n1',
        userAgent: 'volumedriver-test/1',
        authorization: 'Bearer kubeconfig-token',
      }),
    ]);
    expect(kube.cluster.namespace).toBe('storage');
  });

  const statuses: [code: number, reason: string, kind: KubernetesErrorKind][] = [
    [400, 'BadRequest', 'invalid'],
    [401, 'Unauthorized', 'unauthorized'],
    [403, 'Forbidden', 'forbidden'],
    [409, 'Conflict', 'conflict'],
    [409, 'AlreadyExists', 'alreadyExists'],
    [410, 'Expired', 'gone'],
    [418, 'Teapot', 'protocol'],
    [422, 'Invalid', 'invalid'],
  ];
  test.each(statuses)('that is answered by %i %s is %s, once', async (code, reason, kind) => {
    kube.server.inject({ answer: { kind: 'status', code, reason } });
    const failure = await failureOf(getNode());
    expect(failure.kind).toBe(kind);
    expect(failure.message).toContain(`get Node n1: nodes: ${reason}`);
    expect(kube.server.requests).toHaveLength(1);
  });

  test('that is forbidden names the permission', async () => {
    kube.server.inject({ answer: { kind: 'status', code: 403, reason: 'Forbidden' } });
    const { message } = await failureOf(
      kube.cluster.list({ resource: resources.csiNodes, labelSelector: 'a=b' }),
    );
    expect(message).toContain(
      'a ClusterRole with apiGroups [storage.k8s.io], resources [csinodes], verbs [list]',
    );
    const inNamespace = await failureOf(
      kube.cluster.request({
        verb: 'get',
        resource: resources.configMaps,
        namespace: 'ns',
        name: 'c',
      }),
    );
    expect(inNamespace.message).toContain('a Role in namespace ns or a ClusterRole with');
  });

  const passing: [name: string, answer: Fault['answer']][] = [
    ['500', { kind: 'status', code: 500, reason: 'InternalError' }],
    ['503 from a proxy', { kind: 'raw', code: 503, body: '<html>' }],
    ['429', { kind: 'status', code: 429, reason: 'TooManyRequests' }],
    ['a cut connection', { kind: 'cut' }],
    ['no answer', { kind: 'hang' }],
  ];
  test.each(passing)('that meets %s once is repeated', async (_name, answer) => {
    kube.server.inject({ times: 1, answer });
    expect(await getNode()).toMatchObject({ kind: 'Node' });
    expect(kube.server.requests).toHaveLength(2);
  });

  test.each(passing)('that meets %s all the time is unavailable, in time', async (_, answer) => {
    kube.server.inject({ answer });
    const startMs = performance.now();
    expect((await failureOf(getNode())).kind).toBe('unavailable');
    expect(performance.now() - startMs).toBeLessThan(4000);
  });

  test('respects Retry-After, also when that is too long', async () => {
    const answer = { kind: 'status', code: 429, reason: 'TooManyRequests' } as const;
    kube.server.inject({ times: 1, answer: { ...answer, retryAfter: 1 } });
    const startMs = performance.now();
    await getNode();
    expect(performance.now() - startMs).toBeGreaterThan(990);
    kube.server.inject({ times: 1, answer: { ...answer, retryAfter: 100 } });
    expect((await failureOf(getNode())).kind).toBe('unavailable');
  });

  test('is unavailable when nobody listens, and works again when somebody does', async () => {
    await kube.server.stop();
    const { kind, message } = await failureOf(getNode());
    expect(kind).toBe('unavailable');
    expect(message).toContain(`get Node n1 from ${kube.server.url}`);
    expect(message).toContain('ECONNREFUSED');
    await kube.server.restart();
    expect(await getNode()).toMatchObject({ kind: 'Node' });
  });

  test('finds the server again while it lasts', async () => {
    await kube.server.stop();
    const node = getNode();
    await new Promise((resolve) => setTimeout(resolve, 200));
    await kube.server.restart();
    expect(await node).toMatchObject({ kind: 'Node' });
  });

  test.each(['', '.', '..', 'a/b', '../pods', 'n1?x=y', 'N1', 'x'.repeat(254)])(
    'for %p, which is no name, is answered without asking',
    async (name) => {
      expect((await failureOf(getNode(name))).kind).toBe('notFound');
      expect(kube.server.requests).toEqual([]);
    },
  );

  const strange: [name: string, code: number, body: string][] = [
    ['no JSON', 200, 'welcome'],
    ['nothing', 200, ''],
    ['404 by somebody else', 404, 'not here'],
    ['404 for the resource', 404, JSON.stringify({ kind: 'Status', reason: 'NotFound' })],
    [
      '404 for something else',
      404,
      JSON.stringify({ kind: 'Status', reason: 'NotFound', details: { name: 'n2' } }),
    ],
    ['a redirect', 302, ''],
  ];
  test.each(strange)('that gets %s is not taken for an answer', async (_name, code, body) => {
    kube.server.inject({ answer: { kind: 'raw', code, body } });
    expect((await failureOf(getNode())).kind).toBe('protocol');
  });

  test('ends when the cluster is closed', async () => {
    kube.server.inject({ answer: { kind: 'hang' } });
    const failure = failureOf(getNode());
    await kube.cluster.close();
    expect((await failure).message).toContain('closed');
    expect((await failureOf(getNode())).kind).toBe('unavailable');
  });

  test('reads a long list page by page', async () => {
    for (let i = 0; i < 1234; i += 1) putNode(kube.server, `many-${i}`);
    const { items } = await kube.cluster.list({ resource: resources.nodes });
    expect(items).toHaveLength(1235);
    expect(kube.server.requests).toHaveLength(3);
  });

  test('begins a list anew when its first pages are too old for the next ones', async () => {
    for (let i = 0; i < 600; i += 1) putNode(kube.server, `many-${i}`);
    let pages = 0;
    const lift = kube.server.inject({
      verb: 'list',
      when: () => (pages += 1) === 2,
      answer: { kind: 'status', code: 410, reason: 'Expired' },
    });
    const { items } = await kube.cluster.list({ resource: resources.nodes });
    expect(items).toHaveLength(601);
    expect(kube.server.requests).toHaveLength(4);
    lift();
  });
});

describe('the configuration', () => {
  let directory: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'kubeconfig-'));
  });

  afterEach(async () => {
    await rm(directory, { recursive: true, force: true });
  });

  test('is that of KUBECONFIG, or of the home', async () => {
    const inHome = openCluster({ env: { KUBECONFIG: kube.kubeconfig }, userAgent: 'x' });
    expect(inHome.server).toBe(kube.server.url);
    await inHome.close();
  });

  const unusable: [name: string, content: string | undefined][] = [
    ['a missing file', undefined],
    ['no YAML', '{{{'],
    ['an empty file', ''],
    ['no current context', JSON.stringify({ clusters: [], users: [], contexts: [] })],
  ];
  test.each(unusable)('is refused when it is %s', async (_name, content) => {
    const path = join(directory, 'config');
    if (content !== undefined) await writeFile(path, content);
    const opening = Promise.resolve().then(() =>
      openCluster({ env: {}, kubeconfig: path, userAgent: 'x' }),
    );
    const { kind, message } = await failureOf(opening);
    expect(kind).toBe('misconfigured');
    expect(message).toContain(path);
  });

  test('is refused where there is none: no guess at localhost', async () => {
    const opening = Promise.resolve().then(() =>
      openCluster({ env: { HOME: directory }, userAgent: 'x' }),
    );
    expect((await failureOf(opening)).message).toContain('find a cluster: not in a pod');
  });
});

describe('over TLS', () => {
  const ours = newAuthority();
  let directory: string;
  let server: KubeApiServer;
  let cluster: Cluster;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'kube-tls-'));
    const own = forge(ours, { subject: 'kubernetes.default', usages: ['server'] });
    server = await KubeApiServer.start({ key: own.keyPem, cert: own.certificatePem });
    putNode(server, 'n1');
  });

  afterEach(async () => {
    await cluster.close();
    await server.stop();
    await rm(directory, { recursive: true, force: true });
  });

  /** The authority and the token are in files, as in a pod. */
  async function openIt(name = 'kubernetes.default'): Promise<void> {
    const kubeconfig = join(directory, 'config');
    const user = {
      'auth-provider': { name: 'tokenFile', config: { tokenFile: `${directory}/token` } },
    };
    const config = {
      clusters: [
        {
          name: 'c',
          cluster: {
            server: server.url,
            'certificate-authority': 'ca.crt',
            'tls-server-name': name,
          },
        },
      ],
      users: [{ name: 'u', user }],
      contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
      'current-context': 'x',
    };
    await writeFile(kubeconfig, JSON.stringify(config));
    await writeFile(join(directory, 'token'), 'token-of-pod');
    cluster = openCluster({ env: {}, kubeconfig, userAgent: 'x', callTimeoutMs: 1000 });
  }

  async function node(): Promise<unknown> {
    return await cluster.request({ verb: 'get', resource: resources.nodes, name: 'n1' });
  }

  test('shares its connections, and uses the token of the file', async () => {
    await writeFile(join(directory, 'ca.crt'), ours.certificatePem);
    await openIt();
    for (let i = 0; i < 20; i += 1) expect(await node()).toMatchObject({ kind: 'Node' });
    expect(server.requests.at(-1)?.authorization).toBe('Bearer token-of-pod');
    expect(server.connections).toBeLessThan(4);
  });

  test('trusts no other authority, until the file says so', async () => {
    await writeFile(join(directory, 'ca.crt'), newAuthority({ name: 'other' }).certificatePem);
    await openIt();
    const { kind, message } = await failureOf(node());
    expect(kind).toBe('unavailable');
    expect(message).toMatch(/certificate|signature/);
    expect(server.requests).toEqual([]);
    await writeFile(join(directory, 'ca.crt'), ours.certificatePem);
    expect(await node()).toMatchObject({ kind: 'Node' });
  });

  test('trusts no other name', async () => {
    await writeFile(join(directory, 'ca.crt'), ours.certificatePem);
    await openIt('somebody.else');
    expect((await failureOf(node())).message).toContain('does not match');
    expect(server.requests).toEqual([]);
  });

  test('says which file it lacks', async () => {
    await openIt();
    expect((await failureOf(node())).message).toContain(join(directory, 'ca.crt'));
  });
});
