/**
 * Which clusters of a volume's own objects are still needed, and so which objects can be deleted whole.
 *
 * Time is cut into intervals by the volume's snapshots, which are numbered from 1. `birth` of an object is the number
 * of the latest snapshot when it was begun (0 before the first): snapshot n sees an object only if birth < n. When
 * the head stops using a cluster, it is free at once if no snapshot was taken since the object's birth; otherwise it
 * goes on the deadlist of the interval, and is free when the last snapshot that sees it is removed.
 * Objects of other volumes (a clone's parent) are not in the table: this volume never frees them.
 *
 * It is a pure function of the log: recovery repeats the same calls from the last checkpoint.
 */
import { assert } from '../base/assert.ts';
import { ClusterSet } from './cluster-set.ts';
import { clusterBytes } from './format/constants.ts';
import { formatObjectId } from './format/location.ts';
import type { ObjectKind } from './format/object-footer.ts';

export interface ObjectAccount {
  kind: ObjectKind;
  birth: number;
  /** Clusters stored in it so far. */
  count: number;
  /** No more clusters will come. */
  sealed: boolean;
  /** Clusters that nothing refers to any more. */
  freed: ClusterSet;
}

/** Per object, the clusters that the interval's head stopped using while older snapshots still do. */
export type Deadlist = Map<number, ClusterSet>;

export class SpaceAccounts {
  readonly objects = new Map<number, ObjectAccount>();
  /** Deadlist of the interval that ends with the snapshot of that number. */
  readonly deadlists = new Map<number, Deadlist>();
  /** Deadlist of the interval since the latest snapshot. */
  headDeadlist: Deadlist = new Map();
  /** Numbers of the existing snapshots, ascending. */
  snapshots: number[] = [];
  /** Objects without a needed cluster that have not been taken yet. */
  readonly #doomed = new Set<number>();
  #liveClusters = 0;

  get usedBytes(): number {
    return this.#liveClusters * clusterBytes;
  }

  addObject(objectId: number, kind: ObjectKind, birth: number): void {
    assert(!this.objects.has(objectId), `object ${formatObjectId(objectId)} is new`);
    this.objects.set(objectId, { kind, birth, count: 0, sealed: false, freed: new ClusterSet() });
  }

  /** Says that the object holds `count` clusters now. */
  extendObject(objectId: number, count: number): void {
    const account = this.#own(objectId);
    assert(!account.sealed && count >= account.count, 'an object grows until it is sealed');
    this.#liveClusters += count - account.count;
    account.count = count;
  }

  sealObject(objectId: number): void {
    const account = this.#own(objectId);
    account.sealed = true;
    this.#doomIfDead(objectId, account);
  }

  /** Nothing will ever refer to this sealed object: a checkpoint that stored it failed. */
  abandonObject(objectId: number): void {
    const account = this.#own(objectId);
    this.#liveClusters -= account.count - account.freed.size;
    account.freed = fullSet(account.count);
    this.#doomIfDead(objectId, account);
  }

  /** The head, in the interval since snapshot `since`, stopped using this cluster. */
  release(objectId: number, index: number, since: number): void {
    const account = this.objects.get(objectId);
    if (account === undefined) return; // a clone's parent owns it
    const seenSince = this.#latestUpTo(since);
    if (account.birth >= seenSince) this.#free(objectId, account, index);
    else this.#addDead(this.#deadlistAfter(seenSince), objectId, index);
  }

  snapshotTaken(number: number): void {
    assert(number > (this.snapshots.at(-1) ?? 0), 'snapshot numbers rise');
    this.snapshots.push(number);
    this.deadlists.set(number, this.headDeadlist);
    this.headDeadlist = new Map();
  }

