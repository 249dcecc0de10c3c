import { connect } from 'node:net';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect } from '@jest/globals';
import { testRequires } from '../../support/requires.ts';
import { until } from '../support/waiting.ts';
import { apiServer, nodeBridge } from './addresses.ts';
import { Daemon } from './commands.ts';
import { Sandbox } from './sandbox.ts';

let sandbox: Sandbox | undefined;

afterEach(async () => {
  await sandbox?.close(() => undefined);
  sandbox = undefined;
});

/** What a connection answers to a line, or why there is none. */
async function talk(socketPath: string): Promise<string> {
  return await new Promise((resolve) => {
    let heard = '';
    const socket = connect(socketPath, () => socket.end('hello\n'));
    socket.setTimeout(5000, () => socket.destroy());
    socket.setEncoding('utf8').on('data', (text: string) => (heard += text));
    socket.on('error', ({ message }) => {
      heard += message;
    });
    socket.on('close', () => resolve(heard));
  });
}

testRequires(
  ['root', 'linux', 'path:/usr/sbin/ip', 'path:/sys/fs/cgroup'],
  'the way to the API server outlives the API server',
  async () => {
    sandbox = await Sandbox.open();
    const { folder, enterWithMachineFiles } = sandbox;
    const kubeconfig = join(folder, 'kubeconfig');
    const config = {
      clusters: [{ name: 'c', cluster: { server: apiServer } }],
      users: [{ name: 'u', user: {} }],
      contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
      'current-context': 'x',
    };
    await writeFile(kubeconfig, JSON.stringify(config));
    const socketPath = join(folder, 'api.sock');
    const daemon = (name: string, ...args: string[]): Daemon =>
      new Daemon(name, [...enterWithMachineFiles, process.execPath, ...args], folder);
    const program = join(import.meta.dirname, 'service-forwarder.ts');
    daemon('forwarder', '--no-warnings', program, kubeconfig, nodeBridge, socketPath).start();
    await until('it refuses', async () => ((await talk(socketPath)) === '' ? true : undefined));

    // The forwarder follows Services as well, and is cross with an API server that repeats what it says.
    const echo = `require('node:net').createServer({ allowHalfOpen: true }, (socket) =>
      socket.on('error', () => socket.destroy()).pipe(socket)).listen(443, '0.0.0.0')`;
    const server = daemon('echo', '-e', echo);
    for (let lives = 0; lives < 2; lives++) {
      server.start();
      const answers = async (): Promise<true | undefined> =>
        (await talk(socketPath)) === 'hello\n' ? true : undefined;
      await until('it answers', answers, { limitMs: 20_000 });
      await server.stop();
      // Refused, or cut off while it wrote: both are no answer.
      expect(await talk(socketPath)).toMatch(/^(write EPIPE|read ECONNRESET)?$/);
    }
  },
  60_000,
);
