/**
 * The socket calls that Node does not offer: sockets by their descriptors, which the kernel's NBD client is given, and
 * netlink. In the manner of ffi.ts: results are counts, descriptors, 0 or negative errnos, and nothing throws for an
 * operating error. The numbers are those of Linux on x86_64 and arm64; elsewhere everything answers ENOSYS.
 *
 * A descriptor belongs to the caller until closeDescriptor(); Node knows nothing of it.
 */
import { fstatSync } from 'node:fs';
import koffi from 'koffi';
import { addressOf, symbol, type AsyncCall, type IntegerCall } from './ffi.ts';

const families = { UNIX: 1, NETLINK: 16 };
const socketTypes = { STREAM: 1, RAW: 3, NONBLOCK: 0o4000, CLOEXEC: 0o2_000_000 };
const genericNetlink = 16;
const optionLevels = { SOCKET: 1, NETLINK: 270 };
const socketOptions = { RCVBUF: 8, SNDTIMEO: 21 };
const netlinkAddMembership = 1;
const receiveFlags = { PEEK: 0x02, TRUNC: 0x20, DONTWAIT: 0x40 };
const shutdownBoth = 2;
const fcntlDuplicate = 1030;
const unixPathBytes = 108;

/** The errnos that these calls answer with and that callers tell apart, as Linux numbers them. */
export const socketErrno = {
  EINTR: 4,
  EIO: 5,
  EAGAIN: 11,
  EINVAL: 22,
  ENAMETOOLONG: 36,
  ENOSYS: 38,
  ENOBUFS: 105,
  ECONNREFUSED: 111,
} as const;

const isSupported =
  process.platform === 'linux' && (process.arch === 'x64' || process.arch === 'arm64');

const socketCall = socketSymbol('socket', 'int', ['int', 'int', 'int']);
const connectCall = socketSymbol('connect', 'int', ['int', 'uint64_t', 'uint32_t']);
const bindCall = socketSymbol('bind', 'int', ['int', 'uint64_t', 'uint32_t']);
const fcntlCall = socketSymbol('fcntl', 'int', ['int', 'int', 'int']);
const closeCall = socketSymbol('close', 'int', ['int']);
const shutdownCall = socketSymbol('shutdown', 'int', ['int', 'int']);
const setsockoptCall = socketSymbol('setsockopt', 'int', [
  'int',
  'int',
  'int',
  'uint64_t',
  'uint32_t',
]);
const receiveCall = socketSymbol('recv', 'int64_t', ['int', 'uint64_t', 'uint64_t', 'int']);
const sendCall = socketSymbol('send', 'int64_t', ['int', 'uint64_t', 'uint64_t', 'int']);

/** Undefined, too, where the numbers above are others. */
function socketSymbol(name: string, result: string, args: string[]): AsyncCall | undefined {
  return isSupported ? symbol(name, result, args) : undefined;
}

/** Arguments in memory, for calls that do not outlive the function that makes them. Off the JS heap: it never moves. */
const scratch = Buffer.from(new ArrayBuffer(128));
const scratchAddress = addressOf(scratch.buffer);

function call(native: IntegerCall | undefined, ...args: number[]): number {
  if (native === undefined) return -socketErrno.ENOSYS;
  const result = native(...args);
  return result >= 0 ? result : -koffi.errno();
}

/** socket(2): a stream socket of unix(7), without a peer, that never blocks. */
export function openUnixSocket(): number {
  const type = socketTypes.STREAM | socketTypes.CLOEXEC | socketTypes.NONBLOCK;
  return call(socketCall, families.UNIX, type, 0);
}

/** connect(2): 0 or a negative errno, EAGAIN when the server's backlog is full, ENAMETOOLONG beyond 107 bytes. */
export function connectUnix(fd: number, path: string): number {
  const bytes = Buffer.from(path);
  if (bytes.length === 0 || bytes.includes(0)) return -socketErrno.EINVAL;
  if (bytes.length >= unixPathBytes) return -socketErrno.ENAMETOOLONG;
  scratch.fill(0).writeUInt16LE(families.UNIX);
  bytes.copy(scratch, 2);
  return call(connectCall, fd, scratchAddress, 2 + bytes.length + 1);
}

/** fcntl(2) F_DUPFD_CLOEXEC: another descriptor of the same open file. */
export function duplicate(fd: number): number {
  return call(fcntlCall, fd, fcntlDuplicate, 0);
}

