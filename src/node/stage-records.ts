/**
 * What this node did with each volume, one file per volume, so that repeated calls, publishes and expansions know
 * it after a restart. A record is written after the step it tells of (targets: before), and mountinfo and the
 * attacher stay the truth: a lost or damaged record costs a repeated NodeStageVolume, never data.
 * Mount flags may hold secrets, so only their digest is kept.
 */
import { createHash } from 'node:crypto';
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { hasErrno } from '../base/errno.ts';
import { describeError, type Logger } from '../base/logger.ts';
import type { VolumeUse } from '../csi/volume-capability.ts';
import { VolumeError } from '../volumes/errors.ts';

const useSchema = z.object({
  kind: z.enum(['mount', 'block']),
  accessMode: z.string(),
  /** As asked for; empty: no wish. */
  fsType: z.string(),
  mountFlagsDigest: z.string(),
});

const targetSchema = z.object({ path: z.string(), readOnly: z.boolean(), use: useSchema });

const recordSchema = z.object({
  formatVersion: z.literal(1),
  volumeId: z.string(),
  stagingPath: z.string(),
  generation: z.number().int().nonnegative(),
  readOnly: z.boolean(),
  use: useSchema,
  /** What is mounted at the staging path; null for a block volume. */
  fsType: z.enum(['ext4', 'xfs']).nullable(),
  targets: z.array(targetSchema),
});

export type RecordedUse = z.infer<typeof useSchema>;
export type TargetRecord = z.infer<typeof targetSchema>;
export type StageRecord = z.infer<typeof recordSchema>;

export function recordUse(use: VolumeUse): RecordedUse {
  if (use.kind === 'block') {
    return { kind: 'block', accessMode: use.accessMode, fsType: '', mountFlagsDigest: '' };
  }
  const digest = createHash('sha256').update(JSON.stringify(use.mountFlags)).digest('hex');
  const { accessMode, fsType } = use;
  return { kind: 'mount', accessMode, fsType, mountFlagsDigest: digest };
}

/** Whether a repeated call asks for the same thing. */
export function isSameUse(left: RecordedUse, right: RecordedUse): boolean {
  return (
    left.kind === right.kind &&
    left.accessMode === right.accessMode &&
    left.fsType === right.fsType &&
    left.mountFlagsDigest === right.mountFlagsDigest
  );
}

export class StageRecords {
  readonly #directory: string;
  readonly #logger: Logger;

  constructor(directory: string, logger: Logger) {
    this.#directory = directory;
    this.#logger = logger;
  }

  /** Undefined when there is none, or when it cannot be understood (which is logged). */
  async load(volumeId: string): Promise<StageRecord | undefined> {
    let text: string;
    try {
      text = await readFile(this.#path(volumeId), 'utf8');
    } catch (error) {
      if (hasErrno(error, 'ENOENT')) return undefined;
      throw new VolumeError(
        'UNAVAILABLE',
        `read stage record of ${volumeId}: ${describeError(error)}`,
        {
          cause: error,
        },
      );
    }
    try {
      const record = recordSchema.parse(JSON.parse(text));
      if (record.volumeId === volumeId) return record;
      throw new VolumeError('CORRUPT', `stage record of ${volumeId}: it is another volume's`);
    } catch (error) {
      this.#logger.warn('stage record ignored', { volumeId, error });
      return undefined;
    }
  }

  /** Durable and all or nothing. */
  async save(record: StageRecord): Promise<void> {
    const path = this.#path(record.volumeId);
    try {
      await mkdir(this.#directory, { recursive: true, mode: 0o700 });
      await writeDurably(`${path}.new`, JSON.stringify(record));
      await rename(`${path}.new`, path);
      await syncDirectory(this.#directory);
    } catch (error) {
      const full = hasErrno(error, 'ENOSPC');
      throw new VolumeError(
        full ? 'OUT_OF_SPACE' : 'UNAVAILABLE',
        `write stage record of ${record.volumeId}: ${describeError(error)}`,
        { cause: error },
      );
    }
  }

  /** Nothing to do when there is none. */
  async remove(volumeId: string): Promise<void> {
    await rm(this.#path(volumeId), { force: true });
    await rm(`${this.#path(volumeId)}.new`, { force: true });
  }

  #path(volumeId: string): string {
    // An id is the caller's text: it must not lead out of the directory, and names end at 255 bytes.
    const safe = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$/.test(volumeId);
    const name = safe ? volumeId : `~${createHash('sha256').update(volumeId).digest('hex')}`;
    return join(this.#directory, `${name}.json`);
  }
}

async function writeDurably(path: string, text: string): Promise<void> {
  const file = await open(path, 'w', 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
