import { randomFillSync } from 'node:crypto';

/** Randomness as an argument, so that a simulation can repeat a run from its seed. */
export interface Random {
  /** `count` random bytes. */
  bytes(count: number): Buffer;
}

export const systemRandom: Random = {
  bytes: (count) => randomFillSync(Buffer.alloc(count)),
};
