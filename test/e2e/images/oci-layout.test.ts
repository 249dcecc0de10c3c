/** Images as other programs read them: the digests fit, tar understands the archives. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { runCommand } from '../../../src/base/command.ts';
import { nameLayout, packLayout, writeLayout } from './oci-layout.ts';
import { tarStream, type TarEntry } from './tar.ts';

interface Blob {
  readonly digest: string;
  readonly size: number;
  readonly mediaType: string;
}
interface Manifest {
  readonly config: Blob;
  readonly layers: readonly Blob[];
}
interface Index {
  readonly manifests: readonly (Blob & { annotations: Record<string, string> })[];
}
interface Config {
  readonly config: unknown;
  readonly architecture: string;
  readonly rootfs: { readonly diff_ids: readonly string[] };
}

const reference = 'registry.k8s.io/sig-storage/thing:v1.2.3';
let folder: string;
let layout: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'oci-layout-'));
  layout = join(folder, 'layout');
});

afterEach(() => {
  rmSync(folder, { recursive: true });
});

function entries(): TarEntry[] {
  const program = join(folder, 'program');
  writeFileSync(program, Buffer.alloc(1_500_000, 'program'));
  return [
    { kind: 'directory', path: 'tmp', mode: 0o1777 },
    { kind: 'directory', path: 'bin' },
    { kind: 'file', path: 'bin/program', mode: 0o755, content: { file: program } },
    { kind: 'file', path: 'bin/empty', content: '' },
    { kind: 'file', path: 'note', content: 'a line\n' },
    { kind: 'link', path: 'bin/sh', target: '/bin/program' },
  ];
}

async function write(): Promise<void> {
  await writeLayout(layout, reference, {
    layers: [tarStream(entries())],
    config: { entrypoint: ['/bin/program'], command: ['-v'], environment: { PATH: '/bin' } },
  });
}

function readJson(blob: Blob): unknown {
  return JSON.parse(readBlob(blob).toString());
}

/** Checks it against its descriptor. */
function readBlob({ digest, size }: Blob): Buffer {
  const bytes = readFileSync(join(layout, 'blobs/sha256', digest.replace('sha256:', '')));
  expect(`sha256:${createHash('sha256').update(bytes).digest('hex')}`).toBe(digest);
  expect(bytes.length).toBe(size);
  return bytes;
}

function readIndex(): Index {
  return JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as Index;
}

describe('writeLayout', () => {
  test('writes blobs under their digests, and names the image for containerd', async () => {
    await write();
    const [image] = readIndex().manifests;
    expect(image?.annotations).toEqual({
      'io.containerd.image.name': reference,
      'org.opencontainers.image.ref.name': 'v1.2.3',
    });
    const manifest = readJson(image as Blob) as Manifest;
    const config = readJson(manifest.config) as Config;
    expect(config.config).toEqual({
      Env: ['PATH=/bin'],
      Entrypoint: ['/bin/program'],
      Cmd: ['-v'],
    });
    const tars = manifest.layers.map((layer) => gunzipSync(readBlob(layer)));
    expect(config.rootfs.diff_ids).toEqual(
      tars.map((tar) => `sha256:${createHash('sha256').update(tar).digest('hex')}`),
    );
    expect(await readdir(join(layout, 'blobs/sha256'))).toHaveLength(3);
    expect(readFileSync(join(layout, 'oci-layout'), 'utf8')).toBe('{"imageLayoutVersion":"1.0.0"}');
  });

  test('writes the same digests for the same content', async () => {
    await write();
    const first = readIndex();
    rmSync(layout, { recursive: true });
    await write();
    expect(readIndex()).toEqual(first);
  });

  test('keeps the order of layers', async () => {
    const layers = ['one', 'two'].map((path) =>
      tarStream([{ kind: 'file', path, content: `${path}\n` }]),
    );
    await writeLayout(layout, reference, { layers, config: {} });
    const manifest = readJson(readIndex().manifests[0] as Blob) as Manifest;
    const names = manifest.layers.map((layer) =>
      gunzipSync(readBlob(layer)).subarray(0, 3).toString(),
    );
    expect(names).toEqual(['one', 'two']);
  });
});

