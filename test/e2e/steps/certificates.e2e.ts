/** Mutual TLS: nobody gets in without a certificate, and all certificates are replaced while everything runs. */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect } from '@jest/globals';
import type { V1ConfigMap, V1Node, V1Secret } from '@kubernetes/client-node';
import { components, type Component } from '../support/driver.ts';
import { podReference } from '../support/kube.ts';
import { useScratch } from '../support/scratch.ts';
import { step } from '../support/step.ts';
import { until } from '../support/waiting.ts';
import { storageClasses } from '../support/workloads.ts';

const scratch = useScratch('certificates');
const remoteApiPort = 9809;

/** Exit codes of curl for a connection that was refused in or after the handshake, but was there. */
const refusals = ['16', '18', '35', '52', '55', '56', '92'];

step(
  'a volumedriver talks to nobody without a certificate, and to nothing older than TLS 1.3',
  async () => {
    for (const node of scratch.cluster.nodes) {
      const { status } = await scratch.cluster.kube.get<V1Node>({
        apiVersion: 'v1',
        kind: 'Node',
        name: node.name,
      });
      const address = status?.addresses?.find(({ type }) => type === 'InternalIP')?.address ?? '';
      const ask = async (...args: string[]): Promise<string> => {
        const curl = `curl --silent --insecure --max-time 10 ${args.join(' ')} >&2; echo $?`;
        return (await node.run(['sh', '-c', curl])).trim();
      };
      const url = `https://${address}:${remoteApiPort}/`;
      expect(refusals).toContain(await ask('--http2-prior-knowledge', '--tlsv1.3', url));
      expect(refusals).toContain(await ask('--tls-max', '1.2', url));
      expect(refusals).toContain(
        await ask('--http2-prior-knowledge', url.replace('https', 'http')),
      );
    }
  },
);

step(
  'the CA is replaced in three moves, without a restart and without a pause',
  async () => {
    const { kube } = scratch.cluster;
    const { name, namespace } = scratch.cluster.state.release;
    const secret = { apiVersion: 'v1', kind: 'Secret', name: `${name}-ca`, namespace };
    const trust = { apiVersion: 'v1', kind: 'ConfigMap', name: `${name}-trust`, namespace };
    const before = await restarts();
    const oldSecret = await kube.get<V1Secret>(secret);
    const oldRoot = decode(oldSecret.data?.['tls.crt']);
    const oldBundle = (await kube.get<V1ConfigMap>(trust)).data?.['ca.crt'] ?? '';
    const ca = await makeCa();

    const moves: { what: string; secret: Record<string, string | null>; bundle: string }[] = [
      {
        what: 'both trusted',
        secret: { 'ca-bundle.crt': ca.certificate },
        bundle: `${oldBundle.trimEnd()}\n${ca.certificate}`,
      },
      {
        what: 'the new one signs',
        secret: { 'tls.crt': ca.certificate, 'tls.key': ca.key, 'ca-bundle.crt': oldRoot },
        bundle: `${oldBundle.trimEnd()}\n${ca.certificate}`,
      },
      { what: 'the old one gone', secret: { 'ca-bundle.crt': null }, bundle: ca.certificate },
    ];
    for (const [at, move] of moves.entries()) {
      await kube.patch(trust, { data: { 'ca.crt': move.bundle } });
      await kube.patch(secret, { data: encodeAll(move.secret) });
      const leaf = move.secret['tls.crt'] ?? (at === 0 ? oldRoot : ca.certificate);
      await untilMounted(components.controller, 'controller', '/etc/volumedriver/ca/tls.crt', leaf);
      await untilMounted(
        components.dataPlane,
        'volumedriver',
        '/etc/volumedriver/tls/ca.crt',
        move.bundle,
      );
      // A new volume takes a controller and a volumedriver that trust each other.
      await scratch.claim(`move-${at}`, { storageClass: storageClasses.immediate });
      await scratch.untilBound(`move-${at}`, 180_000);
    }
    expect(await restarts()).toEqual(before);
  },
  10 * 60_000,
);

/** The kubelet looks again at what a pod mounts when the pod changes. */
async function untilMounted(
  component: Component,
  container: string,
  path: string,
  text: string,
): Promise<void> {
  const { kube, driver } = scratch.cluster;
  for (const pod of await driver.pods(component)) {
    await kube.patch(podReference(pod), {
      metadata: { annotations: { 'e2e/looked': String(performance.now()) } },
    });
    await until(
      `${pod.name} sees the new ${path}`,
      async () => {
        const found = await kube.exec(pod, ['cat', path], { container });
        return found.trim() === text.trim() ? true : undefined;
      },
      { limitMs: 180_000, everyMs: 1000 },
    );
  }
}

async function restarts(): Promise<unknown> {
  const { driver } = scratch.cluster;
  const all = await Promise.all(Object.values(components).map((each) => driver.pods(each)));
  return all
    .flat()
    .map(({ name, pod }) => [
      name,
      (pod.status?.containerStatuses ?? [])
        .map((each) => `${each.name} ${each.restartCount}`)
        .sort(),
    ]);
}

async function makeCa(): Promise<{ certificate: string; key: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'vdcsi-e2e-ca-'));
  const [certificate, key] = [join(folder, 'ca.crt'), join(folder, 'ca.key')];
  try {
    await promisify(execFile)(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'],
        ...['-keyout', key, '-out', certificate, '-days', '30', '-subj', '/CN=another CA'],
        ...['-addext', 'keyUsage=critical,keyCertSign,cRLSign'],
      ],
      { timeout: 20_000 },
    );
    return { certificate: await readFile(certificate, 'utf8'), key: await readFile(key, 'utf8') };
  } finally {
    await rm(folder, { recursive: true });
  }
}

function encodeAll(data: Readonly<Record<string, string | null>>): Record<string, string | null> {
  return Object.fromEntries(
    Object.entries(data).map(([key, text]) => [
      key,
      text === null ? null : Buffer.from(text).toString('base64'),
    ]),
  );
}

function decode(base64: string | undefined): string {
  return Buffer.from(base64 ?? '', 'base64').toString('utf8');
}
