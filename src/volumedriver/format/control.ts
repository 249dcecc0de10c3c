/**
 * Payloads of control records: JSON objects told apart by `kind`. Each is one durable change of a volume's state
 * (src/volumedriver/state.ts applies them). Unknown fields are refused, so that an older version never half-understands
 * what a newer one wrote. Snapshot and volume ids here are bare ULIDs.
 */
import { z } from 'zod';
import { VolumeError } from '../../volumes/errors.ts';
import { flushTargets } from '../../volumes/volume.ts';

const ulid = z.string().regex(/^[0-9A-HJKMNP-TV-Z]{26}$/);
const whole = z.number().int().nonnegative();

export const persistedRootSchema = z.strictObject({
  objectId: whole,
  index: whole,
  checksum: whole,
  level: whole,
});

const sourceSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('snapshot'), snapshotId: z.string() }),
  z.strictObject({ kind: z.literal('volume'), volumeId: z.string() }),
]);

const grantSchema = z.strictObject({
  node: z.string(),
  readOnly: z.boolean(),
  /** What ControllerPublish returned. */
  generation: whole,
  /** What the export of this grant is named after: higher than `generation` once acknowledged writes were lost. */
  exportGeneration: whole,
});

const snapshotSchema = z.strictObject({
  id: ulid,
  name: z.string(),
  number: whole,
  createdAtMs: whole,
  sizeBytes: whole,
  /** The name is claimed backend-wide. */
  claimed: z.boolean(),
  /** Removed, but kept for its clones. */
  hidden: z.boolean(),
  /** The volume's own values when the snapshot was taken: a clone and a rollback start with them. */
  written: z.boolean(),
  formatting: z.string().nullable(),
  /** ULIDs of the volumes that were cloned from it. */
  clones: z.array(ulid),
});
export type SnapshotState = z.infer<typeof snapshotSchema>;

const stateSchema = z.strictObject({
  id: ulid,
  name: z.string(),
  sizeBytes: whole,
  /** What was asked for when it was created: a repeated call is compared with that. */
  createdSizeBytes: whole,
  createdAtMs: whole,
  flushTo: z.enum(flushTargets),
  source: sourceSchema.nullable(),
  /** The volume and snapshot that this one was cloned from. */
  parent: z.strictObject({ volume: ulid, snapshot: ulid }).nullable(),
  grants: z.array(grantSchema),
  generation: whole,
  written: z.boolean(),
  formatting: z.string().nullable(),
  /** The number of the latest snapshot ever taken. */
  snapshotNumber: whole,
  snapshots: z.array(snapshotSchema),
  /** The volume itself was removed; its snapshots may remain. */
  removed: z.boolean(),
});
export type VolumeState = z.infer<typeof stateSchema>;

const checkpointSchema = z.strictObject({
  kind: z.literal('checkpoint'),
  /** Records of slots from this number on are newer than the checkpoint. */
  replayFrom: whole,
  state: stateSchema,
  root: persistedRootSchema.nullable(),
  snapshotRoots: z.array(z.strictObject({ number: whole, root: persistedRootSchema.nullable() })),
  /** Key of the space accounts; null when the volume owns no object. */
  accounts: z.string().nullable(),
  /** Objects that nothing uses from this checkpoint on: they are deleted once it is committed. */
  doomed: z.array(whole),
});
export type CheckpointRecord = z.infer<typeof checkpointSchema>;

const changeSchemas = [
  z.strictObject({
    kind: z.literal('created'),
    state: stateSchema,
    root: persistedRootSchema.nullable(),
  }),
  z.strictObject({ kind: z.literal('resized'), sizeBytes: whole }),
  z.strictObject({
    kind: z.literal('snapshotTaken'),
    id: ulid,
    name: z.string(),
    createdAtMs: whole,
    claimed: z.boolean(),
    hidden: z.boolean(),
  }),
  z.strictObject({ kind: z.literal('snapshotHidden'), id: ulid }),
  z.strictObject({ kind: z.literal('snapshotRemoved'), id: ulid }),
  z.strictObject({ kind: z.literal('rolledBack'), id: ulid }),
  z.strictObject({ kind: z.literal('cloneLinked'), snapshot: ulid, clone: ulid }),
  z.strictObject({ kind: z.literal('cloneUnlinked'), snapshot: ulid, clone: ulid }),
  z.strictObject({
    kind: z.literal('granted'),
    node: z.string(),
    readOnly: z.boolean(),
    generation: whole,
  }),
  z.strictObject({ kind: z.literal('revoked'), node: z.string().nullable(), generation: whole }),
  /** Acknowledged writes were lost: exports opened before are never served again. */
  z.strictObject({ kind: z.literal('generationRaised'), generation: whole, reason: z.string() }),
  z.strictObject({ kind: z.literal('formattingBegun'), filesystem: z.string() }),
  z.strictObject({ kind: z.literal('formattingEnded') }),
  z.strictObject({ kind: z.literal('removed') }),
] as const;

const controlSchema = z.discriminatedUnion('kind', [checkpointSchema, ...changeSchemas]);

export type ControlRecord = z.infer<typeof controlSchema>;
export type StateChange = z.infer<(typeof changeSchemas)[number]>;

/** CORRUPT when the payload is not a control record of this version. */
export function parseControl(payload: unknown): ControlRecord {
  const result = controlSchema.safeParse(payload);
  if (result.success) return result.data;
  throw new VolumeError(
    'CORRUPT',
    `reading a control record: ${z.prettifyError(result.error).replaceAll('\n', ' ')}`,
    { cause: result.error },
  );
}
