/**
 * Finds the frame of a clean page by where the page is stored: an open-addressing hash table over typed arrays, since
 * a Map would need an object or a string for every look-up. The keys live in the frames' own columns.
 */
import { assert } from '../../base/assert.ts';

export class CleanIndex {
  readonly #low: Uint32Array;
  readonly #writer: Uint32Array;
  /** Frame + 1, or 0 for an empty cell. At most half full. */
  readonly #cells: Int32Array;
  readonly #mask: number;

  /** `low` and `writer` hold the location of the page in each frame. */
  constructor(low: Uint32Array, writer: Uint32Array) {
    let cells = 128;
    while (cells < low.length * 2) cells *= 2;
    this.#cells = new Int32Array(cells);
    this.#mask = cells - 1;
    this.#low = low;
    this.#writer = writer;
  }

  /** The frame, or -1. */
  get(low: number, writer: number): number {
    const cells = this.#cells;
    for (let cell = hash(low, writer) & this.#mask; ; cell = (cell + 1) & this.#mask) {
      const frame = (cells[cell] ?? 0) - 1;
      if (frame < 0) return -1;
      if (this.#low[frame] === low && this.#writer[frame] === writer) return frame;
    }
  }

  /** Adds a frame whose columns are set; its location is in no other frame. */
  add(frame: number): void {
    const low = this.#low[frame] ?? 0;
    const writer = this.#writer[frame] ?? 0;
    let cell = hash(low, writer) & this.#mask;
    while (this.#cells[cell] !== 0) cell = (cell + 1) & this.#mask;
    this.#cells[cell] = frame + 1;
  }

  delete(frame: number): void {
    const cells = this.#cells;
    let hole = this.#home(frame);
    while (cells[hole] !== frame + 1) {
      assert(cells[hole] !== 0, 'a clean frame is in the index');
      hole = (hole + 1) & this.#mask;
    }
    // Move back every later cell of the cluster that could not be found any more behind the hole.
    for (let cell = (hole + 1) & this.#mask; ; cell = (cell + 1) & this.#mask) {
      const moved = cells[cell] ?? 0;
      if (moved === 0) break;
      const home = this.#home(moved - 1);
      if (((cell - home) & this.#mask) >= ((cell - hole) & this.#mask)) {
        cells[hole] = moved;
        hole = cell;
      }
    }
    cells[hole] = 0;
  }

  #home(frame: number): number {
    return hash(this.#low[frame] ?? 0, this.#writer[frame] ?? 0) & this.#mask;
  }
}

function hash(low: number, writer: number): number {
  const mixed = Math.imul(low ^ Math.imul(writer, 0x85ebca6b), 0x9e3779b1);
  return mixed ^ (mixed >>> 15);
}
