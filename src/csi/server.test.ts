import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  credentials,
  makeGenericClientConstructor,
  Metadata,
  status,
  type ServiceError,
} from '@grpc/grpc-js';
import { spawn } from 'node:child_process';
import { chmod, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  ControllerClient,
  CreateVolumeRequest,
  IdentityClient,
  ListVolumesRequest,
  NodeClient,
  NodeStageVolumeRequest,
} from '../api/generated/csi.ts';
import type { ListeningServer } from '../api/grpc-server.ts';
import type { LogFields, Logger } from '../base/logger.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { ControllerHandlers } from './handlers.ts';
import { createIdentityService } from './identity-service.ts';
import { startCsiServer } from './server.ts';

interface Line {
  level: string;
  message: string;
  fields: LogFields;
}

function recordingLogger(lines: Line[]): Logger {
  const at =
    (level: string) =>
    (message: string, fields: LogFields = {}): void => {
      lines.push({ level, message, fields });
    };
  const logger: Logger = {
    error: at('error'),
    warn: at('warn'),
    info: at('info'),
    debug: at('debug'),
    child: () => logger,
  };
  return logger;
}

let directory: string;
let path: string;
let lines: Line[];
let server: ListeningServer | undefined;
const closers: (() => void)[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'csi-server-'));
  path = join(directory, 'csi.sock');
  lines = [];
});

afterEach(async () => {
  for (const close of closers.splice(0)) close();
  await server?.close(200);
  server = undefined;
  await rm(directory, { recursive: true, force: true });
});

async function start(
  controller: ControllerHandlers,
  ready = (): Promise<boolean> => Promise.resolve(true),
): Promise<void> {
  server = await startCsiServer({
    endpoint: { kind: 'unix', path },
    identity: createIdentityService({ driverName: 'csi.volumedriver.io', version: '1.2.3', ready }),
    controller,
    logger: recordingLogger(lines),
  });
}

const channelOptions = { 'grpc.default_authority': 'localhost' };

function controllerClient(): ControllerClient {
  const client = new ControllerClient(`unix:${path}`, credentials.createInsecure(), channelOptions);
  closers.push(() => {
    client.close();
  });
  return client;
}

function identityClient(): IdentityClient {
  const client = new IdentityClient(`unix:${path}`, credentials.createInsecure(), channelOptions);
  closers.push(() => {
    client.close();
  });
  return client;
}

type Outcome<Response> = { response: Response } | { error: ServiceError };

function call<Response>(
  invoke: (reply: (error: ServiceError | null, response: Response) => void) => unknown,
): Promise<Outcome<Response>> {
  return new Promise((resolve) => {
    invoke((error, response) => {
      resolve(error === null ? { response } : { error });
    });
  });
}

async function failure(
  invoke: (reply: (error: ServiceError | null, response: unknown) => void) => unknown,
): Promise<ServiceError> {
  const outcome = await call(invoke);
  if ('error' in outcome) return outcome.error;
  throw new Error(`unexpected answer ${JSON.stringify(outcome.response)}`);
}

