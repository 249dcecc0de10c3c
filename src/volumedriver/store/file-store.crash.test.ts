/**
 * The FileStore on a disk that crashes before each of its operations in turn, and on one where each fails in turn:
 * what was acknowledged survives, put-if-absent never has two winners, and no object is ever seen in part.
 */
import { describe, expect, test } from '@jest/globals';
import { SeededRandom } from '../../../test/support/seeded-random.ts';
import { SimulatedDisk } from '../../../test/support/simulated-disk.ts';
import type { Disk } from '../disk/disk.ts';
import { FileStore } from './file-store.ts';
import { describeStore } from './store-contract.ts';

const root = '/var/store';

function openStore(disk: Disk): Promise<FileStore> {
  return FileStore.open({ disk, root, random: new SeededRandom(1), openFilesMax: 3 });
}

async function makeDurableFile(disk: Disk, path: string, content: Buffer): Promise<string> {
  disk.makeDirectory('/data');
  const file = disk.create(path);
  file.write([content], 0);
  await file.sync();
  file.close();
  return path;
}

let seed = 0;
describeStore('FileStore on SimulatedDisk', async () => {
  const disk = new SimulatedDisk({ seed: ++seed, cacheMissProbability: 0.5 });
  const store = await openStore(disk);
  let count = 0;
  return {
    store,
    makeFile: (content) => makeDurableFile(disk, `/data/${count++}`, content),
    cleanUp: () => {
      store.close();
    },
  };
});

/** What the test knows about a key. */
interface Fact {
  /** Contents that may have been stored under it. */
  readonly candidates: Set<string>;
  /** The content that an acknowledged put has made durable. */
  acknowledged?: string;
  /** A delete was called: from then on it may be there or not. */
  deleted: boolean;
}

class History {
  readonly facts = new Map<string, Fact>();
  winnersTwice = 0;

  fact(key: string): Fact {
    let fact = this.facts.get(key);
    if (fact === undefined) this.facts.set(key, (fact = { candidates: new Set(), deleted: false }));
    return fact;
  }

  async check(store: FileStore): Promise<void> {
    for (const [key, { candidates, acknowledged, deleted }] of this.facts) {
      const found = await store.get(key);
      const content = found === undefined ? undefined : nameOf(found);
      if (content !== undefined) expect([...candidates]).toContain(content);
      if (acknowledged === undefined) continue;
      if (content !== undefined) expect(`${key}: ${content}`).toBe(`${key}: ${acknowledged}`);
      else expect(`${key} ${deleted ? 'deleted' : 'lost'}`).toBe(`${key} deleted`);
    }
    for (const { key } of await store.list('')) expect(this.facts.has(key)).toBe(true);
  }
}

/** Contents are long and regular, so that a part of one, or a mixture, is noticed. */
function contentOf(name: string): Buffer {
  return Buffer.alloc(6000, `${name}|`);
}

function nameOf(content: Buffer): string {
  const name = content.toString('latin1').split('|')[0] ?? '';
  return contentOf(name).equals(content) ? name : `damaged object of ${content.length} bytes`;
}

/** Several clients at once; each stops at its first failure. `round` tells the writers of different lives apart. */
async function work(disk: Disk, store: FileStore, history: History, round: number): Promise<void> {
  const put = async (key: string): Promise<void> => {
    const fact = history.fact(key);
    fact.candidates.add(key);
    await store.put(key, [contentOf(key)]);
    if (!fact.deleted) fact.acknowledged = key;
  };
  const claim = async (key: string, writer: string): Promise<void> => {
    const fact = history.fact(key);
    fact.candidates.add(writer);
    if (!(await store.putIfAbsent(key, [contentOf(writer)]))) {
      // Whoever is refused may rely on what is there.
      const found = await store.get(key);
      expect(found).toBeDefined();
      fact.acknowledged ??= found === undefined ? 'nothing' : nameOf(found);
      return;
    }
    expect(fact.acknowledged ?? writer).toBe(writer);
    fact.acknowledged = writer;
  };
  const link = async (key: string): Promise<void> => {
    const fact = history.fact(key);
    const path = `/data/${round}-${key.replaceAll('/', '_')}`;
    await makeDurableFile(disk, path, contentOf(key));
    fact.candidates.add(key);
    await store.putFile(key, path);
    fact.acknowledged = key;
    disk.remove(path);
  };
  const remove = async (key: string): Promise<void> => {
    history.fact(key).deleted = true;
    await store.delete(key);
  };
  const clients = [
    async () => {
      await put('v/1/a');
      await claim(`v/1/slot/${round}`, `${round}x`);
      await claim('v/1/slot/shared', `${round}x`);
    },
    async () => {
      await claim(`v/1/slot/${round}`, `${round}y`);
      await claim('v/1/slot/shared', `${round}y`);
      await link(`w/${round}`);
    },
    async () => {
      await put(`d/e/${round}`);
      await remove(`d/e/${round}`);
      await put(`d/e/f/${round}`);
    },
    async () => {
      await link('v/1/b');
      await put(`d/e/other-${round}`);
      await remove(`d/e/other-${round}`);
    },
  ];
  const results = await Promise.allSettled(clients.map((client) => client()));
  for (const result of results) {
    if (result.status === 'rejected' && !isOperatingError(result.reason)) throw result.reason;
  }
}

function isOperatingError(reason: unknown): boolean {
  return reason instanceof Error && reason.name === 'VolumeError';
}

async function countOperations(): Promise<number> {
  const disk = new SimulatedDisk();
  let count = 0;
  disk.onOperation(({ number }) => (count = number));
  await work(disk, await openStore(disk), new History(), 1);
  return count;
}

