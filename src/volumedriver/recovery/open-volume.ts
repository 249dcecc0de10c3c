/**
 * Opens a volume: settles what the local disk has beyond the backend, fences earlier owners by committing a slot of a
 * higher epoch, loads the last checkpoint and replays what is newer. The volume answers its first request only after
 * all of that.
 */
import { VolumeError, hasCode } from '../../volumes/errors.ts';
import { volumeDirectory, type Environment } from '../environment.ts';
import type { VolumeState } from '../format/control.ts';
import { noNonce } from '../format/tlog-header.ts';
import { VolumeLog, type VolumeLogEvents } from '../log/volume-log.ts';
import { keys } from '../keys.ts';
import { foldRecord } from '../state.ts';
import { Uploader } from '../uploader.ts';
import type { VolumeImage } from '../volume-image.ts';
import { Volume } from '../volume.ts';
import { loadHistory, replayedTlogs, type History } from './history.ts';
import {
  assertReadable,
  classify,
  logDirectoryName,
  readLocalLogs,
  type LocalLog,
  type LocalState,
} from './local-tail.ts';
import { replayHistory } from './replay.ts';
import { carryOver, commitAsIs, planTail, type TailPlan } from './settle-tail.ts';

/** VOLUME_NOT_FOUND, CORRUPT, FENCED, UNAVAILABLE, OUT_OF_SPACE. */
export async function openVolume(environment: Environment, id: string): Promise<Volume> {
  try {
    return await recover(environment, id);
  } catch (error) {
    const { space } = environment;
    if (!hasCode(error, 'OUT_OF_SPACE') || space.full) throw error;
    // Recovery writes, and is what removals wait for: it may use the space that is kept for them.
    space.diskIsFull();
    return await recover(environment, id);
  }
}

async function recover(environment: Environment, id: string): Promise<Volume> {
  const { disk, store } = environment;
  const directory = volumeDirectory(environment, id);
  const logs = readLocalLogs(disk, directory);
  let history = await existingHistory(environment, id);
  assertReadable(logs, history.lastHeader);
  let local = classify(logs, history.lastHeader);
  if (local.tail !== null) {
    const { asTheyAre } = planTail(local.tail);
    const parts = { disk, store, logger: environment.logger, directory: local.tail.directory };
    for (const tlog of asTheyAre) await commitAsIs(parts, tlog);
    if (asTheyAre.length > 0) {
      history = await existingHistory(environment, id);
      local = classify(logs, history.lastHeader);
    }
  }
  const takeover = new Takeover(environment, id, history, local);
  return await takeover.run();
}

async function existingHistory(environment: Environment, id: string): Promise<History> {
  const history = await loadHistory(environment.store, id);
  if (history !== undefined) return history;
  throw new VolumeError('VOLUME_NOT_FOUND', `opening volume ${id}: it does not exist`);
}

class Takeover {
  readonly #environment: Environment;
  readonly #id: string;
  readonly #directory: string;
  readonly #history: History;
  readonly #local: LocalState;
  readonly #uploader: Uploader;
  /** Set once the volume runs; until then the events of the new log concern nobody else. */
  #image: VolumeImage | null = null;
  #volume: Volume | null = null;
  #log: VolumeLog | null = null;
  #failure: VolumeError | null = null;

