/**
 * The bytes of one simulated file, twice: as programs see them, and as they would be found after a power cut if
 * nothing more happened. Between the two lie the changes that were not synced, in order.
 */
import type { SeededRandom } from './seeded-random.ts';

/** The unit that a device writes whole. */
const sectorBytes = 512;

type Change =
  | { sequence: number; kind: 'write'; position: number; bytes: Uint8Array }
  | { sequence: number; kind: 'truncate'; sizeBytes: number };

export class SimulatedContent {
  readonly #visible = new GrowingBytes();
  readonly #durable = new GrowingBytes();
  #pending: Change[] = [];
  #sequence = 0;

  get sizeBytes(): number {
    return this.#visible.sizeBytes;
  }

  get unsynced(): boolean {
    return this.#pending.length > 0;
  }

  /** The state that survives every power cut from now on. */
  durableBytes(): Buffer {
    return this.#durable.copy();
  }

  read(buffer: Uint8Array, position: number): number {
    return this.#visible.read(buffer, position);
  }

  write(bytes: Uint8Array, position: number): void {
    if (bytes.byteLength === 0) return;
    const copy = Uint8Array.from(bytes);
    this.#visible.write(copy, position);
    this.#pending.push({ sequence: ++this.#sequence, kind: 'write', position, bytes: copy });
  }

  truncate(sizeBytes: number): void {
    this.#visible.resize(sizeBytes);
    this.#pending.push({ sequence: ++this.#sequence, kind: 'truncate', sizeBytes });
  }

  /** What a sync that starts now will cover. */
  mark(): number {
    return this.#sequence;
  }

  /** A sync up to `mark` has succeeded. */
  commit(mark: number): void {
    for (const change of this.#take(mark)) {
      if (change.kind === 'truncate') this.#durable.resize(change.sizeBytes);
      else this.#durable.write(change.bytes, change.position);
    }
  }

  /** A sync up to `mark` has failed: some of it is durable, the rest counts as clean and never will be. */
  lose(mark: number, random: SeededRandom): void {
    applyInPart(this.#durable, this.#take(mark), random);
  }

  /** The power is gone: programs see from now on what the device happened to have. */
  cut(random: SeededRandom): void {
    applyInPart(this.#durable, this.#take(Infinity), random);
    this.#visible.become(this.#durable);
  }

  #take(mark: number): Change[] {
    const taken = this.#pending.filter(({ sequence }) => sequence <= mark);
    this.#pending = this.#pending.slice(taken.length);
    return taken;
  }
}

/**
 * Lets through what a device may have got of changes that were not synced. Sectors reach it in any order, so each
 * sector of each write does or does not; lengths are metadata, which a journal keeps in order: up to some change
 * all took effect, behind it none. The last may have been caught half-way. A length without its data reads zeroes.
 */
function applyInPart(to: GrowingBytes, changes: readonly Change[], random: SeededRandom): void {
  const share = drawShare(random);
  const mixed = share > 0 && share < 1;
  const lengthsKept = mixed ? random.integer(changes.length + 1) : share * changes.length;
  for (const [index, change] of changes.entries()) {
    if (index < lengthsKept) {
      const caught = mixed && index === lengthsKept - 1 && random.chance(0.5);
      applyLength(to, change, caught ? random : undefined);
    }
    if (change.kind === 'write')
      applySectors(to, change, mixed ? drawShare(random) : share, random);
  }
}

/** With `random`, a file that grows is caught half-way. */
function applyLength(to: GrowingBytes, change: Change, random: SeededRandom | undefined): void {
  if (change.kind === 'truncate') {
    to.resize(change.sizeBytes);
    return;
  }
  const growth = change.position + change.bytes.byteLength - to.sizeBytes;
  if (growth > 0) to.resize(to.sizeBytes + growth - (random?.integer(growth) ?? 0));
}

/** Each sector with the given probability; what lies behind the file's end is dropped. */
function applySectors(
  to: GrowingBytes,
  write: { position: number; bytes: Uint8Array },
  probability: number,
  random: SeededRandom,
): void {
  for (const [position, bytes] of sectors(write)) {
    if (random.chance(probability)) to.overwrite(bytes, position);
  }
}

/** Nothing and everything are the likeliest, so that rare cases are met often. */
function drawShare(random: SeededRandom): number {
  const draw = random.integer(4);
  if (draw === 0) return 0;
  if (draw === 1) return 1;
  return random.u32() / 2 ** 32;
}

function* sectors(write: {
  position: number;
  bytes: Uint8Array;
}): Generator<[position: number, bytes: Uint8Array]> {
  let offset = 0;
  while (offset < write.bytes.byteLength) {
    const position = write.position + offset;
    const length = sectorBytes - (position % sectorBytes);
    yield [position, write.bytes.subarray(offset, offset + length)];
    offset += length;
  }
}

/** Bytes that grow by zeroes. Invariant: everything in the buffer behind `sizeBytes` is zero. */
class GrowingBytes {
  #buffer: Buffer = Buffer.alloc(0);
  sizeBytes = 0;

  read(into: Uint8Array, position: number): number {
    const length = Math.max(0, Math.min(into.byteLength, this.sizeBytes - position));
    into.set(this.#buffer.subarray(position, position + length));
    return length;
  }

  write(bytes: Uint8Array, position: number): void {
    if (position + bytes.byteLength > this.sizeBytes) this.resize(position + bytes.byteLength);
    this.#buffer.set(bytes, position);
  }

  /** Within the present size only; what lies behind it is dropped. */
  overwrite(bytes: Uint8Array, position: number): void {
    if (position >= this.sizeBytes) return;
    this.#buffer.set(bytes.subarray(0, this.sizeBytes - position), position);
  }

  resize(sizeBytes: number): void {
    if (sizeBytes < this.sizeBytes) this.#buffer.fill(0, sizeBytes, this.sizeBytes);
    if (sizeBytes > this.#buffer.length) {
      const grown = Buffer.alloc(Math.max(sizeBytes, 2 * this.#buffer.length, 4096));
      this.#buffer.copy(grown, 0, 0, this.sizeBytes);
      this.#buffer = grown;
    }
    this.sizeBytes = sizeBytes;
  }

  become(other: GrowingBytes): void {
    this.#buffer = other.copy();
    this.sizeBytes = other.sizeBytes;
  }

  copy(): Buffer {
    return Buffer.from(this.#buffer.subarray(0, this.sizeBytes));
  }
}
