/**
 * The system calls that Node does not offer, through koffi: preadv2(2) with RWF_NOWAIT, flock(2) and prctl(2). Symbols
 * are looked up in the C library that the process already runs on, so glibc and musl both work. Nothing here throws for
 * an operating error: results are counts or negative errnos, as the kernel itself gives them.
 *
 * A call allocates nothing that outlives it: the iovec is one static block of memory per thread, and the address of
 * a buffer's memory is looked up once per ArrayBuffer. That memory never moves while its ArrayBuffer lives, and a
 * detached one has views of length 0, so a remembered address is never written through by mistake.
 */
import koffi from 'koffi';
import { assert } from './assert.ts';

const rwfNoWait = 8;
const lockExclusiveNonBlocking = 2 | 4;

/** A function of the C library whose arguments and result are integers and addresses. */
export type IntegerCall = (...args: number[]) => number;
/** The same, also on another thread. */
export type AsyncCall = IntegerCall & {
  async: (...args: [...number[], (error: unknown, result: number) => void]) => void;
};

/** The errnos that callers tell apart; numbers differ between platforms, so koffi's own table gives them. */
export const errno = {
  EAGAIN: koffi.os.errno['EAGAIN'] ?? 11,
  ENOSYS: koffi.os.errno['ENOSYS'] ?? 38,
  EPERM: koffi.os.errno['EPERM'] ?? 1,
  EINVAL: koffi.os.errno['EINVAL'] ?? 22,
};

const preadv2 = symbol('preadv2', 'long', ['int', 'uint64_t', 'int', 'int64_t', 'int']);
const flock = symbol('flock', 'int', ['int', 'int']);
const prctl = symbol('prctl', 'int', ['int', 'long', 'long', 'long', 'long']);

// An ArrayBuffer of its own: a typed array this small made directly could be moved by the garbage collector.
const iovec = new Uint32Array(new ArrayBuffer(16));
const iovecAddress = Number(koffi.address(iovec));

const addresses = new WeakMap<ArrayBufferLike, number>();

/** A function of the C library; undefined in one that lacks it. */
export function symbol(name: string, result: string, args: string[]): AsyncCall | undefined {
  try {
    return koffi.load(null).func(name, result, args) as AsyncCall;
  } catch {
    return undefined; // a C library without it; the callers answer ENOSYS
  }
}

/** User-space addresses are below 2^57, and below 2^47 unless a process asks for more: exact as a number. */
export function addressOf(memory: ArrayBufferLike): number {
  let address = addresses.get(memory);
  if (address === undefined) {
    address = Number(koffi.address(new Uint8Array(memory)));
    assert(Number.isSafeInteger(address), 'an address is exact as a number');
    addresses.set(memory, address);
  }
  return address;
}

/**
 * preadv2(2) with RWF_NOWAIT: fills `buffer` from the page cache as far as it goes without waiting for the device.
 * Returns the bytes read, or a negative errno: EAGAIN (nothing cached), EOPNOTSUPP (the filesystem cannot tell),
 * ENOSYS (no such call here).
 */
export function readNoWait(fd: number, buffer: Uint8Array, position: number): number {
  if (preadv2 === undefined) return -errno.ENOSYS;
  const address = addressOf(buffer.buffer) + buffer.byteOffset;
  iovec[0] = address % 0x1_0000_0000;
  iovec[1] = address / 0x1_0000_0000;
  iovec[2] = buffer.byteLength % 0x1_0000_0000;
  iovec[3] = buffer.byteLength / 0x1_0000_0000;
  const count = preadv2(fd, iovecAddress, 1, position, rwfNoWait);
  return count >= 0 ? count : -koffi.errno();
}

/**
 * flock(2) LOCK_EX|LOCK_NB on an open file: 0 when this open file now has the lock, else a negative errno (EAGAIN
 * when another one has it). The kernel releases it when the descriptor is closed, so also when the process dies.
 */
export function lockFile(fd: number): number {
  if (flock === undefined) return -errno.ENOSYS;
  return flock(fd, lockExclusiveNonBlocking) === 0 ? 0 : -koffi.errno();
}

/** prctl(2) with one argument, for the calling thread: its result, or a negative errno. */
export function controlThread(option: number, argument: number): number {
  if (prctl === undefined) return -errno.ENOSYS;
  const result = prctl(option, argument, 0, 0, 0);
  return result >= 0 ? result : -koffi.errno();
}