/** close(2). The descriptor is gone whatever the answer is. */
export function closeDescriptor(fd: number): number {
  return call(closeCall, fd);
}

/** shutdown(2) SHUT_RDWR: ends the connection for everybody who has it, whichever descriptor they use. */
export function shutdownSocket(fd: number): number {
  return call(shutdownCall, fd, shutdownBoth);
}

/** setsockopt(2) SO_SNDTIMEO: how long a blocking send may wait, also one of the kernel's own; 0 is for ever. */
export function setSendTimeout(fd: number, seconds: number): number {
  scratch.fill(0).writeBigInt64LE(BigInt(seconds));
  return setOption(fd, optionLevels.SOCKET, socketOptions.SNDTIMEO, 16);
}

/**
 * Whether the peer is gone (recv(2) of one byte with MSG_PEEK and MSG_DONTWAIT). Takes nothing from the stream: the
 * kernel may be reading from the same socket. True also for what is no open socket.
 */
export function isSocketDead(fd: number): boolean {
  const flags = receiveFlags.PEEK | receiveFlags.DONTWAIT;
  const count = call(receiveCall, fd, scratchAddress, 1, flags);
  return count <= 0 && count !== -socketErrno.EAGAIN && count !== -socketErrno.EINTR;
}

/** The inode number as /proc/net/unix shows it; null when the descriptor is not open. */
export function socketInode(fd: number): string | null {
  try {
    return fstatSync(fd, { bigint: true }).ino.toString();
  } catch {
    return null;
  }
}

/** A socket of generic netlink (netlink(7)) with an address of its own, that never blocks for reading. */
export function openNetlink(): number {
  const type = socketTypes.RAW | socketTypes.CLOEXEC | socketTypes.NONBLOCK;
  const fd = call(socketCall, families.NETLINK, type, genericNetlink);
  if (fd < 0) return fd;
  scratch.fill(0).writeUInt16LE(families.NETLINK);
  const bound = call(bindCall, fd, scratchAddress, 12);
  if (bound === 0) return fd;
  closeDescriptor(fd);
  return bound;
}

/** setsockopt(2) NETLINK_ADD_MEMBERSHIP: messages to the multicast group arrive at this socket from now on. */
export function addMembership(fd: number, group: number): number {
  scratch.writeUInt32LE(group);
  return setOption(fd, optionLevels.NETLINK, netlinkAddMembership, 4);
}

/** setsockopt(2) SO_RCVBUF; the kernel doubles the value and limits it. */
export function setReceiveBuffer(fd: number, bytes: number): number {
  scratch.writeUInt32LE(bytes);
  return setOption(fd, optionLevels.SOCKET, socketOptions.RCVBUF, 4);
}

function setOption(fd: number, level: number, option: number, bytes: number): number {
  return call(setsockoptCall, fd, level, option, scratchAddress, bytes);
}

/**
 * send(2) to the kernel on another thread, because a netlink command does its work, and waits for it, inside of the
 * call. Resolves to the bytes sent or to -EIO: the errno of that thread cannot be read (the kernel reports what became
 * of a command by a message, not by this result). `bytes` are copied; nothing ends the call early.
 */
export function sendNetlink(fd: number, bytes: Uint8Array): Promise<number> {
  if (sendCall === undefined) return Promise.resolve(-socketErrno.ENOSYS);
  const copy = Buffer.from(new ArrayBuffer(bytes.length));
  copy.set(bytes);
  return new Promise((resolve) => {
    sendCall.async(fd, addressOf(copy.buffer), copy.length, 0, (error, result) => {
      // Using `copy` here keeps its memory until the call is over.
      resolve(error === null && result === copy.length ? result : -socketErrno.EIO);
    });
  });
}

/**
 * recv(2) with MSG_DONTWAIT of one datagram: its length, which is more than that of `buffer` when it did not fit, or a
 * negative errno: EAGAIN (nothing there), ENOBUFS (messages were lost). `buffer` must not be on the JS heap: make it
 * with Buffer.allocUnsafeSlow().
 */
export function receiveNonBlocking(fd: number, buffer: Uint8Array): number {
  const flags = receiveFlags.DONTWAIT | receiveFlags.TRUNC;
  const address = addressOf(buffer.buffer) + buffer.byteOffset;
  return call(receiveCall, fd, address, buffer.length, flags);
}
