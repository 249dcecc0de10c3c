/** The API server at a port of the machine's loopback, through the socket at which the service forwarder serves it. */
import { createServer, connect, type AddressInfo, type Socket } from 'node:net';
import { request } from 'node:https';
import { readFile } from 'node:fs/promises';
import type { CertificateFiles } from './certificates.ts';

export interface ApiForward {
  readonly url: string;
  close(): void;
}

export async function forwardApi(socketPath: string): Promise<ApiForward> {
  const clients = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(socketPath);
    clients.add(client);
    client.once('close', () => clients.delete(client));
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      from.on('error', () => to.destroy());
      from.once('close', () => to.destroy());
      from.pipe(to);
    }
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `https://127.0.0.1:${port}`,
    close: () => {
      server.close();
      for (const client of clients) client.destroy();
    },
  };
}

export interface ApiReader {
  /** The body of a GET, or undefined for whatever is no 200: while it starts, nothing is listening. */
  get(path: string): Promise<string | undefined>;
}

export async function openApiReader(
  url: string,
  authority: string,
  client: CertificateFiles,
): Promise<ApiReader> {
  const [ca, cert, key] = await Promise.all(
    [authority, client.certificate, client.key].map((file) => readFile(file)),
  );
  return {
    get: (path) =>
      new Promise((resolve) => {
        const outgoing = request(`${url}${path}`, { ca, cert, key, agent: false, timeout: 5000 });
        outgoing.on('error', () => resolve(undefined));
        outgoing.on('timeout', () => outgoing.destroy());
        outgoing.on('response', (incoming) => {
          let body = '';
          incoming.setEncoding('utf8').on('data', (text: string) => (body += text));
          incoming.on('error', () => resolve(undefined));
          incoming.on('end', () => resolve(incoming.statusCode === 200 ? body : undefined));
        });
        outgoing.end();
      }),
  };
}
