/** A stream of JSON lines, as a watch sends it: lines of bounded length, and a timer for a stream that has gone silent. */
import { KubernetesError } from './errors.ts';

/** `onPiece` is called for every piece that arrives. A last line without its end is dropped: it was cut off. */
export async function* readLines(
  pieces: AsyncIterable<Uint8Array>,
  lineBytesMax: number,
  onPiece: () => void,
): AsyncGenerator<string> {
  let parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of pieces) {
    onPiece();
    let from = 0;
    for (let end = piece.indexOf(10); end !== -1; end = piece.indexOf(10, from)) {
      parts.push(piece.subarray(from, end));
      const line = Buffer.concat(parts).toString('utf8');
      parts = [];
      bytes = 0;
      from = end + 1;
      if (line.trim() !== '') yield line;
    }
    parts.push(piece.subarray(from));
    bytes += piece.length - from;
    if (bytes > lineBytesMax) {
      throw new KubernetesError('protocol', `watch: a line is longer than ${lineBytesMax} bytes`);
    }
  }
}

/** Aborts its signal when it was not reset for `limitMs`. Runs from the start. */
export class SilenceTimer {
  readonly #limitMs: number;
  readonly #controller = new AbortController();
  #timer: NodeJS.Timeout;

  constructor(limitMs: number) {
    this.#limitMs = limitMs;
    this.#timer = this.#start();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  readonly reset = (): void => {
    this.#timer.refresh();
  };

  stop(): void {
    clearTimeout(this.#timer);
  }

  #start(): NodeJS.Timeout {
    return setTimeout(() => {
      const message = `nothing was heard for ${this.#limitMs} ms`;
      this.#controller.abort(new KubernetesError('unavailable', message));
    }, this.#limitMs);
  }
}
