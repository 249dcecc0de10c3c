/** The NBD server as everybody else's clients see it: libnbd, nbdcopy, qemu, fio. */
import { afterAll, beforeAll, expect } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '../../src/base/command.ts';
import { MemoryStorage } from '../support/memory-device.ts';
import { startNbdFixture, type NbdFixture } from '../support/nbd-fixture.ts';
import { describeRequires, testRequires, type Requirement } from '../support/requires.ts';

const mebi = 2 ** 20;
const sizeBytes = 64 * mebi;
const timeoutMs = 20_000;
const libnbd: Requirement[] = ['path:/usr/bin/python3', 'python:nbd'];

let fixture: NbdFixture;
let uri: string;
let counter = 0;

beforeAll(async () => {
  fixture = await startNbdFixture();
});

afterAll(async () => {
  await fixture.close();
});

/** An export of its own for each test. */
function addExport(options: { readOnly?: boolean; sizeBytes?: number } = {}): MemoryStorage {
  counter += 1;
  const name = `vol-${counter}`;
  uri = fixture.uri(name);
  return fixture.exports.add(name, new MemoryStorage(options.sizeBytes ?? sizeBytes, options));
}

async function run(command: string, ...args: string[]): Promise<string> {
  const { stdout } = await runCommand(command, args, { timeoutMs });
  return stdout;
}

/** Runs a script with the handle `h` connected to the export, unless `connect` is false. */
async function python(script: string, { connect = true } = {}): Promise<string> {
  const lines = [
    'import nbd, errno',
    `uri = ${JSON.stringify(uri)}`,
    'h = nbd.NBD()',
    'h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)',
    connect ? 'h.connect_uri(uri)' : '',
    script,
  ];
  const input = lines.join('\n');
  const { stdout } = await runCommand('/usr/bin/python3', ['-'], { timeoutMs, input });
  return stdout;
}

describeRequires(['tool:nbdinfo'], 'nbdinfo', () => {
  testRequires([], 'shows what the server can do', async () => {
    addExport();
    const { exports } = JSON.parse(await run('nbdinfo', '--json', uri)) as {
      exports: Record<string, unknown>[];
    };
    expect(exports).toMatchObject([
      {
        'export-name': `vol-${counter}`,
        'export-size': sizeBytes,
        description: `memory export vol-${counter}`,
        contexts: ['base:allocation'],
        is_read_only: false,
        can_cache: true,
        can_df: true,
        can_fast_zero: true,
        can_flush: true,
        can_fua: true,
        can_multi_conn: true,
        can_trim: true,
        can_zero: true,
        block_size_minimum: 1,
        block_size_preferred: 4096,
        block_size_maximum: 32 * mebi,
      },
    ]);
  });

  testRequires([], 'shows holes', async () => {
    const storage = addExport();
    storage.write(mebi, Buffer.alloc(mebi, 1));
    const map = JSON.parse(await run('nbdinfo', '--map', '--json', uri)) as unknown;
    expect(map).toMatchObject([
      { offset: 0, length: mebi, type: 3 },
      { offset: mebi, length: mebi, type: 0 },
      { offset: 2 * mebi, length: sizeBytes - 2 * mebi, type: 3 },
    ]);
  });

  testRequires([], 'lists exports, read-only ones too', async () => {
    addExport({ readOnly: true });
    const { exports } = JSON.parse(await run('nbdinfo', '--list', '--json', uri)) as {
      exports: Record<string, unknown>[];
    };
    const found = exports.find((each) => each['export-name'] === `vol-${counter}`);
    expect(found).toMatchObject({ is_read_only: true });
    expect(exports.length).toBe(counter);
  });

  testRequires([], 'is told that there is no such export', async () => {
    const failed = run('nbdinfo', fixture.uri('none'));
    await expect(failed).rejects.toThrow('No such file or directory for export: none');
  });
});

describeRequires(['tool:nbdcopy'], 'nbdcopy', () => {
  testRequires([], 'brings back what it took there, holes included', async () => {
    const storage = addExport();
    const [source, target] = [join(fixture.folder, 'source'), join(fixture.folder, 'target')];
    const file = await open(source, 'w');
    await file.truncate(sizeBytes);
    for (let at = 0; at < sizeBytes; at += 7 * mebi) {
      await file.write(randomBytes(mebi + 12_345), 0, mebi + 12_345, at);
    }
    await file.truncate(sizeBytes);
    await file.close();
    await run('nbdcopy', '--flush', source, uri);
    await run('nbdcopy', uri, target);
    expect((await readFile(source)).equals(await readFile(target))).toBe(true);
    expect(storage.extents(0, sizeBytes, 1000).filter(({ hole }) => hole).length).toBeGreaterThan(
      5,
    );
  });
});

