/**
 * An NBD client that does what a good one does when its server goes away: it connects again and repeats whatever was
 * not answered. Writes are repeated whole, so it does not matter whether a lost one had been carried out.
 */
import { systemClock } from '../../src/base/clock.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { hasCode } from '../../src/volumes/errors.ts';

const retryMs = 50;
const limitMs = 30_000;

export class PatientClient {
  /** How often the connection was lost. */
  losses = 0;
  readonly #uri: string;
  #client: Promise<NbdClient>;

  private constructor(uri: string, client: NbdClient) {
    this.#uri = uri;
    this.#client = Promise.resolve(client);
  }

  static async connect(uri: string): Promise<PatientClient> {
    return new PatientClient(uri, await connectNbd(uri));
  }

  async read(offset: number, length: number): Promise<Buffer> {
    return await this.#persist((client) => client.read(offset, length));
  }

  async write(offset: number, data: Buffer): Promise<void> {
    await this.#persist((client) => client.write(offset, data));
  }

  async flush(): Promise<void> {
    await this.#persist((client) => client.flush());
  }

  async disconnect(): Promise<void> {
    await (await this.#client).disconnect();
  }

  async #persist<Result>(action: (client: NbdClient) => Promise<Result>): Promise<Result> {
    const deadline = performance.now() + limitMs;
    for (;;) {
      const client = this.#client;
      try {
        return await action(await client);
      } catch (error) {
        if (!isLoss(error) || performance.now() > deadline) throw error;
        // The first that notices connects again, the others wait for the same connection.
        if (this.#client === client) this.#client = this.#reconnect();
      }
    }
  }

  async #reconnect(): Promise<NbdClient> {
    this.losses++;
    const deadline = performance.now() + limitMs;
    for (;;) {
      try {
        return await connectNbd(this.#uri);
      } catch (error) {
        if (!isLoss(error) || performance.now() > deadline) throw error;
        await systemClock.sleep(retryMs);
      }
    }
  }
}

function isLoss(error: unknown): boolean {
  return hasCode(error, 'UNAVAILABLE') || hasCode(error, 'SHUTTING_DOWN');
}
