/** What the fuse strategy saves about a device, and the limits of everything in it that can hang. */
import * as z from 'zod';
import type { Details } from '../strategy.ts';

const detailsSchema = z.object({
  daemon: z.object({ pid: z.int().positive(), startTime: z.string() }).nullable(),
  /** MAJOR:MINOR of the FUSE filesystem. */
  deviceNumber: z.string().nullable(),
  /** Such as /dev/loop7. */
  device: z.string().nullable(),
  /** Why the device was given up; null while it was not. */
  failed: z.string().nullable().default(null),
});
export type FuseDetails = Readonly<z.infer<typeof detailsSchema>>;

export const noDetails: FuseDetails = {
  daemon: null,
  deviceNumber: null,
  device: null,
  failed: null,
};

/** Limits of everything that can hang, in milliseconds; the sum bounds a detach. */
export interface FuseTimeouts {
  /** An answer of the NBD server to a question about the export. */
  readonly probeMs: number;
  /** The daemon's connection and mount. */
  readonly startMs: number;
  /** One losetup, umount or blockdev without I/O. */
  readonly commandMs: number;
  /** Writing dirty pages at detach: as long as a volumedriver may take to restart. */
  readonly flushMs: number;
  /** Until the last user of a device must have closed it. */
  readonly releaseMs: number;
  /** The daemon's own end. */
  readonly stopMs: number;
  /** One answer of the daemon; longer than its pause of 16 s between two attempts to reconnect. */
  readonly qmpMs: number;
}

export const defaultFuseTimeouts: FuseTimeouts = {
  probeMs: 2000,
  startMs: 10_000,
  commandMs: 5000,
  flushMs: 20_000,
  releaseMs: 5000,
  stopMs: 3000,
  qmpMs: 20_000,
};

/** Null for what this version can't read: then the device is found by its folder alone. */
export function readDetails(saved: Details | null): FuseDetails | null {
  const parsed = detailsSchema.safeParse(saved);
  return parsed.success ? parsed.data : null;
}
