/** A database as an application: a snapshot under pgbench is a database that starts, and is whole. */
import { expect } from '@jest/globals';
import { useScratch } from '../support/scratch.ts';
import { readState } from '../support/state.ts';
import { step } from '../support/step.ts';
import { delay } from '../support/waiting.ts';

const scratch = useScratch('postgres');
const state = readState();
const node = state.nodes[0]?.name ?? '';
const image = state.images.postgres;
const directory = '/data/db';
/** Starts what lies in the directory, and ends with it. */
const serve = `
chown postgres /data && chmod 700 /data
as() { setpriv --reuid postgres --regid postgres --init-groups -- "$@"; }
[ -s ${directory}/PG_VERSION ] || as initdb -D ${directory} -A trust >/dev/null
exec setpriv --reuid postgres --regid postgres --init-groups -- \\
  postgres -D ${directory} -k /tmp -c listen_addresses= -c shared_buffers=32MB`;
const local = '-h /tmp -U postgres';

step('a snapshot is taken under pgbench; its clone starts and passes pg_amcheck', async () => {
  await scratch.claim('database', { size: '1Gi' });
  await scratch.podReady('postgres', {
    image,
    node,
    script: serve,
    mounts: { '/data': 'database' },
  });
  await untilServes('postgres');
  await scratch.shell('postgres', `pgbench ${local} -q -i -s 3 postgres 2>&1`, {
    limitMs: 120_000,
  });

  const load = scratch.shell('postgres', `pgbench ${local} -c 2 -T 25 postgres 2>&1`, {
    limitMs: 120_000,
  });
  await delay(8000);
  await scratch.snapshotReady('under-load', 'database');
  expect(await load).toMatch(/number of failed transactions: 0 /);

  await scratch.claim('copy', {
    size: '1Gi',
    source: { kind: 'VolumeSnapshot', name: 'under-load' },
  });
  await scratch.podReady('clone', { image, node, script: serve, mounts: { '/data': 'copy' } });
  await untilServes('clone');
  const checked = `pg_amcheck ${local} --install-missing --heapallindexed --parent-check postgres && echo whole`;
  expect(await scratch.shell('clone', checked, { limitMs: 120_000 })).toMatch(/whole$/);
  // Each transaction adds the same to one account, one teller and one branch.
  const sums = await query(
    'clone',
    'SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches)',
  );
  expect(new Set(sums.split('|')).size).toBe(1);
  const transactions = Number(await query('clone', 'SELECT count(*) FROM pgbench_history'));
  expect(transactions).toBeGreaterThan(0);
  const all = Number(await query('postgres', 'SELECT count(*) FROM pgbench_history'));
  expect(all).toBeGreaterThan(transactions);
});

async function untilServes(pod: string): Promise<void> {
  await scratch.shell(
    pod,
    `for i in $(seq 300); do pg_isready -q ${local} && exit; sleep 0.2; done; exit 1`,
    {
      limitMs: 90_000,
    },
  );
}

async function query(pod: string, sql: string): Promise<string> {
  return await scratch.shell(pod, `psql ${local} -At -c "${sql}" postgres`);
}
