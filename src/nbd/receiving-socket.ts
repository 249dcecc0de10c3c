/**
 * Receiving into memory of our choice. Node offers that for sockets that are made (`onread`), not for those that
 * a server accepts; an accepted socket's handle is therefore moved to a new socket. Where Node does not let
 * that happen (it is not a documented use), 'data' events serve as well, only slower.
 */
import { Socket, type SocketConstructorOpts } from 'node:net';

export interface Receiver {
  /** Memory for the next bytes; asked after each `receive`. */
  next(): Buffer;
  /** `lent`: the chunk lies in the memory that `next` gave; otherwise it is nobody's. */
  receive(chunk: Buffer, lent: boolean): void;
}

/** Takes over a paused, accepted socket. The socket to use from now on is returned, still paused. */
export function receiveInto(accepted: Socket, receiver: Receiver): Socket {
  const handle = takeHandle(accepted);
  if (handle === null) {
    accepted.on('data', (chunk: Buffer) => receiver.receive(chunk, false));
    accepted.pause();
    return accepted;
  }
  const onread = {
    buffer: () => receiver.next(),
    callback: (count: number, buffer: Uint8Array) => {
      receiver.receive(Buffer.from(buffer.buffer, buffer.byteOffset, count), true);
      return true;
    },
  };
  const socket = new Socket({ handle, allowHalfOpen: true, onread } as SocketConstructorOpts);
  socket.pause();
  return socket;
}

function takeHandle(accepted: Socket): object | null {
  if (!('_handle' in accepted) || typeof accepted._handle !== 'object') return null;
  const handle = accepted._handle;
  if (handle === null) return null;
  accepted._handle = null;
  // Without a handle this closes nothing; it only tells the listener that the socket is not its own any more.
  accepted.destroy();
  return handle;
}
