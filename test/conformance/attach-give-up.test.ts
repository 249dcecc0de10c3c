/**
 * A volume leaves its node in bounded time though its device is lost for good and a process still uses its filesystem:
 * that process may hang in I/O that never ends (state D), and then no signal ends it but the end of the device. While
 * the volumedriver may come back, the volume stays until everything is written.
 */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { ChildProcess } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { findProcesses, parseStat } from '../../src/base/processes.ts';
import { silentLogger } from '../../src/base/logger.ts';
import type { AttacherService } from '../../src/attacher/attacher-service.ts';
import { createNodeService } from '../../src/node/node-service.ts';
import { runCommand } from '../../src/volumes/command.ts';
import type { DeviceService } from '../../src/volumes/device-service.ts';
import { openFuseHarness, type FuseHarness } from '../support/attach-fuse.ts';
import type { NbdkitServer } from '../support/attach-nbdkit.ts';
import { MemoryVolumeService } from '../support/memory-volume-service.ts';
import { callContext, mebibyte, mountCapability } from '../support/node-fixture.ts';
import { eventually } from '../support/real-driver.ts';
import { describeRequires } from '../support/requires.ts';

const nodeId = 'node-1';
const capability = mountCapability({ fsType: 'ext4' });
/** The limits of this node and its attacher, and some time for the machine. */
const boundMs = 15_000;
/** A daemon mends its own connection: the attacher looks at it every ten seconds or so. */
const noticedMs = 40_000;
const limitMs = 90_000;

