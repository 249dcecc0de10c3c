/**
 * A node service over real mounts: MemoryVolumeService for volumes and grants, LoopDeviceService for devices, and
 * one temporary folder that holds state, staging and target paths. dispose() leaves nothing behind, whatever failed.
 */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  VolumeCapability_AccessMode_Mode,
  type NodePublishVolumeRequest,
  type NodeStageVolumeRequest,
  type VolumeCapability,
} from '../../src/api/generated/csi.ts';
import { silentLogger } from '../../src/base/logger.ts';
import type { CallContext } from '../../src/csi/handlers.ts';
import { createNodeService } from '../../src/node/node-service.ts';
import { parseMountinfo } from '../../src/node/mountinfo.ts';
import { runCommand, type RunCommand } from '../../src/volumes/command.ts';
import type { Volume, VolumeSource } from '../../src/volumes/volume.ts';
import { LoopDeviceService } from './loop-device-service.ts';
import { MemoryVolumeService } from './memory-volume-service.ts';

export const mebibyte = 1024 * 1024;
export const callContext: CallContext = { signal: new AbortController().signal };
const nodeId = 'node-1';

export type ModeName = Exclude<
  keyof typeof VolumeCapability_AccessMode_Mode,
  'UNKNOWN' | 'UNRECOGNIZED'
>;

export function mountCapability(
  options: { fsType?: string; mode?: ModeName; mountFlags?: string[] } = {},
): VolumeCapability {
  const { fsType = '', mode = 'SINGLE_NODE_MULTI_WRITER', mountFlags = [] } = options;
  return {
    accessMode: { mode: VolumeCapability_AccessMode_Mode[mode] },
    accessType: { $case: 'mount', value: { fsType, mountFlags, volumeMountGroup: '' } },
  };
}

export function blockCapability(mode: ModeName = 'SINGLE_NODE_MULTI_WRITER'): VolumeCapability {
  return {
    accessMode: { mode: VolumeCapability_AccessMode_Mode[mode] },
    accessType: { $case: 'block', value: {} },
  };
}

export interface RanCommand {
  readonly command: string;
  readonly args: readonly string[];
}

/** A volume that is granted to the node, with the paths that a kubelet would use. */
export interface GrantedVolume {
  readonly id: string;
  generation: number;
  readonly stagingPath: string;
  readonly targetPath: string;
}

export class NodeFixture {
  readonly directory: string;
  readonly volumes = new MemoryVolumeService({ nodeId });
  readonly devices: LoopDeviceService;
  /** Every command of the node service, in order. */
  readonly commands: RanCommand[] = [];
  /** Called before each command of the node service; may reject in its place. */
  beforeCommand: (command: string, args: readonly string[]) => Promise<void> = () =>
    Promise.resolve();
  node: ReturnType<typeof createNodeService>;

  private constructor(directory: string) {
    this.directory = directory;
    this.devices = new LoopDeviceService(join(directory, 'devices'), this.volumes);
    this.node = this.#startNode();
  }

  static async create(): Promise<NodeFixture> {
    return new NodeFixture(await mkdtemp(join(tmpdir(), 'node-service-')));
  }

  /** As if the node role died and came back: only what is on disk and mounted is left. */
  restart(): void {
    this.node = this.#startNode();
  }

  #startNode(): ReturnType<typeof createNodeService> {
    const run: RunCommand = async (command, args, options) => {
      this.commands.push({ command, args });
      await this.beforeCommand(command, args);
      return await runCommand(command, args, options);
    };
    return createNodeService({
      driverName: 'csi.volumedriver.io',
      nodeId,
      stateDirectory: join(this.directory, 'state'),
      volumes: this.volumes,
      devices: this.devices,
      volumesMax: 128,
      logger: silentLogger,
      mountLimits: { mountMs: 20_000, unmountMs: 5_000, lookMs: 2_000 },
      drainLimits: { writeBackMs: 20_000, waitMs: 1_500, endMs: 1_000 },
      run,
    });
  }

  ran(command: string): RanCommand[] {
    return this.commands.filter((one) => one.command === command);
  }

  async volume(
    name: string,
    options: { sizeBytes?: number; readOnly?: boolean; source?: VolumeSource } = {},
  ): Promise<GrantedVolume> {
    const { sizeBytes = 64 * mebibyte, readOnly = false, source } = options;
    const { id } = await this.volumes.createVolume({
      name,
      sizeBytes,
      ...(source === undefined ? {} : { source }),
    });
    const generation = await this.volumes.grant(id, nodeId, { readOnly });
    const stagingPath = join(this.directory, 'staging', name);
    await mkdir(stagingPath, { recursive: true });
    await mkdir(join(this.directory, 'targets', name), { recursive: true });
    const targetPath = join(this.directory, 'targets', name, 'target');
    return { id, generation, stagingPath, targetPath };
  }

  /** Takes the grant and gives it again, as unpublishing and publishing at the controller does. */
  async regrant(volume: GrantedVolume, readOnly = false): Promise<void> {
    await this.volumes.revoke(volume.id, nodeId);
    volume.generation = await this.volumes.grant(volume.id, nodeId, { readOnly });
  }

  stageRequest(volume: GrantedVolume, capability: VolumeCapability): NodeStageVolumeRequest {
    return {
      volumeId: volume.id,
      publishContext: { generation: String(volume.generation), uri: 'nbd+unix:///x' },
      stagingTargetPath: volume.stagingPath,
      volumeCapability: capability,
      secrets: {},
      volumeContext: {},
    };
  }

  async stage(volume: GrantedVolume, capability: VolumeCapability): Promise<void> {
    await this.node.nodeStageVolume(this.stageRequest(volume, capability), callContext);
  }

  async publish(
    volume: GrantedVolume,
    capability: VolumeCapability,
    changes: Partial<NodePublishVolumeRequest> = {},
  ): Promise<void> {
    await this.node.nodePublishVolume(
      {
        volumeId: volume.id,
        publishContext: {},
        stagingTargetPath: volume.stagingPath,
        targetPath: volume.targetPath,
        volumeCapability: capability,
        readonly: false,
        secrets: {},
        volumeContext: {},
        ...changes,
      },
      callContext,
    );
  }

  async unpublish(volume: GrantedVolume, targetPath = volume.targetPath): Promise<void> {
    await this.node.nodeUnpublishVolume({ volumeId: volume.id, targetPath }, callContext);
  }

  async unstage(volume: GrantedVolume): Promise<void> {
    const { id: volumeId, stagingPath: stagingTargetPath } = volume;
    await this.node.nodeUnstageVolume({ volumeId, stagingTargetPath }, callContext);
  }

  async info(volume: GrantedVolume): Promise<Volume> {
    return await this.volumes.getVolume(volume.id);
  }

  async write(folder: string, text: string): Promise<void> {
    await writeFile(join(folder, 'data'), text);
  }

  async read(folder: string): Promise<string> {
    return await readFile(join(folder, 'data'), 'utf8');
  }

  /** What is mounted below the fixture's folder. */
  async mountPoints(): Promise<string[]> {
    const entries = parseMountinfo(await readFile('/proc/self/mountinfo', 'utf8'));
    return entries
      .map((entry) => entry.mountPoint)
      .filter((path) => path.startsWith(`${this.directory}/`));
  }

  async dispose(): Promise<void> {
    for (const path of (await this.mountPoints()).reverse()) {
      await runCommand('umount', ['--lazy', path], { timeoutMs: 10_000 });
    }
    await this.devices.dispose();
    await rm(this.directory, { recursive: true, force: true });
  }
}
