import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { readLines, SilenceTimer } from './lines.ts';

async function linesOf(pieces: readonly Uint8Array[], bytesMax = 1000): Promise<string[]> {
  const lines: string[] = [];
  for await (const line of readLines(sourceOf(pieces), bytesMax, () => undefined)) lines.push(line);
  return lines;
}

async function* sourceOf(pieces: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  for (const piece of pieces) yield await Promise.resolve(piece);
}

function cutAt(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const cuts = [0, ...places.map((place) => place % (bytes.length + 1)), bytes.length].sort(
    (a, b) => a - b,
  );
  return cuts.slice(1).map((end, index) => bytes.subarray(cuts[index] ?? 0, end));
}

describe('lines', () => {
  test('are the same however their bytes arrive', async () => {
    const line = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 20 });
    await fc.assert(
      fc.asyncProperty(
        fc.array(line.filter((text) => text.trim() !== '' && !text.includes('\n'))),
        fc.array(fc.nat()),
        async (lines, places) => {
          const bytes = Buffer.from(lines.map((text) => `${text}\n`).join(''));
          expect(await linesOf(cutAt(bytes, places), 10_000)).toEqual(lines);
        },
      ),
      { numRuns: 200 },
    );
  });

  test('that are blank or cut off are left out', async () => {
    expect(await linesOf([Buffer.from('\n  \na\n\r\nb\ncut')])).toEqual(['a', 'b']);
  });

  test('are bounded', async () => {
    const endless = Array.from({ length: 100 }, () => Buffer.alloc(100, 'x'));
    await expect(linesOf(endless)).rejects.toMatchObject({ kind: 'protocol' });
    const many = Array.from({ length: 100 }, () => Buffer.from(`${'x'.repeat(99)}\n`));
    expect(await linesOf(many)).toHaveLength(100);
  });
});

test('a silence timer counts from the last piece', async () => {
  const timer = new SilenceTimer(200);
  for (let i = 0; i < 6; i += 1) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    timer.reset();
  }
  expect(timer.signal.aborted).toBe(false);
  await new Promise((resolve) => timer.signal.addEventListener('abort', resolve));
  expect(timer.signal.reason).toMatchObject({ kind: 'unavailable' });
  timer.stop();
});
