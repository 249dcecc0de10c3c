// Exits 0 when node_modules/ holds what package-lock.json asks for, by npm's own record of what it installed.
// Runs on any Node, since it decides whether Node 24 has to be installed.
import { readFileSync } from 'node:fs';

const root = new URL('..', import.meta.url);

function packagesOf(path) {
  try {
    return JSON.parse(readFileSync(new URL(path, root), 'utf8')).packages;
  } catch {
    return {};
  }
}

const wanted = packagesOf('package-lock.json');
const installed = packagesOf('node_modules/.package-lock.json');
const missing = Object.entries(wanted).filter(
  ([path, { version, optional, link }]) =>
    path !== '' && !link && installed[path]?.version !== version && (installed[path] || !optional),
);
process.exit(Object.keys(installed).length > 0 && missing.length === 0 ? 0 : 1);
