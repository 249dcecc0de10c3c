import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MemoryVolumeService } from '../../test/support/memory-volume-service.ts';
import type { Endpoint } from '../api/endpoint.ts';
import type { ListeningServer } from '../api/grpc-server.ts';
import { startVolumedriverServer } from '../api/volumedriver-server.ts';
import { silentLogger } from '../base/logger.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';
import { runVdctl } from './vdctl.ts';

let directory: string;
let api: string;
let server: ListeningServer;
let memory: MemoryVolumeService;

/** One server for all tests; each test has a fresh service behind it. */
const current: VolumeService = new Proxy({} as VolumeService, {
  get: (_, name) => (Reflect.get(memory, name) as (...args: unknown[]) => unknown).bind(memory),
});

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'vdctl-'));
  const endpoint: Endpoint = { kind: 'unix', path: join(directory, 'api.sock') };
  api = `unix:${endpoint.path}`;
  server = await startVolumedriverServer({ endpoint, service: current, logger: silentLogger });
});

afterAll(async () => {
  await server.close(200);
  await rm(directory, { recursive: true, force: true });
});

beforeEach(() => {
  memory = new MemoryVolumeService({ nodeId: 'n1', backendId: 'b1', capacityBytes: 2 ** 40 });
});

interface Result {
  code: number;
  out: string;
  err: string;
}

