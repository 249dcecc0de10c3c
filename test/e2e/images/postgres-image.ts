/**
 * Debian's PostgreSQL: server, client programs, pgbench and pg_amcheck on the PATH, and the user postgres (999). Its
 * pods are started by scripts of their own.
 */
import { createReadStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { BuiltImage, Logger } from './built-image.ts';
import { debianSuite, makeDebianRoot, type DebianRoot } from './debian-root.ts';
import { shortDigest, type ImageCache } from './image-cache.ts';
import { packLayout, writeLayout } from './oci-layout.ts';

/** What a database of a minute's life never misses: the compiler of queries (it does without), Perl, apt. */
const superfluous = [
  'usr/lib/*/libLLVM*',
  'usr/lib/llvm-*',
  'usr/lib/postgresql/*/lib/llvmjit*',
  'usr/lib/postgresql/*/lib/bitcode',
  'usr/lib/*/perl',
  'usr/share/perl',
  'usr/share/perl5',
  'usr/lib/*/libperl*',
  'usr/lib/*/libz3*',
  'var/lib/apt/lists/*',
  'var/lib/dpkg/info',
  'var/cache/*',
];

const root: DebianRoot = {
  variant: 'minbase',
  packages: ['postgresql'],
  early: [
    'echo "postgres:x:999:999::/var/lib/postgresql:/bin/sh" >> "$1/etc/passwd"',
    'echo "postgres:x:999:" >> "$1/etc/group"',
    // No cluster of the machine's own.
    'mkdir -p "$1/etc/postgresql-common" && echo "create_main_cluster = false" > "$1/etc/postgresql-common/createcluster.conf"',
  ],
  late: [
    ...superfluous.map((path) => `rm -rf "$1"/${path}`),
    'ln -s "$(cd "$1" && ls -d usr/lib/postgresql/*)" "$1/pg" && test -x "$1/pg/bin/pg_amcheck" -a -x "$1/pg/bin/pgbench"',
  ],
};
const environment = { PATH: '/pg/bin:/usr/sbin:/usr/bin:/sbin:/bin', LANG: 'C.UTF-8' };

export async function buildPostgres(cache: ImageCache, logger: Logger): Promise<BuiltImage> {
  const digest = shortDigest(debianSuite, root, environment);
  const reference = `localhost/volumedriver-csi-e2e/postgres:${digest}`;
  const archive = await cache.archive('postgres', digest, async (path, folder) => {
    logger(`postgres: installing Debian ${debianSuite}'s into an image`);
    const tar = join(folder, 'root.tar');
    await makeDebianRoot(root, tar);
    const layout = join(folder, 'layout');
    await writeLayout(layout, reference, {
      layers: [createReadStream(tar)],
      config: { command: ['/bin/sh'], environment },
    });
    await rm(tar);
    await packLayout(layout, path);
  });
  return { reference, archive };
}
