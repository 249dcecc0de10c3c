/** What a writer's file tells: see writer.ts. Each line is its number, and the seconds since boot when it was written. */

export interface WrittenLines {
  readonly count: number;
  readonly longestPauseMs: number;
}

/**
 * That the lines are 1, 2, 3 … without a gap, up to `acknowledged` at least. The last one may be torn: it is written
 * while it is read.
 */
export function checkLines(text: string, acknowledged: number): WrittenLines {
  const lines = text.split('\n').filter((line) => line !== '');
  let longestPauseMs = 0;
  let before: number | undefined;
  let count = 0;
  for (const [at, line] of lines.entries()) {
    const match = /^(\d+) (\d+\.\d+)$/.exec(line);
    if (match === null || Number(match[1]) !== at + 1) {
      if (at === lines.length - 1 && at >= acknowledged) break;
      throw new Error(`line ${at + 1} of ${lines.length} is ${JSON.stringify(line.slice(0, 60))}`);
    }
    const now = Number(match[2]) * 1000;
    if (before !== undefined) longestPauseMs = Math.max(longestPauseMs, now - before);
    before = now;
    count = at + 1;
  }
  if (count < acknowledged) {
    throw new Error(`${acknowledged} lines were synced, but only ${count} are there`);
  }
  return { count, longestPauseMs };
}
