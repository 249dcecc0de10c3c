import { describe, expect, test } from '@jest/globals';
import { suiteOf } from './suites.ts';

describe('suiteOf', () => {
  test.each([
    ['src/nbd/errors.test.ts', 'engine and NBD'],
    ['src/volumedriver/log/write-log.test.ts', 'engine and NBD'],
    ['src/volumedriver/store/file-store.test.ts', 'backend'],
    ['src/api/volumedriver-api.test.ts', 'backend'],
    ['src/attacher/fuse/grow.test.ts', 'attach and kernel'],
    ['src/node/mountinfo.test.ts', 'attach and kernel'],
    ['test/kernel/nested/deep/x.test.ts', 'attach and kernel'],
    ['test/kernel/attach-kernel.test.ts', 'guest kernels'],
    ['test/kernel/power-cut.test.ts', 'guest kernels'],
    ['test/demo/demo.test.ts', 'attach and kernel'],
    ['test/conformance/attach.test.ts', 'attach and kernel'],
    ['test/conformance/csi-node.test.ts', 'attach and kernel'],
    ['test/conformance/nbd-clients.test.ts', 'engine and NBD'],
    ['test/property/crash.test.ts', 'engine and NBD'],
    ['test/support/simulated-disk.test.ts', 'engine and NBD'],
    ['test/support/requires.test.ts', 'static'],
    ['test/tidy.test.ts', 'static'],
    ['scripts/suites.test.ts', 'static'],
  ])('%s belongs to %s', (file, suite) => {
    expect(suiteOf(file).name).toBe(suite);
  });
});
