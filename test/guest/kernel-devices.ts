/** What only the kernel strategy has: identifiers, other instances, held devices, many devices, lost records. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdir, open, readdir, readlink, rm } from 'node:fs/promises';
import { join } from 'node:path';
import pLimit from 'p-limit';
import {
  delay,
  expectBlocks,
  keepWriting,
  MiB,
  run,
  waitFor,
  writeBlocks,
} from '../../src/attacher/attacher-world-contract.ts';
import type { AttacherService } from '../../src/attacher/attacher-service.ts';
import { volumeKey } from '../../src/attacher/records.ts';
import { runCommand } from '../../src/base/command.ts';
import type { Device } from '../../src/volumes/device-service.ts';
import {
  boundDevices,
  openKernelHarness,
  withNbdControl,
  type KernelHarness,
} from '../support/attach-kernel.ts';
import type { NbdkitServer } from '../support/attach-nbdkit.ts';
import { loadModule } from '../support/guest-modules.ts';
import { tellHost } from '../support/guest-tell.ts';
import { countFrom } from '../support/real-driver.ts';
import { recordingLogger } from '../support/recording-logger.ts';

const manyCount = countFrom('DEVICES', 64);
const sizeBytes = 16 * MiB;

loadModule('drivers/block/nbd.ko', 'nbds_max=4 max_part=0');

describe('kernel NBD devices', () => {
  let harness: KernelHarness;
  let server: NbdkitServer;
  let attacher: AttacherService;

  beforeAll(async () => {
    harness = await openKernelHarness();
    server = await harness.newServer('server', sizeBytes);
    await server.start();
    attacher = harness.newAttacher();
    await attacher.start();
  });
  // What a failed test left is no trouble of the next one.
  afterEach(async () => {
    await server.start();
    for (const { volumeId } of await attacher.listDevices()) await attacher.detach(volumeId);
  });
  afterAll(async () => {
    await attacher.close();
    await harness.close();
  });

  const attachTo = (to: AttacherService, volumeId: string): Promise<Device> =>
    to.attach({ volumeId, uri: server.uri(`${volumeId}#1`), readOnly: false });
  const attach = (volumeId: string): Promise<Device> => attachTo(attacher, volumeId);

  async function restart(
    settings: Parameters<KernelHarness['newAttacher']>[0] = {},
  ): Promise<void> {
    await attacher.close();
    attacher = harness.newAttacher(settings);
    await attacher.start();
  }

  async function restartServer(): Promise<void> {
    await server.kill();
    await server.start();
  }

  async function expectNothing(): Promise<void> {
    expect(await harness.leftovers()).toEqual([]);
    expect(await readdir(join(harness.stateDirectory, 'records'))).toEqual([]);
  }

  const stateOf = async (volumeId: string): Promise<string> =>
    (await attacher.getDevice(volumeId)).state;

  test('carry an identifier, and take no order under another one', async () => {
    const { path } = await attach('named');
    const name = path.replace('/dev/', '');
    const { backend } = (await boundDevices()).find((each) => each.name === name) ?? {};
    expect(backend).toBe(`${harness.driverName}/${attacher.instanceId}/named#1`);
    await withNbdControl(async (control) => {
      const index = Number(name.replace('nbd', ''));
      const identifier = `${harness.driverName}/another/named#1`;
      const order = { index, identifier, sizeBytes: 4096 };
      await expect(control.reconfigure(order)).rejects.toMatchObject({ code: 'PATH_NOT_FOUND' });
    });
    expect(await run('blockdev', ['--getsize64', path])).toBe(`${sizeBytes}\n`);
    await writeBlocks(path, 0, 4, 'named');
    await attacher.detach('named');
    await expectNothing();
  });

  test('of two instances on one kernel leave each other alone', async () => {
    const stateDirectory = join(harness.folder, 'second');
    const log = recordingLogger();
    const first = await attach('shared');
    await writeBlocks(first.path, 0, 4, 'shared');
    const others = harness.newAttacher({ stateDirectory, logger: log.logger });
    await others.start();
    try {
      expect(await others.listDevices()).toEqual([]);
      // The first has the volume of that name; for the second it is another.
      await others.detach('shared');
      expect(await stateOf('shared')).toBe('attached');
      const second = await attachTo(others, 'shared');
      expect(second.path).not.toBe(first.path);
      await restartServer();
      await restart({ logger: log.logger });
      await waitFor(async () => (await stateOf('shared')) === 'attached');
      await waitFor(async () => (await others.getDevice('shared')).state === 'attached');
      await Promise.all([first, second].map(({ path }) => run('sync', [path])));
      await others.detach('shared');
      expect(await attacher.listDevices()).toEqual([first]);
      await expectBlocks(first.path, 0, 4, 'shared');
      expect(log.messages).not.toContain('device without a record');
    } finally {
      await others.detach('shared');
      await others.close();
    }
    await attacher.detach('shared');
    await expectNothing();
  });

  test.each(['the record is lost', 'the record is garbage'])('are found when %s', async (how) => {
    const { path } = await attach('leaked');
    const record = join(harness.stateDirectory, 'records', `${volumeKey('leaked')}.json`);
    await attacher.close();
    if (how.endsWith('lost')) await rm(record);
    else await (await open(record, 'w')).close();
    const log = recordingLogger();
    attacher = harness.newAttacher({ logger: log.logger });
    await attacher.start();
    const message = how.endsWith('lost') ? 'device without a record' : 'record cannot be read';
    expect(log.messages).toContain(message);
    expect(await attacher.listDevices()).toEqual([]);
    await expect(attach('leaked')).rejects.toMatchObject({ code: 'CORRUPT' });
    expect(await run('blockdev', ['--getsize64', path])).toBe(`${sizeBytes}\n`);
    await attacher.detach('leaked');
    await expectNothing();
  });

  test('that somebody holds open are gone for us, and their index is not given away', async () => {
    const { path } = await attach('held');
    const holder = await open(path, 'r');
    try {
      await attacher.detach('held');
      await expect(holder.read(Buffer.alloc(4096), 0, 4096, 0)).rejects.toThrow();
      const log = recordingLogger();
      await restart({ logger: log.logger });
      expect(log.messages).not.toContain('device without a record');
      const again = await attach('held');
      expect(again.path).not.toBe(path);
      await attacher.detach('held');
    } finally {
      await holder.close();
    }
    await expectNothing();
    expect(await attach('next')).toMatchObject({ path });
    await attacher.detach('next');
  });

  test('that are still mounted are let go', async () => {
    const { path } = await attach('mounted');
    const folder = join(harness.folder, 'busy');
    await mkdir(folder);
    await run('mkfs.ext4', ['-q', '-E', 'nodiscard', path]);
    await run('mount', [path, folder]);
    try {
      await attacher.detach('mounted');
      await expect(attacher.getDevice('mounted')).rejects.toMatchObject({ code: 'PATH_NOT_FOUND' });
    } finally {
      await run('umount', [folder]);
    }
    await expectNothing();
  });

  test('that were given up keep their index, over a restart too', async () => {
    await restart({ reconnectDelaySeconds: 1 });
    const { path } = await attach('lost');
    await server.kill();
    await waitFor(async () => (await stateOf('lost')) === 'broken');
    await server.start();
    await restart();
    expect(await stateOf('lost')).toBe('broken');
    await waitFor(async () => (await openFiles()).includes(path));
    expect((await attach('other')).path).not.toBe(path);
    expect(await run('blockdev', ['--getsize64', path])).toBe('0\n');
    await attacher.detach('lost');
    expect(await openFiles()).not.toContain(path);
    await attacher.detach('other');
    await expectNothing();
  });

  test('are healed in the middle of a detach, so that what is dirty is written', async () => {
    await restart({ flushMs: 15_000 });
    const { path } = await attach('late');
    await writeBlocks(path, 0, 256, 'late');
    await server.kill();
    const detached = attacher.detach('late');
    await delay(500);
    await server.start();
    await detached;
    const again = await attach('late');
    await expectBlocks(again.path, 0, 256, 'late');
    await attacher.detach('late');
    await expectNothing();
    await restart();
  });

  test.each([
    ['the server', 'the attacher'],
    ['the attacher', 'the server'],
  ])('outlive server and attacher when %s comes back before %s', async (first) => {
    const { path } = await attach('both');
    const writer = keepWriting(path, 2000);
    await delay(200);
    await server.kill();
    await attacher.close();
    const before = writer.written();
    attacher = harness.newAttacher();
    const returns = [() => server.start(), () => attacher.start()];
    if (first === 'the attacher') returns.reverse();
    for (const comeBack of returns) {
      await comeBack();
      await delay(300);
    }
    await waitFor(async () => await Promise.resolve(writer.written() > before + 10));
    await expectBlocks(path, 0, await writer.stop(), 'keep');
    expect(await stateOf('both')).toBe('attached');
    await attacher.detach('both');
    await expectNothing();
  });

  test(`are healed together, ${manyCount} of them`, async () => {
    const crowd = await harness.newServer('crowd', sizeBytes, 1);
    await crowd.start();
    const ids = Array.from({ length: manyCount }, (_, number) => `crowd-${number}`);
    const startedMs = performance.now();
    const limit = pLimit(8);
    const devices = await Promise.all(
      ids.map((volumeId) =>
        limit(() => attacher.attach({ volumeId, uri: crowd.uri(volumeId), readOnly: true })),
      ),
    );
    const attachedMs = performance.now();
    await crowd.kill();
    // A read of each that waits for the server.
    const paths = devices.map(({ path }) => path).join(' ');
    const reads = `for path in ${paths}; do
      dd if=$path of=/dev/null bs=4096 count=1 iflag=direct status=none & pids="$pids $!"
    done
    for pid in $pids; do wait $pid || exit 1; done`;
    const reading = runCommand('sh', ['-c', reads], { timeoutMs: 100_000 });
    reading.catch(() => undefined);
    await delay(1000);
    const waiting = (await attacher.listDevices()).filter(({ state }) => state === 'waiting');
    expect(waiting.length).toBe(manyCount);
    const killedForMs = performance.now();
    await crowd.start();
    await reading;
    const healedMs = performance.now();
    const listed = await attacher.listDevices();
    expect(listed.filter(({ state }) => state === 'attached').length).toBe(manyCount);
    const detachMs = performance.now();
    await Promise.all(ids.map((volumeId) => limit(() => attacher.detach(volumeId))));
    const seconds = (ms: number): string => (ms / 1000).toFixed(1);
    tellHost(
      `${manyCount} devices: attached in ${seconds(attachedMs - startedMs)} s, ` +
        `all read again ${seconds(healedMs - killedForMs)} s after the server was back, ` +
        `detached in ${seconds(performance.now() - detachMs)} s`,
    );
    await crowd.kill();
    await expectNothing();
  });

  test('leave no word of failed I/O of the last devices in the kernel log', async () => {
    await run('dmesg', ['--clear']);
    const { path } = await attach('quiet');
    const writer = keepWriting(path, 500);
    await delay(200);
    await restartServer();
    const before = writer.written();
    await waitFor(async () => await Promise.resolve(writer.written() > before + 10));
    await writer.stop();
    await attacher.detach('quiet');
    expect(await run('dmesg', [])).not.toMatch(/I\/O error|EXT4-fs error/);
  });
});

/** Of this process. */
async function openFiles(): Promise<string[]> {
  const folder = '/proc/self/fd';
  const links = (await readdir(folder)).map((name) => readlink(join(folder, name)));
  return await Promise.all(links.map((link) => link.catch(() => '')));
}
