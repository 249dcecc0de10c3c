/** Who still needs a cluster: tables over small histories, and a model that counts references. */
import fc from 'fast-check';
import { describe, expect, test } from '@jest/globals';
import { makeObjectId } from './format/location.ts';
import { SpaceAccounts } from './space-accounts.ts';

const object = (counter: number): number => makeObjectId(1, counter);

function filled(accounts: SpaceAccounts, counter: number, count: number, birth: number): number {
  const objectId = object(counter);
  accounts.addObject(objectId, 'data', birth);
  accounts.extendObject(objectId, count);
  accounts.sealObject(objectId);
  return objectId;
}

function freed(accounts: SpaceAccounts, objectId: number): number[] {
  return [...(accounts.objects.get(objectId)?.freed ?? [])];
}

describe('a cluster', () => {
  test('is free at once when no snapshot has seen it', () => {
    const accounts = new SpaceAccounts();
    const id = filled(accounts, 0, 3, 0);
    accounts.release(id, 1, 0);
    expect(freed(accounts, id)).toEqual([1]);
    expect(accounts.usedBytes).toBe(2 * 4096);
    expect(accounts.takeDoomed()).toEqual([]);
  });

  test('dooms its object when it is the last', () => {
    const accounts = new SpaceAccounts();
    const id = filled(accounts, 0, 2, 0);
    accounts.release(id, 0, 0);
    accounts.release(id, 1, 0);
    expect(accounts.doomedCount).toBe(1);
    expect(accounts.takeDoomed()).toEqual([id]);
    expect(accounts.objects.has(id)).toBe(false);
    expect(accounts.takeDoomed()).toEqual([]);
    expect(accounts.usedBytes).toBe(0);
  });

  test('of an open object dooms it only once it is sealed', () => {
    const accounts = new SpaceAccounts();
    accounts.addObject(object(0), 'data', 0);
    accounts.extendObject(object(0), 1);
    accounts.release(object(0), 0, 0);
    expect(accounts.doomedCount).toBe(0);
    accounts.sealObject(object(0));
    expect(accounts.takeDoomed()).toEqual([object(0)]);
  });

  test('stays while a snapshot sees it, and goes with the last', () => {
    const accounts = new SpaceAccounts();
    const id = filled(accounts, 0, 1, 0);
    accounts.snapshotTaken(1);
    accounts.snapshotTaken(2);
    accounts.release(id, 0, 2);
    expect(freed(accounts, id)).toEqual([]);
    accounts.snapshotRemoved(2);
    expect(freed(accounts, id)).toEqual([]);
    accounts.snapshotRemoved(1);
    expect(accounts.takeDoomed()).toEqual([id]);
  });

  test('that only one snapshot saw goes with it, in any order', () => {
    const accounts = new SpaceAccounts();
    accounts.snapshotTaken(1);
    const id = filled(accounts, 0, 1, 1);
    accounts.snapshotTaken(2);
    accounts.release(id, 0, 2);
    accounts.snapshotTaken(3);
    accounts.snapshotRemoved(1);
    expect(freed(accounts, id)).toEqual([]);
    accounts.snapshotRemoved(2);
    expect(accounts.takeDoomed()).toEqual([id]);
  });

  test('written and overwritten between two snapshots is free at once', () => {
    const accounts = new SpaceAccounts();
    accounts.snapshotTaken(1);
    const id = filled(accounts, 0, 1, 1);
    accounts.release(id, 0, 1);
    expect(accounts.takeDoomed()).toEqual([id]);
  });

  test('released late goes on the deadlist of its own interval', () => {
    const accounts = new SpaceAccounts();
    const id = filled(accounts, 0, 1, 0);
    accounts.snapshotTaken(1);
    accounts.snapshotTaken(2);
    accounts.release(id, 0, 1); // the head let go of it before snapshot 2
    accounts.snapshotRemoved(1);
    expect(accounts.takeDoomed()).toEqual([id]);
  });

  test("of a clone's parent is not ours to free", () => {
    const accounts = new SpaceAccounts();
    accounts.release(object(9), 0, 0);
    expect(accounts.takeDoomed()).toEqual([]);
  });

  test('is freed once: the second time is a mistake of ours', () => {
    const accounts = new SpaceAccounts();
    const id = filled(accounts, 0, 2, 0);
    accounts.release(id, 0, 0);
    expect(() => {
      accounts.release(id, 0, 0);
    }).toThrow('is freed once');
    accounts.snapshotTaken(1);
    accounts.release(id, 1, 1);
    expect(() => {
      accounts.release(id, 1, 1);
    }).toThrow('dies once');
    expect(() => {
      accounts.release(filled(accounts, 1, 1, 1), 1, 1);
    }).toThrow('exists');
  });
});

