/**
 * What the attacher remembers: one JSON file per volume, and the identity of this state directory. A record is
 * written before the work that it announces and removed after the work that it undoes, so that every half-made
 * device has one. A record that cannot be read is reported as such and left alone.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import type { Random } from '../base/random.ts';
import { VolumeError } from '../volumes/errors.ts';
import { readFileIfPresent, removeFileDurably, writeFileDurably } from '../base/files.ts';

/** attaching and detaching: the work was begun, and nobody may rely on the device. */
export const phases = ['attaching', 'attached', 'detaching'] as const;
export type Phase = (typeof phases)[number];

const recordSchema = z.object({
  version: z.literal(1),
  /** The state directory that it was written in. */
  instanceId: z.string(),
  /** /proc/sys/kernel/random/boot_id when the device was made: devices do not outlive a boot. */
  bootId: z.string(),
  volumeId: z.string().min(1),
  uri: z.string(),
  readOnly: z.boolean(),
  strategy: z.string(),
  phase: z.enum(phases),
  /** The strategy's own; null until it saved any. */
  details: z.record(z.string(), z.unknown()).nullable(),
});
export type AttachmentRecord = Readonly<z.infer<typeof recordSchema>>;

/** Why nothing is known of a device whose details another version wrote: no reason to give it up. */
export const unreadable = 'this version cannot read what its record says of it';

export type StoredRecord =
  | { readonly key: string; readonly record: AttachmentRecord }
  | { readonly key: string; readonly problem: string };

/** A short file name for any volume id. */
export function volumeKey(volumeId: string): string {
  return createHash('sha256').update(volumeId).digest('hex').slice(0, 16);
}

export function encodeRecord(record: AttachmentRecord): string {
  return `${JSON.stringify(record, null, 2)}\n`;
}

/** The record in `text`, or in a few words why there is none. */
export function decodeRecord(
  text: string,
): { readonly record: AttachmentRecord } | { readonly problem: string } {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    return { problem: `it is not JSON: ${error instanceof Error ? error.message : String(error)}` };
  }
  const parsed = recordSchema.safeParse(json);
  if (parsed.success) return { record: parsed.data };
  const issue = parsed.error.issues[0];
  return {
    problem: `${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'it has the wrong form'}`,
  };
}

export class RecordStore {
  readonly #folder: string;
  readonly #instancePath: string;

  constructor(stateDirectory: string) {
    this.#folder = join(stateDirectory, 'records');
    this.#instancePath = join(stateDirectory, 'instance');
  }

  /** Makes the folders and returns the instance id, a new one in a new state directory. Before any other call. */
  async open(random: Random): Promise<string> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    await this.#removeTemporaryFiles();
    const existing = (await readFileIfPresent(this.#instancePath))?.trim();
    if (existing !== undefined && /^[0-9a-f]{32}$/.test(existing)) return existing;
    const instanceId = random.bytes(16).toString('hex');
    await writeFileDurably(this.#instancePath, `${instanceId}\n`);
    return instanceId;
  }

  /** Null when there is none. */
  async read(key: string): Promise<StoredRecord | null> {
    const text = await readFileIfPresent(this.#path(key));
    if (text === null) return null;
    const decoded = decodeRecord(text);
    if ('problem' in decoded) return { key, problem: decoded.problem };
    if (volumeKey(decoded.record.volumeId) !== key)
      return { key, problem: 'it belongs to another volume' };
    return { key, record: decoded.record };
  }

  async list(): Promise<StoredRecord[]> {
    const stored: StoredRecord[] = [];
    for (const name of (await readdir(this.#folder)).sort()) {
      const key = /^([0-9a-f]{16})\.json$/.exec(name)?.[1];
      if (key === undefined) continue;
      const entry = await this.read(key);
      if (entry !== null) stored.push(entry);
    }
    return stored;
  }

  async write(record: AttachmentRecord): Promise<void> {
    await writeFileDurably(this.#path(volumeKey(record.volumeId)), encodeRecord(record));
  }

  async remove(key: string): Promise<void> {
    await removeFileDurably(this.#path(key));
  }

  /** What a crash in the middle of a write has left: torn, and never a record. */
  async #removeTemporaryFiles(): Promise<void> {
    for (const name of await readdir(this.#folder)) {
      if (/^\.[0-9a-f]{16}\.json\.tmp$/.test(name)) {
        await removeFileDurably(join(this.#folder, name));
      }
    }
  }

  #path(key: string): string {
    return join(this.#folder, `${key}.json`);
  }
}

/** The running kernel's boot, proc(5). */
export async function readBootId(): Promise<string> {
  const text = await readFileIfPresent('/proc/sys/kernel/random/boot_id');
  if (text === null)
    throw new VolumeError('NOT_CAPABLE', 'read the boot id: /proc/sys/kernel/random is not there');
  return text.trim();
}
