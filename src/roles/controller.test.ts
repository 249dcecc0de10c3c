/**
 * A controller as Kubernetes runs it, against an API server over HTTP and a volumedriver over mutual TLS that gets its
 * certificate from the controller.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { newAuthority, type TestAuthority } from '../../test/support/certificates.ts';
import {
  driverName,
  namespace,
  putNode,
  putPod,
  selector,
  startKubeFixture,
  type KubeFixture,
} from '../../test/support/kube-fixture.ts';
import { MemoryVolumeService } from '../../test/support/memory-volume-service.ts';
import {
  ControllerPublishVolumeRequest,
  CreateVolumeRequest,
  VolumeCapability_AccessMode_Mode as Mode,
  type Volume,
} from '../api/generated/csi.ts';
import { silentLogger } from '../base/logger.ts';
import type { ControllerConfig, VolumedriverConfig } from '../config.ts';
import type { ControllerHandlers } from '../csi/handlers.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import { openController } from './controller.ts';
import type { OpenedService } from './plugin.ts';
import { startRemoteApi } from './remote-api.ts';

const token = 'eyJ.aaa.bbb';
const context = { signal: new AbortController().signal };
const host = '127.0.0.1';
const volumeCapability = {
  accessMode: { mode: Mode.SINGLE_NODE_WRITER },
  accessType: { $case: 'block' as const, value: {} },
};

let kube: KubeFixture;
let directory: string;
let authority: TestAuthority;
let ports: { issuer: number; volumedriver: number; metrics: number };
let controller: OpenedService<'controller'>;
let closers: (() => Promise<unknown>)[];

beforeEach(async () => {
  closers = [];
  kube = await startKubeFixture();
  closers.push(() => kube.close());
  directory = await mkdtemp(join(tmpdir(), 'controller-role-'));
  closers.push(() => rm(directory, { recursive: true }));
  authority = newAuthority();
  await mkdir(join(directory, 'ca'));
  await writeFile(join(directory, 'ca', 'tls.crt'), authority.certificatePem);
  await writeFile(join(directory, 'ca', 'tls.key'), authority.keyPem);
  await writeFile(join(directory, 'trust.pem'), authority.certificatePem);
  await writeFile(join(directory, 'token'), token);
  ports = { issuer: await freePort(), volumedriver: await freePort(), metrics: await freePort() };
  putNode(kube.server, 'n1');
  kube.server.store.put('csinodes', {
    metadata: { name: 'n1' },
    spec: { drivers: [{ name: driverName, nodeID: 'n1' }] },
  });
  putPod(kube.server, { name: 'p1', uid: 'uid-1', node: 'n1', ip: host });
  kube.server.tokens.set(token, {
    username: `system:serviceaccount:${namespace}:data-plane`,
    audiences: [driverName],
    extra: {
      'authentication.kubernetes.io/pod-name': ['p1'],
      'authentication.kubernetes.io/pod-uid': ['uid-1'],
    },
  });
});

afterEach(async () => {
  for (const close of closers.reverse()) await close();
});

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, host, done));
  const { port } = server.address() as AddressInfo;
  await new Promise((done) => server.close(done));
  return port;
}

async function startController(): Promise<ControllerHandlers> {
  const config: ControllerConfig = {
    overcommit: 10,
    attachLimit: 16,
    metrics: { host, port: ports.metrics },
    cluster: {
      kind: 'kubernetes',
      namespace,
      volumedriverSelector: selector,
      volumedriverPort: ports.volumedriver,
      caDirectory: join(directory, 'ca'),
      issuer: { address: { host, port: ports.issuer }, serviceAccount: 'data-plane' },
    },
  };
  controller = await openController(config, {
    ...{ driverName, version: 'test', logger: silentLogger, env: { KUBECONFIG: kube.kubeconfig } },
  });
  closers.push(() => controller.close());
  return controller.handlers;
}

/** Returns how to stop it. */
async function startVolumedriver(service: MemoryVolumeService): Promise<() => Promise<void>> {
  const config = { driverName, nodeId: 'n1', dataDirectory: directory } as VolumedriverConfig;
  const remote = await startRemoteApi(
    {
      listen: { kind: 'tcp', host, port: ports.volumedriver },
      trustFile: join(directory, 'trust.pem'),
      certificate: {
        kind: 'issuer',
        issuer: { kind: 'tcp', host, port: ports.issuer },
        tokenFile: join(directory, 'token'),
      },
    },
    { config, service, logger: silentLogger, observe: () => undefined },
  );
  closers.push(() => remote.close());
  return () => remote.close();
}

