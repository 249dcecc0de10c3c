/** The guest as a machine: it takes commands, tells how they end, keeps its disk, and goes without a trace. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { copyFile, mkdtemp, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCommand } from '../../../src/base/command.ts';
import { findProcesses } from '../../../src/base/processes.ts';
import { describeRequires } from '../../support/requires.ts';
import { UmlMachine } from './uml-machine.ts';
import { addUmlNetwork, umlNetwork } from './uml-network.ts';

/** Against hanging: on a busy machine a guest is several times slower. */
const limitMs = 180_000;
const shell = (text: string): string[] => ['sh', '-c', text];

describeRequires(
  ['root', 'linux', 'tool:linux.uml', 'tool:mkfs.ext4', 'path:/dev/net/tun'],
  'the user-mode-linux node as a machine',
  () => {
    let folder = '';
    /** It keeps a network namespace. */
    let holder: ChildProcess | undefined;
    let machine: UmlMachine | undefined;
    const run = async (command: readonly string[], ms = limitMs): Promise<string> => {
      if (machine === undefined) throw new Error('there is no machine');
      return await machine.run(command, ms);
    };

    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), 'uml-machine-'));
      holder = spawn('unshare', ['--net', 'sh', '-c', 'echo; exec sleep 600'], {
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      if (holder.stdout !== null) await once(holder.stdout, 'data');
      const enterNetwork = ['nsenter', `--net=/proc/${holder.pid ?? 0}/ns/net`, '--'];
      await addUmlNetwork(enterNetwork);
      const disk = join(folder, 'disk');
      await writeFile(disk, '');
      await truncate(disk, 64 * 1024 * 1024);
      await runCommand('mkfs.ext4', ['-q', '-F', disk], { timeoutMs: limitMs });
      const init = join(folder, 'uml-guest.sh');
      await copyFile(join(import.meta.dirname, 'uml-guest.sh'), init);
      const { tapDevice, address, gateway } = umlNetwork;
      machine = new UmlMachine({
        ...{ folder, logDirectory: folder, init, memoryMiB: 512, tapDevice, enterNetwork },
        disk: { base: disk, changes: join(folder, 'changes') },
        environment: {
          ...{ NODE_NAME: 'guest', NODE_FOLDER: folder },
          ...{ NODE_ADDRESS: address, NODE_GATEWAY: gateway },
        },
      });
      await machine.boot();
    }, limitMs);

    afterAll(async () => {
      await machine?.kill();
      holder?.kill('SIGKILL');
      await rm(folder, { recursive: true, force: true });
    }, limitMs);

    test(
      'tells what commands print, and how they end',
      async () => {
        await expect(run(['printf', '%s|', `it's`, 'a "b"', '$c\n'])).resolves.toBe(
          `it's|a "b"|$c\n|`,
        );
        await expect(run(shell('echo some; echo because >&2; exit 7'))).rejects.toThrow(
          /exit code 7: because/,
        );
        await expect(run(['no-such-program'])).rejects.toThrow(/exit code 127/);
        await expect(run(shell('head -c 5000000 /dev/zero'))).rejects.toThrow(/more than 4194304/);
        const many = Array.from({ length: 8 }, (_, i) => run(['echo', String(i)]));
        expect((await Promise.all(many)).join('')).toBe('0\n1\n2\n3\n4\n5\n6\n7\n');
      },
      limitMs,
    );

    test(
      'ends what takes too long',
      async () => {
        await expect(run(shell('sleep 4321 & wait'), 700)).rejects.toThrow(/not within 0.7 s/);
        await expect(run(shell('sleep 1; ! pgrep -f "[s]leep 4321"'))).resolves.toBe('');
      },
      limitMs,
    );

    test(
      'is a node with a kernel, a network and an NBD client of its own',
      async () => {
        await expect(run(['cat', '/proc/sys/kernel/hostname'])).resolves.toBe('guest\n');
        await expect(run(shell('cut -d: -f1 /proc/self/cgroup'))).resolves.toBe('0\n');
        await run(['busybox', 'ping', '-c', '1', '-W', '10', umlNetwork.gateway]);
        await run(
          shell('test -d /sys/module/nbd && test -d /sys/module/fuse && test -c /dev/fuse'),
        );
      },
      limitMs,
    );

    test(
      'cannot write into the file system of the host',
      async () => {
        await expect(run(['touch', '/etc/written-by-guest'])).rejects.toThrow(/Read-only/);
        await run(shell('touch /var/lib/a /var/log/b /run/c /tmp/d /dev/shm/e'));
      },
      limitMs,
    );

    test(
      'keeps its disk, and fails commands that a loss of power cuts off',
      async () => {
        await run(shell('echo kept >/var/lib/kept && sync /var/lib/kept'));
        const cut = run(['sleep', '600']);
        const [told] = await Promise.all([
          cut.then(
            () => 'done',
            (error: unknown) => String(error),
          ),
          machine?.kill(),
        ]);
        expect(told).toMatch(/the guest ended/);
        await expect(run(['true'])).rejects.toThrow(/switched off/);
        expect(machine?.running).toBe(false);
        await machine?.boot();
        await expect(run(['cat', '/var/lib/kept'])).resolves.toBe('kept\n');
        await machine?.powerOff(['busybox', 'poweroff', '-f']);
        expect(machine?.running).toBe(false);
        const isOurs = (args: readonly string[]): boolean =>
          args.some((arg) => arg.includes(folder));
        expect(await findProcesses('linux.uml', isOurs)).toEqual([]);
        expect(await readdir(folder)).toContain('console.log');
      },
      limitMs,
    );
  },
);
