/** How our own APIs check, answer and log calls. A request that carries secrets has a `describe` that leaves them out. */
import { status } from '@grpc/grpc-js';
import { describeError, type LogFields, type Logger } from '../base/logger.ts';
import type { FinishedCall, RpcPolicy } from './grpc-server.ts';
import { toApiStatus } from './status.ts';

/** Statuses that mean that we, not the caller, have a problem. */
const ourFaults: readonly status[] = [status.INTERNAL, status.UNKNOWN, status.DATA_LOSS];
/** Calls that change nothing and come all the time. */
const reading = /\/(Get|List|Wait)\w*$/;

export interface ApiPolicyOptions {
  readonly authorize?: RpcPolicy['authorize'] | undefined;
  readonly observe?: ((call: FinishedCall) => void) | undefined;
  /** What the log shows of a request: all of it unless given. */
  readonly describe?: (request: unknown) => unknown;
}

export function apiPolicy(logger: Logger, options: ApiPolicyOptions = {}): RpcPolicy {
  const { authorize = () => undefined, observe, describe = (request) => request } = options;
  return {
    authorize,
    // Handlers check their own fields: each knows what it needs.
    check: () => undefined,
    toStatus: toApiStatus,
    finished: (call) => {
      logCall(logger, { ...call, request: describe(call.request) });
      observe?.(call);
    },
  };
}

function logCall(logger: Logger, call: FinishedCall): void {
  const fields: LogFields = {
    rpc: call.path.slice(call.path.lastIndexOf('/') + 1),
    code: call.error?.code ?? status[call.code],
    durationMs: call.durationMs,
    request: call.request,
    ...(call.error === undefined ? {} : { error: describeError(call.error) }),
  };
  if (ourFaults.includes(call.code)) logger.error('api call failed', fields);
  else if (reading.test(call.path)) logger.debug('api call done', fields);
  else if (call.code === status.OK) logger.info('api call done', fields);
  else logger.warn('api call refused', fields);
}
