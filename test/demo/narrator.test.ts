/** What the narrator prints to a terminal, to a log, and after it was stopped. */
import { PassThrough } from 'node:stream';
import type { WriteStream } from 'node:tty';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from '@jest/globals';
import { formatSeconds, Narrator } from './narrator.ts';

const control = /[^\n\x20-\x7e\u2000-\uffff]/;

/** A stream that says of itself that it is a terminal. */
function terminal(columns: number): WriteStream {
  const properties = { isTTY: true, columns, hasColors: () => false, getColorDepth: () => 1 };
  return Object.assign(new PassThrough(), properties) as unknown as WriteStream;
}

function printed(stream: WriteStream): string {
  return String((stream as unknown as PassThrough).read() ?? '');
}

async function tell(output: WriteStream, environment: NodeJS.ProcessEnv = {}): Promise<string> {
  const narrator = new Narrator(output, environment);
  narrator.step('First');
  const result = await narrator.work(
    'Working on something that has a long name',
    () => delay(250, 'all'),
    (what) => `Done: ${what}`,
    'the work',
  );
  expect(result).toBe('all');
  narrator.summary();
  return printed(output);
}

describe('Narrator', () => {
  test('prints plain lines where there is no terminal', async () => {
    const text = await tell(new PassThrough() as unknown as WriteStream);
    expect(text).not.toMatch(control);
    const time = '\\d\\.\\d s';
    expect(text).toMatch(
      new RegExp(`^\n 1\\. First\n {4}✓ Done: all \\(${time}\\)\n {4}the work +${time}\n$`),
    );
  });

  test('counts the seconds in one line of a terminal, which is gone at the end', async () => {
    const text = await tell(terminal(30));
    const lives = text.split('\r\x1b[K').filter((part) => part.includes('…'));
    expect(lives.length).toBeGreaterThan(1);
    for (const live of lives) expect(live.length).toBeLessThan(30);
    expect(text).toMatch(/\r\x1b\[K {4}✓ Done/);
  });

  test.each([
    ['a width of 0', 0, {}, /… Working on something that has a long name \(/],
    ['TERM=dumb', 80, { TERM: 'dumb' }, /^[\n\x20-\x7e\u2000-\uffff]*$/],
  ])('copes with %s', async (_name, columns, environment, expected) => {
    expect(await tell(terminal(columns), environment)).toMatch(expected);
  });

  test('neither prints nor goes on after it was stopped', async () => {
    const output = new PassThrough() as unknown as WriteStream;
    const narrator = new Narrator(output, {});
    const work = narrator.work(
      'Working',
      () => delay(50),
      () => 'Done',
    );
    const reason = new Error('stopped');
    narrator.stop(reason);
    await expect(work).rejects.toBe(reason);
    expect(() => {
      narrator.say('more');
    }).toThrow(reason);
    narrator.epilogue('the end');
    expect(printed(output)).toBe('the end\n');
  });

  test.each([
    [4, '0.004 s'],
    [1234, '1.2 s'],
    [99_400, '99 s'],
  ])('writes %d ms as %s', (ms, text) => {
    expect(formatSeconds(ms)).toBe(text);
  });
});
