/** The harness of the attacher's contract for the fuse strategy: short limits, nbdkit as server. */
import { join } from 'node:path';
import type { AttacherSettings, ContractHarness } from '../../src/attacher/attacher-contract.ts';
import { AttacherService } from '../../src/attacher/attacher-service.ts';
import { FuseStrategy } from '../../src/attacher/fuse/fuse-strategy.ts';
import type { FuseTimeouts } from '../../src/attacher/fuse/fuse-details.ts';
import { systemClock } from '../../src/base/clock.ts';
import { silentLogger, type Logger } from '../../src/base/logger.ts';
import { runCommand } from '../../src/volumes/command.ts';
import { AttachSandbox } from './attach-cleanup.ts';
import { NbdkitServer } from './attach-nbdkit.ts';

const timeouts: Partial<FuseTimeouts> = {
  probeMs: 1000,
  flushMs: 2000,
  releaseMs: 2000,
  stopMs: 2000,
};

interface FuseAttacherSettings extends AttacherSettings {
  readonly logger?: Logger;
  readonly bootId?: string;
}

export interface FuseHarness extends ContractHarness {
  readonly sandbox: AttachSandbox;
  readonly stateDirectory: string;
  newAttacher(options?: FuseAttacherSettings): AttacherService;
  newServer(name: string, sizeBytes: number): Promise<NbdkitServer>;
}

export async function openFuseHarness(): Promise<FuseHarness> {
  const sandbox = await AttachSandbox.open();
  const stateDirectory = join(sandbox.path, 'state');
  const newServer = async (name: string, sizeBytes: number): Promise<NbdkitServer> => {
    const server = new NbdkitServer(sandbox, name);
    await server.create(sizeBytes);
    return server;
  };
  return {
    sandbox,
    stateDirectory,
    folder: sandbox.path,
    newAttacher(options = {}) {
      const { logger = silentLogger, reconnectDelaySeconds = 3600 } = options;
      const common = { stateDirectory, clock: systemClock, logger, reconnectDelaySeconds };
      const strategy = new FuseStrategy({ ...common, runCommand, timeouts });
      const boot = options.bootId === undefined ? {} : { bootId: options.bootId };
      return new AttacherService({
        ...common,
        ...boot,
        driverName: 'test',
        strategies: [strategy],
      });
    },
    newServer,
    // New connections see the new size, and each grow makes one.
    newGrowingServer: newServer,
    leftovers: () => sandbox.leftovers(),
    close: () => sandbox.close(),
  };
}
