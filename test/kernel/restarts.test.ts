/**
 * Every role ends and starts again while volumes are mounted and used: no program may notice more than a pause, calls
 * that were under way are repeated and end in the same state, and in the end nothing is left of any volume.
 */
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { countFrom, MiB, RealDriver, tell, type Role } from '../support/real-driver.ts';
import { RealWriter } from '../support/real-writer.ts';
import type { Pod } from '../support/real-csi.ts';
import { describeRequires } from '../support/requires.ts';
import { SeededRandom } from '../support/seeded-random.ts';

const seed = countFrom('SEED', Date.now() % 2 ** 31);
const limitMs = 120_000;

describeRequires(
  ['root', 'linux', 'fuse', 'loop', 'tool:qemu-storage-daemon', 'tool:mkfs.ext4'],
  'while volumes are attached',
  () => {
    const roles = ['volumedriver', 'attacher', 'plugin'] as const;
    let driver: RealDriver;
    let pods: Pod[] = [];
    let writers: RealWriter[] = [];

    beforeAll(async () => {
      driver = await RealDriver.open({ roles, volumedriverFlags: ['--grace', '1'] });
    }, limitMs);
    afterAll(async () => {
      await driver.close();
    }, limitMs);

    beforeEach(async () => {
      const { csi, sandbox } = driver;
      pods = [];
      for (const name of ['one', 'two']) {
        pods.push(await csi.startPod(sandbox.path, name, 64 * MiB));
      }
      writers = pods.map(({ targetPath }) => new RealWriter(sandbox, join(targetPath, 'records')));
      await progress();
    }, limitMs);
    afterEach(async () => {
      for (const writer of writers) await writer.finish();
      expect(errorsOfMounts()).toEqual([]);
      for (const pod of pods) await driver.csi.removePod(pod);
      expect(await driver.sandbox.leftovers()).toEqual([]);
    }, limitMs);

    async function progress(): Promise<void> {
      await Promise.all(writers.map((writer) => writer.progress()));
    }

    /** ext4 counts the errors that it met. */
    function errorsOfMounts(): string[] {
      const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n');
      const names = mounts
        .map((line) => line.split(' '))
        .filter(([, path]) => path?.startsWith(driver.sandbox.path) === true)
        .flatMap(([device = '', , type]) => (type === 'ext4' ? [device.replace('/dev/', '')] : []));
      expect(new Set(names).size).toBe(pods.length);
      return names.filter(
        (name) => readFileSync(`/sys/fs/ext4/${name}/errors_count`, 'utf8').trim() !== '0',
      );
    }

    test.each(['attacher', 'plugin'] as const)(
      'I/O does not need the %s at all',
      async (role) => {
        for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
          await driver.kill(role, { signal, stay: true });
          await progress();
          driver.resume(role);
          await driver.ready();
        }
        await progress();
      },
      limitMs,
    );

    test.each(['SIGTERM', 'SIGKILL'] as const)(
      'I/O pauses while the volumedriver restarts after %s',
      async (signal) => {
        await driver.kill('volumedriver', { signal });
        await driver.ready();
        await progress();
      },
      limitMs,
    );

    test(
      'all roles may die at once',
      async () => {
        await Promise.all(roles.map((role) => driver.kill(role)));
        await driver.ready();
        await progress();
      },
      limitMs,
    );

    test.each(roles)(
      'a pod that leaves while the %s is away has left once it is back',
      async (role) => {
        const [pod] = pods;
        if (pod === undefined) throw new Error('no pod');
        await writers[0]?.finish();
        writers = writers.slice(1);
        await driver.kill(role, { stay: true });
        const left = driver.csi.removePod(pod);
        await systemClock.sleep(500);
        driver.resume(role);
        await left;
        await driver.ready();
        await driver.csi.removePod(pod);
        pods = pods.slice(1);
        await progress();
      },
      limitMs,
    );

    test(
      'pods come and go while roles die under their calls',
      async () => {
        const random = new SeededRandom(seed);
        const { csi, sandbox } = driver;
        const deaths: string[] = [];
        for (let round = 0; round < 6; round++) {
          const story = csi
            .startPod(sandbox.path, `guest-${round}`, 32 * MiB)
            .then((pod) => csi.removePod(pod));
          const settled = story.then(
            () => true,
            () => true,
          );
          const role: Role = roles[round % roles.length] ?? 'plugin';
          const afterMs = random.integer(1000);
          await systemClock.sleep(afterMs);
          await driver.kill(role);
          deaths.push(`${role} after ${afterMs} ms`);
          await Promise.all([driver.ready(), settled]);
          await story;
        }
        tell(`seed ${seed}: ${deaths.join(', ')}`);
        await progress();
      },
      limitMs,
    );
  },
);
