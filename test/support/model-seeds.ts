/**
 * Which seeds the random histories are run with. SEEDS=n runs so many from FIRST_SEED on (1 unless given), shared by the
 * test files; SEED=x runs that one alone; STEPS=n makes each that long. What fails names its seed, its steps and the
 * command that repeats it.
 */
import { ModelRun } from './model-run.ts';

const seedsDefault = 500;
const stepsDefault = 60;
/** Against hanging only: a seed takes a tenth of a second. */
const limitMs = 60_000;

export interface Seeds {
  readonly first: number;
  readonly count: number;
  readonly steps: number;
}

/** The share of one of so many test files. */
export function seedsOf(part: number, parts: number): Seeds {
  const steps = numberFrom('STEPS', stepsDefault);
  const only = process.env['SEED'];
  if (only !== undefined) return { first: Number(only), count: part === 0 ? 1 : 0, steps };
  const first = numberFrom('FIRST_SEED', 1);
  const total = numberFrom('SEEDS', seedsDefault);
  const from = Math.floor((total * part) / parts);
  const to = Math.floor((total * (part + 1)) / parts);
  return { first: first + from, count: to - from, steps };
}

export async function runSeeds({ first, count, steps }: Seeds): Promise<void> {
  for (let seed = first; seed < first + count; seed++) await runSeed(seed, steps);
}

/** One history; fails when it doesn't end. */
export async function runSeed(seed: number, steps: number): Promise<void> {
  const run = new ModelRun(seed);
  const expired = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    expired.reject(new Error(`seed ${seed} doesn't end\nsteps: ${run.steps.join('; ')}`));
  }, limitMs);
  try {
    await Promise.race([run.run(steps), expired.promise]);
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    const again = `SEED=${seed} STEPS=${steps} scripts/jest test/property/engine`;
    throw new Error(`${text}\nrepeat it with: ${again}`, { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

function numberFrom(name: string, fallback: number): number {
  const text = process.env[name];
  return text === undefined ? fallback : Number(text);
}
