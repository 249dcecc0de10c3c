/** The attacher's contract for the fuse strategy, and what only that strategy has, with a real qemu-storage-daemon. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { attacherContract } from '../../src/attacher/attacher-contract.ts';
import type { AttacherService } from '../../src/attacher/attacher-service.ts';
import { FuseStrategy } from '../../src/attacher/fuse/fuse-strategy.ts';
import { nbdNodeOptions } from '../../src/attacher/fuse/qemu-options.ts';
import { QmpClient } from '../../src/attacher/fuse/qmp-client.ts';
import { volumeKey } from '../../src/attacher/records.ts';
import { systemClock } from '../../src/base/clock.ts';
import { silentLogger, type Logger } from '../../src/base/logger.ts';
import { runCommand } from '../../src/volumes/command.ts';
import { openFuseHarness, type FuseHarness } from '../support/attach-fuse.ts';
import type { NbdkitServer } from '../support/attach-nbdkit.ts';
import { recordingLogger } from '../support/recording-logger.ts';
import { describeRequires } from '../support/requires.ts';

const sizeBytes = 16 * 1024 * 1024;

describeRequires(
  [
    ...(['root', 'linux', 'fuse', 'loop', 'tool:nbdkit', 'tool:qemu-storage-daemon'] as const),
    ...(['tool:mkfs.ext4', 'tool:mkfs.xfs', 'tool:blkdiscard'] as const),
  ],
  'attacher with FUSE devices',
  () => {
    // Of a mounted ext4, see test/kernel/grow.test.ts.
    const traits = { growing: ['xfs'], passesZeroing: true, stallMs: 4000 } as const;
    attacherContract('fuse', openFuseHarness, traits);
    describe('its daemons, records and loop devices', fuseTests);
  },
);

interface StoredJson {
  uri: string;
  bootId: string;
  phase: string;
  strategy: string;
  details: { daemon: { pid: number; startTime: string }; deviceNumber: string; device: string };
}

function fuseTests(): void {
  let harness: FuseHarness;
  let server: NbdkitServer;
  let attacher: AttacherService;

  beforeAll(async () => {
    harness = await openFuseHarness();
    server = await harness.newServer('server', sizeBytes);
    await server.start();
    attacher = harness.newAttacher();
    await attacher.start();
  });
  afterAll(async () => {
    await harness.close();
  });

  function attach(volumeId: string): ReturnType<AttacherService['attach']> {
    return attacher.attach({ volumeId, uri: server.uri(volumeId), readOnly: false });
  }
  function recordPath(volumeId: string): string {
    return join(harness.stateDirectory, 'records', `${volumeKey(volumeId)}.json`);
  }
  async function readRecord(volumeId: string): Promise<StoredJson> {
    return JSON.parse(await readFile(recordPath(volumeId), 'utf8')) as StoredJson;
  }
  async function changeRecord(
    volumeId: string,
    change: (record: StoredJson) => void,
  ): Promise<void> {
    const record = await readRecord(volumeId);
    change(record);
    await writeFile(recordPath(volumeId), JSON.stringify(record));
  }
  async function restart(options: { logger?: Logger; bootId?: string } = {}): Promise<void> {
    await attacher.close();
    attacher = harness.newAttacher(options);
    await attacher.start();
  }
  async function expectNothing(): Promise<void> {
    expect(await harness.leftovers()).toEqual([]);
    expect(await readdir(join(harness.stateDirectory, 'fuse'))).toEqual([]);
    expect(await readdir(join(harness.stateDirectory, 'records'))).toEqual([]);
  }

  test('reports a killed daemon as broken, detaches it, attaches anew', async () => {
    const { path } = await attach('killed');
    const { daemon } = (await readRecord('killed')).details;
    process.kill(daemon.pid, 'SIGKILL');
    await eventually(async () => (await attacher.getDevice('killed')).state === 'broken');
    const device = await attacher.getDevice('killed');
    expect(device).toMatchObject({ path, state: 'broken' });
    expect(device.reason).toContain(`pid ${daemon.pid}`);
    // The same request returns the same, broken device: only a detach helps.
    expect(await attach('killed')).toEqual(device);
    await restart();
    expect(await attacher.listDevices()).toEqual([device]);
    await attacher.detach('killed');
    await expectNothing();
    expect(await attach('killed')).toMatchObject({ state: 'attached' });
    await attacher.detach('killed');
    await expectNothing();
  });

  test('aborts a daemon that is stopped', async () => {
    await attach('stopped');
    process.kill((await readRecord('stopped')).details.daemon.pid, 'SIGSTOP');
    const started = performance.now();
    await attacher.detach('stopped');
    expect(performance.now() - started).toBeLessThan(15_000);
    await expectNothing();
  });

  test('lets go of a device that is still mounted, and aborts it', async () => {
    const { path } = await attach('mounted');
    const folder = join(harness.folder, 'busy');
    await mkdir(folder);
    await runCommand('mkfs.ext4', ['-q', path], { timeoutMs: 10_000 });
    await runCommand('mount', [path, folder], { timeoutMs: 10_000 });
    try {
      await attacher.detach('mounted');
      await expect(attacher.getDevice('mounted')).rejects.toMatchObject({ code: 'PATH_NOT_FOUND' });
    } finally {
      await runCommand('umount', [folder], { timeoutMs: 10_000 });
    }
    await expectNothing();
    await eventually(async () => (await loopBacking(path)) === '');
  });

  test('leaves a foreign loop device alone', async () => {
    const file = join(harness.folder, 'foreign');
    await writeFile(file, Buffer.alloc(1024 * 1024));
    const { stdout } = await runCommand('losetup', ['--find', '--show', file], { timeoutMs: 5000 });
    const foreign = stdout.trim();
    try {
      const { path } = await attach('foreign');
      await changeRecord('foreign', (record) => {
        record.details.device = foreign;
      });
      expect(await attacher.getDevice('foreign')).toMatchObject({ state: 'broken', path: foreign });
      await attacher.detach('foreign');
      expect(await loopBacking(foreign)).toBe(file);
      // Its own, which the record does not name any more, is found by its backing file.
      expect(await loopBacking(path)).toBe('');
    } finally {
      await runCommand('losetup', ['--detach', foreign], { timeoutMs: 5000 });
    }
    await expectNothing();
  });

  test('never signals a process that only has the pid of its daemon', async () => {
    await attach('recycled');
    const bystander = harness.sandbox.spawn('sleep', ['60']);
    const { daemon } = (await readRecord('recycled')).details;
    await changeRecord('recycled', (record) => {
      record.details.daemon.pid = bystander.pid ?? 0;
    });
    expect(await attacher.getDevice('recycled')).toMatchObject({ state: 'broken' });
    await attacher.detach('recycled');
    expect(bystander.signalCode).toBeNull();
    expect(() => process.kill(bystander.pid ?? 0, 0)).not.toThrow();
    // The real one was found by its arguments.
    expect(() => process.kill(daemon.pid, 0)).toThrow();
    bystander.kill('SIGKILL');
    await expectNothing();
  });

  test('detaches a device whose mount was taken away', async () => {
    const { path } = await attach('unmounted');
    const mountpoint = join(harness.stateDirectory, 'fuse', volumeKey('unmounted'), 'volume');
    await runCommand('umount', ['--lazy', '--internal-only', mountpoint], { timeoutMs: 5000 });
    expect(await loopBacking(path)).toBe('/');
    expect(await attacher.getDevice('unmounted')).toMatchObject({ path, state: 'attached' });
    await attacher.detach('unmounted');
    expect(await loopBacking(path)).toBe('');
    await expectNothing();
  });

  test('clears records of another boot and says so', async () => {
    await attach('rebooted');
    const text = await readFile(recordPath('rebooted'), 'utf8');
    await attacher.detach('rebooted');
    await writeFile(recordPath('rebooted'), text);
    const log = recordingLogger();
    await restart({ logger: log.logger, bootId: 'another-boot' });
    expect(log.messages).toContain('device did not outlive the reboot, its record is cleared');
    expect(await attacher.listDevices()).toEqual([]);
    await expectNothing();
    await restart();
  });

  test.each([
    ['no JSON', '{"version": 1, "volumeId'],
    ['an empty file', ''],
    ['another version', '{"version": 2}'],
  ])('reports a record that cannot be read: %s', async (_, garbage) => {
    const { path } = await attach('bad');
    await writeFile(recordPath('bad'), garbage);
    const log = recordingLogger();
    await restart({ logger: log.logger });
    expect(log.messages).toContain('record cannot be read');
    expect(await attacher.listDevices()).toEqual([]);
    await expect(attach('bad')).rejects.toMatchObject({ code: 'CORRUPT' });
    await expect(attacher.getDevice('bad')).rejects.toMatchObject({ code: 'CORRUPT' });
    expect(await loopBacking(path)).not.toBe('');
    await attacher.detach('bad');
    await expectNothing();
  });

  test('reports a device without a record, and detaches it', async () => {
    await attach('lost');
    await runCommand('rm', [recordPath('lost')], { timeoutMs: 5000 });
    const log = recordingLogger();
    await restart({ logger: log.logger });
    expect(log.messages).toContain('device without a record');
    await expect(attach('lost')).rejects.toMatchObject({ code: 'CORRUPT' });
    await attacher.detach('lost');
    await expectNothing();
  });

  test.each(['attaching', 'detaching'])('removes what a crash left %s', async (phase) => {
    await attach('half');
    await changeRecord('half', (record) => {
      record.phase = phase;
    });
    await restart();
    expect(await attacher.listDevices()).toEqual([]);
    await expectNothing();
  });

  test.each(['attaching', 'detaching'])('attaches over what was left %s', async (phase) => {
    await attach('over');
    await changeRecord('over', (record) => {
      record.phase = phase;
      record.uri = server.uri('older');
    });
    expect(await attach('over')).toMatchObject({ state: 'attached', uri: server.uri('over') });
    await attacher.detach('over');
    await expectNothing();
  });

  test('lists a device of a strategy that does not run, without hiding others', async () => {
    const device = await attach('known');
    await attach('unknown');
    await changeRecord('unknown', (record) => {
      record.strategy = 'kernel';
    });
    await restart();
    const listed = await attacher.listDevices();
    expect(listed).toContainEqual(device);
    expect(listed).toContainEqual(
      expect.objectContaining({ volumeId: 'unknown', state: 'broken' }),
    );
    await expect(attacher.detach('unknown')).rejects.toMatchObject({ code: 'NOT_CAPABLE' });
    await changeRecord('unknown', (record) => {
      record.strategy = 'fuse';
    });
    await attacher.detach('unknown');
    await attacher.detach('known');
    await expectNothing();
  });

  test.each([
    {
      what: 'too long a path',
      name: 'x'.repeat(100),
      daemonProgram: 'true',
      code: 'INVALID_ARGUMENT',
    },
    { what: 'no daemon', name: 'other', daemonProgram: '/nonexistent/daemon', code: 'NOT_CAPABLE' },
  ])('refuses to start with $what', async ({ name, daemonProgram, code }) => {
    const common = {
      stateDirectory: join(harness.folder, name),
      clock: systemClock,
      logger: silentLogger,
    };
    const strategy = new FuseStrategy({ ...common, runCommand, daemonProgram });
    await expect(strategy.start()).rejects.toMatchObject({ code });
  });

  test('keeps one instance id for its state directory', async () => {
    const { instanceId } = attacher;
    expect(instanceId).toMatch(/^[0-9a-f]{32}$/);
    await restart();
    expect(attacher.instanceId).toBe(instanceId);
  });

  test('grows over what an interrupted grow left', async () => {
    await attach('regrow');
    const socketPath = join(harness.stateDirectory, 'fuse', volumeKey('regrow'), 'qmp');
    const uri = server.uri('regrow');
    const leftover = nbdNodeOptions({
      uri,
      nodeName: 'nbd-7',
      readOnly: false,
      reconnectDelaySeconds: 60,
    });
    const open = (): Promise<QmpClient> =>
      QmpClient.open(socketPath, { clock: systemClock, timeoutMs: 5000 });
    const first = await open();
    await first.execute('blockdev-add', leftover);
    first.close();
    await server.setSizeBytes(2 * sizeBytes);
    expect(await attacher.resize('regrow', 2 * sizeBytes)).toMatchObject({
      sizeBytes: 2 * sizeBytes,
    });
    const second = await open();
    const nodes = JSON.stringify(await second.execute('query-named-block-nodes', { flat: true }));
    expect(nodes).toContain('"nbd-8"');
    expect(nodes).not.toContain('"nbd-7"');
    expect(nodes).not.toContain('"nbd-1"');
    await expect(second.execute('no-such-command')).rejects.toMatchObject({
      code: 'INTERNAL',
      cause: { errorClass: 'CommandNotFound' },
    });
    second.close();
    await attacher.detach('regrow');
    await expectNothing();
  });
}

async function loopBacking(device: string): Promise<string> {
  const path = `/sys/block/${device.replace('/dev/', '')}/loop/backing_file`;
  return (await readFile(path, 'utf8').catch(() => '')).trimEnd();
}

async function eventually(question: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!(await question())) {
    if (performance.now() > deadline)
      throw new Error('what the test waits for did not happen in time');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