async function vdctl(...args: string[]): Promise<Result> {
  return await run({ VDCTL_API: api }, ...args);
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

async function ok(...args: string[]): Promise<string> {
  const { code, out, err } = await vdctl(...args);
  expect({ code, err }).toEqual({ code: 0, err: '' });
  return out;
}

describe('vdctl', () => {
  test('tells the story of a volume', async () => {
    expect(await ok('volume', 'create', 'data', '10GiB')).toMatch(
      /^volume data of 10 GiB, id b1\.\w{26}\n$/,
    );
    await ok('volume', 'create', 'data', '10GiB');
    expect(await ok('volume', 'resize', 'data', '20GiB')).toBe('volume data has 20 GiB\n');
    expect(await ok('snapshot', 'create', 'data', 'one')).toContain(
      'snapshot one, in the backend, id b1.',
    );
    await ok('snapshot', 'create', 'data', 'two', '--timeout', '-1');
    expect(await ok('snapshot', 'wait', 'data', 'two')).toContain('in the backend');
    const snapshots = await ok('snapshot', 'ls', 'data');
    expect(snapshots.split('\n').map((line) => line.split(/ {2,}/)[0])).toEqual([
      'NAME',
      'one',
      'two',
      '',
    ]);
    expect(await ok('volume', 'clone', 'data@one', 'trial')).toContain('volume trial of 20 GiB');
    expect(await ok('volume', 'ls')).toMatch(
      /^NAME +SIZE +USED +STATE +CREATED +ID\ndata +20 GiB +0 B +ok +\d{4}-.*Z +b1\.\w+\ntrial +20 GiB/,
    );
    await ok('snapshot', 'rm', 'data', 'two');
    expect(await ok('snapshot', 'rollback', 'data', 'one')).toBe(
      'volume data is back at snapshot one\n',
    );
    await ok('volume', 'rm', 'trial');
    await ok('snapshot', 'rm', 'data', 'one');
    expect(await ok('volume', 'rm', 'data')).toBe('removed volume data\n');
    expect(await ok('volume', 'ls')).toMatch(/^NAME[^\n]*\n$/);
  });

  test('shows a volume with its NBD URI', async () => {
    await ok('volume', 'create', 'data', '1GiB', '--flush-to', 'backend');
    await memory.grant('data', 'n1', { readOnly: false });
    const text = await ok('volume', 'show', 'data');
    expect(text).toContain('Size:         1 GiB (1073741824 bytes)');
    expect(text).toContain('Flush to:     backend');
    expect(text).toContain('Grants:       n1 (read-write, generation 1)');
    expect(text).toMatch(/NBD URI: +nbd\+unix:\/\/\/\w+\?socket=/);
    memory.failNext('getExport', new VolumeError('VOLUME_IN_USE', 'export: granted'));
    expect(await ok('volume', 'show', 'data')).toContain('not available (export: granted)');
  });

  test('speaks JSON everywhere', async () => {
    const volume: unknown = JSON.parse(await ok('-o', 'json', 'volume', 'create', 'data', '1GiB'));
    expect(volume).toMatchObject({ name: 'data', sizeBytes: 2 ** 30 });
    const calls: [string[], unknown][] = [
      [['volume', 'ls'], [{ name: 'data' }]],
      [['volume', 'show', 'data'], { name: 'data', uri: expect.stringContaining('nbd+unix:///') }],
      [['volume', 'resize', 'data', '2GiB'], { sizeBytes: 2 ** 31 }],
      [['snapshot', 'create', 'data', 's'], { name: 's', synced: true }],
      [['snapshot', 'ls', 'data'], [{ name: 's' }]],
      [['snapshot', 'wait', 'data', 's'], { name: 's' }],
      [['snapshot', 'rollback', 'data', 's'], { volume: 'data', snapshot: 's' }],
      [['volume', 'clone', 'data@s', 'c', '--size', '3GiB'], { name: 'c', sizeBytes: 3 * 2 ** 30 }],
      [['volume', 'rm', 'c'], { removed: 'c' }],
      [['snapshot', 'rm', 'data', 's'], { removed: 's' }],
      [['info'], { nodeId: 'n1', backendId: 'b1', ready: true, totalBytes: 2 ** 40 }],
    ];
    for (const [args, answer] of calls) {
      expect(JSON.parse(await ok(...args, '-o', 'json'))).toMatchObject(answer as object);
    }
  });

  test('lists more than one page', async () => {
    for (let index = 0; index < 5; index += 1)
      await memory.createVolume({ name: `v${index}`, sizeBytes: 4096 });
    const list = memory.listVolumes.bind(memory);
    memory.listVolumes = async (page) => await list({ ...page, limit: 2 });
    const volumes = JSON.parse(await ok('volume', 'ls', '-o', 'json')) as { name: string }[];
    expect(volumes.map((volume) => volume.name)).toEqual(['v0', 'v1', 'v2', 'v3', 'v4']);
  });

  test('shows names that would steer a terminal harmlessly', async () => {
    await memory.createVolume({ name: 'evil\u202ename', sizeBytes: 4096 });
    expect(await ok('volume', 'ls')).toContain('evil\\u{202e}name');
  });
});

describe('a failing vdctl', () => {
  test.each<[string, string[], number, string]>([
    ['an unknown volume', ['volume', 'show', 'x'], 1, "no x; see 'vdctl volume ls'"],
    ['snapshots of an unknown volume', ['snapshot', 'ls', 'x'], 1, "see 'vdctl volume ls'"],
    ['a size without sense', ['volume', 'create', 'a', '10G'], 2, 'write GiB (1024) or GB (1000)'],
    ['a clone of no snapshot', ['volume', 'clone', 'a', 'b'], 2, 'write VOLUME@SNAPSHOT'],
    [
      'a timeout without sense',
      ['snapshot', 'create', 'a', 's', '--timeout', 'soon'],
      2,
      'whole seconds',
    ],
    ['an unknown command', ['volume', 'destroy', 'a'], 2, "unknown command 'destroy'"],
    ['an unknown option', ['volume', 'ls', '--all'], 2, "unknown option '--all'"],
    ['an unknown format', ['volume', 'ls', '-o', 'xml'], 2, 'Allowed choices are table, json'],
    ['a missing argument', ['volume', 'create', 'a'], 2, "missing required argument 'size'"],
    ['too many arguments', ['volume', 'rm', 'a', 'b'], 2, 'too many arguments'],
  ])('says in one line what is wrong with %s', async (_, args, code, text) => {
    const result = await vdctl(...args);
    expect(result.code).toBe(code);
    expect(result.out).toBe('');
    expect(result.err).toMatch(/^vdctl: [^\n]+\n$/);
    expect(result.err).toContain(text);
  });

  test('says what to do about a volume with a clone', async () => {
    await ok('volume', 'create', 'a', '1MiB');
    await ok('snapshot', 'create', 'a', 's');
    await ok('volume', 'clone', 'a@s', 'b');
    const result = await vdctl('snapshot', 'rm', 'a', 's');
    expect(result).toMatchObject({ code: 1, err: expect.stringContaining('remove those clones') });
    await ok('snapshot', 'rm', 'a', 's', '--deferred');
  });

  test('names the endpoint that does not answer', async () => {
    const path = join(directory, 'nobody.sock');
    const result = await run({}, '--api', `unix:${path}`, 'volume', 'ls');
    expect(result.code).toBe(1);
    expect(result.err).toMatch(
      /^vdctl: call the volumedriver at unix:[^\n]+--api the right endpoint\n$/,
    );
    expect(result.err).toContain(`it does not answer (connect ENOENT ${path});`);
  });

  test.each<[string, string[], string]>([
    ['no endpoint', [], 'no endpoint: give --api'],
    ['a foreign host', ['--api', 'tcp:example.com:1'], 'mutual TLS'],
    ['nonsense', ['--api', 'foo'], 'unix:PATH or tcp:HOST:PORT'],
  ])('explains %s', async (_, args, text) => {
    const result = await run({}, ...args, 'volume', 'ls');
    expect(result).toMatchObject({ code: 2, out: '', err: expect.stringContaining(text) });
  });

  test('teaches: --help has examples and every command its own help', async () => {
    const help = await run({}, '--help');
    expect(help).toMatchObject({ code: 0, err: '' });
    expect(help.out).toContain('vdctl volume clone data@before-upgrade trial');
    const create = await run({}, 'volume', 'create', '--help');
    expect(create.code).toBe(0);
    expect(create.out).toContain('such as 10GiB or 500MB');
    expect(create.out).toContain('--api <endpoint>');
    const bare = await run({}, 'volume');
    expect(bare.code).toBe(2);
    expect(bare.err).toContain('Usage: vdctl volume');
  });
});
