/**
 * A certificate and its key in one file, so that they are never those of two certificates: written whole or not at
 * all, and readable by its owner alone.
 */
import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { readFileIfPresent, writeFileDurably } from '../../base/files.ts';
import type { OwnPem } from './own-certificate.ts';

const fileName = 'volumedriver.pem';

/** Null when nothing is kept. What is wrong with its content is found where it is used. */
export async function loadKept(directory: string): Promise<OwnPem | null> {
  const text = await readFileIfPresent(join(directory, fileName));
  // Each is looked for in PEM: the text serves as both.
  return text === null ? null : { certificatePem: text, keyPem: text };
}

export async function keep(directory: string, own: OwnPem): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await chmod(directory, 0o700);
  await writeFileDurably(join(directory, fileName), `${own.keyPem.trim()}\n${own.certificatePem}`);
}
