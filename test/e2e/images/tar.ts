/**
 * Writes POSIX tar archives (ustar, pax(1) of POSIX.1-2017) as a stream. Everything belongs to root and has no time,
 * so that the same entries are the same bytes, and bear the same digest, whenever they are written.
 */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';

export type TarEntry =
  /** Missing parents are not added. */
  | { readonly kind: 'directory'; readonly path: string; readonly mode?: number }
  | { readonly kind: 'link'; readonly path: string; readonly target: string }
  | {
      readonly kind: 'file';
      readonly path: string;
      readonly mode?: number;
      /** `file` is a path on this machine; it must not change meanwhile. */
      readonly content: Uint8Array | string | { readonly file: string };
    };

const blockBytes = 512;
const nameBytesMax = 100;
/** 11 octal digits. */
const fileBytesMax = 8 ** 11 - 1;
const typeFlags = { file: '0', link: '2', directory: '5' } as const;

/** Rejects for what the format cannot say, such as a name above 100 bytes, and for files that change their size. */
export async function* tarStream(entries: Iterable<TarEntry>): AsyncGenerator<Buffer> {
  for (const entry of entries) {
    if (entry.kind === 'file') yield* fileEntry(entry);
    else yield header(entry, 0);
  }
  yield Buffer.alloc(2 * blockBytes);
}

async function* fileEntry(entry: TarEntry & { kind: 'file' }): AsyncGenerator<Buffer> {
  const { content } = entry;
  if (typeof content === 'string' || content instanceof Uint8Array) {
    const bytes = Buffer.from(content);
    yield header(entry, bytes.length);
    yield bytes;
    yield padding(bytes.length);
    return;
  }
  const { size } = await stat(content.file);
  yield header(entry, size);
  let written = 0;
  for await (const chunk of createReadStream(content.file, { highWaterMark: 1 << 20 })) {
    if (!Buffer.isBuffer(chunk)) throw new Error(`read ${content.file}: no bytes`);
    written += chunk.length;
    yield chunk;
  }
  if (written !== size) throw new Error(`${content.file} changed while it was read`);
  yield padding(size);
}

function header(entry: TarEntry, sizeBytes: number): Buffer {
  const name = entry.kind === 'directory' ? `${entry.path}/` : entry.path;
  if (sizeBytes > fileBytesMax) throw new Error(`${entry.path} is too large for a tar archive`);
  const mode = entry.kind === 'link' ? 0o777 : (entry.mode ?? defaultMode(entry));
  const block = Buffer.alloc(blockBytes);
  putText(block, 0, nameBytesMax, name);
  putOctal(block, 100, 8, mode);
  putOctal(block, 108, 8, 0);
  putOctal(block, 116, 8, 0);
  putOctal(block, 124, 12, sizeBytes);
  putOctal(block, 136, 12, 0);
  // The checksum is made with blanks in its own place.
  block.write('        ', 148, 'latin1');
  block.write(typeFlags[entry.kind], 156, 'latin1');
  if (entry.kind === 'link') putText(block, 157, nameBytesMax, entry.target);
  block.write('ustar\u000000', 257, 'latin1');
  let sum = 0;
  for (const byte of block) sum += byte;
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

function defaultMode(entry: TarEntry): number {
  return entry.kind === 'directory' ? 0o755 : 0o644;
}

function putText(block: Buffer, at: number, lengthMax: number, text: string): void {
  if (Buffer.byteLength(text) > lengthMax) {
    throw new Error(`a tar archive cannot name ${text}: above ${lengthMax} bytes`);
  }
  block.write(text, at);
}

function putOctal(block: Buffer, at: number, length: number, value: number): void {
  block.write(`${value.toString(8).padStart(length - 1, '0')}\0`, at, 'latin1');
}

function padding(sizeBytes: number): Buffer {
  return Buffer.alloc((blockBytes - (sizeBytes % blockBytes)) % blockBytes);
}
