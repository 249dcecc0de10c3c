/** Sizes as people write them: 10GiB, 500MB, 1.5TiB, 4096. Binary and decimal units are never confused. */
import { VolumeError } from '../volumes/errors.ts';

const units: ReadonlyMap<string, bigint> = new Map([
  ['', 1n],
  ['b', 1n],
  ['kb', 1000n],
  ['mb', 1000n ** 2n],
  ['gb', 1000n ** 3n],
  ['tb', 1000n ** 4n],
  ['kib', 1024n],
  ['mib', 1024n ** 2n],
  ['gib', 1024n ** 3n],
  ['tib', 1024n ** 4n],
  // As Kubernetes writes them.
  ['ki', 1024n],
  ['mi', 1024n ** 2n],
  ['gi', 1024n ** 3n],
  ['ti', 1024n ** 4n],
]);

/** The bytes of a size. INVALID_ARGUMENT says what would be right. */
export function parseSize(text: string): number {
  const match = /^\s*(\d+)(?:\.(\d{1,9}))?\s*([A-Za-z]*)\s*$/.exec(text);
  if (match === null) throw bad(text, 'write a number and a unit, such as 10GiB or 500MB');
  const [, whole = '', fraction = '', unit = ''] = match;
  if (/^[kmgt]$/i.test(unit)) {
    const letter = unit.toUpperCase();
    throw bad(text, `${letter} may mean two things: write ${letter}iB (1024) or ${letter}B (1000)`);
  }
  const scale = units.get(unit.toLowerCase());
  if (scale === undefined) {
    throw bad(text, `there is no unit ${unit}: use B, KiB, MiB, GiB, TiB or kB, MB, GB, TB`);
  }
  const divisor = 10n ** BigInt(fraction.length);
  const scaled = BigInt(whole + fraction) * scale;
  if (scaled % divisor !== 0n) throw bad(text, 'it is not a whole number of bytes');
  const bytes = scaled / divisor;
  if (bytes === 0n) throw bad(text, 'it must be more than nothing');
  if (bytes > BigInt(Number.MAX_SAFE_INTEGER)) throw bad(text, 'it is more than 8 PiB');
  return Number(bytes);
}

function bad(text: string, why: string): VolumeError {
  return new VolumeError('INVALID_ARGUMENT', `size ${JSON.stringify(text)}: ${why}`);
}

const binaryUnits = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;

/** For people: at most one decimal, in binary units. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let index = 0;
  // What would round to 1024.0 belongs to the next unit.
  while (value >= 1023.95 && index < binaryUnits.length - 1) {
    value /= 1024;
    index += 1;
  }
  const text = value.toFixed(1).replace(/\.0$/, '');
  return `${text} ${binaryUnits[index] ?? 'B'}`;
}
