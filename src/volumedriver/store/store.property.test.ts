/** The stores against a Map, by random sequences of calls. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { SeededRandom } from '../../../test/support/seeded-random.ts';
import { SimulatedDisk } from '../../../test/support/simulated-disk.ts';
import { FileStore } from './file-store.ts';
import { MemoryStore } from './memory-store.ts';
import type { ObjectStore } from './object-store.ts';

/** No key is the beginning of another one's path; otherwise as awkward to sort as keys get. */
const keys = ['0', 'a-', 'a.b/c', 'a/-', 'a/b/c', 'a/b-/c', 'a/b./c', 'a/b0', 'a0', 'b/1', 'b/2/x'];
const prefixes = ['', 'a', 'a/', 'a/b', 'a/b/', 'a.', 'b/2', 'b/2/x', 'b/2/xx', 'c', 'a/b/c/d'];

type Call =
  | { kind: 'put' | 'putIfAbsent' | 'putFile'; key: string; sizeBytes: number }
  | { kind: 'get'; key: string; offset: number; length: number }
  | { kind: 'list'; prefix: string; startAfter: string; limit: number }
  | { kind: 'delete'; key: string }
  | { kind: 'reopen' };

const key = fc.constantFrom(...keys);
const size = fc.integer({ min: 0, max: 10_000 });
const call: fc.Arbitrary<Call> = fc.oneof(
  fc.record({
    kind: fc.constantFrom('put' as const, 'putIfAbsent' as const, 'putFile' as const),
    key,
    sizeBytes: size,
  }),
  fc.record({ kind: fc.constant('get' as const), key, offset: size, length: size }),
  fc.record({
    kind: fc.constant('list' as const),
    prefix: fc.constantFrom(...prefixes),
    startAfter: fc.oneof(key, fc.constantFrom('', ...prefixes)),
    limit: fc.integer({ min: 1, max: 12 }),
  }),
  fc.record({ kind: fc.constant('delete' as const), key }),
  fc.record({ kind: fc.constant('reopen' as const) }),
);

interface World {
  store: ObjectStore;
  readonly disk: SimulatedDisk;
  readonly reopen: () => Promise<ObjectStore>;
}

async function apply(world: World, model: Map<string, Buffer>, call: Call): Promise<void> {
  const { store } = world;
  switch (call.kind) {
    case 'reopen':
      world.store = await world.reopen();
      return;
    case 'delete':
      await store.delete(call.key);
      model.delete(call.key);
      return;
    case 'get': {
      const expected = model.get(call.key)?.subarray(call.offset, call.offset + call.length);
      expect(await store.get(call.key, call)).toEqual(expected && Buffer.from(expected));
      return;
    }
    case 'list':
      expect(await store.list(call.prefix, call)).toEqual(listModel(model, call));
      return;
    default:
      await applyPut(world, model, call);
  }
}

async function applyPut(
  { store, disk }: World,
  model: Map<string, Buffer>,
  { kind, key, sizeBytes }: { kind: string; key: string; sizeBytes: number },
): Promise<void> {
  // A key is never used for other content, except by putIfAbsent, which finds out.
  const known = model.get(key);
  const content = Buffer.alloc(sizeBytes, `${key} of ${sizeBytes} `);
  if (kind === 'putIfAbsent') {
    expect(await store.putIfAbsent(key, [content.subarray(0, 100), content.subarray(100)])).toBe(
      known === undefined,
    );
  } else if (kind === 'put') {
    await store.put(key, [known ?? content]);
  } else {
    const path = '/file';
    const file = disk.create(path);
    file.write([known ?? content], 0);
    await file.sync();
    await store.putFile(key, path);
    file.close();
    disk.remove(path);
  }
  if (known === undefined) model.set(key, content);
}

function listModel(
  model: Map<string, Buffer>,
  { prefix, startAfter, limit }: { prefix: string; startAfter: string; limit: number },
): { key: string; sizeBytes: number }[] {
  return [...model]
    .map(([key, content]) => ({ key, sizeBytes: content.length }))
    .filter(({ key }) => key.startsWith(prefix) && key > startAfter)
    .sort((a, b) => Buffer.compare(Buffer.from(a.key), Buffer.from(b.key)))
    .slice(0, limit);
}

const worlds: Record<string, () => Promise<World>> = {
  MemoryStore: async () => {
    const disk = new SimulatedDisk();
    const store = new MemoryStore(disk);
    return { store, disk, reopen: () => Promise.resolve(store) };
  },
  FileStore: async () => {
    const disk = new SimulatedDisk({ cacheMissProbability: 0.5 });
    const reopen = (): Promise<FileStore> =>
      FileStore.open({ disk, root: '/store', random: new SeededRandom(1), openFilesMax: 2 });
    return { store: await reopen(), disk, reopen };
  },
};

describe.each(Object.keys(worlds))('%s', (name) => {
  test('does what a Map would do', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(call, { maxLength: 60 }), async (calls) => {
        const world = await worlds[name]?.();
        if (world === undefined) throw new Error(`no world ${name}`);
        const model = new Map<string, Buffer>();
        for (const one of calls) await apply(world, model, one);
        const all = { prefix: '', startAfter: '', limit: 1000 };
        expect(await world.store.list('')).toEqual(listModel(model, all));
        for (const [key, content] of model) expect(await world.store.get(key)).toEqual(content);
      }),
      { numRuns: 200, interruptAfterTimeLimit: 3000, markInterruptAsFailure: false },
    );
  });
});
