/**
 * Nodes are held by the process that started them, and steps run in jest's. This is what lies between: HTTP over a
 * unix socket, `POST /` with `{ action, node, … }`, answered by `{ result }` or `{ error }`.
 */
import { createServer, request, type IncomingMessage, type Server } from 'node:http';
import { describeError } from '../../../src/base/logger.ts';
import type { ClusterNode, Provider } from '../provider.ts';
import type { NodeState } from './state.ts';

type Order =
  | {
      readonly action: 'run';
      readonly node: string;
      readonly command: readonly string[];
      readonly timeoutMs: number;
    }
  | { readonly action: 'restartKubelet' | 'reboot' | 'kill' | 'start'; readonly node: string }
  | { readonly action: 'restartApiServer' };

/** Longer than anything that a provider does: against hanging only. */
const answerLimitMs = 8 * 60_000;

/** Resolves once it listens. */
export async function serveControl(provider: Provider, socketPath: string): Promise<Server> {
  const server = createServer((incoming, outgoing) => {
    bodyOf(incoming)
      .then((body) => obey(provider, JSON.parse(body) as Order))
      .then(
        (result) => ({ result: result ?? null }),
        (error: unknown) => ({ error: describeError(error) }),
      )
      .then(
        (answer) => outgoing.end(JSON.stringify(answer)),
        () => outgoing.destroy(),
      );
  });
  server.requestTimeout = 0;
  server.timeout = 0;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socketPath, resolve);
  });
  return server;
}

async function obey(provider: Provider, order: Order): Promise<unknown> {
  if (order.action === 'restartApiServer') {
    await provider.restartApiServer();
    return undefined;
  }
  const node = provider.nodes.find(({ name }) => name === order.node);
  if (node === undefined) throw new Error(`there is no node ${order.node}`);
  if (order.action === 'run') return await node.run(order.command, order.timeoutMs);
  return await node[order.action]();
}

/** The other side: a node as the steps have it. */
export class RemoteNode implements ClusterNode {
  readonly name: string;
  readonly kernelNbd: boolean;
  readonly ownKernel: boolean;
  readonly #socketPath: string;

  constructor(state: NodeState, socketPath: string) {
    this.name = state.name;
    this.kernelNbd = state.kernelNbd;
    this.ownKernel = state.ownKernel;
    this.#socketPath = socketPath;
  }

  async run(command: readonly string[], timeoutMs = 60_000): Promise<string> {
    const order = { action: 'run', node: this.name, command, timeoutMs } as const;
    return (await ask(this.#socketPath, order)) as string;
  }

  async restartKubelet(): Promise<void> {
    await ask(this.#socketPath, { action: 'restartKubelet', node: this.name });
  }

  async reboot(): Promise<{ shutdownMs: number }> {
    const order = { action: 'reboot', node: this.name } as const;
    return (await ask(this.#socketPath, order)) as { shutdownMs: number };
  }

  async kill(): Promise<void> {
    await ask(this.#socketPath, { action: 'kill', node: this.name });
  }

  async start(): Promise<void> {
    await ask(this.#socketPath, { action: 'start', node: this.name });
  }
}

export async function restartApiServer(socketPath: string): Promise<void> {
  await ask(socketPath, { action: 'restartApiServer' });
}

async function ask(socketPath: string, order: Order): Promise<unknown> {
  const body = await new Promise<string>((resolve, reject) => {
    const outgoing = request({ socketPath, method: 'POST', path: '/', timeout: answerLimitMs });
    outgoing.once('error', reject);
    outgoing.once('timeout', () => {
      outgoing.destroy(new Error(`${order.action}: no answer from the provider`));
    });
    outgoing.once('response', (incoming) => {
      bodyOf(incoming).then(resolve, reject);
    });
    outgoing.end(JSON.stringify(order));
  });
  const answer = JSON.parse(body) as { result: unknown } | { error: string };
  if ('error' in answer) throw new Error(answer.error);
  return answer.result;
}

async function bodyOf(message: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of message) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('utf8');
}
