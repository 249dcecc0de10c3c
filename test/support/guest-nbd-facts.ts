/**
 * Run by hand in a guest (uml.ts): tries what the kernel strategy relies on against the guest's own NBD client, with
 * nbdkit as the server, and reports what it sees. The first argument is a JSON list of the names of facts.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import {
  closeSync,
  openSync,
  readdirSync,
  readFileSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { systemClock } from '../../src/base/clock.ts';
import {
  closeDescriptor,
  isSocketDead,
  setSendTimeout,
  shutdownSocket,
  socketInode,
} from '../../src/base/ffi-sockets.ts';
import { createLogger } from '../../src/base/logger.ts';
import { openLink } from '../../src/attacher/kernel/links.ts';
import { readNbdDevice, setIoTimeout } from '../../src/attacher/kernel/nbd-devices.ts';
import { openNbdNetlink, type NbdControl } from '../../src/attacher/kernel/nbd-netlink.ts';
import { loadModule } from './guest-modules.ts';
import { report } from './uml.ts';

const MiB = 1024 * 1024;
const image = '/run/facts.img';
const socketPath = '/run/facts.sock';
const uri = `nbd+unix:///vol?socket=${socketPath}`;
const identifier = 'facts/1/vol#7';
const clock = systemClock;
const wait = { clock, timeoutMs: 5000 };
const started = clock.monotonicMs();

function tell(fact: string, value: unknown): void {
  report({ at: Math.round(clock.monotonicMs() - started), fact, value });
}

async function timed<T>(work: Promise<T>): Promise<{ ms: number; value: T | string }> {
  const from = clock.monotonicMs();
  const value = await work.catch((error: unknown) => String(error));
  return { ms: Math.round(clock.monotonicMs() - from), value };
}

let server: ChildProcess | undefined;

async function startServer(): Promise<void> {
  const args = ['-f', '-U', socketPath, '--threads', '4', 'file', image];
  await run('rm', ['-f', socketPath]);
  server = spawn('nbdkit', args, { stdio: 'inherit' });
  for (let attempt = 0; attempt < 200; attempt++) {
    const opened = await openLink(uri, { clock, timeoutMs: 1000 }).catch(() => null);
    if (opened !== null) {
      opened.link.close();
      return;
    }
    await clock.sleep(20);
  }
  throw new Error('nbdkit does not start');
}

async function killServer(): Promise<void> {
  const child = server;
  if (child === undefined) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await ended;
}

async function run(
  command: string,
  args: string[],
): Promise<{ code: number | null; text: string }> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, text: text.trim().slice(-300) };
}

const readOne = (index: number, block: number): ReturnType<typeof run> =>
  run('dd', [
    `if=/dev/nbd${index}`,
    'of=/dev/null',
    'bs=4k',
    'count=1',
    'iflag=direct',
    `skip=${block}`,
  ]);
const writeMany = (index: number, mebibytes: number): ReturnType<typeof run> =>
  run('dd', ['if=/dev/zero', `of=/dev/nbd${index}`, 'bs=1M', `count=${mebibytes}`, 'oflag=direct']);

async function dmesg(): Promise<string[]> {
  const { text } = await run('sh', ['-c', 'dmesg -c | tail -c 4000']);
  return text.split('\n');
}

const listed = (inode: string | null): boolean =>
  readFileSync('/proc/net/unix', 'utf8')
    .split('\n')
    .some((line) => line.split(/ +/).includes(inode ?? ''));

async function look(nbd: NbdControl, index: number): Promise<unknown> {
  const device = await readNbdDevice(index);
  const bound = await nbd.isBound(index, identifier).catch(String);
  const status = (await nbd.status()).find((each) => each.index === index);
  return { ...device, bound, status: status?.connected };
}

interface Connected {
  index: number;
  fd: number;
  inode: string;
}

async function connect(
  nbd: NbdControl,
  options: { dead?: number; index?: number; send?: number } = {},
): Promise<Connected> {
  const { link, agreement } = await openLink(uri, wait);
  if (options.send !== undefined) setSendTimeout(link.fd, options.send);
  const index = await nbd.connect({
    index: options.index ?? null,
    sizeBytes: agreement.sizeBytes,
    blockSizeBytes: 512,
    serverFlags: agreement.transmissionFlags,
    sockets: [link.fd],
    deadTimeoutSeconds: options.dead ?? 3600,
    identifier,
  });
  return { index, fd: link.fd, inode: link.inode };
}

async function reconnect(nbd: NbdControl, index: number): Promise<{ fd: number; inode: string }> {
  const { link } = await openLink(uri, wait);
  await nbd.reconfigure({ index, identifier, sockets: [link.fd] });
  return { fd: link.fd, inode: link.inode };
}

const dead: string[] = [];

const facts: Record<string, (nbd: NbdControl) => Promise<void>> = {
  async basics(nbd) {
    const made = await connect(nbd);
    const tasks = readdirSync('/proc/self/task').map(Number);
    const device = await readNbdDevice(made.index);
    tell('connected', { hasIdentifiers: nbd.hasIdentifiers, made, device, me: process.pid, tasks });
    tell('look', await look(nbd, made.index));
    tell('isBound, wrong identifier', await nbd.isBound(made.index, 'facts/1/vol#8'));
    tell('isBound, no identifier', await nbd.isBound(made.index, null));
    tell('isBound, unused index', await nbd.isBound(3, identifier));
    tell('isBound, no such index', await nbd.isBound(77, identifier));
    tell(
      'reconfigure, wrong identifier',
      await timed(nbd.reconfigure({ index: made.index, identifier: 'x' })),
    );
    const { link } = await openLink(uri, wait);
    tell(
      'reconfigure with a live socket',
      await timed(nbd.reconfigure({ index: made.index, identifier, sockets: [link.fd] })),
    );
    const inode = socketInode(link.fd);
    closeDescriptor(link.fd);
    tell('is the new socket held, the old one', [listed(inode), listed(made.inode)]);
    closeDescriptor(made.fd);
    tell('held after our close', listed(made.inode));
    tell('explicit index in use', await timed(connect(nbd, { index: made.index })));
    tell('explicit new index', await timed(connect(nbd, { index: 9 }).then((each) => each.index)));
    tell('status', await nbd.status());
    tell('disconnect new', await timed(nbd.disconnect(9)));
    tell('read', await timed(readOne(made.index, 1)));
    truncateSync(image, 96 * MiB);
    tell(
      'grow',
      await timed(
        nbd.reconfigure({
          index: made.index,
          identifier,
          size: { sizeBytes: 96 * MiB, blockSizeBytes: 512 },
        }),
      ),
    );
    tell('grown', await readNbdDevice(made.index));
    tell('disconnect', await timed(nbd.disconnect(made.index)));
    tell('look after', await look(nbd, made.index));
    tell('held after disconnect', listed(made.inode));
    tell('disconnect again', await timed(nbd.disconnect(made.index)));
    tell('disconnect no such index', await timed(nbd.disconnect(77)));
    truncateSync(image, 64 * MiB);
  },
  async inflight(nbd) {
    for (const timeoutMs of [2000, 0]) {
      const made = await connect(nbd);
      if (timeoutMs > 0) await setIoTimeout(made.index, timeoutMs);
      const path = `/sys/block/nbd${made.index}/queue/io_timeout`;
      tell('io_timeout', readFileSync(path, 'utf8').trim());
      server?.kill('SIGSTOP');
      const read = timed(readOne(made.index, 2));
      await clock.sleep(500);
      dead.length = 0;
      const killedAt = clock.monotonicMs();
      await killServer();
      while (dead.length === 0 && clock.monotonicMs() < killedAt + 3000) await clock.sleep(10);
      tell('LINK_DEAD after kill', {
        ms: Math.round(clock.monotonicMs() - killedAt),
        dead: [...dead],
      });
      tell('our descriptor is dead', isSocketDead(made.fd));
      const queued = timed(readOne(made.index, 3));
      await clock.sleep(5000);
      await startServer();
      tell('bound while dead', await look(nbd, made.index));
      const from = clock.monotonicMs();
      const fresh = await reconnect(nbd, made.index);
      tell('reconfigured', { ms: Math.round(clock.monotonicMs() - from) });
      void queued.then((value) => {
        tell('queued read', { after: Math.round(clock.monotonicMs() - from), value });
      });
      const value = await read;
      tell('in-flight read', { after: Math.round(clock.monotonicMs() - from), value });
      closeDescriptor(made.fd);
      tell('old held, new held', [listed(made.inode), listed(fresh.inode)]);
      await nbd.disconnect(made.index);
      closeDescriptor(fresh.fd);
      tell('dmesg', await dmesg());
    }
    const made = await connect(nbd);
    tell(
      'io_timeout after a new CONNECT',
      readFileSync(`/sys/block/nbd${made.index}/queue/io_timeout`, 'utf8').trim(),
    );
    await nbd.disconnect(made.index);
    closeDescriptor(made.fd);
  },
  async held(nbd) {
    const made = await connect(nbd);
    const fd = openSync(`/dev/nbd${made.index}`, 'r');
    await run('true', []);
    tell('disconnect while held', await timed(nbd.disconnect(made.index)));
    tell('look while held', await look(nbd, made.index));
    tell('read while held', await timed(readOne(made.index, 1)));
    tell('look after the read', await look(nbd, made.index));
    const other = await connect(nbd);
    tell('index of another connect', other.index);
    await nbd.disconnect(other.index);
    tell('explicit connect while held', await timed(connect(nbd, { index: made.index })));
    const revived = await timed(reconnect(nbd, made.index));
    tell('reconfigure while held', { revived, look: await look(nbd, made.index) });
    tell('read after it', await timed(readOne(made.index, 1)));
    tell('disconnect again', await timed(nbd.disconnect(made.index)));
    tell('look again', await look(nbd, made.index));
    tell('socket held by the kernel before close', listed(made.inode));
    closeSync(fd);
    tell('look after close', await look(nbd, made.index));
    const only = openSync(`/dev/nbd${made.index}`, 'r');
    tell('open an unused device', await look(nbd, made.index));
    const next = await connect(nbd);
    tell('index of a connect with that one open', next.index);
    closeSync(only);
    await nbd.disconnect(next.index);
    tell('dmesg', await dmesg());
  },
  async deadTimeout(nbd) {
    const made = await connect(nbd, { dead: 3 });
    await setIoTimeout(made.index, 2000);
    server?.kill('SIGSTOP');
    const inflight = timed(readOne(made.index, 2));
    await clock.sleep(300);
    await killServer();
    await clock.sleep(300);
    tell('queued read, DEAD_CONN_TIMEOUT 3', await timed(readOne(made.index, 3)));
    tell('next read', await timed(readOne(made.index, 4)));
    tell('look', await look(nbd, made.index));
    await startServer();
    const from = clock.monotonicMs();
    tell('reconfigure after the expiry', await timed(reconnect(nbd, made.index)));
    tell('in-flight read', {
      after: Math.round(clock.monotonicMs() - from),
      value: await inflight,
    });
    tell('read', await timed(readOne(made.index, 5)));
    await nbd.disconnect(made.index);
    tell('dmesg', await dmesg());
  },
  async failInflight(nbd) {
    const made = await connect(nbd);
    await setIoTimeout(made.index, 2000);
    server?.kill('SIGSTOP');
    const inflight = timed(readOne(made.index, 2));
    await clock.sleep(300);
    await killServer();
    const queued = timed(readOne(made.index, 3));
    await clock.sleep(1000);
    const fd = openSync(`/dev/nbd${made.index}`, 'r');
    const from = clock.monotonicMs();
    tell('disconnect with I/O in flight', await timed(nbd.disconnect(made.index)));
    const value = [await inflight, await queued];
    tell('the reads', { after: Math.round(clock.monotonicMs() - from), value });
    tell('a later read', await timed(readOne(made.index, 4)));
    tell(
      'a later read-only open',
      await timed(run('blockdev', ['--getsize64', `/dev/nbd${made.index}`])),
    );
    closeSync(fd);
    await startServer();
  },
  async several(nbd) {
    const open = async (): Promise<{ fd: number; inode: string }[]> => {
      const opened = [await openLink(uri, wait), await openLink(uri, wait)];
      return opened.map(({ link }) => ({ fd: link.fd, inode: link.inode }));
    };
    const links = await open();
    const request = {
      ...{ index: null, sizeBytes: 64 * MiB, blockSizeBytes: 512, deadTimeoutSeconds: 60 },
      ...{ sockets: links.map(({ fd }) => fd), identifier },
    };
    const hasFlags = 1;
    const multiConnection = 1 << 8;
    const single = nbd.connect({ ...request, serverFlags: hasFlags });
    tell('two sockets without CAN_MULTI_CONN', await timed(single));
    const index = await nbd.connect({ ...request, serverFlags: hasFlags | multiConnection });
    await killServer();
    await startServer();
    const read = timed(readOne(index, 1));
    const fresh = await open();
    await nbd.reconfigure({ index, identifier, sockets: fresh.map(({ fd }) => fd) });
    tell('read after two new sockets', await read);
    for (const { fd } of [...links, ...fresh]) closeDescriptor(fd);
    const held = [...links, ...fresh].map(({ inode }) => listed(inode));
    tell('old ones held, new ones held', held);
    tell('LINK_DEAD', [...dead]);
    tell('disconnect', await timed(nbd.disconnect(index)));
    tell('dmesg', await dmesg());
  },
  async sendTimeout(nbd) {
    const made = await connect(nbd, { send: 5 });
    server?.kill('SIGSTOP');
    dead.length = 0;
    const from = clock.monotonicMs();
    const write = timed(writeMany(made.index, 16));
    while (dead.length === 0 && clock.monotonicMs() < from + 12_000) await clock.sleep(50);
    tell('LINK_DEAD with a stopped server and SO_SNDTIMEO 5', {
      ms: Math.round(clock.monotonicMs() - from),
      dead: [...dead],
      ours: isSocketDead(made.fd),
    });
    server?.kill('SIGCONT');
    await clock.sleep(500);
    await setIoTimeout(made.index, 2000);
    tell('reconfigure', await timed(reconnect(nbd, made.index)));
    tell('the write', await write);
    await nbd.disconnect(made.index);
    tell('dmesg', await dmesg());
  },
  async stopped(nbd) {
    for (const how of ['shutdown', 'send timeout 5 s']) {
      const made = await connect(nbd, { send: how === 'shutdown' ? 0 : 5 });
      server?.kill('SIGSTOP');
      const write = timed(writeMany(made.index, 16));
      await clock.sleep(1500);
      const from = clock.monotonicMs();
      if (how === 'shutdown') tell('shutdown', shutdownSocket(made.fd));
      const disconnect = timed(nbd.disconnect(made.index));
      await clock.sleep(100);
      const status = await timed(nbd.status());
      tell(`disconnect of a stopped server, ${how}`, {
        disconnect: await disconnect,
        status: status.ms,
      });
      tell('the write', { after: Math.round(clock.monotonicMs() - from), value: await write });
      server?.kill('SIGCONT');
      closeDescriptor(made.fd);
      await clock.sleep(200);
      tell('dmesg', await dmesg());
    }
    // Only reads in flight: nothing holds the lock of the socket.
    const made = await connect(nbd, { send: 0 });
    server?.kill('SIGSTOP');
    const read = timed(readOne(made.index, 1));
    await clock.sleep(300);
    tell('disconnect of a stopped server, reading', await timed(nbd.disconnect(made.index)));
    tell('the read', await read);
    server?.kill('SIGCONT');
  },
};

loadModule('drivers/block/nbd.ko', 'nbds_max=4 max_part=0');
writeFileSync(image, '');
truncateSync(image, 64 * MiB);
await startServer();
const nbd = await openNbdNetlink({ clock, logger: createLogger('debug', {}), timeoutMs: 20_000 });
nbd.onLinkDead((index) => dead.push(`${index}`));
tell('kernel', readFileSync('/proc/version', 'utf8').slice(0, 40));
await dmesg();
for (const name of JSON.parse(process.argv[2] ?? '[]') as string[]) {
  await facts[name]?.(nbd).catch((error: unknown) => {
    tell(`${name} FAILED`, String(error));
  });
}
nbd.close();
await killServer();
report({ done: true });