describe('tarStream', () => {
  test('writes what tar reads: kinds, modes, links, sizes; root owns it, and nothing is a whiteout', async () => {
    const tar = join(folder, 'layer.tar');
    writeFileSync(tar, await collect(tarStream(entries())));
    const args = ['--list', '--verbose', '--numeric-owner', '--full-time', '--utc', '--file', tar];
    const { stdout } = await runCommand('tar', args, { timeoutMs: 10_000 });
    const lines = stdout
      .trim()
      .split('\n')
      .map((line) => line.replace(/ +/g, ' '));
    expect(lines).toEqual([
      'drwxrwxrwt 0/0 0 1970-01-01 00:00:00 tmp/',
      'drwxr-xr-x 0/0 0 1970-01-01 00:00:00 bin/',
      '-rwxr-xr-x 0/0 1500000 1970-01-01 00:00:00 bin/program',
      '-rw-r--r-- 0/0 0 1970-01-01 00:00:00 bin/empty',
      '-rw-r--r-- 0/0 7 1970-01-01 00:00:00 note',
      'lrwxrwxrwx 0/0 0 1970-01-01 00:00:00 bin/sh -> /bin/program',
    ]);
    expect(stdout).not.toContain('.wh.');
    const extract = ['--extract', '--to-stdout', '--file', tar, 'bin/program'];
    const extracted = await runCommand('tar', extract, { timeoutMs: 10_000 });
    expect(extracted.stdout).toBe(readFileSync(join(folder, 'program'), 'utf8'));
  });

  test.each([
    ['a name above 100 bytes', { kind: 'directory', path: 'd'.repeat(100) }],
    ['a target above 100 bytes', { kind: 'link', path: 'l', target: 't'.repeat(101) }],
  ] satisfies [string, TarEntry][])('refuses %s', async (_what, entry) => {
    await expect(collect(tarStream([entry]))).rejects.toThrow('above 100 bytes');
  });

  test('takes names of exactly 100 bytes', async () => {
    const tar = await collect(tarStream([{ kind: 'file', path: 'f'.repeat(100), content: '' }]));
    expect(tar.subarray(0, 101).toString()).toBe(`${'f'.repeat(100)}0`);
  });
});

describe('packLayout', () => {
  test('writes an archive of the whole layout, and leaves nothing beside it', async () => {
    await write();
    const archive = join(folder, 'thing.tar');
    await packLayout(layout, archive);
    const unpacked = join(folder, 'unpacked');
    await mkdir(unpacked);
    const args = ['--extract', '--file', archive, '--directory', unpacked];
    await runCommand('tar', args, { timeoutMs: 10_000 });
    const compare = ['--recursive', '--brief', layout, unpacked];
    expect((await runCommand('diff', compare, { timeoutMs: 10_000 })).stdout).toBe('');
    expect((await readdir(folder)).sort()).toEqual(['layout', 'program', 'thing.tar', 'unpacked']);
  });

  test('leaves no part of an archive when it fails', async () => {
    await mkdir(join(layout, 'blobs/sha256'), { recursive: true });
    await expect(packLayout(layout, join(folder, 'thing.tar'))).rejects.toThrow('ENOENT');
    expect(await readdir(folder)).toEqual(['layout']);
  });
});

describe('nameLayout', () => {
  test('replaces the name that another program gave', async () => {
    await write();
    const [before] = readIndex().manifests;
    await nameLayout(layout, 'localhost/other:2');
    const [after] = readIndex().manifests;
    expect(after?.digest).toBe(before?.digest);
    expect(after?.annotations['io.containerd.image.name']).toBe('localhost/other:2');
  });

  test('refuses a layout of several images', async () => {
    await write();
    const [image] = readIndex().manifests;
    writeFileSync(join(layout, 'index.json'), JSON.stringify({ manifests: [image, image] }));
    await expect(nameLayout(layout, reference)).rejects.toThrow();
  });
});

async function collect(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}
