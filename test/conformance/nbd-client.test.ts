/** Our NBD client against somebody else's server: nbdkit. */
import { afterEach, beforeEach, expect } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { formatNbdUri } from '../../src/nbd/uri.ts';
import { VolumeError } from '../../src/volumes/errors.ts';
import { describeRequires, testRequires } from '../support/requires.ts';

const mebi = 2 ** 20;

describeRequires(['tool:nbdkit'], 'the client with nbdkit', () => {
  let folder: string;
  let server: ChildProcess | null = null;
  let client: NbdClient | null = null;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'nbd-'));
  });

  afterEach(async () => {
    await client?.disconnect();
    client = null;
    if (server !== null && server.exitCode === null && server.signalCode === null) {
      const exited = once(server, 'exit');
      server.kill('SIGKILL');
      await exited;
    }
    server = null;
    await rm(folder, { recursive: true, force: true });
  });

  async function start(...args: string[]): Promise<NbdClient> {
    const path = join(folder, 'nbdkit.sock');
    server = spawn('nbdkit', ['-f', '-U', path, ...args], { stdio: 'ignore' });
    const uri = formatNbdUri({ address: { kind: 'unix', path }, exportName: '' });
    for (let attempt = 0; ; attempt++) {
      try {
        client = await connectNbd(uri);
        return client;
      } catch (error) {
        // The socket appears when nbdkit is ready.
        if (attempt > 200 || !(error instanceof VolumeError)) throw error;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
  }

  async function exercise(nbd: NbdClient): Promise<void> {
    expect(nbd.sizeBytes).toBe(64 * mebi);
    const data = Buffer.alloc(300_000, 7);
    await Promise.all([nbd.write(1, data), nbd.write(20 * mebi, data, { fua: true })]);
    await nbd.flush();
    expect((await nbd.read(1, data.length)).equals(data)).toBe(true);
    await nbd.writeZeroes(20 * mebi, 4096);
    await nbd.trim(30 * mebi, mebi);
    await nbd.cache(0, mebi);
    expect((await nbd.read(20 * mebi, 5000)).indexOf(7)).toBe(4096);
    const many = Array.from({ length: 300 }, (_, index) => nbd.read(index * 1000, 1000));
    expect((await Promise.all(many)).every(({ length }) => length === 1000)).toBe(true);
    await expect(nbd.read(64 * mebi, 1)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(nbd.write(64 * mebi, data)).rejects.toMatchObject({ code: 'OUT_OF_SPACE' });
  }

  testRequires([], 'does everything over structured replies', async () => {
    const nbd = await start('memory', '64M');
    expect(nbd.agreement).toMatchObject({ structuredReplies: true });
    await exercise(nbd);
    const extents = await nbd.blockStatus(0, 64 * mebi);
    expect(extents.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)).toBe(64 * mebi);
    expect(extents.some(({ hole }) => hole)).toBe(true);
    expect(await nbd.blockStatus(0, mebi, { one: true })).toHaveLength(1);
    expect(await nbd.read(10 * mebi, 3 * mebi)).toHaveLength(3 * mebi);
    expect(await nbd.read(0, mebi, { dontFragment: true })).toHaveLength(mebi);
  });

  testRequires([], 'does everything over simple replies', async () => {
    const nbd = await start('--no-sr', 'memory', '64M');
    expect(nbd.agreement).toMatchObject({ structuredReplies: false });
    await exercise(nbd);
    await expect(nbd.blockStatus(0, mebi)).rejects.toMatchObject({ code: 'NOT_CAPABLE' });
  });

  testRequires([], 'tells a failing disk from a broken connection', async () => {
    const nbd = await start(
      '--filter=error',
      'memory',
      '64M',
      'error-pread=ENOSPC',
      'error-pread-rate=1',
    );
    await expect(nbd.read(0, 512)).rejects.toMatchObject({ code: 'OUT_OF_SPACE' });
    await nbd.write(0, Buffer.alloc(512));
    server?.kill('SIGKILL');
    await nbd.ended;
    expect(nbd.failure).toMatchObject({ code: 'UNAVAILABLE' });
    await expect(nbd.read(0, 512)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });

  testRequires([], 'gives up what waits when the server dies', async () => {
    const nbd = await start('--filter=delay', 'memory', '64M', 'rdelay=30');
    const waiting = Array.from({ length: 10 }, () => nbd.read(0, 512));
    const settled = Promise.allSettled(waiting);
    setTimeout(() => server?.kill('SIGKILL'), 50);
    for (const result of await settled) {
      expect(result).toMatchObject({ status: 'rejected', reason: { code: 'UNAVAILABLE' } });
    }
  });

  testRequires([], 'stops waiting when asked', async () => {
    const nbd = await start('--filter=delay', 'memory', '64M', 'rdelay=1');
    const aborted = nbd.read(0, 512, { signal: AbortSignal.timeout(50) });
    await expect(aborted).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(await nbd.read(512, 512)).toHaveLength(512);
  });
});
