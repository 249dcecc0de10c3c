/** On a folder made like sysfs. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { listNbdDevices, maxPart, readNbdDevice, setIoTimeout } from './nbd-devices.ts';

let root: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'sysfs-'));
});

afterEach(() => {
  rmSync(root, { recursive: true });
});

function put(path: string, text: string): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), text);
}

test('lists the devices by their numbers, and nothing else', async () => {
  put('nbd10/size', '2048\n');
  put('nbd10/pid', '4711\n');
  put('nbd10/backend', 'driver/node/volume#3\n');
  put('nbd2/size', '0\n');
  put('nbd2p1/size', '7\n');
  put('nbd02/size', '7\n');
  put('loop0/size', '7\n');
  await expect(listNbdDevices(root)).resolves.toEqual([
    { index: 2, identifier: null, pid: null, sizeBytes: 0 },
    { index: 10, identifier: 'driver/node/volume#3', pid: 4711, sizeBytes: 1024 * 1024 },
  ]);
});

test.each([
  { what: 'no identifier', files: { backend: '\n', pid: '5\n' }, identifier: null, pid: 5 },
  { what: 'an old kernel', files: { pid: '5\n' }, identifier: null, pid: 5 },
  { what: 'a line break at its end', files: { backend: 'a\n\n' }, identifier: 'a\n', pid: null },
  { what: 'a process of no number', files: { pid: 'x\n' }, identifier: null, pid: null },
  { what: 'a process that ended', files: { pid: '0\n' }, identifier: null, pid: null },
])('reads a device with $what', async ({ files, identifier, pid }) => {
  put('nbd0/size', '8\n');
  for (const [name, text] of Object.entries(files)) put(`nbd0/${name}`, text);
  const device = { index: 0, identifier, pid, sizeBytes: 4096 };
  await expect(readNbdDevice(0, root)).resolves.toEqual(device);
});

test.each(['', 'x\n', '99999999999999999999\n'])('takes size %j for no device', async (size) => {
  put('nbd0/size', size);
  await expect(readNbdDevice(0, root)).resolves.toBeNull();
});

test('tells that there is no device', async () => {
  await expect(readNbdDevice(0, root)).resolves.toBeNull();
  await expect(listNbdDevices(root)).resolves.toEqual([]);
});

test('fails when sysfs cannot be read', async () => {
  await expect(listNbdDevices(join(root, 'none'))).rejects.toMatchObject({ code: 'INTERNAL' });
  mkdirSync(join(root, 'nbd0/size'), { recursive: true });
  await expect(readNbdDevice(0, root)).rejects.toMatchObject({ code: 'INTERNAL' });
});

test('sets the timeout of a device that is there', async () => {
  put('nbd3/queue/io_timeout', '30000\n');
  await setIoTimeout(3, 2000, root);
  expect(readFileSync(join(root, 'nbd3/queue/io_timeout'), 'utf8')).toMatch(/^2000/);
  await expect(setIoTimeout(4, 2000, root)).rejects.toMatchObject({ code: 'INTERNAL' });
});

test.each([
  { text: '16\n', value: 16 },
  { text: '0\n', value: 0 },
  { text: '\n', value: null },
  { text: 'x\n', value: null },
])('reads max_part as $value', async ({ text, value }) => {
  put('max_part', text);
  await expect(maxPart(join(root, 'max_part'))).resolves.toBe(value);
});

test('knows no max_part without the module', async () => {
  await expect(maxPart(join(root, 'max_part'))).resolves.toBeNull();
});
