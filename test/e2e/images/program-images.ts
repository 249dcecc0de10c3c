/** Images of one static program, on nothing: the sidecars, as upstream has them, and busybox for the tests' pods. */
import { mkdir, readFile, realpath, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { mustRun } from '../support/commands.ts';
import type { BuiltImage, Logger } from './built-image.ts';
import { shortDigest, type ImageCache } from './image-cache.ts';
import { packLayout, writeLayout, type ImageConfig } from './oci-layout.ts';
import { tarStream, type TarEntry } from './tar.ts';

/** Names of upstream's images. */
const sigStorage = 'registry.k8s.io/sig-storage';
/** Of images that stand for nobody else's. */
const own = 'localhost/volumedriver-csi-e2e';
const modules = join(import.meta.dirname, '../tools/sidecars/go.mod');

interface Program {
  readonly name: string;
  /** The Go module that it was built from; none: it is a stand-in of ours, and its image says so. */
  readonly module?: string;
}

/** By the chart's key. */
export const sidecars = {
  provisioner: { name: 'csi-provisioner', module: 'external-provisioner' },
  attacher: { name: 'csi-attacher', module: 'external-attacher' },
  resizer: { name: 'csi-resizer', module: 'external-resizer' },
  snapshotter: { name: 'csi-snapshotter', module: 'external-snapshotter' },
  livenessProbe: { name: 'livenessprobe' },
  nodeDriverRegistrar: { name: 'csi-node-driver-registrar' },
} as const satisfies Record<string, Program>;

export const snapshotController: Program = {
  name: 'snapshot-controller',
  module: 'external-snapshotter',
};

/** The program is the image's entrypoint, as in upstream's. */
export async function buildProgram(
  cache: ImageCache,
  program: Program,
  toolsDirectory: string,
): Promise<BuiltImage> {
  const file = join(toolsDirectory, program.name);
  const { size, mtimeMs } = await stat(file);
  const goModules = await readFile(modules, 'utf8');
  const digest = shortDigest(await realpath(toolsDirectory), program, size, mtimeMs, goModules);
  const reference =
    program.module === undefined
      ? `${own}/${program.name}:${digest}`
      : `${sigStorage}/${program.name}:${versionOf(program.module, goModules)}`;
  const entries: TarEntry[] = [
    { kind: 'directory', path: 'tmp', mode: 0o1777 },
    { kind: 'file', path: program.name, mode: 0o755, content: { file } },
  ];
  const config: ImageConfig = { entrypoint: [`/${program.name}`] };
  const archive = await build(cache, { name: program.name, digest, reference, entries, config });
  return { reference, archive };
}

/** The version of a module of github.com/kubernetes-csi that a go.mod requires. */
export function versionOf(module: string, goModules: string): string {
  const pattern = new RegExp(
    `^\\s*(?:require )?github\\.com/kubernetes-csi/${module}(?:/v\\d+)? (v\\S+)`,
    'm',
  );
  const version = pattern.exec(goModules)?.[1];
  if (version === undefined) throw new Error(`no version of ${module} is in ${modules}`);
  return version;
}

/** Debian's static busybox with all of its commands, a /tmp and root. */
export async function buildBusybox(cache: ImageCache, logger: Logger): Promise<BuiltImage> {
  const files: TarEntry[] = [
    ...['bin', 'dev', 'etc', 'proc', 'root', 'sys', 'var'].map(
      (path) => ({ kind: 'directory', path }) as const,
    ),
    { kind: 'directory', path: 'tmp', mode: 0o1777 },
    { kind: 'file', path: 'etc/passwd', content: 'root:x:0:0:root:/root:/bin/sh\n' },
    { kind: 'file', path: 'etc/group', content: 'root:x:0:\n' },
  ];
  const digest = shortDigest('busybox-static', files);
  const reference = `${own}/busybox:${digest}`;
  const archive = await cache.archive('busybox', digest, async (path, folder) => {
    logger('busybox: taking it out of its Debian package');
    const program = await downloadBusybox(folder);
    const commands = (await mustRun([program, '--list'])).trim().split('\n');
    const entries: TarEntry[] = [
      ...files,
      { kind: 'file', path: 'bin/busybox', mode: 0o755, content: { file: program } },
      ...commands
        .filter((command) => command !== 'busybox')
        .map((command) => ({ kind: 'link', path: `bin/${command}`, target: 'busybox' }) as const),
    ];
    const layout = join(folder, 'layout');
    await writeLayout(layout, reference, {
      layers: [tarStream(entries)],
      config: { command: ['/bin/sh'], environment: { PATH: '/bin' } },
    });
    await packLayout(layout, path);
  });
  return { reference, archive };
}

async function downloadBusybox(folder: string): Promise<string> {
  const unpacked = join(folder, 'busybox');
  await mkdir(unpacked);
  await mustRun(['apt-get', 'download', 'busybox-static'], { cwd: unpacked, limitMs: 120_000 });
  await mustRun(['sh', '-c', 'dpkg-deb --extract *.deb .'], { cwd: unpacked });
  // Where it lies depends on the release.
  const found = await mustRun(['find', unpacked, '-type', 'f', '-name', 'busybox', '-perm', '-1']);
  return found.trim();
}

async function build(
  cache: ImageCache,
  image: {
    readonly name: string;
    readonly digest: string;
    readonly reference: string;
    readonly entries: readonly TarEntry[];
    readonly config: ImageConfig;
  },
): Promise<string> {
  return await cache.archive(image.name, image.digest, async (path, folder) => {
    const layout = join(folder, 'layout');
    const layers = [tarStream(image.entries)];
    await writeLayout(layout, image.reference, { layers, config: image.config });
    await packLayout(layout, path);
  });
}
