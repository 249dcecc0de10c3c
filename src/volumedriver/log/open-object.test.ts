/** An open object on a full disk. */
import { expect, test } from '@jest/globals';
import { SimulatedDisk } from '../../../test/support/simulated-disk.ts';
import { clusterBytes } from '../format/constants.ts';
import { makeObjectId } from '../format/location.ts';
import { OpenObject } from './open-object.ts';

test.each([1, 2, 3, 4, 5])('a write that met a full disk leaves nothing behind (%d)', (seed) => {
  const disk = new SimulatedDisk({ seed });
  const file = disk.create('/object.sco');
  const object = new OpenObject(makeObjectId(1, 0), 'data', file);
  const write = (clusters: number): void => {
    const data = Buffer.alloc(clusters * clusterBytes, 7);
    object.stage(object.count, 0, data);
    object.writeStaged([data]);
    object.commit(clusters);
  };
  write(2);
  disk.fail({ kind: 'write', errno: 'ENOSPC' });
  expect(() => {
    write(16);
  }).toThrow('ENOSPC');
  expect(file.sizeBytes()).toBe(2 * clusterBytes);
  object.seal();
  expect(file.sizeBytes()).toBe(2 * (clusterBytes + 32) + 64);
  file.close();
});
