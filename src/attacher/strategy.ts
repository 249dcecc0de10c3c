/**
 * How a strategy makes block devices. AttacherService keeps the records, the locks and the order of the steps; a
 * strategy does the work for one volume at a time. What it keeps in memory only makes it faster: every step can be
 * found and finished or undone by another process. `fuse` lives in fuse/, `kernel` in kernel/; both pass
 * attacher-contract.ts.
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
  /** heal() has just made it work again; absent where nobody can know. */
  readonly healed?: boolean;
}

/** Whose devices these are; devices of other identities are never touched. */
export interface AttacherIdentity {
  readonly driverName: string;
  /** Unique to the state directory. */
  readonly instanceId: string;
}

export interface DeviceStrategy {
  /** As it appears in Device.strategy and in records. */
  readonly name: string;

  /** Makes the strategy's own folders. NOT_CAPABLE when this machine cannot run it, naming what is missing. */
  start(identity: AttacherIdentity): Promise<void>;

  /** Lets go of what this process holds (descriptors, timers). Devices stay and go on working. */
  close(): Promise<void>;

  /**
   * Makes the device of a target that has none, saving what it makes before and after each step. Rejects with the
   * remains still there: the caller then calls detach.
   */
  attach(target: Target & { export: TargetExport }, save: SaveDetails): Promise<Inspection>;

  /**
   * Removes whatever exists of the target, complete or half-made, whatever `details` know of it; nothing to do is
   * fine. Bounded in time: what does not let go is aborted. UNAVAILABLE when something still stays.
   */
  detach(target: Target, details: Details | null, save: SaveDetails): Promise<void>;

  /** Shows at least `sizeBytes` on the device, with users on it. OUT_OF_RANGE when the export is smaller. */
  resize(
    target: Target & { export: TargetExport },
    details: Details,
    growth: { sizeBytes: number; save: SaveDetails },
  ): Promise<Inspection>;

  /**
   * Whether the device needs heal(): asked about every second, so it is cheap. May err towards true, and towards
   * false for some seconds.
   */
  isSuspect(target: Target & { export: TargetExport }, details: Details): Promise<boolean>;

  /**
   * One attempt to make the device work again, bounded in time, and how it is then. A device that works is left
   * alone. Never makes I/O fail: that is fail()'s.
   */
  heal(
    target: Target & { export: TargetExport },
    details: Details,
    save: SaveDetails,
  ): Promise<Inspection>;

  /**
   * Gives the device up: all its I/O, waiting or to come, fails from now on, so that nothing hangs on it. The device
   * stays until detach, so that its number goes to nobody else; inspect() says `broken` and the reason. Can be
   * repeated.
   */
  fail(
    target: Target & { export: TargetExport },
    details: Details,
    failure: { reason: string; save: SaveDetails },
  ): Promise<void>;

  /**
   * Tells of devices that have just lost their link, so that nobody waits for the next isSuspect(). A strategy that
   * cannot know never calls back.
   */
  onTrouble(callback: (key: string) => void): void;

  /** How the device is now. Bounded in time, changes nothing, needs no lock. */
  inspect(target: Target & { export: TargetExport }, details: Details): Promise<Inspection>;

  /** The keys of all targets of which something still runs on this node, recorded or not. */
  list(): Promise<string[]>;

  /** After a reboot: drops files of a target of which nothing can run any more. */
  forget(target: Target): Promise<void>;
}
