/** The volumedriver role: the API and health on the main thread, the engine and its NBD server on a thread of its own. */
import { MessageChannel, Worker } from 'node:worker_threads';
import { startVolumedriverServer } from '../api/volumedriver-server.ts';
import { createLogger } from '../base/logger.ts';
import type { VolumedriverConfig } from '../config.ts';
import { VolumeError } from '../volumes/errors.ts';
import { serviceThroughPort } from './engine-port.ts';
import type { EngineThreadMessage } from './engine-thread.ts';
import { aborted } from './stopping.ts';

/** Runs until `stop` is aborted and everything is closed. */
export async function runVolumedriver(
  config: VolumedriverConfig,
  version: string,
  stop: AbortSignal,
): Promise<void> {
  const logger = createLogger(config.logLevel, {
    role: 'volumedriver',
    nodeId: config.nodeId,
    version,
  });
  const { port1, port2 } = new MessageChannel();
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  const worker = new Worker(new URL(`./engine-thread.${extension}`, import.meta.url), {
    workerData: { config, version, port: port2 },
    transferList: [port2],
  });
  const engine = new EngineThread(worker);
  const early = await Promise.race([engine.listening, aborted(stop).then(() => 'stop')]);
  if (early === 'stop') {
    logger.info(
      'volumedriver stopped before it was ready: the next start recovers from the beginning',
    );
    await worker.terminate();
    port1.close();
    return;
  }
  const server = await startVolumedriverServer({
    endpoint: config.api,
    service: serviceThroughPort(port1),
    logger,
  });
  logger.info('volumedriver ready', { dataDirectory: config.dataDirectory });
  await Promise.race([aborted(stop), engine.ended]);
  logger.info('volumedriver stopping', { graceMs: config.graceMs });
  await engine.close();
  await server.close();
  port1.close();
}

class EngineThread {
  readonly listening: Promise<void>;
  /** Rejects when the thread ends by itself. */
  readonly ended: Promise<never>;
  readonly #worker: Worker;
  readonly #closed = Promise.withResolvers<void>();

  constructor(worker: Worker) {
    this.#worker = worker;
    const listening = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<never>();
    this.listening = listening.promise;
    this.ended = ended.promise;
    this.ended.catch(() => undefined); // whoever waits for it sees it
    worker.on('message', (message: EngineThreadMessage) => {
      if (message.kind === 'listening') listening.resolve();
      if (message.kind === 'failed')
        listening.reject(new VolumeError('UNAVAILABLE', message.message));
      if (message.kind === 'closed') this.#closed.resolve();
    });
    worker.on('error', (error) => {
      listening.reject(error);
      ended.reject(error);
    });
    worker.on('exit', () => {
      const error = new VolumeError('HALTED', 'the engine thread ended');
      listening.reject(error);
      ended.reject(error);
      this.#closed.resolve();
    });
  }

  async close(): Promise<void> {
    this.#worker.postMessage({ kind: 'close' });
    await this.#closed.promise;
    await this.#worker.terminate();
  }
}
