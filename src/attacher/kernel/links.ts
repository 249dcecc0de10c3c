/**
 * Connections to an NBD server as the kernel wants them: plain descriptors of connected sockets, behind the
 * handshake, from which nothing more was read. Node's sockets do not tell their descriptors, so the socket is made by
 * system calls, and Node gets a duplicate for the handshake. Our descriptor stays open beside the kernel's: it
 * tells whether the link lives, and can cut it.
 */
import { readFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { getSystemErrorName } from 'node:util';
import type { Clock } from '../../base/clock.ts';
import {
  closeDescriptor,
  connectUnix,
  duplicate,
  isSocketDead,
  openUnixSocket,
  setSendTimeout,
  shutdownSocket,
  socketErrno,
  socketInode,
} from '../../base/ffi-sockets.ts';
import { negotiate, type ClientAgreement } from '../../nbd/client-handshake.ts';
import { ClientStream } from '../../nbd/client-stream.ts';
import { parseNbdUri } from '../../nbd/uri.ts';
import { toVolumeError, VolumeError } from '../../volumes/errors.ts';
import { withTimeLimit } from '../waiting.ts';

/**
 * How long a send of the kernel may wait for a server that does not read. It bounds what must wait for such a send,
 * such as the end of the device, when nobody is left who could cut the link.
 */
const sendTimeoutSeconds = 60;

export class Link {
  readonly fd: number;
  /** Tells the socket from all others of this boot; /proc/net/unix lists it while anybody holds it. */
  readonly inode: string;
  #open = true;

  constructor(fd: number, inode: string) {
    this.fd = fd;
    this.inode = inode;
  }

  get isDead(): boolean {
    return !this.#open || isSocketDead(this.fd);
  }

  /** Ends the connection, for the kernel as well: a send that waits fails. */
  cut(): void {
    if (this.#open) shutdownSocket(this.fd);
  }

  /** Closes our descriptor only. Can be repeated. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    closeDescriptor(this.fd);
  }
}

export interface OpenedLink {
  readonly link: Link;
  readonly agreement: ClientAgreement;
}

/** Codes as negotiate(), UNAVAILABLE when nobody answers in time, NOT_CAPABLE for a server that is not local. */
export async function openLink(
  uri: string,
  wait: { clock: Clock; timeoutMs: number },
): Promise<OpenedLink> {
  const { address, exportName } = parseNbdUri(uri);
  const what = 'connect to the volumedriver';
  if (address.kind !== 'unix') {
    const why = 'the strategy kernel needs a unix socket, and the server listens on TCP';
    throw new VolumeError('NOT_CAPABLE', `${what}: ${why}`);
  }
  const fd = required(what, openUnixSocket());
  try {
    required(what, connectUnix(fd, address.path));
    required(what, setSendTimeout(fd, sendTimeoutSeconds));
    const inode = socketInode(fd);
    if (inode === null) throw new VolumeError('INTERNAL', `${what}: its socket has no inode`);
    const agreement = await handshake(fd, exportName, { ...wait, what });
    return { link: new Link(fd, inode), agreement };
  } catch (error) {
    closeDescriptor(fd);
    throw toVolumeError(error, what, 'UNAVAILABLE');
  }
}

/** Opens `count` links, or none. */
export async function openLinks(
  uri: string,
  count: number,
  wait: { clock: Clock; timeoutMs: number },
): Promise<OpenedLink[]> {
  const opened: OpenedLink[] = [];
  try {
    while (opened.length < count) opened.push(await openLink(uri, wait));
    return opened;
  } catch (error) {
    for (const { link } of opened) link.close();
    throw error;
  }
}

async function handshake(
  fd: number,
  exportName: string,
  wait: { clock: Clock; timeoutMs: number; what: string },
): Promise<ClientAgreement> {
  const { clock, what } = wait;
  const stream = new ClientStream(adopt(duplicate(fd), what), what);
  const closed = new Promise((resolve) => stream.socket.once('close', resolve));
  let agreement: ClientAgreement;
  try {
    agreement = await withTimeLimit(clock, wait, async (signal) => {
      signal.addEventListener('abort', () => {
        stream.fail(toVolumeError(signal.reason, what));
      });
      return await negotiate(stream, exportName, { simpleReplies: true });
    });
  } finally {
    // Closes the duplicate; the connection itself stays.
    stream.socket.destroy();
    await closed;
  }
  // What we took from the socket would be missing for the kernel.
  if (stream.queuedBytes === 0) return agreement;
  throw new VolumeError('PROTOCOL_ERROR', `${what}: the server sends what nobody asked for`);
}

/** Makes the descriptor a Node socket's, which closes it in the end. */
function adopt(fd: number, what: string): Socket {
  required(what, fd);
  try {
    return new Socket({ fd, readable: true, writable: true });
  } catch (error) {
    closeDescriptor(fd);
    throw toVolumeError(error, what);
  }
}

function required(what: string, result: number): number {
  if (result >= 0) return result;
  const code = result === -socketErrno.ENOSYS ? 'NOT_CAPABLE' : 'UNAVAILABLE';
  const full = result === -socketErrno.EAGAIN ? ' (too many clients wait for it)' : '';
  throw new VolumeError(code, `${what}: ${getSystemErrorName(result)}${full}`);
}

/** The inode numbers of all unix sockets of this network namespace that anybody holds. */
export async function listSocketInodes(): Promise<ReadonlySet<string>> {
  return parseUnixSockets(await readFile('/proc/net/unix', 'utf8'));
}

/** Reads the seventh column of /proc/net/unix (proc(5)); a line without one is skipped. */
export function parseUnixSockets(text: string): ReadonlySet<string> {
  const inodes = new Set<string>();
  for (const line of text.split('\n').slice(1)) {
    const inode = line.trim().split(/\s+/)[6];
    if (inode !== undefined && /^[0-9]+$/.test(inode)) inodes.add(inode);
  }
  return inodes;
}