describe('a CSI socket', () => {
  test('answers the identity service and is for its owner only', async () => {
    await start({});
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    const client = identityClient();
    const info = await call((reply) => client.getPluginInfo({}, reply));
    expect(info).toEqual({
      response: { name: 'csi.volumedriver.io', vendorVersion: '1.2.3', manifest: {} },
    });
    const probe = await call((reply) => client.probe({}, reply));
    expect(probe).toEqual({ response: { ready: true } });
    const capabilities = await call((reply) => client.getPluginCapabilities({}, reply));
    expect(capabilities).toEqual({
      response: {
        capabilities: [
          { type: { $case: 'service', value: { type: 1 } } },
          { type: { $case: 'service', value: { type: 2 } } },
          { type: { $case: 'volumeExpansion', value: { type: 1 } } },
        ],
      },
    });
    expect(lines.map((line) => [line.level, line.fields['rpc']])).toEqual([
      ['info', 'GetPluginInfo'],
      ['debug', 'Probe'],
      ['debug', 'GetPluginCapabilities'],
    ]);
  });

  test('says FAILED_PRECONDITION to a probe when it is unhealthy', async () => {
    await start({}, () => Promise.reject(new VolumeError('HALTED', 'probe: the disk is gone')));
    const client = identityClient();
    const error = await failure((reply) => client.probe({}, reply));
    expect([error.code, error.details]).toEqual([
      status.FAILED_PRECONDITION,
      'probe: the disk is gone',
    ]);
  });

  test('logs each call once with its secrets hidden', async () => {
    await start({
      createVolume: (request) =>
        Promise.resolve({
          volume: {
            capacityBytes: 4096,
            volumeId: request.name,
            volumeContext: {},
            contentSource: undefined,
            accessibleTopology: [],
          },
        }),
    });
    const client = controllerClient();
    const request = CreateVolumeRequest.fromPartial({
      name: 'pvc-1',
      secrets: { key: 'hunter2' },
      volumeCapabilities: [
        {
          accessType: {
            $case: 'mount',
            value: { fsType: 'ext4', mountFlags: ['password=hunter2'] },
          },
        },
      ],
    });
    expect(await call((reply) => client.createVolume(request, reply))).toMatchObject({
      response: { volume: { volumeId: 'pvc-1' } },
    });
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatchObject({
      level: 'info',
      fields: {
        rpc: 'CreateVolume',
        code: 'OK',
        request: { name: 'pvc-1', secrets: { key: '***' } },
      },
    });
    expect(JSON.stringify(lines)).not.toContain('hunter2');
    expect(JSON.stringify(lines)).toContain('ext4');
  });

  test.each<[string, unknown, status, string]>([
    [
      'an operating error',
      new VolumeError('VOLUME_NOT_FOUND', 'find: no v'),
      status.NOT_FOUND,
      'find: no v',
    ],
    ['a bad token', new VolumeError('BAD_PAGE_TOKEN', 'list: bad'), status.ABORTED, 'list: bad'],
    ['an error without a text', new VolumeError('INTERNAL', ''), status.INTERNAL, 'ListVolumes'],
    ['anything else', new TypeError('x is not a function'), status.INTERNAL, 'x is not a function'],
  ])('turns %s into a status with a text and no details', async (_, thrown, code, text) => {
    await start({
      listVolumes: () => {
        throw thrown;
      },
    });
    const client = controllerClient();
    const error = await failure((reply) => client.listVolumes(ListVolumesRequest.create(), reply));
    expect(error.code).toBe(code);
    expect(error.details).toContain(text);
    expect(error.metadata.get('grpc-status-details-bin')).toEqual([]);
  });

  test('says UNIMPLEMENTED to what it does not offer', async () => {
    await start({});
    const client = controllerClient();
    const inService = await failure((reply) =>
      client.listVolumes(ListVolumesRequest.create(), reply),
    );
    expect(inService.code).toBe(status.UNIMPLEMENTED);
    expect(inService.details).not.toBe('');
    const node = new NodeClient(`unix:${path}`, credentials.createInsecure(), channelOptions);
    closers.push(() => {
      node.close();
    });
    const noService = await failure((reply) =>
      node.nodeStageVolume(NodeStageVolumeRequest.create(), reply),
    );
    expect(noService.code).toBe(status.UNIMPLEMENTED);
    expect(noService.details).not.toBe('');
  });

  test('refuses oversized fields before any handler sees them', async () => {
    let seen = 0;
    await start({
      createVolume: () => {
        seen += 1;
        return Promise.resolve({ volume: undefined });
      },
    });
    const client = controllerClient();
    const request = CreateVolumeRequest.fromPartial({ name: 'x'.repeat(129) });
    const error = await failure((reply) => client.createVolume(request, reply));
    expect([error.code, error.details]).toEqual([
      status.INVALID_ARGUMENT,
      'name: it has 129 bytes and at most 128 are allowed',
    ]);
    expect(seen).toBe(0);
  });

  test.each([
    ['garbage', Buffer.from([0xff, 0xff, 0xff])],
    // required_bytes = 2^63 - 1: more than a number holds exactly.
    [
      'a number beyond 2^53',
      Buffer.from([0x12, 0x0a, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
    ],
  ])('says INVALID_ARGUMENT to %s', async (_, bytes) => {
    await start({ createVolume: () => Promise.resolve({ volume: undefined }) });
    const asBytes = (value: Buffer): Buffer => value;
    const Raw = makeGenericClientConstructor(
      {
        createVolume: {
          path: '/csi.v1.Controller/CreateVolume',
          requestStream: false,
          responseStream: false,
          requestSerialize: asBytes,
          requestDeserialize: asBytes,
          responseSerialize: asBytes,
          responseDeserialize: asBytes,
        },
      },
      'raw',
    );
    const client = new Raw(`unix:${path}`, credentials.createInsecure(), channelOptions);
    closers.push(() => {
      client.close();
    });
    const error = await failure((reply) =>
      client.makeUnaryRequest(
        '/csi.v1.Controller/CreateVolume',
        asBytes,
        asBytes,
        bytes,
        reply as never,
      ),
    );
    expect(error.code).toBe(status.INVALID_ARGUMENT);
    expect(error.details).toContain("can't be decoded");
    expect(lines).toHaveLength(1);
  });

  test('tells a handler that its caller gave up', async () => {
    let aborted: Promise<unknown> | undefined;
    await start({
      listVolumes: async (_request, { signal }) => {
        aborted = new Promise((resolve) => {
          signal.addEventListener('abort', () => {
            resolve(signal.reason);
          });
        });
        await aborted;
        return { entries: [], nextToken: '' };
      },
    });
    const client = controllerClient();
    const error = await failure((reply) =>
      client.listVolumes(
        ListVolumesRequest.create(),
        new Metadata(),
        { deadline: Date.now() + 100 },
        reply,
      ),
    );
    expect(error.code).toBe(status.DEADLINE_EXCEEDED);
    await expect(aborted).resolves.toBeInstanceOf(VolumeError);
  });
});

describe('the path of a CSI socket', () => {
  test('is taken over from a dead process', async () => {
    await start({});
    await server?.close(100);
    await leaveStaleSocket(path);
    await start({});
    expect(await call((reply) => identityClient().probe({}, reply))).toEqual({
      response: { ready: true },
    });
  });

  test('is refused when a living process answers there', async () => {
    await start({});
    const error = await startCsiServer({
      endpoint: { kind: 'unix', path },
      identity: createIdentityService({
        driverName: 'a',
        version: '1',
        ready: () => Promise.resolve(true),
      }),
      logger: recordingLogger(lines),
    }).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code: 'ALREADY_EXISTS' });
  });

  test('is refused when it is a file', async () => {
    await writeFile(path, 'precious');
    await chmod(path, 0o600);
    await expect(start({})).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
    expect((await stat(path)).size).toBe(8);
  });
});

/** Binds a socket in a child that dies without cleaning up. */
async function leaveStaleSocket(at: string): Promise<void> {
  const script = `require('net').createServer().listen(${JSON.stringify(at)}, () => process.kill(process.pid, 'SIGKILL'))`;
  const child = spawn(process.execPath, ['-e', script], { stdio: 'ignore' });
  await new Promise((resolve) => child.once('exit', resolve));
  expect((await stat(at)).isSocket()).toBe(true);
}
