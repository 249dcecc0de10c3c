/**
 * A VolumeService across a thread border: calls and answers are plain data on a MessagePort. The API's thread keeps
 * answering while the engine's is busy or stuck.
 */
import type { MessagePort } from 'node:worker_threads';
import { VolumeError, isErrorCode, type ErrorCode } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';

interface Call {
  kind: 'call';
  id: number;
  method: string;
  args: unknown[];
}

type Answer =
  | { kind: 'answer'; id: number; value: unknown }
  | { kind: 'failure'; id: number; code: ErrorCode; message: string };

export const serviceMethods = [
  'info',
  'capacity',
  'createVolume',
  'removeVolume',
  'getVolume',
  'listVolumes',
  'growVolume',
  'createSnapshot',
  'removeSnapshot',
  'rollbackSnapshot',
  'getSnapshot',
  'listSnapshots',
  'waitSnapshot',
  'grant',
  'revoke',
  'getExport',
  'beginFormatting',
  'endFormatting',
  'syncVolume',
] as const satisfies readonly (keyof VolumeService)[];

type Method = (...args: unknown[]) => Promise<unknown>;

/** The engine's side: answers calls that come through the port. Anything but a VolumeError is our mistake: it is thrown. */
export function serveThroughPort(port: MessagePort, service: VolumeService): void {
  const methods = new Map<string, Method>(
    serviceMethods.map((name) => [name, service[name].bind(service) as Method]),
  );
  port.on('message', (message: Call) => {
    const method = methods.get(message.method);
    if (method === undefined) return;
    method(...message.args).then(
      (value) => {
        port.postMessage({ kind: 'answer', id: message.id, value } satisfies Answer);
      },
      (error: unknown) => {
        if (!(error instanceof VolumeError)) throw error;
        const { code, message: text } = error;
        port.postMessage({ kind: 'failure', id: message.id, code, message: text } satisfies Answer);
      },
    );
  });
}

/** The API's side. Calls without an answer when the engine ends reject with UNAVAILABLE. */
export function serviceThroughPort(port: MessagePort): VolumeService {
  const waiting = new Map<number, PromiseWithResolvers<unknown>>();
  let lastId = 0;
  let ended = false;
  port.on('message', (answer: Answer) => {
    const call = waiting.get(answer.id);
    waiting.delete(answer.id);
    if (answer.kind === 'answer') call?.resolve(answer.value);
    else {
      const code = isErrorCode(answer.code) ? answer.code : 'INTERNAL';
      call?.reject(new VolumeError(code, answer.message));
    }
  });
  const endedError = (): VolumeError => new VolumeError('UNAVAILABLE', 'the engine has ended');
  port.on('close', () => {
    ended = true;
    for (const call of waiting.values()) call.reject(endedError());
    waiting.clear();
  });
  const call = (method: string, args: unknown[]): Promise<unknown> => {
    // A closed port drops messages without a word.
    if (ended) return Promise.reject(endedError());
    const id = ++lastId;
    const answer = Promise.withResolvers<unknown>();
    waiting.set(id, answer);
    port.postMessage({ kind: 'call', id, method, args } satisfies Call);
    return answer.promise;
  };
  const entries = serviceMethods.map((method) => [
    method,
    (...args: unknown[]) => call(method, args),
  ]);
  return Object.fromEntries(entries) as VolumeService;
}