describeRequires(['tool:qemu-io', 'tool:qemu-img'], 'qemu', () => {
  testRequires([], 'reads the patterns that it wrote', async () => {
    addExport();
    const commands = [
      ['write -P 0xab 1M 4M', 'write -f -P 0xcd 2M 64k', 'write -z 3M 64k', 'write -z -u 4M 64k'],
      ['discard 1M 64k', 'flush', 'read -P 0 1M 64k', 'read -P 0xab 1088k 900k'],
      ['read -P 0xcd 2M 64k', 'read -P 0 3M 64k', 'read -P 0 4M 64k', 'read -P 0 5M 1M'],
      [
        'write -P 0x11 511 3',
        'read -P 0x11 511 3',
        'write -P 0x22 20M 33M',
        'read -P 0x22 20M 33M',
      ],
    ].flat();
    const args = commands.flatMap((command) => ['-c', command]);
    const output = await run('qemu-io', '-f', 'raw', ...args, uri);
    expect(output).not.toMatch(/failed|error|mismatch/i);
  });

  testRequires([], 'cannot write to a read-only export', async () => {
    addExport({ readOnly: true });
    const failed = run('qemu-io', '-f', 'raw', '-c', 'write 0 512', uri);
    await expect(failed).rejects.toThrow(/read-only|permission/i);
  });

  testRequires([], 'finds an image that it converted to be the same', async () => {
    addExport();
    const image = join(fixture.folder, 'image');
    await writeFile(
      image,
      Buffer.concat([randomBytes(3 * mebi), Buffer.alloc(sizeBytes - 3 * mebi)]),
    );
    await run('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', image, uri);
    await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', image, uri);
    expect(await run('qemu-img', 'map', '--output=json', uri)).toContain('"zero": true');
  });
});

