import { afterEach, describe, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { findProcesses, identifyProcess, isAlive, parseStat, signalProcess } from './processes.ts';

const fields = (state: string): string =>
  `${state} 1 2 3 0 -1 4194304 98 0 0 0 0 0 0 0 20 0 1 0 33297 1 2`;

describe('parseStat', () => {
  const cases = [
    {
      name: 'a plain name',
      text: `7 (sleep) ${fields('S')}`,
      expected: { state: 'S', startTime: '33297' },
    },
    {
      name: 'a name with spaces and parentheses',
      text: `7 (a) b (c) ${fields('Z')}`,
      expected: { state: 'Z', startTime: '33297' },
    },
    { name: 'a short line', text: '7 (sleep) S 1 2', expected: null },
    { name: 'no name', text: `7 ${fields('S')}`, expected: null },
    { name: 'nothing', text: '', expected: null },
  ];
  test.each(cases)('reads $name', ({ text, expected }) => {
    expect(parseStat(text)).toEqual(expected);
  });
});

describe('processes', () => {
  const children: ChildProcess[] = [];
  afterEach(() => {
    for (const child of children.splice(0)) child.kill('SIGKILL');
  });
  async function sleeper(seconds: string): Promise<number> {
    const child = spawn('sleep', [seconds], { stdio: 'ignore' });
    children.push(child);
    await new Promise((resolve) => child.once('spawn', resolve));
    return child.pid ?? 0;
  }

  test('are told apart by their start time', async () => {
    const pid = await sleeper('61.25');
    const identity = await identifyProcess(pid);
    if (identity === null) throw new Error('the sleeper is not there');
    expect(await isAlive(identity)).toBe(true);
    const impostor = { pid, startTime: `${Number(identity.startTime) - 1}` };
    expect(await isAlive(impostor)).toBe(false);
    expect(await signalProcess(impostor, 'SIGKILL')).toBe(false);
    expect(await isAlive(identity)).toBe(true);
    expect(await signalProcess(identity, 'SIGKILL')).toBe(true);
    for (let attempt = 0; attempt < 100 && (await isAlive(identity)); attempt++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect(await isAlive(identity)).toBe(false);
    expect(await signalProcess(identity, 'SIGTERM')).toBe(false);
  });

  test('are found by name and arguments', async () => {
    const pid = await sleeper('61.75');
    const find = async (): Promise<number[]> =>
      (await findProcesses('sleep', (args) => args.includes('61.75'))).map((found) => found.pid);
    expect(await find()).toEqual([pid]);
    expect(await findProcesses('slee', (args) => args.includes('61.75'))).toEqual([]);
    expect(await findProcesses('sleep', (args) => args.includes('61.7'))).toEqual([]);
  });

  test('that do not exist are null', async () => {
    expect(await identifyProcess(2 ** 30)).toBeNull();
  });
});
