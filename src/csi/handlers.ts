/**
 * The shape of a CSI service: an object with one async function per RPC, from the decoded request to the
 * response. server.ts does the rest: limits, logging, redaction and status codes. A handler rejects with a
 * VolumeError; an RPC without a handler answers UNIMPLEMENTED.
 */
import type {
  ControllerService,
  GroupControllerService,
  IdentityService,
  NodeService,
  SnapshotMetadataService,
} from '../api/generated/csi.ts';
import type { CallContext } from '../api/grpc-server.ts';

export type { CallContext };

/** What ts-proto generates for one method. */
interface MethodShape {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  readonly requestDeserialize: (bytes: Buffer) => unknown;
  readonly responseDeserialize: (bytes: Buffer) => unknown;
}

type Handler<Method extends MethodShape> = (
  request: ReturnType<Method['requestDeserialize']>,
  context: CallContext,
) => Method['responseStream'] extends true
  ? AsyncIterable<ReturnType<Method['responseDeserialize']>>
  : Promise<ReturnType<Method['responseDeserialize']>>;

/** Every RPC of a generated service definition as a function; leave out those that are not offered. */
export type CsiHandlers<Service extends Record<keyof Service, MethodShape>> = {
  readonly [Name in keyof Service]?: Handler<Service[Name]>;
};

export type IdentityHandlers = Required<CsiHandlers<IdentityService>>;
export type ControllerHandlers = CsiHandlers<ControllerService>;
export type GroupControllerHandlers = CsiHandlers<GroupControllerService>;
export type SnapshotMetadataHandlers = CsiHandlers<SnapshotMetadataService>;
export type NodeHandlers = CsiHandlers<NodeService>;

/** The services of one plugin socket. */
export interface CsiServices {
  readonly identity: IdentityHandlers;
  readonly controller?: ControllerHandlers;
  readonly groupController?: GroupControllerHandlers;
  readonly snapshotMetadata?: SnapshotMetadataHandlers;
  readonly node?: NodeHandlers;
}
