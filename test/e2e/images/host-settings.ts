/**
 * How this machine reaches the package registries: its mirrors, proxies and certificates. A build gets them from
 * outside; no image has them in it.
 */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { mustRun } from '../support/commands.ts';

/** Settings of apt.conf(5) that say how to reach a mirror, and how much to mind its dates. */
const aptSettings =
  /^Acquire::(?:(?:https?|ftp)::(?:[^ ]*::)?(?:Proxy|Timeout|Verify-Peer)|Check-Valid-Until|Check-Date|Max-FutureTime|ForceIPv[46])\b/;
const debian = 'http://deb.debian.org/debian';

/** As lines of apt.conf(5). */
export async function aptConfiguration(): Promise<string> {
  const lines = (await mustRun(['apt-config', 'dump'], { limitMs: 30_000 })).split('\n');
  const chosen = lines.filter((line) => aptSettings.test(line) && !line.endsWith('"";'));
  return [...chosen, 'Acquire::Retries "3";', ''].join('\n');
}

/** Lines of sources.list(5) for another release of Debian, from the mirrors that this machine uses. */
export async function debianSources(suite: string): Promise<string[]> {
  const format = '$(REPO_URI) $(RELEASE) $(COMPONENT)';
  const targets = await mustRun(
    ['apt-get', 'indextargets', '--format', format, 'Identifier: Packages'],
    { limitMs: 30_000 },
  );
  return sourcesFrom(targets, await codename(), suite);
}

/** `targets` has one line of URI, release and component for each of the machine's package lists. */
export function sourcesFrom(targets: string, ownSuite: string, suite: string): string[] {
  const lines = new Set<string>();
  for (const target of targets.trim().split('\n')) {
    const [uri, release, component] = target.split(' ');
    const pocket = /^(-updates|-security)?$/.exec(release?.replace(ownSuite, '') ?? '?');
    // Other people's archives name their releases after Debian's, too, but hardly have a "main" as well.
    if (uri === undefined || pocket === null || component !== 'main') continue;
    lines.add(`deb ${uri} ${suite}${pocket[0]} main`);
  }
  return lines.size > 0 ? [...lines] : [`deb ${debian} ${suite} main`];
}

async function codename(): Promise<string> {
  const release = await readFile('/etc/os-release', 'utf8').catch(() => '');
  return /^VERSION_CODENAME=(\w+)$/m.exec(release)?.[1] ?? 'unknown';
}

const npmSettings = z.object({
  registry: z.string().optional(),
  cafile: z.string().nullish(),
  proxy: z.string().nullish(),
  'https-proxy': z.string().nullish(),
  'strict-ssl': z.boolean().optional(),
});

/** An .npmrc with the certificates in it, so that it is all that a build needs. */
export async function npmConfiguration(): Promise<string> {
  const printed = await mustRun(['npm', 'config', 'list', '--json'], { limitMs: 60_000 });
  // Warnings come before it.
  const settings = npmSettings.parse(JSON.parse(printed.slice(printed.indexOf('{'))));
  const lines = (['registry', 'proxy', 'https-proxy', 'strict-ssl'] as const).flatMap((name) => {
    const value = settings[name];
    return value === undefined || value === null ? [] : [`${name}=${value}`];
  });
  const certificates = settings.cafile ?? process.env['NODE_EXTRA_CA_CERTS'];
  if (certificates !== undefined && certificates !== '') {
    lines.push(...npmCertificates(await readFile(certificates, 'utf8')));
  }
  return `${lines.join('\n')}\n`;
}

/** PEM as lines of an .npmrc. */
export function npmCertificates(pem: string): string[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g) ?? [];
  return blocks.map((block) => `ca[]="${block.replaceAll('\n', '\\n')}"`);
}
