/**
 * The CSI project's own csi-sanity against the controller and node services, over MemoryVolumeService and loop
 * devices: quick, and without an engine. `make sanity` runs it against the whole driver, and builds the binary that
 * this test only uses when it is there.
 */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCommand } from '../../src/volumes/command.ts';
import { startCsiHarness, type CsiHarness } from '../support/csi-harness.ts';
import { describeRequires } from '../support/requires.ts';

const cache = process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache');
const binary = join(cache, 'volumedriver-csi', 'bin', 'csi-sanity-v5.6.0');

let directory: string;
let harness: CsiHarness;

describeRequires(
  ['linux', 'root', 'loop', 'tool:mkfs.ext4', 'tool:mkfs.xfs', `path:${binary}`],
  'csi-sanity passes',
  () => {
    beforeEach(async () => {
      directory = await mkdtemp(join(tmpdir(), 'csi-sanity-'));
      harness = await startCsiHarness(directory);
    });

    afterEach(async () => {
      await harness.close();
    });

    test.each([
      { name: 'mount with ext4', access: 'mount', fsType: 'ext4' },
      { name: 'mount with xfs', access: 'mount', fsType: 'xfs' },
      { name: 'block', access: 'block', fsType: undefined },
    ])(
      '$name',
      async ({ access, fsType }) => {
        const parameters = join(directory, 'parameters.yaml');
        await writeFile(
          parameters,
          fsType === undefined ? '' : `csi.storage.k8s.io/fstype: ${fsType}`,
        );
        const { stdout, exitCode } = await runCommand(
          binary,
          [
            '-ginkgo.no-color',
            `-csi.endpoint=unix://${harness.socketPath}`,
            `-csi.mountdir=${join(directory, 'mount')}`,
            `-csi.stagingdir=${join(directory, 'staging')}`,
            `-csi.testvolumeaccesstype=${access}`,
            `-csi.testvolumeparameters=${parameters}`,
          ],
          { timeoutMs: 120_000, acceptExitCodes: [0, 1] },
        );
        expect(exitCode === 0 ? '' : stdout).toBe('');
        expect(stdout).toMatch(/SUCCESS! -- \d\d Passed \| 0 Failed/);
        expect(await harness.devices.listDevices()).toEqual([]);
        expect((await harness.volumes.listVolumes({})).items).toEqual([]);
      },
      150_000,
    );
  },
);
