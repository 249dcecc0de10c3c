/** What every Appender does, as a suite that each implementation runs, on each disk. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { DiskFile } from '../disk/disk.ts';
import type { Appender, AppenderOptions } from './appender.ts';

export interface AppenderUnderTest {
  /** An open, empty file. */
  readonly file: DiskFile;
  readonly makeAppender: (options: AppenderOptions) => Appender;
  readonly cleanUp: () => void;
  /** Where the disk can be made to fail: then describeAppender is told so. */
  readonly faults?: AppenderFaults;
}

export interface AppenderFaults {
  readonly failWrite: (errno: 'EIO' | 'ENOSPC') => void;
  readonly failSync: (errno: 'EIO' | 'ENOSPC') => void;
  readonly repair: () => void;
  readonly syncCount: () => number;
  /** Cuts the power; the file's content afterwards. */
  readonly cutPower: () => string;
}

const text = (value: string): Buffer[] => [Buffer.from(value)];

export function describeAppender(
  name: string,
  open: () => AppenderUnderTest,
  options: { canFail: boolean },
): void {
  describe(name, () => {
    let under: AppenderUnderTest;
    let file: DiskFile;
    const content = (): string => {
      const buffer = Buffer.alloc(file.sizeBytes());
      file.readSync(buffer, 0);
      return buffer.toString('latin1');
    };
    const make = (options: Partial<AppenderOptions> = {}): Appender =>
      under.makeAppender({ position: 0, ...options });

    beforeEach(() => {
      under = open();
      file = under.file;
    });
    afterEach(() => {
      file.close();
      under.cleanUp();
    });

    test('appends land one after the other, at the positions that were told', async () => {
      const appender = make();
      const positions: (number | Promise<number>)[] = [
        appender.append(text('one')),
        appender.append([Buffer.from('t'), Buffer.alloc(0), Buffer.from('wo')]),
        appender.append([]),
        appender.append(text('three')),
      ];
      expect(await settled(positions)).toEqual([0, 3, 6, 6]);
      await appender.flush();
      expect(content()).toBe('onetwothree');
      expect(appender.position).toBe(11);
      await appender.destroy();
    });

    test('goes on at the position it was given', async () => {
      file.write(text('before'), 0);
      const appender = make({ position: 6 });
      expect(appender.durablePosition).toBe(6);
      expect(await appender.append(text(' after'))).toBe(6);
      await appender.sync();
      expect(content()).toBe('before after');
      expect(appender.durablePosition).toBe(12);
      await appender.destroy();
    });

    test('keeps the order when it is full, and takes an append longer than all its room', async () => {
      const appender = make({ bytesInFlightMax: 64, requestsInFlightMax: 3 });
      let expected = '';
      const positions: (number | Promise<number>)[] = [];
      const starts: number[] = [];
      for (let index = 0; index < 200; index++) {
        const record = String.fromCharCode(97 + (index % 26)).repeat(1 + ((index * 37) % 90));
        starts.push(expected.length);
        expected += record;
        positions.push(appender.append(text(record)));
      }
      await appender.flush();
      expect(await settled(positions)).toEqual(starts);
      expect(content()).toBe(expected);
      await appender.destroy();
    });

    test('a flush covers all appends before it, also those that wait for room', async () => {
      const appender = make({ requestsInFlightMax: 1 });
      const lengths: number[] = [];
      const flushes: Promise<void>[] = [];
      for (let index = 1; index <= 20; index++) {
        void appender.append(text('x'));
        flushes.push(
          appender.flush().then(() => {
            lengths.push(file.sizeBytes() - index);
          }),
        );
      }
      await Promise.all(flushes);
      expect(lengths.every((surplus) => surplus >= 0)).toBe(true);
      await appender.destroy();
    });

    test('the bytes may change after a flush', async () => {
      const appender = make();
      const buffer = Buffer.from('first');
      await appender.append([buffer]);
      await appender.flush();
      buffer.write('other');
      await appender.append([buffer]);
      await appender.flush();
      expect(content()).toBe('firstother');
      await appender.destroy();
    });

    test('flush and sync with nothing to do resolve', async () => {
      const appender = make();
      await Promise.all([appender.flush(), appender.sync(), appender.sync()]);
      await appender.destroy();
    });

    test('destroy flushes, leaves the file open, can be repeated, and ends the appender', async () => {
      const appender = make();
      void appender.append(text('last'));
      await Promise.all([appender.destroy(), appender.destroy()]);
      expect(content()).toBe('last');
      const ended = { code: 'SHUTTING_DOWN' };
      await expect(appending(appender, 'x')).rejects.toMatchObject(ended);
      await expect(appender.flush()).rejects.toMatchObject(ended);
      await expect(appender.sync()).rejects.toMatchObject(ended);
    });

    test('resume is harmless when nothing went wrong', async () => {
      const appender = make();
      await appender.append(text('abc'));
      await appender.flush();
      expect(appender.resume()).toBe(3);
      await appender.destroy();
    });

    if (options.canFail) describeFaults();

    function describeFaults(): void {
      const withFaults = (
        what: string,
        run: (faults: AppenderFaults, appender: Appender) => Promise<void>,
      ): void => {
        test(what, async () => {
          if (under.faults === undefined) throw new Error('a disk that can fail was promised');
          await run(under.faults, make());
        });
      };

      withFaults('what was synced survives a power cut', async (faults, appender) => {
        await appender.append(text('durable'));
        await appender.sync();
        expect(appender.durablePosition).toBe(7);
        await appender.append(text('maybe'));
        await appender.flush();
        expect(faults.cutPower().slice(0, 7)).toBe('durable');
      });

      withFaults(
        'many waiters share few syncs, each covering its append',
        async (faults, appender) => {
          const syncs = Array.from({ length: 50 }, async (_, index) => {
            await appender.append(text('x'));
            await appender.sync();
            expect(appender.durablePosition).toBeGreaterThan(index);
          });
          await Promise.all(syncs);
          expect(faults.syncCount()).toBeLessThanOrEqual(5);
        },
      );

      withFaults('a sync that runs already does not count', async (faults, appender) => {
        await appender.append(text('a'));
        const first = appender.sync();
        await appender.append(text('b'));
        const second = appender.sync();
        await Promise.all([first, second]);
        expect(faults.syncCount()).toBe(2);
        expect(faults.cutPower()).toBe('ab');
      });

      withFaults('a failed write is final', async (faults, appender) => {
        await appender.append(text('good'));
        await appender.flush();
        faults.failWrite('EIO');
        await expect(appending(appender, 'bad')).rejects.toMatchObject(halted('EIO'));
        faults.repair();
        await expectHalted(appender, 'EIO');
      });

      withFaults('a failed sync is final, for whatever reason', async (faults, appender) => {
        await appender.append(text('good'));
        faults.failSync('ENOSPC');
        const syncs = [appender.sync(), appender.sync()];
        for (const result of await Promise.allSettled(syncs)) {
          expect(result).toMatchObject({ status: 'rejected', reason: halted('ENOSPC') });
        }
        faults.repair();
        await expectHalted(appender, 'ENOSPC');
        expect(appender.durablePosition).toBe(0);
      });

      withFaults(
        'without space it stays usable, at the same position',
        async (faults, appender) => {
          await appender.append(text('good'));
          await appender.flush();
          for (let round = 0; round < 2; round++) {
            faults.failWrite('ENOSPC');
            await expect(appending(appender, 'x'.repeat(9000))).rejects.toMatchObject({
              code: 'OUT_OF_SPACE',
            });
            faults.repair();
            expect(appender.resume()).toBe(4);
            expect(appender.position).toBe(4);
          }
          expect(await appender.append(text(' again'))).toBe(4);
          await appender.sync();
          expect(faults.cutPower().slice(0, 10)).toBe('good again');
        },
      );
    }
  });
}

/** Appends and flushes: a failure may come with either. */
async function appending(appender: Appender, value: string): Promise<void> {
  await appender.append(text(value));
  await appender.flush();
}

function halted(errno: string): { code: string; message: string } {
  return { code: 'HALTED', message: expect.stringContaining(errno) as unknown as string };
}

async function expectHalted(appender: Appender, errno: string): Promise<void> {
  await expect(appending(appender, 'x')).rejects.toMatchObject(halted(errno));
  await expect(appender.flush()).rejects.toMatchObject(halted(errno));
  await expect(appender.sync()).rejects.toMatchObject(halted(errno));
  expect(() => appender.resume()).toThrow(expect.objectContaining(halted(errno)));
  await expect(appender.destroy()).rejects.toMatchObject(halted(errno));
}

async function settled(positions: readonly (number | Promise<number>)[]): Promise<number[]> {
  const result: number[] = [];
  for (const position of positions) result.push(await position);
  return result;
}
