/** Makes root filesystems of Debian packages by mmdebstrap(1), without manuals, translations and caches. */
import { aptConfiguration, debianSources } from './host-settings.ts';
import { mustRun } from '../support/commands.ts';

/** Debian's release that images are made of, the one that the Dockerfile names. */
export const debianSuite = process.env['E2E_DEBIAN_SUITE'] ?? 'trixie';

export interface DebianRoot {
  readonly variant: 'apt' | 'minbase';
  readonly packages: readonly string[];
  /** Shell commands, with the root as $1: once the essential packages are there, and at the end. */
  readonly early?: readonly string[];
  readonly late?: readonly string[];
}

const dpkgOptions = [
  'path-exclude=/usr/share/man/*',
  'path-exclude=/usr/share/locale/*',
  'path-exclude=/usr/share/info/*',
  'path-exclude=/usr/share/doc/*',
  'path-include=/usr/share/doc/*/copyright',
];
/** Of this machine: mmdebstrap takes them over for the packages' scripts. */
const cleaning =
  'rm -f "$1/etc/resolv.conf" "$1/etc/hostname" "$1/etc/apt/apt.conf.d/99mmdebstrap"';
const limitMs = 15 * 60_000;

/** Writes a tar archive. */
export async function makeDebianRoot(root: DebianRoot, tar: string): Promise<void> {
  const aptOptions = (await aptConfiguration()).trim().split('\n');
  await mustRun(
    [
      'mmdebstrap',
      '--quiet',
      '--mode=root',
      `--variant=${root.variant}`,
      ...(root.packages.length > 0 ? [`--include=${root.packages.join(',')}`] : []),
      ...dpkgOptions.map((option) => `--dpkgopt=${option}`),
      ...aptOptions.map((option) => `--aptopt=${option}`),
      ...(root.early ?? []).map((hook) => `--essential-hook=${hook}`),
      ...[...(root.late ?? []), cleaning].map((hook) => `--customize-hook=${hook}`),
      debianSuite,
      tar,
      ...(await debianSources(debianSuite)),
    ],
    { limitMs },
  );
}
