/**
 * The built product's command lines: what vdctl prints about a volumedriver that runs, and how a volumedriver that cannot
 * run says so: one process, one message, an exit code, never a hang.
 */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MiB, Product, product as executable, vdctl } from '../support/product.ts';

const limitMs = 120_000;

interface Run {
  code: number | string | null | undefined;
  stdout: string;
  stderr: string;
}

function run(program: string, args: readonly string[]): Promise<Run> {
  return new Promise((resolve) => {
    const options = { timeout: 30_000, killSignal: 'SIGKILL' } as const;
    execFile(program, args, options, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : error.code, stdout, stderr });
    });
  });
}

describe('vdctl against a volumedriver that runs', () => {
  let product: Product;
  beforeAll(async () => {
    product = await Product.open();
  }, limitMs);
  afterAll(async () => {
    await product.close();
  });
  const ctl = (...args: string[]): Promise<Run> =>
    run(vdctl, ['--api', `unix:${product.apiPath}`, ...args]);
  const json = async (...args: string[]): Promise<unknown> => {
    const { code, stdout, stderr } = await ctl('-o', 'json', ...args);
    expect([code, stderr]).toEqual([0, '']);
    return JSON.parse(stdout);
  };

  test('lists volumes and snapshots as tables and as JSON', async () => {
    expect((await ctl('volume', 'ls')).stdout).toMatch(/^NAME .* ID\n$/);
    expect(await json('volume', 'ls')).toEqual([]);
    const made = await ctl('volume', 'create', 'data', '64MiB');
    expect(made.stdout).toMatch(/^volume data of 64 MiB, id [0-9a-f]+\.[0-9A-Z]{26}\n$/);
    const client = await product.connect('data');
    await client.write(0, Buffer.alloc(MiB, 1));
    await client.disconnect();
    const taken = await ctl('snapshot', 'create', 'data', 'first');
    expect(taken.stdout).toMatch(/^snapshot first, in the backend, id \S+\n$/);

    const table = (await ctl('volume', 'ls')).stdout.split('\n');
    expect(table).toEqual([
      expect.stringMatching(/^NAME +SIZE +USED +STATE +CREATED +ID$/),
      expect.stringMatching(/^data +64 MiB +1 MiB +ok +\S+Z +[0-9a-f]+\.[0-9A-Z]{26}$/),
      '',
    ]);
    const volumes = await json('volume', 'ls');
    expect(volumes).toMatchObject([
      { name: 'data', sizeBytes: 64 * MiB, usedBytes: MiB, written: true, grants: [] },
    ]);
    const [{ id }] = volumes as [{ id: string }];
    expect(await json('volume', 'show', id)).toMatchObject({
      id,
      uri: expect.stringContaining(product.nbdPath),
    });

    const snapshots = (await ctl('snapshot', 'ls', 'data')).stdout.split('\n');
    expect(snapshots).toEqual([
      expect.stringMatching(/^NAME +SIZE +SYNCED +CREATED +ID$/),
      expect.stringMatching(/^first +64 MiB +yes +\S+Z +\S+$/),
      '',
    ]);
    expect(await json('snapshot', 'ls', id)).toMatchObject([
      { name: 'first', volumeId: id, sizeBytes: 64 * MiB, synced: true },
    ]);
    expect(await json('volume', 'clone', 'data@first', 'copy')).toMatchObject({ name: 'copy' });
    expect(await json('info')).toMatchObject({ ready: true, nodeId: 'localhost' });
  });

  test.each([
    { args: ['volume', 'show', 'none'], code: 1, why: 'finding volume "none": it does not exist' },
    { args: ['volume', 'rm', 'none'], code: 1, why: 'finding volume "none": it does not exist' },
    { args: ['snapshot', 'ls', 'none'], code: 1, why: 'finding volume "none": it does not exist' },
    { args: ['snapshot', 'rm', 'data', 'none'], code: 1, why: 'snapshot "none" of volume "data"' },
    { args: ['snapshot', 'create', 'data', 'first'], code: 1, why: 'the volume has one' },
    { args: ['snapshot', 'rm', 'data', 'first'], code: 1, why: 'clones of it: 1' },
    { args: ['volume', 'create', 'data', '1GiB'], code: 1, why: 'another size' },
    { args: ['volume', 'resize', 'data', '1MiB'], code: 1, why: 'shrink' },
    { args: ['volume', 'create', 'new', '10G'], code: 2, why: 'write GiB (1024) or GB (1000)' },
    { args: ['volume', 'create', 'new'], code: 2, why: "missing required argument 'size'" },
    { args: ['volume', 'explode'], code: 2, why: "unknown command 'explode'" },
    { args: ['volume', 'ls', '--all'], code: 2, why: "unknown option '--all'" },
    { args: ['-o', 'yaml', 'volume', 'ls'], code: 2, why: 'table, json' },
  ])('$args fails with exit code $code and one line', async ({ args, code, why }) => {
    const answer = await ctl(...args);
    expect(answer).toMatchObject({ code, stdout: '' });
    expect(answer.stderr).toMatch(/^vdctl: [^\n]+\n$/);
    expect(answer.stderr).toContain(why);
  });

  test('says that nobody answers, within a time limit', async () => {
    const nobody = join(product.sandbox.path, 'run/nobody.sock');
    const answer = await run(vdctl, ['--api', `unix:${nobody}`, 'volume', 'ls']);
    expect(answer).toMatchObject({ code: 1, stdout: '' });
    expect(answer.stderr).toMatch(/^vdctl: .*nobody\.sock: it does not answer .*\n$/);
  });
});

