import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

let directory: string;
const printAll = `
  const { argv, env } = process;
  console.log(JSON.stringify({ args: argv.slice(2), pool: env.UV_THREADPOOL_SIZE ?? null }));
`;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'launchers-'));
  await cp(resolve(import.meta.dirname, '../../bin'), join(directory, 'product/bin'), {
    recursive: true,
  });
  await mkdir(join(directory, 'product/dist/cli'), { recursive: true });
  await mkdir(join(directory, 'links'));
  await writeFile(join(directory, 'product/dist/main.js'), printAll);
  await symlink('../product/bin/vdctl', join(directory, 'links/one'));
  await symlink('one', join(directory, 'links/vdctl'));
  await symlink(join(directory, 'product/bin/volumedriver-csi'), join(directory, 'links/driver'));
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

function run(
  file: string,
  args: string[],
  env: Record<string, string> = {},
): Promise<[number, string, string]> {
  return new Promise((settle) => {
    const options = {
      cwd: directory,
      timeout: 10_000,
      env: { PATH: process.env['PATH'], VOLUMEDRIVER_NODE: process.execPath, ...env },
    };
    execFile(file, args, options, (error, stdout, stderr) => {
      settle([error === null ? 0 : Number(error.code), stdout, stderr]);
    });
  });
}

test('a launcher says how to build what is missing, in one line', async () => {
  const [code, out, err] = await run('links/vdctl', ['volume', 'ls']);
  expect([code, out]).toEqual([1, '']);
  expect(err).toMatch(/^vdctl: .*dist\/cli\/main\.js is missing: run 'npm run build' first\n$/);
});

test('a launcher passes its arguments on through symbolic links', async () => {
  await writeFile(join(directory, 'product/dist/cli/main.js'), printAll);
  const [code, out, err] = await run('links/vdctl', ['volume', 'a b', '*']);
  expect([code, err]).toEqual([0, '']);
  expect(JSON.parse(out)).toEqual({ args: ['volume', 'a b', '*'], pool: null });
});

test.each([
  ['unset', {}, '16'],
  ['set', { UV_THREADPOOL_SIZE: '32' }, '32'],
])('the driver has threads enough when UV_THREADPOOL_SIZE is %s', async (_, env, pool) => {
  const [code, out] = await run('links/driver', ['all'], env);
  expect(code).toBe(0);
  expect(JSON.parse(out)).toEqual({ args: ['all'], pool });
});
