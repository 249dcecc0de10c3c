/** The volumedriver role: the API and health on the main thread, the engine and its NBD server on a thread of its own. */
import { MessageChannel, Worker } from 'node:worker_threads';
import { startVolumedriverServer } from '../api/volumedriver-server.ts';
import { systemClock } from '../base/clock.ts';
import { createLogger, describeError, type Logger } from '../base/logger.ts';
import type { VolumedriverConfig } from '../config.ts';
import { CallMetrics, type ObservedCall } from '../monitoring/call-metrics.ts';
import { startMonitoringIfWanted } from '../monitoring/http-server.ts';
import { Question } from '../monitoring/question.ts';
import { VolumedriverMetrics } from '../monitoring/volumedriver-metrics.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';
import { serviceThroughPort } from './engine-port.ts';
import type { EngineThreadMessage } from './engine-thread.ts';
import { startRemoteApi, type RunningRemoteApi } from './remote-api.ts';
import { aborted } from './stopping.ts';

const answerMs = 2_000;

/** Runs until `stop` is aborted and everything is closed. */
export async function runVolumedriver(
  config: VolumedriverConfig,
  version: string,
  stop: AbortSignal,
): Promise<void> {
  const { nodeId } = config;
  const logger = createLogger(config.logLevel, { role: 'volumedriver', nodeId, version });
  const watched = await watch(config, version, logger);
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
    await watched.close();
    return;
  }
  const service = serviceThroughPort(port1);
  const { observe } = watched;
  const server = await startVolumedriverServer({ endpoint: config.api, service, logger, observe });
  const remote =
    config.remote === null
      ? null
      : await startRemoteApi(config.remote, { config, service, logger, observe });
  watched.serves(service, remote);
  logger.info('volumedriver ready', { dataDirectory: config.dataDirectory });
  await Promise.race([aborted(stop), engine.ended]);
  logger.info('volumedriver stopping', { graceMs: config.graceMs });
  await engine.close();
  await Promise.all([server.close(), remote?.close()]);
  port1.close();
  await watched.close();
}

interface Watched {
  readonly observe: (call: ObservedCall) => void;
  /** From now on it may be ready. */
  serves(service: VolumeService, remote: RunningRemoteApi | null): void;
  close(): Promise<void>;
}

/** Metrics and probes, from before the engine recovers. */
async function watch(
  { driverName, nodeId, metrics: address }: VolumedriverConfig,
  version: string,
  logger: Logger,
): Promise<Watched> {
  let serving: { service: VolumeService; remote: RunningRemoteApi | null } | null = null;
  const clock = systemClock;
  const engine = new Question(clock, 0, async () => (await serving?.service.info())?.ready);
  const ready = async (): Promise<string | null> => {
    if (serving === null) return 'the engine recovers its volumes';
    try {
      if ((await engine.ask(answerMs)) !== true) return 'the engine is starting';
    } catch (error) {
      return `the engine: ${describeError(error)}`;
    }
    const problem = serving.remote?.problem ?? null;
    return problem === null ? null : `controllers cannot connect: ${problem}`;
  };
  const metrics = new VolumedriverMetrics({
    ...{ driverName, nodeId, version, clock, ready },
    service: () => serving?.service ?? null,
    certificateExpiresAtMs: () => serving?.remote?.expiresAtMs ?? null,
  });
  const calls = new CallMetrics(metrics.registry, 'volumedriver');
  const monitoring = await startMonitoringIfWanted(address, { page: metrics, ready, logger });
  return {
    observe: calls.observe,
    serves: (service, remote) => {
      serving = { service, remote };
    },
    close: async () => {
      await monitoring?.close();
    },
  };
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
