/** Against real sockets of this kernel; what needs the NBD client is tested with the kernel strategy. */
import { closeSync, fstatSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import {
  addMembership,
  closeDescriptor,
  connectUnix,
  duplicate,
  isSocketDead,
  openNetlink,
  openUnixSocket,
  receiveNonBlocking,
  sendNetlink,
  setReceiveBuffer,
  setSendTimeout,
  shutdownSocket,
  socketErrno,
  socketInode,
} from './ffi-sockets.ts';

const EBADF = 9;
const ENOENT = 2;
const notOpen = 1_000_000;

let folder: string;
let path: string;
let server: Server;
let accepted: Promise<Socket>;
const descriptors: number[] = [];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'sockets-'));
  path = join(folder, 'socket');
  server = createServer();
  accepted = new Promise((resolve) => server.once('connection', resolve));
  await new Promise<void>((resolve) => server.listen(path, resolve));
});

afterEach(async () => {
  for (const fd of descriptors.splice(0)) closeDescriptor(fd);
  (await Promise.race([accepted, Promise.resolve(undefined)]))?.destroy();
  await new Promise((resolve) => server.close(resolve));
  rmSync(folder, { recursive: true });
});

function kept(fd: number): number {
  expect(fd).toBeGreaterThan(2);
  descriptors.push(fd);
  return fd;
}

test('connects, and tells a live peer from a dead one', async () => {
  const fd = kept(openUnixSocket());
  expect(connectUnix(fd, path)).toBe(0);
  const peer = await accepted;
  expect(isSocketDead(fd)).toBe(false);
  await new Promise((resolve) => peer.write('x', resolve));
  expect(isSocketDead(fd)).toBe(false);
  const buffer = Buffer.allocUnsafeSlow(8);
  // The byte is still there, and a longer datagram than the buffer would be told by its length.
  expect(receiveNonBlocking(fd, buffer)).toBe(1);
  expect(buffer.toString('latin1', 0, 1)).toBe('x');
  expect(receiveNonBlocking(fd, buffer)).toBe(-socketErrno.EAGAIN);
  const closed = new Promise((resolve) => peer.once('close', resolve));
  peer.destroy();
  await closed;
  expect(isSocketDead(fd)).toBe(true);
});

test('refuses paths that cannot be', () => {
  const fd = kept(openUnixSocket());
  expect(connectUnix(fd, '')).toBe(-socketErrno.EINVAL);
  expect(connectUnix(fd, `${path}\0x`)).toBe(-socketErrno.EINVAL);
  expect(connectUnix(fd, '/'.padEnd(108, 'x'))).toBe(-socketErrno.ENAMETOOLONG);
  expect(connectUnix(fd, '/'.padEnd(107, 'x'))).toBe(-ENOENT);
  expect(connectUnix(fd, join(folder, 'other'))).toBe(-ENOENT);
});

test('ends the connection of every descriptor of a socket', async () => {
  const fd = kept(openUnixSocket());
  expect(connectUnix(fd, path)).toBe(0);
  const other = kept(duplicate(fd));
  expect(socketInode(other)).toBe(socketInode(fd));
  const peer = await accepted;
  const ended = new Promise((resolve) => peer.once('end', resolve).resume());
  expect(setSendTimeout(fd, 60)).toBe(0);
  expect(shutdownSocket(other)).toBe(0);
  await ended;
  expect(isSocketDead(fd)).toBe(true);
});

test('shows the inode of /proc/net/unix', () => {
  const fd = kept(openUnixSocket());
  const inode = socketInode(fd);
  expect(inode).toBe(fstatSync(fd, { bigint: true }).ino.toString());
  const lines = readFileSync('/proc/net/unix', 'utf8').split('\n');
  expect(lines.map((line) => line.trim().split(/ +/)[6])).toContain(inode);
});

test('answers errnos for descriptors that are not open', async () => {
  expect(connectUnix(notOpen, path)).toBe(-EBADF);
  expect(duplicate(notOpen)).toBe(-EBADF);
  expect(closeDescriptor(notOpen)).toBe(-EBADF);
  expect(shutdownSocket(notOpen)).toBe(-EBADF);
  expect(setSendTimeout(notOpen, 1)).toBe(-EBADF);
  expect(addMembership(notOpen, 1)).toBe(-EBADF);
  expect(isSocketDead(notOpen)).toBe(true);
  expect(socketInode(notOpen)).toBeNull();
  expect(receiveNonBlocking(notOpen, Buffer.allocUnsafeSlow(8))).toBe(-EBADF);
  await expect(sendNetlink(notOpen, Buffer.from('x'))).resolves.toBe(-socketErrno.EIO);
});

test('opens descriptors that other programs do not inherit', () => {
  const unix = kept(openUnixSocket());
  const closeOnExec = 0o2_000_000;
  for (const fd of [unix, kept(duplicate(unix)), kept(openNetlink())]) {
    const text = readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8');
    const flags = Number.parseInt(/^flags:\s*(\d+)/m.exec(text)?.[1] ?? '', 8);
    expect(flags & closeOnExec).toBe(closeOnExec);
  }
});

test('closes', () => {
  const fd = openUnixSocket();
  expect(closeDescriptor(fd)).toBe(0);
  expect(() => {
    closeSync(fd);
  }).toThrow('EBADF');
});

test('asks generic netlink for its controller', async () => {
  const fd = kept(openNetlink());
  expect(setReceiveBuffer(fd, 128 * 1024)).toBe(0);
  // CTRL_CMD_GETFAMILY by the controller's own id (16), with an acknowledgement; the sequence number is 7.
  const request = '1c000000100005000700000000000000' + '03010000' + '0600010010000000';
  await expect(sendNetlink(fd, Buffer.from(request, 'hex'))).resolves.toBe(28);
  const buffer = Buffer.allocUnsafeSlow(8192);
  const length = receiveNonBlocking(fd, buffer);
  expect(length).toBeGreaterThan(28);
  expect(buffer.readUInt32LE(8)).toBe(7);
  expect(buffer.subarray(0, length).includes('nlctrl')).toBe(true);
  expect(receiveNonBlocking(fd, Buffer.allocUnsafeSlow(8))).toBe(36);
  expect(receiveNonBlocking(fd, buffer)).toBe(-socketErrno.EAGAIN);
});
