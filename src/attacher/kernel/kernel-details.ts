/** What the kernel strategy saves about a device, and the limits of everything in it that can hang. */
import * as z from 'zod';
import type { Details } from '../strategy.ts';

const detailsSchema = z.object({
  /** N of /dev/nbdN; null until the kernel said it. */
  index: z.int().nonnegative().nullable(),
  /** What the kernel keeps with the device; null on a kernel that keeps nothing. */
  identifier: z.string().nullable(),
  /** What /sys/block/nbdN/pid showed when it was connected: a thread of that attacher, maybe long gone. */
  connectorPid: z.int().positive().nullable(),
  /** How many links the device was made with. */
  connections: z.int().positive().default(1),
  /** Inode numbers of all sockets that the kernel may hold for the device. */
  sockets: z.array(z.string()),
  /** Why the device was given up; null while it was not. */
  failed: z.string().nullable(),
});
export type KernelDetails = Readonly<z.infer<typeof detailsSchema>>;

export const noDetails: KernelDetails = {
  index: null,
  identifier: null,
  connectorPid: null,
  connections: 1,
  sockets: [],
  failed: null,
};

/** Limits of everything that can hang, in milliseconds; the sum bounds a detach. */
export interface KernelTimeouts {
  /** An answer of the NBD server to a question about the export. */
  readonly probeMs: number;
  /** Connecting to it and opening the export. */
  readonly connectMs: number;
  /** One answer of the kernel. */
  readonly netlinkMs: number;
  /** Until a new device has its node and its size. */
  readonly deviceMs: number;
  /** Writing dirty pages at detach: as long as a volumedriver may take to restart. */
  readonly flushMs: number;
  /** How often a device is looked at whose sockets another process opened. */
  readonly recheckMs: number;
}

export const defaultKernelTimeouts: KernelTimeouts = {
  probeMs: 2000,
  connectMs: 5000,
  netlinkMs: 5000,
  deviceMs: 5000,
  flushMs: 20_000,
  recheckMs: 30_000,
};

/** Null for what this version can't read: then the device is found by its identifier alone. */
export function readDetails(saved: Details | null): KernelDetails | null {
  const parsed = detailsSchema.safeParse(saved);
  return parsed.success ? parsed.data : null;
}