describe('a volumedriver that cannot run', () => {
  let product: Product;
  let folder = '';
  beforeAll(async () => {
    product = await Product.open();
    folder = product.sandbox.path;
    await writeFile(join(folder, 'file'), '');
  }, limitMs);
  afterAll(async () => {
    await product.close();
  });

  /** A command line that would work, with some of it replaced. */
  function args(changes: Record<string, string>): string[] {
    const flags = {
      ...{ '--data-dir': join(folder, 'other/data'), '--backend': `file:${folder}/other/backend` },
      ...{ '--nbd': `unix:${folder}/run/n.sock`, '--api': `unix:${folder}/run/a.sock` },
      ...changes,
    };
    return ['volumedriver', ...Object.entries(flags).flat()];
  }
  const refusals = (): { what: string; args: string[]; why: RegExp }[] => {
    const { dataDirectory, backendDirectory, nbdPath, apiPath } = product;
    const same = { '--data-dir': dataDirectory, '--backend': `file:${backendDirectory}` };
    const owner = new RegExp(`process ${product.pid} uses this directory`);
    return [
      { what: 'an unknown flag', args: args({ '--bogus': 'x' }), why: /unknown option '--bogus'/ },
      { what: 'an unknown role', args: ['conductor'], why: /unknown command 'conductor'/ },
      { what: 'the same data and backend', args: args(same), why: owner },
      { what: 'the same data', args: args({ '--data-dir': dataDirectory }), why: owner },
      {
        what: 'the same backend',
        args: args({ '--backend': `file:${backendDirectory}` }),
        why: owner,
      },
      { what: 'a file as data', args: args({ '--data-dir': `${folder}/file` }), why: /EEXIST/ },
      {
        what: 'a data directory below a file',
        args: args({ '--data-dir': `${folder}/file/x` }),
        why: /ENOTDIR/,
      },
      {
        what: 'data where nothing can be made',
        args: args({ '--data-dir': '/proc/none' }),
        why: /ENOENT/,
      },
      {
        what: 'a file as backend',
        args: args({ '--backend': `file:${folder}/file` }),
        why: /EEXIST/,
      },
      {
        what: 'the NBD socket of another',
        args: args({ '--nbd': `unix:${nbdPath}` }),
        why: /another server is listening/,
      },
      {
        what: 'the API socket of another',
        args: args({ '--api': `unix:${apiPath}` }),
        why: /another process answers/,
      },
    ];
  };

  test(
    'says why, once, and leaves the one that runs alone',
    async () => {
      const { id } = await product.volumes.createVolume({ name: 'kept', sizeBytes: 64 * MiB });
      const client = await product.connect(id);
      for (const { what, args: line, why } of refusals()) {
        const { code, stdout, stderr } = await run(executable, line);
        expect({ what, code, stdout: stdout.length }).toEqual({ what, code: 1, stdout: 0 });
        expect(stderr).toMatch(why);
        expect(stderr.match(why)).toHaveLength(1);
        // A message for people: no stack of ours.
        expect(stderr).not.toMatch(/^\s+at /m);
        await client.write(0, Buffer.alloc(4096, what.length), { fua: true });
      }
      await client.disconnect();
      expect((await product.volumes.listVolumes({})).items).toHaveLength(1);
      expect(existsSync(join(folder, 'run/a.sock'))).toBe(false);
    },
    limitMs,
  );

  test('tells all that is wrong with its flags at once', async () => {
    const line = ['volumedriver', '--data-dir', 'here', '--backend', 's3://bucket/prefix'];
    const more = ['--nbd', 'nowhere', '--api', 'nowhere', '--reserve', 'lots'];
    const rest = ['--grace', '-1', '--log-level', 'loud', '--node-id', 'a b'];
    const { code, stderr } = await run(executable, [...line, ...more, ...rest]);
    expect(code).toBe(1);
    const flags = stderr.matchAll(/^(?:volumedriver-csi: )?(--[a-z-]+): \S/gm);
    expect([...flags].map(([, flag]) => flag).sort()).toEqual([
      '--api',
      '--backend',
      '--data-dir',
      '--grace',
      '--log-level',
      '--nbd',
      '--node-id',
      '--reserve',
    ]);
    expect((await run(executable, ['volumedriver'])).stderr.match(/it is required/g)).toHaveLength(
      4,
    );
  });
});
