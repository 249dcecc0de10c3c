/**
 * How a strategy makes block devices. AttacherService keeps the records, the locks and the order of the steps; a
 * strategy does the work for one volume at a time and holds no state in memory, so that every step can be found
 * and finished or undone by another process. `fuse` lives in fuse/; a strategy for the kernel's own NBD client
 * belongs beside it, in a folder kernel/, and passes the same attacher-contract.ts.
 */
import type { DeviceState } from '../volumes/device-service.ts';

/** A volume's place on this node. */
export interface Target {
  /** File-name safe and short; made from the volume's id by volumeKey(). */
  readonly key: string;
  /** Null for what was found without a readable record. */
  readonly export: TargetExport | null;
}

export interface TargetExport {
  readonly volumeId: string;
  readonly uri: string;
  readonly readOnly: boolean;
}

/** What a strategy wants to find again after a crash; a JSON object that only the strategy reads. */
export type Details = Readonly<Record<string, unknown>>;

/** Makes `details` durable before it resolves. */
export type SaveDetails = (details: Details) => Promise<void>;

export interface Inspection {
  /** Such as /dev/loop7; empty when there is no device any more. */
  readonly path: string;
  readonly sizeBytes: number;
  readonly state: DeviceState;
  /** Empty when the state is `attached`. */
  readonly reason: string;
}

export interface DeviceStrategy {
  /** As it appears in Device.strategy and in records. */
  readonly name: string;

  /** Makes the strategy's own folders. NOT_CAPABLE when this machine cannot run it, naming what is missing. */
  start(): Promise<void>;

  /**
   * Makes the device of a target that has none, saving what it makes before and after each step. Rejects with the
   * remains still there: the caller then calls detach.
   */
  attach(target: Target & { export: TargetExport }, save: SaveDetails): Promise<Inspection>;

  /**
   * Removes whatever exists of the target, complete or half-made, whatever `details` know of it; nothing to do is
   * fine. Bounded in time: what does not let go is aborted. UNAVAILABLE when something still stays.
   */
  detach(target: Target, details: Details | null): Promise<void>;

  /** Shows at least `sizeBytes` on the device, with users on it. OUT_OF_RANGE when the export is smaller. */
  resize(
    target: Target & { export: TargetExport },
    details: Details,
    sizeBytes: number,
  ): Promise<Inspection>;

  /** How the device is now. Bounded in time, changes nothing, needs no lock. */
  inspect(target: Target & { export: TargetExport }, details: Details): Promise<Inspection>;

  /** The keys of all targets of which something still runs on this node, recorded or not. */
  list(): Promise<string[]>;

  /** After a reboot: drops files of a target of which nothing can run any more. */
  forget(target: Target): Promise<void>;
}