describe('a rollback', () => {
  test('frees what was born since, and keeps what the snapshot sees', () => {
    const accounts = new SpaceAccounts();
    const old = filled(accounts, 0, 2, 0);
    accounts.snapshotTaken(1);
    const middle = filled(accounts, 1, 2, 1);
    accounts.release(old, 0, 1);
    accounts.snapshotTaken(2);
    const young = filled(accounts, 2, 2, 2);
    accounts.release(middle, 0, 2);
    accounts.rolledBack(1);
    expect(accounts.takeDoomed()).toEqual([middle, young]);
    expect(accounts.snapshots).toEqual([1]);
    expect(freed(accounts, old)).toEqual([]);
    expect(accounts.usedBytes).toBe(2 * 4096);
    accounts.release(old, 0, 1); // the head has it again, and can let go of it again
    accounts.snapshotRemoved(1);
    expect(freed(accounts, old)).toEqual([0]);
  });

  test('to nothing frees everything', () => {
    const accounts = new SpaceAccounts();
    const ids = [filled(accounts, 0, 2, 0), filled(accounts, 1, 3, 0)];
    accounts.rolledBack(0);
    expect(accounts.takeDoomed()).toEqual(ids);
    expect(accounts.usedBytes).toBe(0);
  });
});

test('an object of a checkpoint that failed is doomed as it is', () => {
  const accounts = new SpaceAccounts();
  const id = filled(accounts, 0, 3, 0);
  accounts.release(id, 1, 0);
  accounts.abandonObject(id);
  expect(accounts.takeDoomed()).toEqual([id]);
  expect(accounts.usedBytes).toBe(0);
});

test('a copy lives its own life', () => {
  const accounts = new SpaceAccounts();
  const id = filled(accounts, 0, 2, 0);
  accounts.snapshotTaken(1);
  accounts.release(id, 0, 1);
  const copy = accounts.copy();
  copy.snapshotRemoved(1);
  copy.release(id, 1, 1);
  expect(copy.takeDoomed()).toEqual([id]);
  expect(freed(accounts, id)).toEqual([]);
  expect(accounts.snapshots).toEqual([1]);
  expect([...(accounts.headDeadlist.get(id) ?? [])]).toEqual([0]);
  expect([accounts.usedBytes, copy.usedBytes]).toEqual([2 * 4096, 0]);
});

/** A volume of a few clusters whose every version is known: what is referenced must not be freed, and nothing else kept. */
class World {
  readonly accounts = new SpaceAccounts();
  #head: (string | null)[] = Array.from({ length: 4 }, () => null);
  readonly #snapshots = new Map<number, (string | null)[]>();
  readonly #written = new Set<string>();
  #latest = 0;
  #objects = 0;

  write(clusters: number[]): void {
    const unique = [...new Set(clusters)];
    const objectId = object(this.#objects++);
    this.accounts.addObject(objectId, 'data', this.#latest);
    for (const [index, cluster] of unique.entries()) {
      this.accounts.extendObject(objectId, index + 1);
      this.discard(cluster);
      this.#head[cluster] = `${objectId}/${index}`;
      this.#written.add(`${objectId}/${index}`);
    }
    this.accounts.sealObject(objectId);
  }

  discard(cluster: number): void {
    const place = this.#head[cluster] ?? null;
    if (place === null) return;
    const [objectId, index] = place.split('/').map(Number);
    this.accounts.release(objectId ?? 0, index ?? 0, this.#latest);
    this.#head[cluster] = null;
  }

  snapshot(): void {
    this.accounts.snapshotTaken(++this.#latest);
    this.#snapshots.set(this.#latest, [...this.#head]);
  }

  remove(nth: number): void {
    const number = [...this.#snapshots.keys()][nth % Math.max(1, this.#snapshots.size)];
    if (number === undefined) return;
    this.accounts.snapshotRemoved(number);
    this.#snapshots.delete(number);
  }

  rollBack(nth: number): void {
    const number = [...this.#snapshots.keys()][nth % Math.max(1, this.#snapshots.size)];
    const target = number === undefined ? undefined : this.#snapshots.get(number);
    if (number === undefined || target === undefined) return;
    this.accounts.rolledBack(number);
    for (const other of [...this.#snapshots.keys()]) {
      if (other > number) this.#snapshots.delete(other);
    }
    this.#head = [...target];
  }

  check(): void {
    const used = new Set([this.#head, ...this.#snapshots.values()].flat());
    for (const place of this.#written) {
      const [objectId = 0, index = 0] = place.split('/').map(Number);
      const account = this.accounts.objects.get(objectId);
      const needed = account?.freed.has(index) === false;
      expect({ place, needed }).toEqual({ place, needed: used.has(place) });
    }
    const live = [...used].filter((place) => place !== null).length;
    expect(this.accounts.usedBytes).toBe(live * 4096);
  }
}

test('what is freed is what nothing refers to, whatever happened', () => {
  const step = fc.oneof(
    fc.array(fc.nat(3), { minLength: 1, maxLength: 4 }).map((clusters) => (world: World): void => {
      world.write(clusters);
    }),
    fc.nat(3).map((cluster) => (world: World): void => {
      world.discard(cluster);
    }),
    fc.constant((world: World): void => {
      world.snapshot();
    }),
    fc.nat(9).map((nth) => (world: World): void => {
      world.remove(nth);
    }),
    fc.nat(9).map((nth) => (world: World): void => {
      world.rollBack(nth);
    }),
    fc.constant((world: World): void => {
      world.accounts.takeDoomed();
    }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const world = new World();
      for (const take of steps) {
        take(world);
        world.check();
      }
    }),
    { numRuns: 300 },
  );
});
