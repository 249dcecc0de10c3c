/** How answers are printed: tables for people, one JSON document per command for programs. */
import Table from 'cli-table3';
import type { Snapshot, Volume } from '../volumes/volume.ts';
import { formatSize } from './sizes.ts';

export type OutputFormat = 'table' | 'json';

/** Columns without borders: easy to read, easy to cut. */
const plain = {
  ...Object.fromEntries(
    ['top', 'top-mid', 'top-left', 'top-right', 'bottom', 'bottom-mid', 'bottom-left'].map(
      (name) => [name, ''],
    ),
  ),
  ...Object.fromEntries(
    ['bottom-right', 'left', 'left-mid', 'mid', 'mid-mid', 'right', 'right-mid'].map((name) => [
      name,
      '',
    ]),
  ),
  middle: '  ',
};

export function renderTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const table = new Table({
    head: [...head],
    chars: plain,
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
  });
  table.push(...rows.map((row) => [...row]));
  return trimLines(table.toString());
}

/** One thing, a line per fact. */
export function renderFacts(facts: readonly (readonly [name: string, value: string])[]): string {
  const width = Math.max(...facts.map(([name]) => name.length));
  return facts
    .map(([name, value]) => `${`${name}:`.padEnd(width + 2)} ${value}`.trimEnd())
    .join('\n');
}

function trimLines(text: string): string {
  return text
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}

export function renderJson(value: unknown): string {
  return JSON.stringify(value, null, 2);
}

export function renderVolumes(volumes: readonly Volume[]): string {
  return renderTable(
    ['NAME', 'SIZE', 'USED', 'STATE', 'CREATED', 'ID'],
    volumes.map((volume) => [
      printable(volume.name),
      formatSize(volume.sizeBytes),
      formatSize(volume.usedBytes),
      volumeState(volume),
      formatTime(volume.createdAtMs),
      volume.id,
    ]),
  );
}

export function renderSnapshots(snapshots: readonly Snapshot[]): string {
  return renderTable(
    ['NAME', 'SIZE', 'SYNCED', 'CREATED', 'ID'],
    snapshots.map((snapshot) => [
      printable(snapshot.name),
      formatSize(snapshot.sizeBytes),
      snapshot.synced ? 'yes' : 'no',
      formatTime(snapshot.createdAtMs),
      snapshot.id,
    ]),
  );
}

/** `uri` is where an NBD client finds the volume, or why it can't be told. */
export function renderVolume(volume: Volume, uri: string): string {
  return renderFacts([
    ['Name', printable(volume.name)],
    ['ID', volume.id],
    ['Size', `${formatSize(volume.sizeBytes)} (${volume.sizeBytes} bytes)`],
    ['Used', formatSize(volume.usedBytes)],
    ['State', volumeState(volume)],
    ['Flush to', volume.flushTo],
    ['Source', sourceText(volume)],
    ['Written', volume.written ? 'yes' : 'no'],
    ['Grants', grantsText(volume)],
    ['Generation', `${volume.generation}`],
    ['NBD clients', `${volume.clients}`],
    ['NBD URI', uri],
    ['Created', formatTime(volume.createdAtMs)],
  ]);
}

function volumeState(volume: Volume): string {
  if (volume.halted !== null) return `halted (${printable(volume.halted)})`;
  if (volume.formatting !== null) return `formatting ${printable(volume.formatting)}`;
  if (volume.grants.length > 0)
    return `granted to ${volume.grants.map((grant) => printable(grant.node)).join(', ')}`;
  return volume.clients > 0 ? 'in use' : 'ok';
}

function sourceText(volume: Volume): string {
  if (volume.source === null) return 'none';
  return volume.source.kind === 'snapshot'
    ? `snapshot ${volume.source.snapshotId}`
    : `volume ${volume.source.volumeId}`;
}

function grantsText(volume: Volume): string {
  if (volume.grants.length === 0) return 'none';
  return volume.grants
    .map(({ node, readOnly, generation }) => {
      return `${printable(node)} (${readOnly ? 'read-only' : 'read-write'}, generation ${generation})`;
    })
    .join(', ');
}

export function formatTime(ms: number): string {
  return new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z');
}

/** Names may hold anything but control characters; a terminal must not be steered by one that slipped through. */
export function printable(text: string): string {
  return text.replace(/\p{Cc}|\p{Cf}/gu, (character) => {
    return `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`;
  });
}
