/**
 * The image of pods' sandboxes, as an archive with the OCI image layout (github.com/opencontainers/image-spec,
 * image-layout.md) that containerd imports: one layer with one static program.
 */
import { createHash } from 'node:crypto';
import { copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pauseImage } from './addresses.ts';
import { run } from './commands.ts';

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

/** The same contents make the same archive: what is made of archives is cached by their bytes. */
const tar = ['tar', '--sort=name', '--owner=0', '--group=0', '--mtime=@0', '--mode=0755'];

/** Makes the archive FOLDER/pause.tar from the program, and resolves with its path. */
export async function makePauseImage(program: string, folder: string): Promise<string> {
  const layout = join(folder, 'pause');
  const blobs = join(layout, 'blobs', 'sha256');
  await mkdir(blobs, { recursive: true });
  const root = join(folder, 'pause-root');
  await mkdir(root);
  await copyFile(program, join(root, 'pause'));
  const layer = join(folder, 'pause-layer.tar');
  await run([...tar, '-C', root, '-cf', layer, 'pause']);

  const add = async (mediaType: string, contents: Buffer): Promise<Descriptor> => {
    const hex = createHash('sha256').update(contents).digest('hex');
    await writeFile(join(blobs, hex), contents);
    return { mediaType, digest: `sha256:${hex}`, size: contents.length };
  };
  const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
  const oci = 'application/vnd.oci.image';
  const contents = await add(`${oci}.layer.v1.tar`, await readFile(layer));
  const config = await add(
    `${oci}.config.v1+json`,
    json({
      architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
      os: 'linux',
      config: { Entrypoint: ['/pause'] },
      rootfs: { type: 'layers', diff_ids: [contents.digest] },
    }),
  );
  const mediaType = `${oci}.manifest.v1+json`;
  const manifest = await add(
    mediaType,
    json({ schemaVersion: 2, mediaType, config, layers: [contents] }),
  );
  const annotations = { 'io.containerd.image.name': pauseImage };
  const index = { schemaVersion: 2, manifests: [{ ...manifest, annotations }] };
  await writeFile(join(layout, 'index.json'), json(index));
  await writeFile(join(layout, 'oci-layout'), json({ imageLayoutVersion: '1.0.0' }));
  const archive = join(folder, 'pause.tar');
  await run([...tar, '-C', layout, '-cf', archive, 'oci-layout', 'index.json', 'blobs']);
  for (const path of [root, layout, layer]) await rm(path, { recursive: true });
  return archive;
}
