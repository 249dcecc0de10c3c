/** A bare cluster that is kept until a signal comes: see scripts/e2e-cluster. */
import { parseArgs } from 'node:util';
import { bareProvider } from './provider.ts';

const { values, positionals } = parseArgs({
  options: { nodes: { type: 'string', default: 'one' } },
  allowPositionals: true,
});
const signal = new Promise<void>((resolve) => {
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => resolve());
});
const logger = (line: string): void => void process.stderr.write(`${line}\n`);

const obstacle = await bareProvider.obstacle();
if (obstacle !== undefined) {
  logger(`no cluster can be had here: ${obstacle}`);
  process.exit(1);
}
const started = performance.now();
const cluster = await bareProvider.up({
  images: positionals,
  nodes: values.nodes === 'all' ? 'all' : 'one',
  logger,
});
const seconds = ((performance.now() - started) / 1000).toFixed(1);
logger(`up after ${seconds} s: ${cluster.nodes.map(({ name }) => name).join(', ')}`);
process.stdout.write(
  `export KUBECONFIG=${cluster.kubeconfig}\nexport PATH=${cluster.toolsDirectory}:$PATH\n` +
    `# logs: ${cluster.logDirectory}\n`,
);
await signal;
logger('taking it down');
await cluster.down();
process.exit(0);
