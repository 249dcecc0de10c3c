import { expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { resolve } from 'node:path';
import { secretFields } from '../../src/api/generated/secret-fields.ts';

const root = resolve(import.meta.dirname, '../..');

test('the generated types are what proto/ makes', async () => {
  const [code, output] = await new Promise<[unknown, string]>((settle) => {
    execFile(
      resolve(root, 'scripts/generate-proto'),
      ['--check'],
      { timeout: 25_000 },
      (error, stdout, stderr) => {
        settle([error === null ? 0 : error.code, stdout + stderr]);
      },
    );
  });
  expect([code, output]).toEqual([0, 'src/api/generated is up to date\n']);
});

test('every CSI request that carries secrets is known to redaction', () => {
  for (const method of [
    '/csi.v1.Controller/CreateVolume',
    '/csi.v1.Controller/ListSnapshots',
    '/csi.v1.Node/NodeStageVolume',
    '/csi.v1.Node/NodeExpandVolume',
    '/csi.v1.SnapshotMetadata/GetMetadataDelta',
  ]) {
    expect([method, secretFields[method]]).toEqual([method, ['secrets']]);
  }
  expect(Object.keys(secretFields).every((path) => path.startsWith('/csi.v1.'))).toBe(true);
});
