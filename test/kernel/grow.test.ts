/**
 * A mounted ext4 grows under a program that writes to it, by NodeExpandVolume. The kernel allows that only with
 * CAP_SYS_RESOURCE, which root has on a node and often not in a container or CI machine: a user-mode-linux guest is a
 * kernel where root has it. Its kernel has fuse and loop as modules, so all of the real attach path runs inside. The same
 * capability makes the roles that carry I/O, and the daemons under the devices, I/O flushers: seen there, too.
 */
import { expect } from '@jest/globals';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { GrowReport } from '../support/guest-grow.ts';
import type { MemorySafety } from '../support/io-flushers.ts';
import { eventually, MiB, tell } from '../support/real-driver.ts';
import { testRequires } from '../support/requires.ts';
import { UmlGuest } from '../support/uml.ts';

const sizes = [32, 48, 160];
const limitMs = 150_000;

testRequires(
  [
    ...(['root', 'linux', 'tool:linux.uml', 'tool:qemu-storage-daemon'] as const),
    ...(['tool:mkfs.ext4', 'tool:resize2fs', 'tool:e2fsck', 'tool:nbdcopy'] as const),
  ],
  'a mounted ext4 grows under a program that writes to it',
  async () => {
    const folder = await mkdtemp(join(tmpdir(), 'grow-'));
    const reports: GrowReport[] = [];
    const guest = new UmlGuest({
      folder,
      program: 'test/support/guest-grow.ts',
      input: sizes,
      onReport: (report) => reports.push(report as GrowReport),
    });
    try {
      await eventually('the guest is done', limitMs, () =>
        Promise.resolve(reports.some((report) => 'failed' in report || 'e2fsck' in report)),
      );
      check(reports);
    } catch (error) {
      throw new Error(`the guest said: ${guest.output()}`, { cause: error });
    } finally {
      await guest.kill();
      await rm(folder, { recursive: true, force: true });
    }
  },
  limitMs + 30_000,
);

function check(reports: readonly GrowReport[]): void {
  expect(reports).not.toContainEqual({ failed: true });
  // Journal and inodes take their part of what df shows.
  const shown = reports.flatMap((report) =>
    'mounted' in report ? [report.mounted] : 'grown' in report ? [report.grown] : [],
  );
  expect(shown).toHaveLength(sizes.length);
  expect(reports.filter((report) => 'safety' in report)).toHaveLength(1);
  for (const [i, size] of sizes.entries()) {
    expect(shown[i]).toBeLessThanOrEqual(size * MiB);
    expect(shown[i]).toBeGreaterThan(0.8 * size * MiB);
  }
  for (const report of reports) if ('errors' in report) expect(report.errors).toBe('0');
  for (const report of reports) if ('safety' in report) checkSafety(report.safety);
  const end = reports.at(-1);
  expect(end).toMatchObject({ leftovers: [] });
  expect(end).not.toMatchObject({ e2fsck: expect.stringMatching(/recover|fix|error/i) });
  tell(
    `df showed ${shown.map((bytes) => (bytes / MiB).toFixed(1)).join(', ')} MiB of ${sizes.join(', ')}`,
  );
}

function checkSafety(safety: Record<string, MemorySafety[]>): void {
  for (const name of ['volumedriver', 'attacher', 'daemons']) {
    expect({ name, safety: safety[name] }).toEqual({
      name,
      safety: [{ threads: expect.any(Number), unsafe: [], oomScore: -999 }],
    });
  }
  // Node's own threads and the engine's, as a node of this version has them: all were looked at.
  expect(safety['volumedriver']?.[0]?.threads).toBeGreaterThan(10);
  // What serves CSI runs mkfs and fsck, which take memory: it must wait and may be killed.
  expect(safety['plugin']).toMatchObject([{ oomScore: 0 }]);
  expect(safety['plugin']?.[0]?.unsafe).toContain('MainThread');
}
