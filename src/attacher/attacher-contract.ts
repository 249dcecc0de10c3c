/**
 * What every strategy must do, on real devices with a real NBD server. Needs root, blockdev, dd, mkfs.ext4,
 * mkfs.xfs, mount and fstrim; the harness brings the server, the attacher and the end of everything.
 */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { DeviceService } from '../volumes/device-service.ts';
import { dataContract } from './attacher-data-contract.ts';
import { healingContract } from './attacher-healing-contract.ts';
import {
  ContractWorld,
  expectBlocks,
  run,
  sizeBytes,
  writeBlocks,
} from './attacher-world-contract.ts';

export type ServerRequest = 'Write' | 'Flush' | 'Trim' | 'Zero';

/** An NBD server over data that outlives it. Any export name opens the same data. */
export interface ContractServer {
  uri(exportName: string): string;
  /** Serves; with `only`, every other export is refused. */
  start(only?: string): Promise<void>;
  /** Ends it as kill -9 does. */
  kill(): Promise<void>;
  /** Neither answers nor closes connections. */
  pause(): void;
  resume(): void;
  /** New connections see the new size. */
  setSizeBytes(sizeBytes: number): Promise<void>;
  /** How many requests of a kind arrived since it was created. */
  count(request: ServerRequest): Promise<number>;
}

export interface Attacher extends DeviceService {
  start(): Promise<void>;
  close(): Promise<void>;
}

export interface AttacherSettings {
  /** How long I/O waits for a lost server before it fails; an hour unless given. */
  readonly reconnectDelaySeconds?: number;
}

export interface ContractHarness {
  /** For the test's own files; everything in it is removed at the end. */
  readonly folder: string;
  /** A new process's worth of attacher over the same state directory, not started. */
  newAttacher(settings?: AttacherSettings): Attacher;
  /** A server with its own data, not started. */
  newServer(name: string, sizeBytes: number): Promise<ContractServer>;
  /** The same, but its open connections follow setSizeBytes too, as the volumedriver's do. Neither pauses nor counts. */
  newGrowingServer(name: string, sizeBytes: number): Promise<ContractServer>;
  /** What of all devices ever made still exists; empty when none is attached. */
  leftovers(): Promise<string[]>;
  close(): Promise<void>;
}

/** What strategies and machines differ in. */
export interface ContractTraits {
  /** Filesystems that can grow here while they are mounted: ext4 asks for CAP_SYS_RESOURCE. */
  readonly growing: readonly ('ext4' | 'xfs')[];
  /** Zeroing reaches the server as such, and not as zeroes to be written. */
  readonly passesZeroing: boolean;
  /** For how long a server stalls under a writer. */
  readonly stallMs: number;
}

export function attacherContract(
  name: string,
  openHarness: () => Promise<ContractHarness>,
  traits: ContractTraits,
): void {
  describe(`attacher contract: ${name}`, () => {
    const world = new ContractWorld();
    beforeAll(async () => {
      await world.open(await openHarness());
    });
    afterAll(async () => {
      await world.close();
    });
    requestContract(world);
    dataContract(world, traits);
    healingContract(world, traits);
  });
}

/** What the requests answer, whatever the devices carry. */
function requestContract(world: ContractWorld): void {
  test('shows the export as a block device, once', async () => {
    await world.withDevice('once', async (device, server) => {
      const { path } = device;
      const uri = server.uri('once#1');
      expect(device).toMatchObject({ volumeId: 'once', sizeBytes, readOnly: false, uri });
      expect(device).toMatchObject({ state: 'attached', reason: '' });
      expect(await run('blockdev', ['--getsize64', '--getss', '--getro', path])).toBe(
        `${sizeBytes}\n512\n0\n`,
      );
      expect(await world.attacher.attach({ volumeId: 'once', uri, readOnly: false })).toEqual(
        device,
      );
      expect(await world.attacher.getDevice('once')).toEqual(device);
      expect(await world.attacher.listDevices()).toEqual([device]);
      const other = { volumeId: 'once', uri: server.uri('once#2'), readOnly: false };
      await expect(world.attacher.attach(other)).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
      const otherMode = { volumeId: 'once', uri, readOnly: true };
      await expect(world.attacher.attach(otherMode)).rejects.toMatchObject({
        code: 'ALREADY_EXISTS',
      });
      expect(await world.attacher.getDevice('once')).toEqual(device);
    });
    await world.attacher.detach('once');
    await expect(world.attacher.getDevice('once')).rejects.toMatchObject({
      code: 'PATH_NOT_FOUND',
    });
    await expect(world.attacher.resize('once', sizeBytes)).rejects.toMatchObject({
      code: 'PATH_NOT_FOUND',
    });
    expect(await world.attacher.listDevices()).toEqual([]);
  });

  test('fails cleanly when there is nothing to attach', async () => {
    const server = await world.harness.newServer('nothing', sizeBytes);
    const request = { volumeId: 'nothing', uri: server.uri('nothing#1'), readOnly: false };
    await expect(world.attacher.attach(request)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await server.start('another');
    await expect(world.attacher.attach(request)).rejects.toMatchObject({
      code: 'VOLUME_NOT_FOUND',
    });
    await server.kill();
    const bad = { ...request, uri: 'http://example.com/' };
    await expect(world.attacher.attach(bad)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(await world.attacher.listDevices()).toEqual([]);
    expect(await world.harness.leftovers()).toEqual([]);
  });

  test('lets one operation at a time work on a volume', async () => {
    const server = await world.harness.newServer('pending', sizeBytes);
    await server.start();
    const request = { volumeId: 'pending', uri: server.uri('pending#1'), readOnly: false };
    const first = world.attacher.attach(request);
    await expect(world.attacher.attach(request)).rejects.toMatchObject({
      code: 'OPERATION_PENDING',
    });
    await expect(world.attacher.detach('pending')).rejects.toMatchObject({
      code: 'OPERATION_PENDING',
    });
    expect(await world.attacher.listDevices()).toEqual([]);
    await first;
    await world.attacher.detach('pending');
    await server.kill();
  });

  test('attaches and detaches many volumes side by side', async () => {
    const server = await world.harness.newServer('many', sizeBytes);
    await server.start();
    const ids = ['a', 'b', 'c', 'd', 'e', 'f'].map((letter) => `many-${letter}`);
    const devices = await Promise.all(
      ids.map((volumeId) =>
        world.attacher.attach({ volumeId, uri: server.uri(volumeId), readOnly: true }),
      ),
    );
    expect(new Set(devices.map(({ path }) => path)).size).toBe(ids.length);
    const listed = await world.attacher.listDevices();
    expect(new Set(listed.map(({ volumeId }) => volumeId))).toEqual(new Set(ids));
    await Promise.all(ids.map((volumeId) => world.attacher.detach(volumeId)));
    expect(await world.harness.leftovers()).toEqual([]);
    await server.kill();
  });

  test('writes what is dirty before it detaches', async () => {
    const server = await world.harness.newServer('dirty', sizeBytes);
    await server.start();
    const request = { volumeId: 'dirty', uri: server.uri('dirty#1'), readOnly: false };
    const { path } = await world.attacher.attach(request);
    await writeBlocks(path, 0, 64, 'dirty');
    const flushes = await server.count('Flush');
    await world.attacher.detach('dirty');
    expect(await server.count('Flush')).toBeGreaterThan(flushes);
    const again = await world.attacher.attach(request);
    await expectBlocks(again.path, 0, 64, 'dirty');
    await world.attacher.detach('dirty');
    await server.kill();
  });
}
