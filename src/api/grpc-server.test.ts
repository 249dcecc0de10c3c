import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { credentials, Server, status, type ServiceError } from '@grpc/grpc-js';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { VolumeError } from '../volumes/errors.ts';
import {
  GetMetadataAllocatedRequest,
  SnapshotMetadataClient,
  SnapshotMetadataService,
  type GetMetadataAllocatedResponse,
} from './generated/csi.ts';
import {
  addService,
  listen,
  type CallContext,
  type FinishedCall,
  type ListeningServer,
  type RpcPolicy,
} from './grpc-server.ts';
import { toApiStatus } from './status.ts';

type Stream = AsyncGenerator<GetMetadataAllocatedResponse>;

let directory: string;
let server: ListeningServer;
let client: SnapshotMetadataClient;
let finished: FinishedCall[];
let checked: unknown[];
const policy: RpcPolicy = {
  check: (_path, request) => void checked.push(request),
  toStatus: toApiStatus,
  finished: (call) => void finished.push(call),
};

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'grpc-server-'));
  finished = [];
  checked = [];
});

afterEach(async () => {
  client.close();
  await server.close(200);
  await rm(directory, { recursive: true, force: true });
});

async function start(
  getMetadataAllocated: (request: GetMetadataAllocatedRequest, context: CallContext) => Stream,
): Promise<void> {
  const grpc = new Server();
  addService(grpc, SnapshotMetadataService, { getMetadataAllocated }, policy);
  const path = join(directory, 'api.sock');
  server = await listen(grpc, { kind: 'unix', path });
  client = new SnapshotMetadataClient(`unix:${path}`, credentials.createInsecure(), {
    'grpc.default_authority': 'localhost',
  });
}

function block(index: number, filler = 1): GetMetadataAllocatedResponse {
  const one = { byteOffset: index * 4096, sizeBytes: 4096 };
  return {
    blockMetadataType: 1,
    volumeCapacityBytes: 1e12,
    blockMetadata: Array.from({ length: filler }, () => one),
  };
}

interface Received {
  offsets: number[];
  error: ServiceError | null;
}

function receive(deadlineMs = 5000): Promise<Received> {
  return new Promise((resolve) => {
    const offsets: number[] = [];
    const request = GetMetadataAllocatedRequest.fromPartial({ snapshotId: 's' });
    const call = client.getMetadataAllocated(request, { deadline: Date.now() + deadlineMs });
    call.on('data', (message: GetMetadataAllocatedResponse) => {
      offsets.push(message.blockMetadata[0]?.byteOffset ?? -1);
    });
    call.on('error', (error: ServiceError) => {
      resolve({ offsets, error });
    });
    call.on('end', () => {
      resolve({ offsets, error: null });
    });
  });
}

/** Waits until the value has stayed the same for half a second. */
async function unchanged(value: () => number): Promise<void> {
  for (let round = 0, before = -1; before !== value(); round++) {
    if (round === 20) throw new Error('it does not come to rest within 10 s');
    before = value();
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

async function until(condition: () => boolean): Promise<void> {
  for (let waitedMs = 0; !condition(); waitedMs += 10) {
    if (waitedMs > 10_000) throw new Error('it did not happen within 10 s');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

describe('a streaming call', () => {
  test('arrives whole and in order', async () => {
    await start(async function* () {
      for (let index = 0; index < 100; index += 1) yield block(index);
    });
    const { offsets, error } = await receive();
    expect(error).toBeNull();
    expect(offsets).toEqual(Array.from({ length: 100 }, (_, index) => index * 4096));
    expect(checked).toHaveLength(1);
    expect(finished).toMatchObject([{ code: status.OK }]);
  });

  test('that fails half-way ends with its error, reported once', async () => {
    await start(async function* () {
      yield block(0);
      throw new VolumeError('CORRUPT', 'read map: bad checksum');
    });
    const { offsets, error } = await receive();
    expect(offsets).toEqual([0]);
    expect(error).toMatchObject({ code: status.DATA_LOSS, details: 'read map: bad checksum' });
    expect(finished).toMatchObject([{ code: status.DATA_LOSS, error: { code: 'CORRUPT' } }]);
  });

  /** Of 60 KB each: 12 MB, while an unbounded source makes tens of thousands. */
  const boundedMessages = 200;

  test('stops its source when nobody reads on', async () => {
    let made = 0;
    let ended = false;
    await start(async function* () {
      try {
        for (;;) {
          made += 1;
          yield block(made, 5000);
        }
      } finally {
        ended = true;
      }
    });
    const request = GetMetadataAllocatedRequest.fromPartial({ snapshotId: 's' });
    const call = client.getMetadataAllocated(request);
    let got = 0;
    call.on('error', () => undefined);
    // Only after the first message: until then @grpc/grpc-js itself takes in all that comes, whoever reads.
    call.on('data', () => {
      if (++got === 1) call.pause();
    });
    await until(() => got === 1);
    // What the windows, the socket and both ends' queues take fills, at any speed; then the source waits.
    await unchanged(() => made);
    const waitingAt = made;
    expect(made).toBeLessThan(boundedMessages);
    // And each time that the reader goes on, so does the source.
    call.resume();
    await until(() => got > waitingAt);
    call.pause();
    await unchanged(() => made);
    expect(made - got).toBeLessThan(boundedMessages);
    call.cancel();
    await until(() => ended && finished.length === 1);
    expect(finished).toMatchObject([{ error: { code: 'UNAVAILABLE' } }]);
  });

  test('tells its source that the deadline passed', async () => {
    let reason: unknown;
    await start(async function* (_request, { signal }) {
      yield block(0);
      await new Promise<void>((resolve) => {
        signal.addEventListener('abort', () => {
          resolve();
        });
      });
      reason = signal.reason;
    });
    const { error } = await receive(200);
    expect(error?.code).toBe(status.DEADLINE_EXCEEDED);
    await until(() => reason !== undefined);
    expect(reason).toMatchObject({ code: 'UNAVAILABLE' });
  });
});

describe('closing', () => {
  test('removes the socket, and cuts calls that do not end in time', async () => {
    await start(async function* (_request, { signal }) {
      yield block(0);
      await new Promise<void>((resolve) => {
        signal.addEventListener('abort', () => {
          resolve();
        });
      });
    });
    const received = receive();
    await until(() => checked.length === 1);
    const startMs = performance.now();
    await server.close(100);
    expect(performance.now() - startMs).toBeLessThan(2000);
    expect((await received).error).not.toBeNull();
    expect(existsSync(join(directory, 'api.sock'))).toBe(false);
  });
});
