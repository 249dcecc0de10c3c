/**
 * A user-mode-linux guest: a kernel of its own in an ordinary process group, with every capability, whose root is the
 * host's filesystem, read-only. It runs one of our programs in Node, which reports by lines on the console. Killing the
 * group is a power cut: what the guest's kernel had not written to its disk (an image file) is lost, and nothing else.
 * hostfs carries no unix sockets: those, and temporary files, live in the guest's own /run.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const root = resolve(import.meta.dirname, '../..');
/** What a program in a guest starts its reports with. */
export const mark = '@@';
/** Where the guest mounts its disk, an image with ext4. */
export const guestDiskPath = '/run/disk';

export interface UmlOptions {
  /** On the host, where the guest keeps its few files. */
  readonly folder: string;
  /** Relative to the repository. */
  readonly program: string;
  /** Given to the program as JSON. */
  readonly input: unknown;
  readonly onReport: (report: unknown) => void;
  readonly image?: string;
  readonly memoryMiB?: number;
  /** Added to the program's environment. */
  readonly environment?: Readonly<Record<string, string>>;
}

export class UmlGuest {
  /** Resolves when the last process of the guest is gone. */
  readonly ended: Promise<void>;
  readonly #child: ChildProcess;
  #output = '';

  constructor(options: UmlOptions) {
    const { folder, image } = options;
    const init = join(folder, 'init');
    mkdirSync(join(folder, 'uml'), { recursive: true });
    writeFileSync(init, initScript(options), { mode: 0o700 });
    const args = [
      ...[`mem=${options.memoryMiB ?? 640}M`, 'root=/dev/root', 'rootfstype=hostfs', 'rootflags=/'],
      ...['ro', 'quiet', `init=${init}`, 'con0=null,fd:1', 'con=null', 'ssl=null'],
      ...[`uml_dir=${join(folder, 'uml')}/`, ...(image === undefined ? [] : [`ubd0=${image}`])],
    ];
    // A group of its own, with which its many processes end. The memory of the guest is an (unlinked) file in TMPDIR.
    const env = { ...process.env, TMPDIR: '/dev/shm', HOME: folder };
    this.#child = spawn('linux.uml', args, {
      detached: true,
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let line = '';
    const onText = (text: string): void => {
      this.#output = (this.#output + text).slice(-20_000);
      const lines = (line + text).split('\n');
      line = lines.pop() ?? '';
      for (const each of lines) {
        const at = each.indexOf(mark);
        if (at >= 0) options.onReport(JSON.parse(each.slice(at + mark.length)));
      }
    };
    this.#child.stdout?.setEncoding('utf8').on('data', onText);
    this.#child.stderr?.setEncoding('utf8').on('data', onText);
    this.ended = new Promise((done) => {
      this.#child.on('error', (error) => {
        onText(`linux.uml: ${error.message}\n`);
      });
      this.#child.on('close', () => {
        done();
      });
    });
  }

  /** What the console showed, the end of it. */
  output(): string {
    return this.#output;
  }

  /** Cuts the power. Can be repeated. */
  async kill(): Promise<void> {
    const { pid, exitCode, signalCode } = this.#child;
    if (pid !== undefined && exitCode === null && signalCode === null) {
      try {
        process.kill(-pid, 'SIGKILL');
      } catch {
        // It ended by itself.
      }
    }
    await this.ended;
  }
}

function initScript({ program, input, image, environment = {} }: UmlOptions): string {
  const node = `"$(${join(root, 'bin/find-node')})"`;
  const text = quoted(JSON.stringify(input));
  const exports = Object.entries(environment).map(([name, value]) => `${name}=${quoted(value)}`);
  return `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/run HOME=/run NODE_OPTIONS=--no-warnings
mount -t proc proc /proc
# User-mode Linux 6.12 maps the rings of io_uring wrongly, and Node uses them where they are.
[ ! -e /proc/sys/kernel/io_uring_disabled ] || echo 2 > /proc/sys/kernel/io_uring_disabled
mount -t sysfs sys /sys
mount -t tmpfs -o size=400m run /run
${image === undefined ? '' : `mkdir ${guestDiskPath} && mount -t ext4 /dev/ubda ${guestDiskPath}`}
cd ${root} && ${['env', ...exports].join(' ')} ${node} ${program} ${text} || echo '${mark}{"failed":true}'
sync
# The kernel would panic if its first process ended.
while :; do sleep 1000; done
`;
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

/** In the guest: tells the test something. */
export function report(value: unknown): void {
  process.stdout.write(`${mark}${JSON.stringify(value)}\n`);
}
