/**
 * What the pool knows of every dirty page: one that was made since the last checkpoint and is in no map object yet.
 * A page is a slot number; its fields are columns of typed arrays (about 55 bytes a page), since millions of dirty
 * pages may lie in the spill file at once.
 *
 * Invariants: `refs` counts the entries (of pages, roots and walks) that refer to the slot; a slot without references
 * is free. A slot's nonce changes with every use, and each reference carries it, so that a stale one is noticed. A
 * slot outlives its page's being persisted for as long as entries refer to it: they are rewritten when next used.
 */
import { assert } from '../../base/assert.ts';

export const slotStates = {
  free: 0,
  dirty: 1,
  /** A running persist has given it its place in a map object that is not stored yet. */
  assigned: 2,
  /** `low`, `writer` and `check` say where it is stored; it has neither frame nor children here any more. */
  persisted: 3,
} as const;

/** `since` of a page that is still in the head. */
export const stillCurrent = -1;

const slotsAtFirst = 256;

export class DirtyTable {
  /** The page's frame, or -1 when it is in the spill file only. */
  frame = new Int32Array(0);
  refs = new Uint32Array(0);
  nonce = new Uint32Array(0);
  level = new Uint8Array(0);
  state = new Uint8Array(0);
  /** 1 when the spill file holds the page as it is now. */
  spilled = new Uint8Array(0);
  spillCheck = new Uint32Array(0);
  /** The tree that made the page, and its freeze counter then: the page may be changed only while both still match. */
  owner = new Uint32Array(0);
  stamp = new Uint32Array(0);
  /** The interval in which the page was made. */
  birth = new Float64Array(0);
  /** The interval in which it left the head, or stillCurrent. */
  since = new Float64Array(0);
  low = new Uint32Array(0);
  writer = new Uint32Array(0);
  check = new Uint32Array(0);
  /** Slots in use. */
  count = 0;
  /** Slots below this number have been in use. */
  used = 0;
  /** The first of a list of free slots below `used`, linked through `low`; -1 at its end. */
  #free = -1;

  /** A slot with one reference, whose frame the caller sets. */
  allocate(): number {
    let slot = this.#free;
    if (slot >= 0) this.#free = (this.low[slot] ?? 0) - 1;
    else {
      slot = this.used++;
      if (slot >= this.refs.length) this.#grow();
    }
    this.nonce[slot] = (this.nonce[slot] ?? 0) + 1;
    this.refs[slot] = 1;
    this.state[slot] = slotStates.dirty;
    this.spilled[slot] = 0;
    this.since[slot] = stillCurrent;
    this.frame[slot] = -1;
    this.count++;
    return slot;
  }

  free(slot: number): void {
    assert(this.state[slot] !== slotStates.free, 'a slot is freed once');
    this.state[slot] = slotStates.free;
    this.low[slot] = this.#free + 1;
    this.#free = slot;
    this.count--;
  }

  #grow(): void {
    const length = Math.max(slotsAtFirst, this.refs.length * 2);
    this.frame = grown(this.frame, new Int32Array(length));
    this.refs = grown(this.refs, new Uint32Array(length));
    this.nonce = grown(this.nonce, new Uint32Array(length));
    this.level = grown(this.level, new Uint8Array(length));
    this.state = grown(this.state, new Uint8Array(length));
    this.spilled = grown(this.spilled, new Uint8Array(length));
    this.spillCheck = grown(this.spillCheck, new Uint32Array(length));
    this.owner = grown(this.owner, new Uint32Array(length));
    this.stamp = grown(this.stamp, new Uint32Array(length));
    this.birth = grown(this.birth, new Float64Array(length));
    this.since = grown(this.since, new Float64Array(length));
    this.low = grown(this.low, new Uint32Array(length));
    this.writer = grown(this.writer, new Uint32Array(length));
    this.check = grown(this.check, new Uint32Array(length));
  }
}

function grown<T extends Int32Array | Uint32Array | Uint8Array | Float64Array>(from: T, to: T): T {
  to.set(from);
  return to;
}
