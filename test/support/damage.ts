/** Ways to damage an encoded structure, one at a time, for tests that none of them passes a decoder. */

export interface Damage {
  readonly what: string;
  readonly bytes: Buffer;
}

/** Each byte in turn with one bit flipped, and with all of them. */
export function* flips(intact: Buffer): Generator<Damage> {
  for (let at = 0; at < intact.length; at++) {
    for (const mask of [1 << (at % 8), 0xff]) {
      const bytes = Buffer.from(intact);
      bytes[at] = intact.readUInt8(at) ^ mask;
      yield { what: `byte ${at} xor ${mask}`, bytes };
    }
  }
}

/** Every proper beginning, the empty one included. */
export function* truncations(intact: Buffer): Generator<Damage> {
  for (let length = 0; length < intact.length; length++) {
    yield { what: `cut to ${length} bytes`, bytes: Buffer.from(intact.subarray(0, length)) };
  }
}

/** Bytes written as hexadecimal, with white space wherever it helps to read them. */
export function hex(text: string): Buffer {
  const digits = text.replace(/\s+/g, '');
  const bytes = Buffer.from(digits, 'hex');
  if (bytes.length * 2 !== digits.length) throw new Error('not hexadecimal');
  return bytes;
}
