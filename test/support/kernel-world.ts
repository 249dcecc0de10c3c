/**
 * A node for tests of the kernel strategy: a model of the kernel, an NBD server that can go and come back, and
 * processes that can die between any two steps of their work.
 */
import { readdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  KernelStrategy,
  type KernelStrategyOptions,
} from '../../src/attacher/kernel/kernel-strategy.ts';
import type { NbdMachine } from '../../src/attacher/kernel/nbd-machine.ts';
import type { NbdControl } from '../../src/attacher/kernel/netlink/nbd-netlink.ts';
import { volumeKey } from '../../src/attacher/records.ts';
import type { Details, Target, TargetExport } from '../../src/attacher/strategy.ts';
import { systemClock } from '../../src/base/clock.ts';
import { silentLogger } from '../../src/base/logger.ts';
import { NbdServer } from '../../src/nbd/server.ts';
import { formatNbdUri } from '../../src/nbd/uri.ts';
import type { RunCommand } from '../../src/volumes/command.ts';
import { MemoryExports, MemoryStorage } from './memory-device.ts';
import { NbdKernelModel } from './nbd-kernel-model.ts';

export const identity = { driverName: 'csi.example.com', instanceId: 'a'.repeat(32) };

export class ProcessDied extends Error {
  override readonly name = 'ProcessDied';
}

/** One life of the attacher. After `stepsLeft` steps that others can see, it does nothing any more. */
export class Life {
  readonly strategy: KernelStrategy;
  /** As the record has it. */
  details: Details | null;
  steps = 0;
  readonly #stepsLeft: number;

  constructor(
    world: KernelWorld,
    options: Partial<KernelStrategyOptions> & { details?: Details | null; stepsLeft?: number },
  ) {
    const { details = null, stepsLeft = Number.POSITIVE_INFINITY, ...rest } = options;
    this.details = details;
    this.#stepsLeft = stepsLeft;
    const { model } = world;
    this.strategy = new KernelStrategy({
      ...{ clock: systemClock, logger: silentLogger, runCommand: this.#step(world.runCommand) },
      timeouts: { probeMs: 500, connectMs: 500, flushMs: 1000, deviceMs: 500, recheckMs: 60_000 },
      machine: this.#steps(model.machine, ['setIoTimeout']),
      openControl: () => {
        const control = model.control({ hasIdentifiers: world.hasIdentifiers });
        return Promise.resolve(
          this.#steps<NbdControl>(control, ['connect', 'reconfigure', 'disconnect']),
        );
      },
      ...rest,
    });
  }

  readonly save = this.#step((details: Details): Promise<void> => {
    this.details = details;
    return Promise.resolve();
  });

  /** Neither does what comes after its end, nor hears the answer of what came last. */
  #step<A extends unknown[], R>(work: (...args: A) => Promise<R>): (...args: A) => Promise<R> {
    return async (...args) => {
      if (this.steps >= this.#stepsLeft) throw new ProcessDied();
      this.steps += 1;
      const result = await work(...args);
      if (this.steps >= this.#stepsLeft) throw new ProcessDied();
      return result;
    };
  }

  #steps<T extends NbdControl | NbdMachine>(target: T, names: (keyof T)[]): T {
    const wrapped = { ...target };
    for (const name of names) {
      const method = target[name];
      if (typeof method === 'function')
        Object.assign(wrapped, { [name]: this.#step(method as () => Promise<unknown>) });
    }
    return wrapped;
  }
}

export class KernelWorld {
  readonly model = new NbdKernelModel();
  readonly exports = new MemoryExports();
  readonly hasIdentifiers: boolean;
  /** Commands that were run. */
  readonly commands: string[] = [];
  /** What a command waits for. */
  beforeCommand: () => Promise<void> = () => Promise.resolve();
  readonly #folder: string;
  readonly #lives: Life[] = [];
  #server: NbdServer | null = null;

  readonly runCommand: RunCommand = async (command, args) => {
    this.commands.push([command, ...args].join(' '));
    await this.beforeCommand();
    return { stdout: '', stderr: '', exitCode: 0 };
  };

  private constructor(folder: string, hasIdentifiers: boolean) {
    this.#folder = folder;
    this.hasIdentifiers = hasIdentifiers;
  }

  static async open(options: { hasIdentifiers?: boolean } = {}): Promise<KernelWorld> {
    const folder = await mkdtemp(join(tmpdir(), 'kernel-'));
    const world = new KernelWorld(folder, options.hasIdentifiers ?? true);
    await world.startServer();
    return world;
  }

  async close(): Promise<void> {
    for (const life of this.#lives) await life.strategy.close();
    this.model.close();
    await this.stopServer();
    await rm(this.#folder, { recursive: true, force: true });
  }

  async startServer(): Promise<void> {
    this.#server = new NbdServer({ exports: this.exports, logger: silentLogger });
    await this.#server.listen({ kind: 'unix', path: this.#socketPath });
  }

  async stopServer(): Promise<void> {
    await this.#server?.close({ graceMs: 0, drainMs: 0 });
    this.#server = null;
  }

  async restartServer(): Promise<void> {
    await this.stopServer();
    await this.startServer();
  }

  get clients(): number {
    return this.#server?.clientCount ?? 0;
  }

  /** A volume that the server has, and its place on this node. */
  volume(
    volumeId: string,
    options: { sizeBytes?: number; readOnly?: boolean } = {},
  ): Target & { export: TargetExport } {
    const { sizeBytes = 1024 * 1024, readOnly = false } = options;
    this.exports.add(`${volumeId}#1`, new MemoryStorage(sizeBytes));
    const address = { kind: 'unix', path: this.#socketPath } as const;
    const uri = formatNbdUri({ address, exportName: `${volumeId}#1` });
    return { key: volumeKey(volumeId), export: { volumeId, uri, readOnly } };
  }

  /** A new process, started. */
  async live(
    options: Partial<KernelStrategyOptions> & { details?: Details | null; stepsLeft?: number } = {},
  ): Promise<Life> {
    const life = new Life(this, options);
    this.#lives.push(life);
    await life.strategy.start(identity);
    return life;
  }

  get #socketPath(): string {
    return join(this.#folder, 'nbd.sock');
  }
}

/** How many sockets this process has: those of the model and of the server are among them. */
export function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}