describeRequires(libnbd, 'libnbd', () => {
  testRequires(
    [],
    'reads in chunks, in one chunk with DF, and block status with REQ_ONE',
    async () => {
      addExport().write(8192, Buffer.alloc(4096, 1));
      const output = await python(`
kinds = []
def chunk(data, offset, status, err):
    kinds.append((offset, len(data), status))
h.pread_structured(16384, 0, chunk)
print(kinds)
kinds.clear()
h.pread_structured(16384, 0, chunk, nbd.CMD_FLAG_DF)
print(kinds)
found = []
def extent(context, offset, entries, err):
    found.append((context, offset, entries))
h.block_status(65536, 0, extent)
h.block_status(65536, 100, extent, nbd.CMD_FLAG_REQ_ONE)
h.block_status(4096, 8192, extent, nbd.CMD_FLAG_REQ_ONE)
print(found)
print(nbd.READ_DATA, nbd.READ_HOLE)
`);
      expect(output.split('\n')).toEqual([
        '[(0, 8192, 2), (8192, 4096, 1), (12288, 4096, 2)]',
        '[(0, 16384, 1)]',
        "[('base:allocation', 0, [8192, 3, 4096, 0, 53248, 3])," +
          " ('base:allocation', 100, [8092, 3]), ('base:allocation', 8192, [4096, 0])]",
        '1 2',
        '',
      ]);
    },
  );

  testRequires([], 'gets the right error for each illegal request, and may go on', async () => {
    addExport();
    const output = await python(`
h.set_strict_mode(0)
size = h.get_size()
def attempt(name, call):
    try:
        call()
        print(name, 'OK')
    except nbd.Error as error:
        print(name, error.errno)
attempt('read past end', lambda: h.pread(512, size - 1))
attempt('read far past end', lambda: h.pread(512, 2 ** 62))
attempt('write past end', lambda: h.pwrite(b'x' * 512, size))
attempt('zero past end', lambda: h.zero(512, size))
attempt('trim past end', lambda: h.trim(512, size))
attempt('cache past end', lambda: h.cache(512, size))
attempt('status past end', lambda: h.block_status(512, size, lambda *a: 0))
attempt('read unknown flag', lambda: h.pread(512, 0, 0x80))
attempt('flush unknown flag', lambda: h.flush(0x80))
attempt('trim REQ_ONE', lambda: h.trim(512, 0, nbd.CMD_FLAG_REQ_ONE))
attempt('zero fast no hole', lambda: h.zero(512, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE))
attempt('zero fast', lambda: h.zero(512, 0, nbd.CMD_FLAG_FAST_ZERO))
attempt('status zero length', lambda: h.block_status(0, 0, lambda *a: 0))
attempt('read too long', lambda: h.pread(33 * 1024 * 1024, 0))
attempt('write after all that', lambda: h.pwrite(b'y' * 512, 0, nbd.CMD_FLAG_FUA))
assert h.pread(512, 0) == b'y' * 512
h.shutdown()
`);
    expect(output.trim().split('\n')).toEqual([
      'read past end EINVAL',
      'read far past end EINVAL',
      'write past end ENOSPC',
      'zero past end ENOSPC',
      'trim past end EINVAL',
      'cache past end EINVAL',
      'status past end EINVAL',
      'read unknown flag EINVAL',
      'flush unknown flag EINVAL',
      'trim REQ_ONE EINVAL',
      'zero fast no hole ENOTSUP',
      'zero fast OK',
      'status zero length EINVAL',
      'read too long EINVAL',
      'write after all that OK',
    ]);
  });

  testRequires([], 'sees one export over several connections', async () => {
    addExport();
    const output = await python(`
others = [nbd.NBD() for _ in range(3)]
for other in others:
    other.connect_uri(uri)
assert h.can_multi_conn()
for index, other in enumerate(others):
    other.pwrite(bytes([index + 1]) * 4096, index * 4096)
h.flush()
for index in range(3):
    assert others[(index + 1) % 3].pread(4096, index * 4096) == bytes([index + 1]) * 4096
for other in others:
    other.shutdown()
print('ok')
`);
    expect(output).toBe('ok\n');
  });

  testRequires([], 'negotiates option by option', async () => {
    addExport();
    const output = await python(
      `
h.set_opt_mode(True)
h.connect_uri(uri)
found = []
h.opt_list(lambda name, description: found.append(name))
print(len(found) > 0)
contexts = []
h.opt_list_meta_context(lambda name: contexts.append(name))
print(contexts)
h.clear_meta_contexts()
h.add_meta_context('base:')
h.opt_list_meta_context(lambda name: contexts.append(name))
print(contexts)
name = h.get_export_name()
h.set_export_name('none')
try:
    h.opt_info()
except nbd.Error as error:
    print(error.errno)
h.set_export_name(name)
h.opt_info()
print(h.get_size())
h.opt_go()
print(h.pread(4, 0))
h.shutdown()
`,
      { connect: false },
    );
    expect(output.trim().split('\n')).toEqual([
      'True',
      "['base:allocation']",
      "['base:allocation', 'base:allocation']",
      'ENOENT',
      `${sizeBytes}`,
      "bytearray(b'\\x00\\x00\\x00\\x00')",
    ]);
  });

  testRequires([], 'works as old a client as there is: no structured replies, no GO', async () => {
    addExport();
    const output = await python(
      `
h = nbd.NBD()
h.set_request_structured_replies(False)
h.set_handshake_flags(0)
h.connect_uri(uri)
print(h.get_protocol(), h.get_structured_replies_negotiated())
h.pwrite(b'old' * 1000, 1)
print(bytes(h.pread(3, 1)))
h.shutdown()
`,
      { connect: false },
    );
    expect(output.trim().split('\n')).toEqual(['newstyle False', "b'old'"]);
  });
});

describeRequires(['tool:fio'], 'fio', () => {
  testRequires([], 'verifies what it wrote with many requests in flight', async () => {
    addExport();
    const job = ['--name=verify', '--ioengine=nbd', `--uri=${uri}`, '--rw=randrw', '--iodepth=32'];
    const work = ['--bsrange=512-256k', '--bs_unaligned=1', '--size=48m', '--verify=crc32c'];
    const rest = ['--fsync=64', '--verify_fatal=1', '--verify_state_save=0', '--randseed=7'];
    const output = await run('fio', ...job, ...work, ...rest, '--runtime=5', '--minimal');
    expect(output).not.toMatch(/verify:|error/i);
  });
});