describeRequires(
  [
    'linux',
    'root',
    'fuse',
    'loop',
    'tool:qemu-storage-daemon',
    'tool:nbdkit',
    'tool:mkfs.ext4',
    'tool:debugfs',
  ],
  'a volume in use on a lost device leaves the node',
  () => {
    let harness: FuseHarness;

    beforeAll(async () => {
      harness = await openFuseHarness();
    });
    afterAll(async () => {
      await harness.close();
    });

    test(
      'when the daemon under it died',
      () =>
        tell({ harness, name: 'daemon' }, async (story) => {
          story.openFile();
          const [daemon] = await findProcesses('qemu-storage-daemon', (args) =>
            args.some((arg) => arg.startsWith(`${harness.folder}/`)),
          );
          if (daemon === undefined) throw new Error('the device has no daemon');
          process.kill(daemon.pid, 'SIGKILL');
          await story.expectState('broken');
          await story.expectToLeave();
        }),
      limitMs,
    );

    test(
      'once everything is written, when its volumedriver is gone for a while and a write hangs',
      () =>
        tell({ harness, name: 'gone' }, async (story) => {
          const writer = story.keepWriting();
          await story.write('late', 'kept');
          await story.server.kill();
          await hangs(writer);
          await story.expectState('waiting');
          await story.unpublish();
          await expect(story.unstage()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
          await story.server.start();
          await story.expectState('attached');
          await story.expectToLeave();
          expect(await story.readImage('late')).toBe('kept');
        }),
      limitMs,
    );

    test(
      'when the attacher gave its device up',
      () =>
        tell({ harness, name: 'given-up', reconnectDelaySeconds: 1 }, async (story) => {
          story.openFile();
          const writer = story.keepWriting();
          await story.server.kill();
          await hangs(writer);
          await story.expectState('broken');
          await story.expectToLeave();
        }),
      limitMs,
    );
  },
);

interface Setting {
  readonly harness: FuseHarness;
  readonly name: string;
  readonly reconnectDelaySeconds?: number;
}

async function tell(setting: Setting, body: (story: Story) => Promise<void>): Promise<void> {
  const story = await Story.begin(setting);
  try {
    await body(story);
  } finally {
    await story.end();
  }
}

/** One volume, staged and published, on a server and with an attacher of its own. */
class Story {
  readonly server: NbdkitServer;
  readonly #harness: FuseHarness;
  readonly #attacher: AttacherService;
  readonly #node: ReturnType<typeof createNodeService>;
  readonly #volumeId: string;
  readonly #stagingPath: string;
  readonly #targetPath: string;
  readonly #users: ChildProcess[] = [];

  private constructor(
    harness: FuseHarness,
    parts: { name: string; server: NbdkitServer; attacher: AttacherService; volumeId: string },
    volumes: MemoryVolumeService,
  ) {
    const { name, server, attacher, volumeId } = parts;
    this.#harness = harness;
    this.server = server;
    this.#attacher = attacher;
    this.#volumeId = volumeId;
    this.#stagingPath = join(harness.folder, `${name}-staging`);
    this.#targetPath = join(harness.folder, `${name}-target`);
    // The volumes are there in name only: their bytes are nbdkit's.
    const devices: DeviceService = {
      attach: ({ readOnly }) =>
        attacher.attach({ volumeId, uri: server.uri(`${name}#1`), readOnly }),
      detach: (id) => attacher.detach(id),
      resize: (id, sizeBytes) => attacher.resize(id, sizeBytes),
      getDevice: (id) => attacher.getDevice(id),
      listDevices: () => attacher.listDevices(),
    };
    this.#node = createNodeService({
      driverName: 'csi.example',
      nodeId,
      stateDirectory: join(harness.folder, `${name}-node`),
      volumes,
      devices,
      logger: silentLogger,
      mountLimits: { mountMs: 20_000, unmountMs: 2_000, lookMs: 2_000 },
      drainLimits: { writeBackMs: 10_000, waitMs: 1_000, endMs: 2_000 },
      run: runCommand,
    });
  }

  static async begin({ harness, name, reconnectDelaySeconds = 3600 }: Setting): Promise<Story> {
    const volumes = new MemoryVolumeService({ nodeId });
    const sizeBytes = 64 * mebibyte;
    const { id: volumeId } = await volumes.createVolume({ name, sizeBytes });
    const generation = await volumes.grant(volumeId, nodeId, { readOnly: false });
    const server = await harness.newServer(name, sizeBytes);
    const attacher = harness.newAttacher({ reconnectDelaySeconds });
    const story = new Story(harness, { name, server, attacher, volumeId }, volumes);
    try {
      await server.start();
      await attacher.start();
      await story.#publish(generation);
    } catch (error) {
      await story.end();
      throw error;
    }
    return story;
  }

  async #publish(generation: number): Promise<void> {
    await mkdir(this.#stagingPath);
    const common = {
      volumeId: this.#volumeId,
      publishContext: { generation: String(generation), uri: 'nbd+unix:///x' },
      stagingTargetPath: this.#stagingPath,
      volumeCapability: capability,
      secrets: {},
      volumeContext: {},
    };
    await this.#node.nodeStageVolume(common, callContext);
    const targetPath = this.#targetPath;
    await this.#node.nodePublishVolume({ ...common, targetPath, readonly: false }, callContext);
    await writeFile(join(targetPath, 'file'), 'data', { flush: true });
  }

  /** A process with an open file, whose folder the kernel has in memory. */
  openFile(): void {
    const file = join(this.#targetPath, 'file');
    this.#use('tail', ['--follow', '--lines=0', file]);
  }

  /** A process that writes without a pause. Returns its pid. */
  keepWriting(): number {
    const to = `of=${join(this.#targetPath, 'written')}`;
    const args = ['if=/dev/zero', to, 'bs=4096', 'oflag=sync', 'count=1000000', 'status=none'];
    return this.#use('dd', args).pid ?? 0;
  }

  #use(program: string, args: string[]): ChildProcess {
    const child = this.#harness.sandbox.spawn(program, args);
    this.#users.push(child);
    return child;
  }

  async expectState(state: string): Promise<void> {
    await eventually(`the device is ${state}`, noticedMs, async () => {
      return (await this.#attacher.getDevice(this.#volumeId)).state === state;
    });
  }

  async write(name: string, text: string): Promise<void> {
    await writeFile(join(this.#targetPath, name), text);
  }

  /** What the volumedriver has of a file. */
  async readImage(name: string): Promise<string> {
    const limit = { timeoutMs: 10_000 };
    const args = ['-R', `cat /${name}`, this.server.dataPath];
    return (await runCommand('debugfs', args, limit)).stdout;
  }

  async unpublish(): Promise<void> {
    const request = { volumeId: this.#volumeId, targetPath: this.#targetPath };
    await this.#node.nodeUnpublishVolume(request, callContext);
  }

  async unstage(): Promise<void> {
    const request = { volumeId: this.#volumeId, stagingTargetPath: this.#stagingPath };
    await this.#node.nodeUnstageVolume(request, callContext);
  }

  /** Users of a device that works end first, as kubelet sees to it. */
  async expectToLeave(): Promise<void> {
    const { state } = await this.#attacher.getDevice(this.#volumeId);
    if (state === 'attached') this.#killUsers();
    const startMs = performance.now();
    await this.unpublish();
    await this.unstage();
    expect(performance.now() - startMs).toBeLessThan(boundMs);
    expect(await this.#attacher.listDevices()).toEqual([]);
    // What hung has met an error: a signal ends it now, and with it goes the last of the device.
    this.#killUsers();
    await eventually('nothing is left', boundMs, async () => {
      return (await this.#harness.leftovers()).length === 0;
    });
  }

  #killUsers(): void {
    for (const user of this.#users) user.kill('SIGKILL');
  }

  /** Whatever happened; what a failed story leaves besides is the sandbox's to remove. */
  async end(): Promise<void> {
    this.#killUsers();
    await this.#attacher.close();
    await this.server.kill();
  }
}

/** The process waits for I/O that does not end. */
async function hangs(pid: number): Promise<void> {
  await eventually('the writer hangs', boundMs, async () => {
    const look = async (): Promise<string | undefined> =>
      parseStat(await readFile(`/proc/${pid}/stat`, 'utf8'))?.state;
    if ((await look()) !== 'D') return false;
    await new Promise((resolve) => setTimeout(resolve, 200));
    return (await look()) === 'D';
  });
}
