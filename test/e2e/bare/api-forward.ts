/**
 * The API server at a port of the machine's loopback, through the socket at which the service forwarder serves it. A
 * thread of its own forwards, so that nobody who waits for kubectl or helm without letting others run waits for ever.
 */
import { readFile } from 'node:fs/promises';
import { request } from 'node:https';
import { Worker } from 'node:worker_threads';
import { within } from '../support/waiting.ts';
import type { CertificateFiles } from './certificates.ts';

const startLimitMs = 20_000;

export interface ApiForward {
  readonly url: string;
  close(): Promise<void>;
}

export async function forwardApi(socketPath: string): Promise<ApiForward> {
  const worker = new Worker(new URL('./api-forward-worker.ts', import.meta.url), {
    workerData: socketPath,
  });
  const listening = new Promise<number>((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  const port = await within('the API server is forwarded', startLimitMs, listening);
  return {
    url: `https://127.0.0.1:${port}`,
    close: async () => {
      await worker.terminate();
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