/** Works until the given operation, where the machine or the process ends; returns the next life's disk. */
async function workUntilCrash(
  disk: SimulatedDisk,
  history: History,
  crash: { kind: 'process' | 'power'; atOperation: number; round: number },
): Promise<SimulatedDisk> {
  let next: SimulatedDisk | undefined;
  disk.onOperation(({ number }) => {
    if (number === crash.atOperation) next = disk.crash(crash.kind);
  });
  try {
    await work(disk, await openStore(disk), history, crash.round);
  } catch (error) {
    if (!isOperatingError(error)) throw error;
  }
  return next ?? disk.crash(crash.kind);
}

describe('FileStore and crashes', () => {
  test.each(['power', 'process'] as const)('%s lost before any operation', async (kind) => {
    const operations = await countOperations();
    expect(operations).toBeGreaterThan(80);
    for (let atOperation = 1; atOperation <= operations + 1; atOperation++) {
      for (let repeat = 0; repeat < 3; repeat++) {
        const history = new History();
        let disk = new SimulatedDisk({ seed: atOperation * 10 + repeat });
        disk = await workUntilCrash(disk, history, { kind, atOperation, round: 1 });
        await history.check(await openStore(disk));
        const later = 1 + ((atOperation * 7919) % operations);
        disk = disk.crash('process');
        disk = await workUntilCrash(disk, history, { kind: 'power', atOperation: later, round: 2 });
        await history.check(await openStore(disk));
      }
    }
  });

  test('a process crash first, a power cut soon after: what the first life left in memory only', async () => {
    const operations = await countOperations();
    for (let atOperation = 1; atOperation <= operations; atOperation += 2) {
      const history = new History();
      let disk = new SimulatedDisk({ seed: atOperation });
      disk = await workUntilCrash(disk, history, { kind: 'process', atOperation, round: 1 });
      const store = await openStore(disk);
      await work(disk, store, history, 2);
      await history.check(store);
      await history.check(await openStore(disk.crash('power')));
    }
  });

  test('a refused putIfAbsent, or a repeated put, has made durable what an earlier life left in memory', async () => {
    for (let seed = 1; seed <= 20; seed++) {
      let disk = new SimulatedDisk({ seed });
      const first = await openStore(disk);
      let next: SimulatedDisk | undefined;
      disk.onOperation(({ kind, path }) => {
        if (kind === 'syncDirectory' && path === `${root}/slot` && disk.sizeOf(`${root}/slot/1`)) {
          next = disk.crash('process');
        }
      });
      await expect(first.put('slot/1', [contentOf('x')])).rejects.toBeDefined();
      disk = next ?? disk;
      const second = await openStore(disk);
      if (seed % 2 === 0) await second.put('slot/1', [contentOf('x')]);
      else expect(await second.putIfAbsent('slot/1', [contentOf('y')])).toBe(false);
      const third = await openStore(disk.crash('power'));
      expect(await third.get('slot/1')).toEqual(contentOf('x'));
    }
  });

  test.each(['EIO', 'ENOSPC'] as const)('any operation failing with %s', async (errno) => {
    const kinds = [
      'create',
      'write',
      'sync',
      'link',
      'syncDirectory',
      'makeDirectory',
      'remove',
    ] as const;
    for (const kind of kinds) {
      for (let nth = 1; nth <= 25; nth++) {
        const history = new History();
        const disk = new SimulatedDisk({ seed: nth });
        const store = await openStore(disk);
        disk.fail({ kind, errno, nth });
        await work(disk, store, history, 1);
        await history.check(store);
        await work(disk, store, history, 2);
        await history.check(await openStore(disk.crash('power')));
      }
    }
  });

  test('after a failed directory sync nothing more is acknowledged until the store is opened again', async () => {
    const disk = new SimulatedDisk();
    const store = await openStore(disk);
    await store.put('a/1', [Buffer.from('1')]);
    disk.fail({ kind: 'syncDirectory', errno: 'EIO' });
    const unavailable = { code: 'UNAVAILABLE' };
    await expect(store.put('a/2', [Buffer.from('2')])).rejects.toMatchObject(unavailable);
    await expect(store.put('a/2', [Buffer.from('2')])).rejects.toMatchObject(unavailable);
    await expect(store.putIfAbsent('b', [Buffer.from('3')])).rejects.toMatchObject(unavailable);
    expect(String(await store.get('a/1'))).toBe('1');
    await (await openStore(disk)).put('b', [Buffer.from('3')]);
  });

  test('concurrent puts in one directory share its syncs', async () => {
    const disk = new SimulatedDisk();
    const store = await openStore(disk);
    await store.put('d/first', [Buffer.from('1')]);
    const before = disk.counts.syncDirectory;
    await Promise.all(
      Array.from({ length: 50 }, (_, index) => store.put(`d/${index}`, [Buffer.from('x')])),
    );
    expect(disk.counts.syncDirectory - before).toBeLessThanOrEqual(15);
  });

  test('a full disk is OUT_OF_SPACE and leaves nothing behind', async () => {
    const disk = new SimulatedDisk({ capacityBytes: 64 * 1024 });
    const store = await openStore(disk);
    await store.put('a', [Buffer.alloc(40_000)]);
    await expect(store.put('b', [Buffer.alloc(40_000)])).rejects.toMatchObject({
      code: 'OUT_OF_SPACE',
    });
    expect((await store.list('')).map(({ key }) => key)).toEqual(['a']);
    expect((await store.capacity()).availableBytes).toBe(64 * 1024 - 40_960);
    await store.delete('a');
    await store.put('b', [Buffer.alloc(40_000)]);
  });
});
