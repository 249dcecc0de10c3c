/**
 * A DeviceService without an engine: every volume is a sparse file behind a loop device, so that node services
 * format, mount and grow for real (root only). It keeps an attacher's promises (one device per volume,
 * ALREADY_EXISTS for another export or mode) and can be told to be waiting or broken. A volume with a source
 * starts as a copy of the source's file as it is when the device is first attached, or of the snapshot that
 * saveSnapshot() kept.
 */
import { access, mkdir, rm, truncate, writeFile } from 'node:fs/promises';
import { constants } from 'node:fs';
import { join } from 'node:path';
import { runCommand } from '../../src/volumes/command.ts';
import type { Device, DeviceService, DeviceState } from '../../src/volumes/device-service.ts';
import { VolumeError } from '../../src/volumes/errors.ts';
import type { VolumeService } from '../../src/volumes/volume-service.ts';

const limit = { timeoutMs: 20_000 };

interface Attached {
  path: string;
  uri: string;
  readOnly: boolean;
  sizeBytes: number;
  state: DeviceState;
  reason: string;
}

export class LoopDeviceService implements DeviceService {
  readonly #directory: string;
  readonly #volumes: VolumeService;
  readonly #attached = new Map<string, Attached>();

  constructor(directory: string, volumes: VolumeService) {
    this.#directory = directory;
    this.#volumes = volumes;
  }

  async attach(request: { volumeId: string; uri: string; readOnly: boolean }): Promise<Device> {
    const { volumeId, uri, readOnly } = request;
    const present = this.#attached.get(volumeId);
    if (present !== undefined) {
      if (present.uri === uri && present.readOnly === readOnly) return describe(volumeId, present);
      throw new VolumeError('ALREADY_EXISTS', `attach ${volumeId}: it shows ${present.uri}`);
    }
    const { sizeBytes } = await this.#volumes.getVolume(volumeId);
    const file = await this.#file(volumeId);
    await truncate(file, sizeBytes);
    const args = ['--find', '--show', ...(readOnly ? ['--read-only'] : []), file];
    const { stdout } = await runCommand('losetup', args, limit);
    const attached: Attached = {
      path: stdout.trim(),
      uri,
      readOnly,
      sizeBytes,
      state: 'attached',
      reason: '',
    };
    this.#attached.set(volumeId, attached);
    return describe(volumeId, attached);
  }

  async detach(volumeId: string): Promise<void> {
    const present = this.#attached.get(volumeId);
    if (present === undefined) return;
    await runCommand('losetup', ['--detach', present.path], limit);
    this.#attached.delete(volumeId);
  }

  async resize(volumeId: string, sizeBytes: number): Promise<Device> {
    const present = this.#find(volumeId);
    await truncate(await this.#file(volumeId), sizeBytes);
    await runCommand('losetup', ['--set-capacity', present.path], limit);
    present.sizeBytes = sizeBytes;
    return describe(volumeId, present);
  }

  async getDevice(volumeId: string): Promise<Device> {
    return await Promise.resolve(describe(volumeId, this.#find(volumeId)));
  }

  listDevices(): Promise<Device[]> {
    const devices = [...this.#attached].map(([volumeId, present]) => describe(volumeId, present));
    return Promise.resolve(devices);
  }

  // ------------------------------------------------------------------------- what a test can make happen

  setState(volumeId: string, state: DeviceState, reason: string): void {
    Object.assign(this.#find(volumeId), { state, reason });
  }

  /** Keeps what the volume holds now as the content of the snapshot. */
  async saveSnapshot(volumeId: string, snapshotId: string): Promise<void> {
    await this.#copy(await this.#file(volumeId), this.#path(snapshotId));
  }

  async #file(volumeId: string): Promise<string> {
    const path = this.#path(volumeId);
    if (await exists(path)) return path;
    await mkdir(this.#directory, { recursive: true });
    const { source } = await this.#volumes.getVolume(volumeId);
    if (source === null) await writeFile(path, '');
    else {
      const origin = source.kind === 'snapshot' ? source.snapshotId : source.volumeId;
      if (await exists(this.#path(origin))) await this.#copy(this.#path(origin), path);
      else await writeFile(path, '');
    }
    return path;
  }

  /** Detaches everything and removes the files. */
  async dispose(): Promise<void> {
    for (const volumeId of [...this.#attached.keys()]) await this.detach(volumeId);
    await rm(this.#directory, { recursive: true, force: true });
  }

  #path(id: string): string {
    return join(this.#directory, `${encodeURIComponent(id)}.img`);
  }

  async #copy(from: string, to: string): Promise<void> {
    await runCommand('cp', ['--sparse=always', from, to], limit);
  }

  #find(volumeId: string): Attached {
    const present = this.#attached.get(volumeId);
    if (present !== undefined) return present;
    throw new VolumeError('PATH_NOT_FOUND', `device of ${volumeId}: it is not attached`);
  }
}

function describe(volumeId: string, attached: Attached): Device {
  return { volumeId, strategy: 'loop', ...attached };
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path, constants.F_OK);
    return true;
  } catch {
    return false;
  }
}
