/**
 * The harness of the attacher's contract for the kernel strategy, in a guest: short limits, nbdkit as server. Whatever
 * it attaches is told from the devices of others by the driver name that it makes up.
 */
import { randomUUID } from 'node:crypto';
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { AttacherSettings, ContractHarness } from '../../src/attacher/attacher-contract.ts';
import { AttacherService } from '../../src/attacher/attacher-service.ts';
import {
  KernelStrategy,
  type KernelStrategyOptions,
} from '../../src/attacher/kernel/kernel-strategy.ts';
import { openNbdNetlink, type NbdControl } from '../../src/attacher/kernel/netlink/nbd-netlink.ts';
import { systemClock } from '../../src/base/clock.ts';
import { silentLogger, type Logger } from '../../src/base/logger.ts';
import { runCommand } from '../../src/volumes/command.ts';
import { AttachSandbox } from './attach-cleanup.ts';
import { MemoryServer } from './attach-memory-server.ts';
import { NbdkitServer } from './attach-nbdkit.ts';

export interface KernelAttacherSettings extends AttacherSettings {
  readonly logger?: Logger;
  readonly bootId?: string;
  /** Another one's devices are not its own. */
  readonly stateDirectory?: string;
  /** How long a detach tries to write what is dirty. */
  readonly flushMs?: number;
}

export interface KernelHarness extends ContractHarness {
  readonly sandbox: AttachSandbox;
  readonly stateDirectory: string;
  readonly driverName: string;
  newAttacher(settings?: KernelAttacherSettings): AttacherService;
  newServer(name: string, sizeBytes: number, threads?: number): Promise<NbdkitServer>;
}

type StrategySettings = Pick<KernelStrategyOptions, 'identifiers' | 'connections'>;

export async function openKernelHarness(strategy: StrategySettings = {}): Promise<KernelHarness> {
  const sandbox = await AttachSandbox.open();
  const stateDirectory = join(sandbox.path, 'state');
  const driverName = `test-${randomUUID()}`;
  const isOurs = ({ backend }: BoundDevice): boolean =>
    strategy.identifiers === false ? backend === '' : backend.startsWith(`${driverName}/`);
  return {
    sandbox,
    stateDirectory,
    driverName,
    folder: sandbox.path,
    newAttacher(settings = {}) {
      const { logger = silentLogger, reconnectDelaySeconds = 3600 } = settings;
      const common = { clock: systemClock, logger, reconnectDelaySeconds };
      const boot = settings.bootId === undefined ? {} : { bootId: settings.bootId };
      return new AttacherService({
        ...{ ...common, ...boot, driverName },
        stateDirectory: settings.stateDirectory ?? stateDirectory,
        strategies: [
          new KernelStrategy({
            ...{ ...common, ...strategy, runCommand },
            timeouts: { probeMs: 1000, flushMs: settings.flushMs ?? 2000 },
          }),
        ],
      });
    },
    async newServer(name, sizeBytes, threads = 4) {
      const server = new NbdkitServer(sandbox, name, { threads });
      await server.create(sizeBytes);
      return server;
    },
    newGrowingServer: (name, sizeBytes) =>
      Promise.resolve(new MemoryServer(sandbox, name, sizeBytes)),
    async leftovers() {
      const bound = (await boundDevices()).filter(isOurs);
      const devices = bound.map(({ name, backend }) => `device ${name} ${backend}`);
      return [...(await sandbox.leftovers()), ...devices];
    },
    async close() {
      await sandbox.close();
    },
  };
}

/** Orders to the kernel that no attacher gives. */
export async function withNbdControl<T>(body: (control: NbdControl) => Promise<T>): Promise<T> {
  const control = await openNbdNetlink({ clock: systemClock, logger: silentLogger });
  try {
    return await body(control);
  } finally {
    control.close();
  }
}

export interface BoundDevice {
  /** Such as nbd3. */
  readonly name: string;
  /** Its identifier; empty without one. */
  readonly backend: string;
}

/** The NBD devices that the kernel has connections for. */
export async function boundDevices(): Promise<BoundDevice[]> {
  const found: BoundDevice[] = [];
  for (const name of await readdir('/sys/block')) {
    if (!/^nbd\d+$/.test(name) || (await readSys(name, 'pid')) === undefined) continue;
    found.push({ name, backend: (await readSys(name, 'backend')) ?? '' });
  }
  return found;
}

async function readSys(device: string, file: string): Promise<string | undefined> {
  try {
    return (await readFile(`/sys/block/${device}/${file}`, 'utf8')).trim();
  } catch {
    return undefined;
  }
}
