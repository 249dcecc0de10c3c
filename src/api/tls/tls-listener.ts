/**
 * The listening socket of a server that other machines reach. It is ours and not gRPC's, because it has a limit: whoever
 * reaches the port can open connections before any certificate is asked for, and they must not use up the memory and
 * the descriptors of a process that carries I/O.
 */
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server as SocketServer, type Socket } from 'node:net';
import type { Server, ServerCredentials } from '@grpc/grpc-js';
import { describeError } from '../../base/logger.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { formatEndpoint, type TcpEndpoint } from '../endpoint.ts';

/** Far more than controllers have; more are dropped. */
const connectionsMaxDefault = 512;

export interface TlsListener {
  /** The real one where 0 was asked for. */
  readonly port: number;
  /** Takes no connections any more; those that exist end with the gRPC server. */
  stop(): void;
  /** Ends what is left of them. */
  destroy(): void;
}

/** UNAVAILABLE when nobody can listen there. */
export async function listenWithTls(
  server: Server,
  endpoint: TcpEndpoint,
  credentials: ServerCredentials,
  connectionsMax: number = connectionsMaxDefault,
): Promise<TlsListener> {
  const sockets = new Set<Socket>();
  const listener = createServer({ noDelay: true, keepAlive: true });
  listener.maxConnections = connectionsMax;
  await listenOn(listener, endpoint);
  const injector = server.createConnectionInjector(credentials);
  listener.on('connection', (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    injector.injectConnection(socket);
  });
  // Such as too many open files at accept: the next connection may work again.
  listener.on('error', () => undefined);
  return {
    // A listening TCP server has a port.
    port: (listener.address() as AddressInfo).port,
    stop: () => void listener.close(),
    destroy: () => {
      for (const socket of sockets) socket.destroy();
    },
  };
}

async function listenOn(listener: SocketServer, endpoint: TcpEndpoint): Promise<void> {
  const { host, port } = endpoint;
  listener.listen({ host, port });
  try {
    await once(listener, 'listening');
  } catch (cause) {
    const what = `listen on ${formatEndpoint(endpoint)}: ${describeError(cause)}`;
    throw new VolumeError('UNAVAILABLE', what, { cause });
  }
}
