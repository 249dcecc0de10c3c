/**
 * The built product as real processes, with a data directory and a backend of its own: single roles that this file
 * supervises (started again at once when they die, so that a crash test need not wait for the pauses of the product's
 * own supervisor), or all of them under `volumedriver-csi all`. Everything lives in one AttachSandbox.
 */
import type { ChildProcess } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { appendFile, mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { AttacherClient } from '../../src/api/attacher-client.ts';
import { VolumedriverClient } from '../../src/api/volumedriver-client.ts';
import { systemClock } from '../../src/base/clock.ts';
import { findProcesses, type FoundProcess } from '../../src/base/processes.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { formatNbdUri } from '../../src/nbd/uri.ts';
import { AttachSandbox } from './attach-cleanup.ts';
import { CsiClient } from './real-csi.ts';

export const executable = resolve(import.meta.dirname, '../../bin/volumedriver-csi');
export const MiB = 1024 * 1024;
export const nodeId = 'node-1';
const startMs = 120_000;

export type Role = 'volumedriver' | 'attacher' | 'plugin' | 'all';

export interface RealDriverOptions {
  readonly roles: readonly Role[];
  readonly sandbox?: AttachSandbox;
  /** Both below the sandbox's folder unless given. */
  readonly dataDirectory?: string;
  readonly backendDirectory?: string;
  /** Added to the volumedriver's command line. */
  readonly volumedriverFlags?: readonly string[];
  /** Added to the attacher's: FUSE devices unless given, whatever this machine's kernel has. */
  readonly attacherFlags?: readonly string[];
}

export class RealDriver {
  readonly sandbox: AttachSandbox;
  readonly backendDirectory: string;
  readonly volumes: VolumedriverClient;
  readonly devices: AttacherClient;
  readonly csi: CsiClient;
  readonly #options: RealDriverOptions;
  readonly #run: string;
  readonly #dataDirectory: string;
  readonly #children = new Map<Role, ChildProcess>();
  /** What a role that must not come back yet waits for. */
  readonly #held = new Set<Role>();
  #closing = false;

  private constructor(options: RealDriverOptions, sandbox: AttachSandbox) {
    this.#options = options;
    this.sandbox = sandbox;
    this.#run = join(sandbox.path, 'run');
    this.#dataDirectory = options.dataDirectory ?? join(sandbox.path, 'state');
    this.backendDirectory = options.backendDirectory ?? join(sandbox.path, 'backend');
    this.volumes = new VolumedriverClient({ kind: 'unix', path: this.#socket('api') });
    this.devices = new AttacherClient({ kind: 'unix', path: this.#socket('attacher') });
    this.csi = new CsiClient(this.#socket('csi'), { nodeId, repeatMs: 30_000 });
  }

  static async open(options: RealDriverOptions): Promise<RealDriver> {
    const driver = new RealDriver(options, options.sandbox ?? (await AttachSandbox.open()));
    try {
      await mkdir(driver.#run, { mode: 0o700 });
      for (const role of options.roles) driver.#start(role);
      await driver.ready();
      return driver;
    } catch (error) {
      const log = driver.log();
      await driver.close();
      throw new Error(`the driver does not start: ${log}`, { cause: error });
    }
  }

  /** Every role answers. */
  async ready(): Promise<void> {
    await eventually('the volumedriver is ready', startMs, async () => {
      const info = await this.volumes.info().catch(() => undefined);
      return info?.ready === true;
    });
    await eventually('the sockets are there', startMs, () =>
      Promise.resolve(
        (this.#runs('attacher') ? existsSync(this.#socket('attacher')) : true) &&
          (this.#runs('plugin') ? existsSync(this.#socket('csi')) : true),
      ),
    );
  }

  /** kill -9, unless told otherwise; the role starts again at once, or when resume() is called if it is to `stay` away. */
  async kill(role: Role, options: { stay?: boolean; signal?: NodeJS.Signals } = {}): Promise<void> {
    if (options.stay === true) this.#held.add(role);
    const child = this.#children.get(role);
    if (child === undefined) throw new Error(`the role ${role} does not run`);
    const gone = new Promise((done) => child.once('exit', done));
    child.kill(options.signal ?? 'SIGKILL');
    await gone;
  }

  resume(role: Role): void {
    this.#held.delete(role);
    this.#start(role);
  }

  pid(role: Role): number {
    return this.#children.get(role)?.pid ?? 0;
  }

  /** The processes of roles that `all` supervises. */
  async processes(role: Role): Promise<FoundProcess[]> {
    const ours = (args: readonly string[]): boolean =>
      args[2] === role && args.some((arg) => arg.includes(this.sandbox.path));
    // Node names its first thread, and the kernel takes that for the name of the process.
    const found = await Promise.all(
      ['MainThread', 'node'].map((name) => findProcesses(name, (args) => ours(args))),
    );
    return found.flat();
  }

  uri(exportName: string): string {
    const address = { kind: 'unix', path: this.#socket('nbd') } as const;
    return formatNbdUri({ address, exportName });
  }

  async connect(exportName: string): Promise<NbdClient> {
    return await connectNbd(this.uri(exportName));
  }

  /** What all roles have printed so far, the end of it. */
  log(): string {
    const path = join(this.sandbox.path, 'log');
    return existsSync(path) ? readFileSync(path, 'utf8').slice(-4000) : '';
  }

  /** Ends the processes; the sandbox, too, unless the caller brought it. */
  async close(): Promise<void> {
    this.#closing = true;
    this.volumes.close();
    this.devices.close();
    this.csi.close();
    for (const role of this.#children.keys()) await this.kill(role, { stay: true });
    for (const role of ['volumedriver', 'attacher', 'plugin'] as const) {
      for (const { pid } of await this.processes(role)) process.kill(pid, 'SIGKILL');
    }
    if (this.#options.sandbox === undefined) await this.sandbox.close();
  }

  #runs(role: Role): boolean {
    return this.#options.roles.includes(role) || this.#options.roles.includes('all');
  }

  #start(role: Role): void {
    if (this.#closing || this.#held.has(role)) return;
    const args = [role, ...this.#arguments(role)];
    const log = (text: string): void => {
      void appendFile(join(this.sandbox.path, 'log'), text).catch(() => undefined);
    };
    const child = this.sandbox.spawn(executable, args, log);
    this.#children.set(role, child);
    child.once('exit', () => {
      this.#children.delete(role);
      this.#start(role);
    });
  }

  #socket(name: 'nbd' | 'api' | 'attacher' | 'csi'): string {
    const folder = this.#options.roles.includes('all')
      ? join(this.#dataDirectory, 'run')
      : this.#run;
    return join(name === 'csi' ? this.#run : folder, `${name}.sock`);
  }

  get #attacherFlags(): readonly string[] {
    return this.#options.attacherFlags ?? ['--strategy', 'fuse'];
  }

  #arguments(role: Role): string[] {
    const [nbd, api, attacher, csi] = (['nbd', 'api', 'attacher', 'csi'] as const).map(
      (name) => `unix:${this.#socket(name)}`,
    ) as [string, string, string, string];
    const storage = [
      '--data-dir',
      this.#dataDirectory,
      '--backend',
      `file:${this.backendDirectory}`,
    ];
    const flags = this.#options.volumedriverFlags ?? [];
    switch (role) {
      case 'all':
        return [...storage, '--csi', csi, '--node-id', nodeId, ...flags, ...this.#attacherFlags];
      case 'volumedriver':
        return [...storage, '--nbd', nbd, '--api', api, '--node-id', nodeId, ...flags];
      case 'attacher':
        return [
          ...['--listen', attacher, '--volumedriver', api],
          ...['--state-dir', join(this.sandbox.path, 'state', 'attacher')],
          ...this.#attacherFlags,
        ];
      case 'plugin':
        return [
          ...['--csi', csi, '--attacher', attacher, '--volumedriver', api, '--node-id', nodeId],
          ...['--known-nodes', nodeId, '--state-dir', join(this.sandbox.path, 'node')],
        ];
    }
  }
}

/** Asks until the answer is yes; an error at the limit. */
export async function eventually(
  what: string,
  limitMs: number,
  question: () => Promise<boolean>,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!(await question())) {
    if (performance.now() > deadline) throw new Error(`not after ${limitMs} ms: ${what}`);
    await systemClock.sleep(20);
  }
}

/** The kernel forgets every clean page: what is read next is asked of the devices. Needs root. */
export function dropCaches(): void {
  writeFileSync('/proc/sys/vm/drop_caches', '1');
}

/** A count that the environment may change, as in ROUNDS=100. */
export function countFrom(name: string, fallback: number): number {
  const count = Number(process.env[name] ?? fallback);
  if (Number.isSafeInteger(count) && count > 0) return count;
  throw new Error(`${name} is a number from 1 on`);
}

/** One line about what a test of many rounds did: jest shows its console only when it fails. */
export function tell(line: string): void {
  process.stdout.write(`     ${line}\n`);
}