/** Repeats what is not there yet, as sidecars do. */
async function repeated<Result>(call: () => Promise<Result>): Promise<Result> {
  const deadlineMs = performance.now() + 30_000;
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!hasCode(error, 'UNAVAILABLE') || performance.now() > deadlineMs) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

async function create(handlers: ControllerHandlers, name: string): Promise<Volume> {
  const request = CreateVolumeRequest.fromPartial({ name, volumeCapabilities: [volumeCapability] });
  const answer = await repeated(async () => await handlers.createVolume?.(request, context));
  if (answer?.volume === undefined) throw new Error('no volume');
  return answer.volume;
}

async function statusOf(path: string): Promise<number> {
  return (await fetch(`http://${host}:${ports.metrics}${path}`)).status;
}

describe('a controller in Kubernetes', () => {
  test('gives a volumedriver its certificate, registers its backend and uses it', async () => {
    const handlers = await startController();
    const service = new MemoryVolumeService({ nodeId: 'n1', backendId: 'aa' });
    await startVolumedriver(service);
    const { volumeId } = await create(handlers, 'data');
    expect(volumeId).toMatch(/^aa\./);
    expect(kube.server.store.get('configmaps', namespace, 'csi-volumedriver-io-aa')).toMatchObject({
      data: { backendId: 'aa', nodeId: 'n1', forgotten: 'false' },
    });
    const publish = { volumeId, nodeId: 'n1', volumeCapability };
    await handlers.controllerPublishVolume?.(
      ControllerPublishVolumeRequest.fromPartial(publish),
      context,
    );
    const page = await (await fetch(`http://${host}:${ports.metrics}/metrics`)).text();
    expect(page).toContain('volumedriver_controller_backends{state="registered"} 1');
    expect(page).toContain('volumedriver_controller_backends{state="silent"} 0');
  }, 60_000);

  test('is ready without volumedrivers, and not before it knows which there may be', async () => {
    await kube.server.stop();
    await startController();
    expect(await controller.ready()).toBe(true);
    expect(await statusOf('/healthz')).toBe(200);
    expect(await statusOf('/readyz')).toBe(503);
    await kube.server.restart();
    await repeated(async () => {
      if ((await statusOf('/readyz')) !== 200) throw notYet();
    });
  }, 60_000);

  test('unpublishes from a node that is gone only', async () => {
    const handlers = await startController();
    const service = new MemoryVolumeService({ nodeId: 'n1', backendId: 'aa' });
    const stop = await startVolumedriver(service);
    const { volumeId } = await create(handlers, 'data');
    await service.grant(volumeId, 'n1', { readOnly: false });
    await stop();
    const unpublish = async (): Promise<unknown> =>
      await handlers.controllerUnpublishVolume?.({ volumeId, nodeId: 'n1', secrets: {} }, context);
    await expect(unpublish()).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringContaining('vdctl node forget n1'),
    });
    putNode(kube.server, 'n1', { taints: ['node.kubernetes.io/out-of-service'] });
    await unpublish();
  }, 60_000);

  test('without a usable CA says so and ends', async () => {
    await writeFile(join(directory, 'ca', 'tls.key'), 'no key');
    await expect(startController()).rejects.toMatchObject({
      message: expect.stringContaining('tls.crt: there is no private key'),
    });
  });
});

function notYet(): VolumeError {
  return new VolumeError('UNAVAILABLE', 'not yet');
}
