import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Client, credentials, status, type ServiceError } from '@grpc/grpc-js';
import { mkdtemp, rm } from 'node:fs/promises';
import {
  connect as connectHttp2,
  constants,
  createServer as createHttp2Server,
  type ClientHttp2Session,
  type IncomingHttpHeaders,
} from 'node:http2';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MemoryVolumeService } from '../../test/support/memory-volume-service.ts';
import { describeVolumeService } from '../../test/support/volume-service-contract.ts';
import { silentLogger } from '../base/logger.ts';
import { errorCodes, VolumeError, type ErrorCode } from '../volumes/errors.ts';
import type { Endpoint } from './endpoint.ts';
import * as wire from './generated/volumedriver.ts';
import type { ListeningServer } from './grpc-server.ts';
import { VolumedriverClient } from './volumedriver-client.ts';
import { startVolumedriverServer } from './volumedriver-server.ts';

interface Pair {
  memory: MemoryVolumeService;
  client: VolumedriverClient;
  endpoint: Endpoint;
  server: ListeningServer;
  close(): Promise<void>;
}

async function openPair(syncDelayMs = 0): Promise<Pair> {
  const directory = await mkdtemp(join(tmpdir(), 'volumedriver-api-'));
  const endpoint: Endpoint = { kind: 'unix', path: join(directory, 'run', 'api.sock') };
  const memory = new MemoryVolumeService({ syncDelayMs });
  const server = await startVolumedriverServer({ endpoint, service: memory, logger: silentLogger });
  const client = new VolumedriverClient(endpoint, { timeoutMs: 2000 });
  return {
    memory,
    client,
    endpoint,
    server,
    close: async () => {
      client.close();
      await server.close(200);
      await rm(directory, { recursive: true, force: true });
    },
  };
}

describeVolumeService('in memory', () =>
  Promise.resolve({ service: new MemoryVolumeService(), close: () => Promise.resolve() }),
);

describeVolumeService('over a unix socket', async () => {
  const pair = await openPair();
  return { service: pair.client, close: () => pair.close() };
});

