/** What a run of the benchmarks can be told, by the environment. */

export interface Settings {
  rounds: number;
  seconds: number;
  sizeBytes: number;
  /** Block size of the first fill, as fio writes it. */
  fillBlock: string;
  /** Repetitions of each step of a life cycle. */
  repetitions: number;
  /** Mapped sizes at which snapshots and clones are timed, in GiB. */
  mappedGiB: number[];
  directory: string;
}

const units: Readonly<Record<string, number>> = { '': 1, k: 10, m: 20, g: 30, t: 40 };

export function readSettings(environment: NodeJS.ProcessEnv): Settings {
  const number = (name: string, fallback: number): number => {
    const value = Number(environment[name] ?? fallback);
    if (Number.isSafeInteger(value) && value > 0) return value;
    throw new Error(`${name}=${environment[name] ?? ''}: a whole number from 1 was expected`);
  };
  const mapped = (environment['MAPPED_GIB'] ?? '1,1024').split(',').map(Number);
  if (mapped.some((size) => !Number.isSafeInteger(size) || size < 1)) {
    throw new Error('MAPPED_GIB: whole numbers from 1, with commas between, were expected');
  }
  return {
    rounds: number('ROUNDS', 3),
    seconds: number('CELL_SECONDS', 1),
    sizeBytes: parseSize(environment['SIZE'] ?? '1GiB'),
    fillBlock: environment['FILL'] ?? '4k',
    repetitions: number('REPETITIONS', 10),
    mappedGiB: mapped,
    directory: environment['BENCH_DIR'] ?? '/var/tmp',
  };
}

function parseSize(text: string): number {
  const match = /^(\d+) ?([kmgt]?)i?b?$/i.exec(text);
  const power = units[match?.[2]?.toLowerCase() ?? ''];
  if (match === null || power === undefined) throw new Error(`SIZE=${text}: not a size like 2GiB`);
  return Number(match[1]) * 2 ** power;
}