  /** What only this snapshot used becomes free; the rest of the next deadlist joins that of the neighbour. */
  snapshotRemoved(number: number): void {
    const position = this.snapshots.indexOf(number);
    assert(position >= 0, 'the snapshot exists');
    const previous = this.snapshots[position - 1] ?? 0;
    const next = this.snapshots[position + 1];
    const merged = this.deadlists.get(number) ?? new Map<number, ClusterSet>();
    const following = next === undefined ? this.headDeadlist : this.deadlists.get(next);
    this.snapshots.splice(position, 1);
    this.deadlists.delete(number);
    if (next === undefined) this.headDeadlist = merged;
    else this.deadlists.set(next, merged);
    for (const [objectId, clusters] of following ?? []) {
      const account = this.#own(objectId);
      for (const index of clusters) {
        if (account.birth >= previous) this.#free(objectId, account, index);
        else this.#addDead(merged, objectId, index);
      }
    }
  }

  /** The head is that snapshot again, or nothing at all (0): newer snapshots and everything born since are gone. */
  rolledBack(number: number): void {
    for (const newer of this.snapshots.filter((other) => other > number))
      this.deadlists.delete(newer);
    this.snapshots = this.snapshots.filter((other) => other <= number);
    this.headDeadlist = new Map();
    for (const [objectId, account] of this.objects) {
      if (account.birth < number) continue;
      this.#liveClusters -= account.count - account.freed.size;
      account.sealed = true;
      account.freed = fullSet(account.count);
      this.#doomed.add(objectId);
    }
  }

  /** Objects that can be deleted once a checkpoint of this state is committed; they leave the table. */
  takeDoomed(): number[] {
    const doomed = [...this.#doomed];
    for (const objectId of doomed) {
      this.objects.delete(objectId);
      this.headDeadlist.delete(objectId);
      for (const deadlist of this.deadlists.values()) deadlist.delete(objectId);
    }
    this.#doomed.clear();
    return doomed;
  }

  get doomedCount(): number {
    return this.#doomed.size;
  }

  copy(): SpaceAccounts {
    const copy = new SpaceAccounts();
    for (const [id, account] of this.objects)
      copy.restoreObject(id, { ...account, freed: account.freed.copy() });
    for (const [number, deadlist] of this.deadlists)
      copy.deadlists.set(number, copyDeadlist(deadlist));
    copy.headDeadlist = copyDeadlist(this.headDeadlist);
    copy.snapshots = [...this.snapshots];
    return copy;
  }

  /** Puts back an object as a checkpoint recorded it. */
  restoreObject(objectId: number, account: ObjectAccount): void {
    this.objects.set(objectId, account);
    this.#liveClusters += account.count - account.freed.size;
    this.#doomIfDead(objectId, account);
  }

  #own(objectId: number): ObjectAccount {
    const account = this.objects.get(objectId);
    assert(account !== undefined, `object ${formatObjectId(objectId)} is in the accounts`);
    return account;
  }

  #latestUpTo(since: number): number {
    return this.snapshots.findLast((number) => number <= since) ?? 0;
  }

  #deadlistAfter(number: number): Deadlist {
    const next = this.snapshots.find((other) => other > number);
    return (next === undefined ? undefined : this.deadlists.get(next)) ?? this.headDeadlist;
  }

  #addDead(deadlist: Deadlist, objectId: number, index: number): void {
    let clusters = deadlist.get(objectId);
    if (clusters === undefined) deadlist.set(objectId, (clusters = new ClusterSet()));
    if (!clusters.add(index)) {
      assert(false, `cluster ${index} of ${formatObjectId(objectId)} dies once`);
    }
  }

  #free(objectId: number, account: ObjectAccount, index: number): void {
    // Called for every cluster that is overwritten: a message is made only when it is needed.
    if (index >= account.count || !account.freed.add(index)) {
      assert(false, `cluster ${index} of ${formatObjectId(objectId)} exists, and is freed once`);
    }
    this.#liveClusters--;
    this.#doomIfDead(objectId, account);
  }

  #doomIfDead(objectId: number, account: ObjectAccount): void {
    if (account.sealed && account.freed.size === account.count) this.#doomed.add(objectId);
  }
}

function fullSet(count: number): ClusterSet {
  const set = new ClusterSet();
  for (let index = 0; index < count; index++) set.add(index);
  return set;
}

function copyDeadlist(deadlist: Deadlist): Deadlist {
  return new Map([...deadlist].map(([objectId, clusters]) => [objectId, clusters.copy()]));
}
