/**
 * The bare cluster's certificates (a CA of its own, client and serving certificates by it), the key of service
 * accounts' tokens, and kubeconfig files. Keys are ECDSA P-256; all of it lives as long as the cluster's folder.
 * Who a client is, is told by the subject: CN is the user, O its groups.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './commands.ts';

const validDays = 30;

export interface Subject {
  readonly user: string;
  readonly groups?: readonly string[];
}

export interface CertificateFiles {
  readonly certificate: string;
  readonly key: string;
}

export class Certificates {
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  static async create(folder: string): Promise<Certificates> {
    await mkdir(folder, { recursive: true });
    const certificates = new Certificates(folder);
    const { authority, authorityKey, tokenKey, tokenPublicKey } = certificates;
    await newKey(authorityKey);
    await run([
      ...['openssl', 'req', '-x509', '-new', '-key', authorityKey, '-subj', '/CN=e2e cluster'],
      ...['-days', String(validDays), '-out', authority],
      ...['-addext', 'keyUsage=critical,keyCertSign,cRLSign'],
    ]);
    await newKey(tokenKey);
    await run(['openssl', 'ec', '-in', tokenKey, '-pubout', '-out', tokenPublicKey]);
    return certificates;
  }

  get authority(): string {
    return join(this.#folder, 'ca.crt');
  }

  get authorityKey(): string {
    return join(this.#folder, 'ca.key');
  }

  /** Signs the tokens of service accounts. */
  get tokenKey(): string {
    return join(this.#folder, 'tokens.key');
  }

  get tokenPublicKey(): string {
    return join(this.#folder, 'tokens.pub');
  }

  async client(name: string, { user, groups = [] }: Subject): Promise<CertificateFiles> {
    const subject = `${groups.map((group) => `/O=${group}`).join('')}/CN=${user}`;
    return await this.#sign(name, subject, ['extendedKeyUsage=clientAuth']);
  }

  async server(name: string, names: readonly string[]): Promise<CertificateFiles> {
    const alternatives = names.map((each) => `${/^[\d.]+$/.test(each) ? 'IP' : 'DNS'}:${each}`);
    return await this.#sign(name, `/CN=${name}`, [
      'extendedKeyUsage=serverAuth',
      `subjectAltName=${alternatives.join(',')}`,
    ]);
  }

  /** A kubeconfig with everything in it, so that it can be read from anywhere. */
  async kubeconfig(path: string, server: string, client: CertificateFiles): Promise<string> {
    const [authority, certificate, key] = await Promise.all(
      [this.authority, client.certificate, client.key].map((file) => readFile(file, 'base64')),
    );
    const config = {
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'e2e', cluster: { server, 'certificate-authority-data': authority } }],
      users: [
        { name: 'e2e', user: { 'client-certificate-data': certificate, 'client-key-data': key } },
      ],
      contexts: [{ name: 'e2e', context: { cluster: 'e2e', user: 'e2e' } }],
      'current-context': 'e2e',
    };
    // YAML has JSON within.
    await writeFile(path, JSON.stringify(config, null, 2), { mode: 0o600 });
    return path;
  }

  async #sign(
    name: string,
    subject: string,
    extensions: readonly string[],
  ): Promise<CertificateFiles> {
    const file = (suffix: string): string => join(this.#folder, `${name}.${suffix}`);
    await newKey(file('key'));
    await run([
      ...['openssl', 'req', '-new', '-key', file('key'), '-subj', subject, '-out', file('csr')],
    ]);
    const usage = ['keyUsage=critical,digitalSignature', ...extensions].join('\n');
    await writeFile(file('ext'), `basicConstraints=critical,CA:FALSE\n${usage}\n`);
    await run([
      ...['openssl', 'x509', '-req', '-in', file('csr'), '-CA', this.authority],
      ...['-CAkey', this.authorityKey, '-days', String(validDays), '-sha256'],
      ...['-extfile', file('ext'), '-out', file('crt')],
    ]);
    return { certificate: file('crt'), key: file('key') };
  }
}

async function newKey(path: string): Promise<void> {
  await run(['openssl', 'ecparam', '-genkey', '-name', 'prime256v1', '-noout', '-out', path]);
}
