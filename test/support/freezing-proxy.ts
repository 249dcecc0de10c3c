/**
 * A TCP proxy on loopback whose connections can be frozen: they stay open and carry nothing any more, as when a host or
 * a firewall between goes away. New connections work.
 */
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';

interface Pair {
  readonly near: Socket;
  readonly far: Socket;
}

export class FreezingProxy {
  readonly #pairs = new Set<Pair>();
  #server: Server | undefined;

  static async start(targetPort: number): Promise<FreezingProxy> {
    const proxy = new FreezingProxy();
    const server = createServer((near) => proxy.#join(near, targetPort));
    const listening = Promise.withResolvers<void>();
    server.once('error', listening.reject);
    server.listen(0, '127.0.0.1', listening.resolve);
    await listening.promise;
    proxy.#server = server;
    return proxy;
  }

  get port(): number {
    return (this.#server?.address() as AddressInfo).port;
  }

  /** For all connections that there are. */
  freeze(): void {
    for (const { near, far } of this.#pairs) {
      near.unpipe(far).pause();
      far.unpipe(near).pause();
    }
  }

  async close(): Promise<void> {
    const closed = Promise.withResolvers<void>();
    this.#server?.close(() => closed.resolve());
    for (const { near, far } of this.#pairs) {
      near.destroy();
      far.destroy();
    }
    await closed.promise;
  }

  #join(near: Socket, targetPort: number): void {
    const far = connect(targetPort, '127.0.0.1');
    const pair = { near, far };
    this.#pairs.add(pair);
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      one.pipe(other);
      one.on('error', () => undefined);
      one.once('close', () => {
        other.destroy();
        this.#pairs.delete(pair);
      });
    }
  }
}