  constructor(environment: Environment, id: string, history: History, local: LocalState) {
    this.#environment = environment;
    this.#id = id;
    this.#directory = volumeDirectory(environment, id);
    this.#history = history;
    this.#local = local;
    const { disk, store, reader, clock, logger } = environment;
    this.#uploader = new Uploader({
      disk,
      store,
      reader,
      clock,
      logger: logger.child({ volumeId: id }),
      volume: id,
      committedSlot: history.lastSlot,
      onDurable: (file) => {
        this.#log?.fileIsDurable(file);
      },
      onFull: () => {
        if (this.#volume === null) environment.space.diskIsFull();
      },
      onEnded: (error) => {
        this.#fail(error);
      },
    });
  }

  async run(): Promise<Volume> {
    const { tail } = this.#local;
    const plan = tail === null ? null : planTail(tail);
    // Before the next commit: a log that is obsolete now would look like another owner's behind it.
    await this.#discardObsolete();
    const log = await this.#startLog(plan);
    try {
      await this.#settle(log, plan);
      const slot = log.roll({ evenEmpty: true });
      await this.#uploader.committed(slot);
      if (tail !== null) await this.#discard([tail]);
      return await this.#start(log, slot);
    } catch (error) {
      this.#uploader.stop();
      log.close();
      throw error;
    }
  }

  async #startLog(plan: TailPlan | null): Promise<VolumeLog> {
    const { disk, random, reader, dataDirectory } = this.#environment;
    const writer = await this.#environment.takeWriter(this.#id);
    const directory = `${this.#directory}/${logDirectoryName(writer)}`;
    disk.makeDirectory(directory);
    await disk.syncDirectory(this.#directory);
    await disk.syncDirectory(`${dataDirectory}/volumes`);
    const { lastHeader, lastSlot } = this.#history;
    const epochs = (this.#local.tail?.tlogs ?? []).map(({ header }) => header.epoch);
    this.#log = new VolumeLog({
      disk,
      random,
      reader,
      directory,
      volume: this.#id,
      writer,
      epoch: Math.max(lastHeader.epoch, ...epochs) + 1,
      slot: lastSlot + 1,
      checkpointSlot: lastHeader.checkpointSlot,
      boundary: lastHeader.boundary,
      previousNonce: lastHeader.nonce,
      replaces: plan?.replaced?.header.nonce ?? noNonce,
      events: this.#events(),
    });
    return this.#log;
  }

  #events(): VolumeLogEvents {
    return {
      objectOpened: (objectId) => {
        this.#image?.accounts.addObject(objectId, 'data', this.#image.birth);
      },
      objectSealed: (object) => {
        this.#image?.accounts.sealObject(object.objectId);
        this.#uploader.addObject(object);
      },
      tlogSealed: (tlog) => {
        this.#volume?.noteSealed(tlog);
        this.#uploader.addTlog(tlog);
      },
      halted: (error) => {
        this.#fail(error);
      },
    };
  }

  /** A session that ended cleanly has left nothing on the local disk. */
  #uncleanWriters(trash: readonly string[]): number[] {
    const directories = [...this.#local.overtaken.map(({ directory }) => directory), ...trash];
    const writers = directories.map((directory) => Number.parseInt(directory.slice(-8), 16));
    const { lastHeader } = this.#history;
    if (lastHeader.checkpointSlot !== lastHeader.slot) writers.push(lastHeader.writer);
    return [...new Set(writers)];
  }

  #fail(error: VolumeError): void {
    this.#failure ??= error;
    this.#log?.halt(error);
    this.#volume?.halt(error);
  }

  /** Puts the tail into the new log, and raises the generation if acknowledged writes were lost. */
  async #settle(log: VolumeLog, plan: TailPlan | null): Promise<void> {
    const { disk, store, logger } = this.#environment;
    let { lost } = this.#local;
    for (const overtaken of this.#local.overtaken) lost ??= this.#setAside(overtaken);
    if (plan !== null && this.#local.tail !== null) {
      const parts = { disk, store, logger, log, directory: this.#local.tail.directory };
      const cut = await carryOver(parts, plan);
      lost ??= cut ?? plan.lost;
    }
    if (lost === null) return;
    const state = await this.#stateNow(plan);
    const raised = { kind: 'generationRaised', generation: state.generation + 1, reason: lost };
    log.append([{ type: 'control', payload: raised }]);
  }

  /** Another owner has the slots of this log: it is kept for the operator and never replayed. */
  #setAside(log: LocalLog): string {
    const { disk, logger } = this.#environment;
    const name = log.directory.slice(log.directory.lastIndexOf('/') + 1);
    const to = `${this.#directory}/set-aside-${name}`;
    disk.rename(log.directory, to);
    logger.error('a local log was set aside: another owner has committed its slots', {
      volumeId: this.#id,
      directory: to,
    });
    return `the local log ${name} was overtaken by another owner`;
  }

  /** The state with the plan's control records: cheap to fold, and needed before the map is there. */
  async #stateNow(plan: TailPlan | null): Promise<VolumeState> {
    let state = this.#history.checkpoint?.state ?? null;
    for await (const tlog of replayedTlogs(this.#environment.store, this.#history)) {
      for (const { record } of tlog.records) state = foldRecord(state, record);
    }
    for (const record of [...(plan?.kept ?? []), ...(plan?.loose ?? [])]) {
      state = foldRecord(state, record);
    }
    if (state === null)
      throw new VolumeError('CORRUPT', `opening volume ${this.#id}: never created`);
    return state;
  }

  async #discardObsolete(): Promise<void> {
    const { obsolete } = this.#local;
    if (obsolete.length === 0) return;
    // The slot that makes them so may be seen without being durable: then they are all that there is.
    await this.#environment.store.confirm?.(keys.slot(this.#id, this.#history.lastSlot));
    await this.#discard(obsolete);
  }

  /**
   * These logs are in the backend, or were derived from what still is on the disk. Renaming first makes removal atomic:
   * half a directory is never a tail again. The empty directory stays until the objects of its writer are swept.
   */
  async #discard(logs: readonly LocalLog[]): Promise<void> {
    const { disk } = this.#environment;
    for (const { directory } of logs) disk.rename(directory, trashName(directory));
    if (logs.length > 0) await disk.syncDirectory(this.#directory);
    for (const directory of this.#trash()) emptyDirectory(disk, directory);
  }

  #trash(): string[] {
    const names = this.#environment.disk.list(this.#directory);
    return names
      .filter((name) => name.startsWith('trash-'))
      .map((name) => `${this.#directory}/${name}`);
  }

  async #start(log: VolumeLog, slot: number): Promise<Volume> {
    const environment = this.#environment;
    const history = await existingHistory(environment, this.#id);
    if (history.lastSlot !== slot) {
      throw new VolumeError('FENCED', `opening volume ${this.#id}: another volumedriver took it`);
    }
    const { image, replayedBytes } = await replayHistory(environment, history, (error) => {
      this.#fail(error);
    });
    if (this.#failure !== null) throw this.#failure;
    this.#image = image;
    const trash = this.#trash();
    this.#volume = new Volume({
      environment,
      image,
      log,
      uploader: this.#uploader,
      accountsKey: history.checkpoint?.accounts ?? null,
      replayedBytes,
      directory: this.#directory,
      leftovers: {
        doomed: history.checkpoint?.doomed ?? [],
        boundary: history.lastHeader.boundary,
        writers: this.#uncleanWriters(trash),
        directories: trash,
      },
    });
    return this.#volume;
  }
}

function trashName(directory: string): string {
  return directory.replace(/log-([0-9a-f]+)$/, 'trash-$1');
}

function emptyDirectory(disk: Environment['disk'], directory: string): void {
  for (const name of disk.list(directory)) disk.remove(`${directory}/${name}`);
}