describe('between client and server', () => {
  let pair: Pair;
  beforeEach(async () => {
    pair = await openPair();
  });
  afterEach(async () => {
    await pair.close();
  });

  test.each(Object.keys(errorCodes) as ErrorCode[])('%s keeps its code and text', async (code) => {
    pair.memory.failNext('getVolume', new VolumeError(code, `get volume: 50% of "été" is ${code}`));
    await expect(pair.client.getVolume('a')).rejects.toMatchObject({
      code,
      message: `get volume: 50% of "été" is ${code}`,
    });
  });

  test('facts about a volume arrive as they are', async () => {
    await pair.memory.createVolume({ name: 'a', sizeBytes: 2 ** 45, flushTo: 'backend' });
    pair.memory.markWritten('a');
    pair.memory.setClients('a', 3);
    pair.memory.setHalted('a', 'write log: disk full');
    await pair.memory.grant('a', 'n1', { readOnly: true });
    expect(await pair.client.getVolume('a')).toEqual(await pair.memory.getVolume('a'));
    await expect(pair.client.syncVolume('a')).rejects.toMatchObject({ code: 'HALTED' });
  });

  test('an operation under way is OPERATION_PENDING', async () => {
    await pair.memory.createVolume({ name: 'a', sizeBytes: 4096 });
    const release = pair.memory.hold('a');
    await expect(pair.client.growVolume('a', 8192)).rejects.toMatchObject({
      code: 'OPERATION_PENDING',
    });
    release();
    await pair.client.growVolume('a', 8192);
  });

  test('a snapshot that is not synced in time is gone, and one that is waited for stays', async () => {
    await pair.memory.createVolume({ name: 'a', sizeBytes: 4096 });
    pair.memory.syncDelayMs = 60_000;
    const inTime = pair.client.createSnapshot({ volume: 'a', name: 's', timeoutSeconds: 1 });
    await expect(inTime).rejects.toMatchObject({ code: 'SNAPSHOT_TIMEOUT' });
    expect((await pair.client.listSnapshots({ volume: 'a' }, {})).items).toEqual([]);
    const cut = await pair.client.createSnapshot({ volume: 'a', name: 's', timeoutSeconds: -1 });
    expect(cut.synced).toBe(false);
    await expect(pair.client.waitSnapshot({ snapshot: cut.id }, 0)).rejects.toMatchObject({
      code: 'SNAPSHOT_TIMEOUT',
    });
    expect((await pair.client.getSnapshot({ snapshot: cut.id })).synced).toBe(false);
  });

  test('a server that is gone is UNAVAILABLE and named, and is found again', async () => {
    await pair.client.info();
    await pair.server.close(0);
    const error = await pair.client.info().catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code: 'UNAVAILABLE' });
    expect((error as VolumeError).message).toContain(
      pair.endpoint.kind === 'unix' ? pair.endpoint.path : '',
    );
    pair.server = await startVolumedriverServer({
      endpoint: pair.endpoint,
      service: pair.memory,
      logger: silentLogger,
    });
    const until = Date.now() + 5000;
    for (;;) {
      const ready = await pair.client.info().then(
        (info) => info.ready,
        () => false,
      );
      if (ready) break;
      if (Date.now() > until) throw new Error('the client did not come back within 5 s');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await pair.server.close(0);
  });

  test('a server that does not answer in time is UNAVAILABLE', async () => {
    const { path } = pair.endpoint as { path: string };
    const accepted: Socket[] = [];
    const silent = createServer((socket) => accepted.push(socket.on('error', () => undefined)));
    const endpoint: Endpoint = { kind: 'unix', path: `${path}.silent` };
    await new Promise<void>((resolve) => silent.listen(endpoint.path, resolve));
    const impatient = new VolumedriverClient(endpoint, { timeoutMs: 200 });
    try {
      await expect(impatient.info()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    } finally {
      impatient.close();
      for (const socket of accepted) socket.destroy();
      silent.close();
    }
  });

  test.each([
    ['without a reason', constants.NGHTTP2_NO_ERROR],
    ['because it failed', constants.NGHTTP2_INTERNAL_ERROR],
    ['because it has too much to do', constants.NGHTTP2_ENHANCE_YOUR_CALM],
  ])('a call that is cut %s may have done its work: UNAVAILABLE', async (_, code) => {
    const { path } = pair.endpoint as { path: string };
    const cutting = createHttp2Server();
    cutting.on('stream', (stream) => {
      stream.on('error', () => undefined);
      stream.close(code);
    });
    const endpoint: Endpoint = { kind: 'unix', path: `${path}.cutting` };
    await new Promise<void>((resolve) => cutting.listen(endpoint.path, resolve));
    const client = new VolumedriverClient(endpoint, { timeoutMs: 2000 });
    try {
      const making = client.createVolume({ name: 'v', sizeBytes: 4096 });
      await expect(making).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    } finally {
      client.close();
      cutting.close();
    }
  });

  type Case = [
    string,
    { path: string; requestSerialize: (value: never) => Buffer },
    unknown,
    string,
  ];
  const rpc = wire.VolumedriverService;
  const createRequest = (fields: object): unknown => wire.CreateVolumeRequest.fromPartial(fields);
  test.each<Case>([
    ['no name', rpc.createVolume, createRequest({ sizeBytes: 4096 }), 'name: it is required'],
    ['no size', rpc.createVolume, createRequest({ name: 'a' }), 'size_bytes: 0 is not from 1'],
    [
      'an unknown flush target',
      rpc.createVolume,
      createRequest({ name: 'a', sizeBytes: 1, flushTo: 9 }),
      'flush_to',
    ],
    [
      'a source of no kind',
      rpc.createVolume,
      createRequest({ name: 'a', sizeBytes: 1, source: {} }),
      'source: it is',
    ],
    ['a long reference', rpc.getVolume, { volume: 'x'.repeat(257) }, 'volume: it has 257 bytes'],
    ['no snapshot', rpc.getSnapshot, { snapshot: undefined }, 'snapshot: it is missing'],
    [
      'an empty snapshot',
      rpc.getSnapshot,
      { snapshot: { volume: 'a', snapshot: '' } },
      'snapshot: it is required',
    ],
    ['an unknown removal mode', rpc.removeVolume, { volume: 'a', mode: 7 }, 'mode'],
    ['no export target', rpc.getExport, { target: undefined }, 'target: it is required'],
    ['no node', rpc.grant, { volume: 'a', node: '', readOnly: false }, 'node: it is required'],
    ['no generation', rpc.endFormatting, { volume: 'a', generation: 0 }, 'generation: 0'],
  ])('a request with %s is INVALID_ARGUMENT and says so', async (_, method, request, text) => {
    const error = await callRaw(pair.endpoint, method, request);
    expect(error.code).toBe(status.INVALID_ARGUMENT);
    expect(error.details).toContain(text);
  });

  test('clients that put the socket path into :authority are served when http2 lets them', async () => {
    const { path } = pair.endpoint as { path: string };
    for (const authority of ['localhost', 'unix', '/run/x.sock']) {
      const code = await rawGetInfo(path, authority);
      // What cannot be parsed as an authority never reaches us: the HTTP/2 layer refuses it.
      expect([authority, code]).toEqual([authority, authority === '/run/x.sock' ? 'refused' : '0']);
    }
  });
});

/** A client without our checks. */
function callRaw(
  endpoint: Endpoint,
  method: { path: string; requestSerialize: (value: never) => Buffer },
  request: unknown,
): Promise<ServiceError> {
  const { path } = endpoint as { path: string };
  const client = new Client(`unix:${path}`, credentials.createInsecure(), {
    'grpc.default_authority': 'localhost',
  });
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      method.path,
      method.requestSerialize as (value: unknown) => Buffer,
      (bytes: Buffer) => bytes,
      request,
      { deadline: Date.now() + 500 } as never,
      (error) => {
        client.close();
        if (error === null) reject(new Error('the call succeeded'));
        else resolve(error);
      },
    );
  });
}

function rawGetInfo(socketPath: string, authority: string): Promise<string> {
  const session: ClientHttp2Session = connectHttp2('http://localhost', {
    createConnection: () => connect(socketPath),
  });
  return new Promise<string>((resolve) => {
    let code = 'refused';
    const stream = session.request({
      ':method': 'POST',
      ':path': '/volumedriver.v1.Volumedriver/GetInfo',
      ':authority': authority,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    stream.on('trailers', (trailers: IncomingHttpHeaders) => {
      code = String(trailers['grpc-status']);
    });
    stream.on('error', () => undefined);
    stream.on('close', () => {
      resolve(code);
    });
    stream.resume();
    // An empty message: one flag byte and four bytes of length.
    stream.end(Buffer.alloc(5));
  }).finally(() => {
    session.destroy();
  });
}
