/**
 * Writes an image in the layout of the OCI image specification 1.1 ("image-layout.md": oci-layout, index.json,
 * blobs/sha256), and packs a layout as the archive that `ctr images import` and `kind load image-archive` take.
 * Layers are compressed while they are read; nothing is held in memory. The same input has the same digests.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { z } from 'zod';
import { tarStream, type TarEntry } from './tar.ts';

/** What a container of the image starts with, unless its pod says otherwise. */
export interface ImageConfig {
  readonly entrypoint?: readonly string[];
  readonly command?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
}

/** Bytes of a tar archive. */
export type Layer = AsyncIterable<Uint8Array>;

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

const mediaTypes = {
  config: 'application/vnd.oci.image.config.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar+gzip',
  manifest: 'application/vnd.oci.image.manifest.v1+json',
} as const;

/** containerd takes the whole name from this annotation, before any other. */
const nameAnnotation = 'io.containerd.image.name';

/** Of what other programs write, no more than what is needed. */
const indexSchema = z.object({
  manifests: z
    .array(
      z.object({
        mediaType: z.string(),
        digest: z.string(),
        size: z.number(),
      }),
    )
    .length(1),
});

/** Makes `folder` the layout of an image with one name. The folder must not be there. */
export async function writeLayout(
  folder: string,
  reference: string,
  image: { layers: readonly Layer[]; config: ImageConfig },
): Promise<void> {
  await mkdir(blobsOf(folder), { recursive: true });
  const layers: { descriptor: Descriptor; diffId: string }[] = [];
  for (const layer of image.layers) layers.push(await addLayer(folder, layer));
  const config = {
    architecture: process.arch === 'x64' ? 'amd64' : process.arch,
    os: 'linux',
    config: {
      Env: Object.entries(image.config.environment ?? {}).map(
        ([name, value]) => `${name}=${value}`,
      ),
      Entrypoint: image.config.entrypoint,
      Cmd: image.config.command,
    },
    rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
  };
  const manifest = {
    schemaVersion: 2,
    mediaType: mediaTypes.manifest,
    config: await addJson(folder, mediaTypes.config, config),
    layers: layers.map(({ descriptor }) => descriptor),
  };
  await writeIndex(folder, reference, await addJson(folder, mediaTypes.manifest, manifest));
}

/** Gives the one image of a layout that another program wrote its whole name. */
export async function nameLayout(folder: string, reference: string): Promise<void> {
  const index: unknown = JSON.parse(await readFile(join(folder, 'index.json'), 'utf8'));
  const [manifest] = indexSchema.parse(index).manifests;
  if (manifest === undefined) throw new Error(`${folder} holds no image`);
  await writeIndex(folder, reference, manifest);
}

/** Writes the layout as an archive; a part of one never bears the name `archive`. */
export async function packLayout(folder: string, archive: string): Promise<void> {
  const entries: TarEntry[] = [];
  for (const name of ['oci-layout', 'index.json']) {
    entries.push({ kind: 'file', path: name, content: { file: join(folder, name) } });
  }
  for (const name of (await readdir(blobsOf(folder))).sort()) {
    const file = join(blobsOf(folder), name);
    entries.push({ kind: 'file', path: `blobs/sha256/${name}`, content: { file } });
  }
  const unfinished = `${archive}.${randomUUID()}.new`;
  try {
    await pipeline(tarStream(entries), createWriteStream(unfinished));
    await rename(unfinished, archive);
  } finally {
    await rm(unfinished, { force: true });
  }
}

async function addLayer(
  folder: string,
  tar: Layer,
): Promise<{ descriptor: Descriptor; diffId: string }> {
  const uncompressed = createHash('sha256');
  const compressed = createHash('sha256');
  let size = 0;
  const unfinished = join(blobsOf(folder), `new-${randomUUID()}`);
  await pipeline(
    Readable.from(tar),
    async function* (source: AsyncIterable<Uint8Array>) {
      for await (const chunk of source) {
        uncompressed.update(chunk);
        yield chunk;
      }
    },
    // Made once, read a few times on the same machine.
    createGzip({ level: 2 }),
    async function* (source: AsyncIterable<Uint8Array>) {
      for await (const chunk of source) {
        compressed.update(chunk);
        size += chunk.length;
        yield chunk;
      }
    },
    createWriteStream(unfinished),
  );
  const hex = compressed.digest('hex');
  await rename(unfinished, join(blobsOf(folder), hex));
  const descriptor = { mediaType: mediaTypes.layer, digest: `sha256:${hex}`, size };
  return { descriptor, diffId: `sha256:${uncompressed.digest('hex')}` };
}

async function addJson(folder: string, mediaType: string, value: unknown): Promise<Descriptor> {
  const bytes = Buffer.from(JSON.stringify(value));
  const hex = createHash('sha256').update(bytes).digest('hex');
  await writeFile(join(blobsOf(folder), hex), bytes);
  return { mediaType, digest: `sha256:${hex}`, size: bytes.length };
}

async function writeIndex(folder: string, reference: string, manifest: Descriptor): Promise<void> {
  const tag = reference.slice(reference.lastIndexOf(':') + 1);
  const annotations = { [nameAnnotation]: reference, 'org.opencontainers.image.ref.name': tag };
  const index = { schemaVersion: 2, manifests: [{ ...manifest, annotations }] };
  await writeFile(join(folder, 'index.json'), JSON.stringify(index));
  await writeFile(join(folder, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
}

function blobsOf(folder: string): string {
  return join(folder, 'blobs', 'sha256');
}
