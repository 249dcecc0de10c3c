/**
 * The CSI plugin's socket. Controller and node services may share one. Every RPC is limited, logged once with
 * its duration and code, and answered with a status that has a text and no details.
 */
import { Server, status } from '@grpc/grpc-js';
import {
  ControllerService,
  GroupControllerService,
  IdentityService,
  NodeService,
  SnapshotMetadataService,
} from '../api/generated/csi.ts';
import type { Endpoint } from '../api/endpoint.ts';
import {
  addService,
  listen,
  type FinishedCall,
  type ListeningServer,
  type RpcPolicy,
} from '../api/grpc-server.ts';
import { describeError, type LogFields, type Logger } from '../base/logger.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { CsiServices } from './handlers.ts';
import { redact } from './redact.ts';
import { toCsiStatus } from './status.ts';
import { checkLimits } from './validate.ts';

export interface CsiServerOptions extends CsiServices {
  /** CSI knows unix sockets only: INVALID_ARGUMENT for TCP. */
  readonly endpoint: Endpoint;
  readonly logger: Logger;
  /** Told of every call that is done. */
  readonly observe?: (call: FinishedCall) => void;
}

export async function startCsiServer(options: CsiServerOptions): Promise<ListeningServer> {
  if (options.endpoint.kind !== 'unix') {
    throw new VolumeError(
      'INVALID_ARGUMENT',
      'CSI endpoint: it must be a unix socket, such as unix:/run/csi.sock',
    );
  }
  const policy = csiPolicy(options.logger, options.observe);
  const server = new Server();
  addService(server, IdentityService, options.identity, policy);
  if (options.controller) addService(server, ControllerService, options.controller, policy);
  if (options.groupController) {
    addService(server, GroupControllerService, options.groupController, policy);
  }
  if (options.snapshotMetadata) {
    addService(server, SnapshotMetadataService, options.snapshotMetadata, policy);
  }
  if (options.node) addService(server, NodeService, options.node, policy);
  return await listen(server, options.endpoint);
}

/** How CSI calls are checked, answered and logged. */
export function csiPolicy(logger: Logger, observe?: (call: FinishedCall) => void): RpcPolicy {
  return {
    check: (_path, request) => {
      checkLimits(request);
    },
    toStatus: toCsiStatus,
    finished: (call) => {
      logCall(logger, call);
      observe?.(call);
    },
  };
}

/** Statuses that mean that we, not the caller, have a problem. */
const ourFaults: readonly status[] = [status.INTERNAL, status.UNKNOWN, status.DATA_LOSS];
/** Called every few seconds by kubelet and sidecars. */
const frequent = /\/(Probe|\w*GetCapabilities|GetPluginCapabilities)$/;

function logCall(logger: Logger, call: FinishedCall): void {
  const fields: LogFields = {
    rpc: call.path.slice(call.path.lastIndexOf('/') + 1),
    code: status[call.code],
    durationMs: call.durationMs,
    request: redact(call.path, call.request),
    ...(call.error === undefined
      ? {}
      : { errorCode: call.error.code, error: describeError(call.error) }),
  };
  if (ourFaults.includes(call.code)) logger.error('rpc failed', fields);
  else if (call.code !== status.OK) logger.warn('rpc refused', fields);
  else if (frequent.test(call.path)) logger.debug('rpc done', fields);
  else logger.info('rpc done', fields);
}
