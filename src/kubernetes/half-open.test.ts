/** Over one HTTP/2 connection that all requests share, as to a real API server, and which dies without a word. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { forge, newAuthority } from '../../test/support/certificates.ts';
import { FreezingProxy } from '../../test/support/freezing-proxy.ts';
import { KubeApiServer } from '../../test/support/kube-api-server.ts';
import {
  driverName,
  namespace,
  putNode,
  putPod,
  selector,
  until,
  watchTimings,
} from '../../test/support/kube-fixture.ts';
import { silentLogger } from '../base/logger.ts';
import { openCluster, type Cluster } from './cluster.ts';
import { Nodes } from './nodes.ts';
import { VolumedriverPods } from './volumedriver-pods.ts';

let directory: string;
let server: KubeApiServer;
let proxy: FreezingProxy;
let cluster: Cluster;

beforeEach(async () => {
  const own = forge(newAuthority(), { subject: 'kubernetes', usages: ['server'] });
  server = await KubeApiServer.start({ key: own.keyPem, cert: own.certificatePem });
  proxy = await FreezingProxy.start(server.port);
  directory = await mkdtemp(join(tmpdir(), 'kube-half-open-'));
  const kubeconfig = join(directory, 'config');
  const config = server.kubeconfig(namespace).replace(`:${server.port}`, `:${proxy.port}`);
  await writeFile(kubeconfig, config);
  cluster = openCluster({ env: {}, kubeconfig, userAgent: 'x', callTimeoutMs: 3000 });
  putNode(server, 'n1');
  putPod(server, { name: 'p1', node: 'n1' });
});

afterEach(async () => {
  await cluster.close();
  await proxy.close();
  await server.stop();
  await rm(directory, { recursive: true, force: true });
});

async function follow(silenceMs: number): Promise<VolumedriverPods> {
  const pods = VolumedriverPods.watch({
    cluster,
    selection: { namespace, selector },
    logger: silentLogger,
    timings: { ...watchTimings, silenceMs },
  });
  await pods.whenSynced(5000);
  await until('the watch is open', () => server.openWatches === 1);
  return pods;
}

test('a watch finds another connection after its silence', async () => {
  const pods = await follow(500);
  expect(new Set(server.requests.map(({ httpVersion }) => httpVersion))).toEqual(new Set(['2.0']));
  proxy.freeze();
  putPod(server, { name: 'p2', node: 'n2' });
  await until('p2 is there', () => pods.ofNode('n2') !== undefined);
  await pods.close();
});

test('a call finds another connection within its time', async () => {
  const pods = await follow(60_000);
  const nodes = new Nodes({ cluster, driverName });
  expect(await nodes.isGone('n1')).toBe(false);
  proxy.freeze();
  expect(await nodes.isGone('n1')).toBe(false);
  expect(await nodes.isGone('n1')).toBe(false);
  await pods.close();
});
