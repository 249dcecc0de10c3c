/**
 * The attacher: one block device per volume, found again after any crash. It keeps the records, one lock per
 * volume and the order of steps; the strategy makes and removes the devices.
 *
 * A record exists before anything of a device does, and until nothing of it does. Its phase tells whether somebody
 * may rely on the device: `attaching` is undone by whoever finds it, `detaching` is completed. What has no
 * readable record is reported and never removed but by a detach of its volume. Devices that somebody may rely on are
 * looked after by the monitor, under the same locks: a request waits for a repair, a repair never for a request.
 */
import pLimit from 'p-limit';
import type { Clock } from '../base/clock.ts';
import { describeError, type Logger } from '../base/logger.ts';
import { systemRandom, type Random } from '../base/random.ts';
import type { Device, DeviceService } from '../volumes/device-service.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import { parseNbdUri } from '../nbd/uri.ts';
import {
  readBootId,
  RecordStore,
  volumeKey,
  type AttachmentRecord,
  type Phase,
} from './records.ts';
import { startStrategies } from './choose-strategy.ts';
import { DeviceLocks } from './device-locks.ts';
import { defaultMonitorLimits, DeviceMonitor, type MonitorLimits } from './device-monitor.ts';
import { noMetrics, type AttacherMetrics } from './metrics.ts';
import type { DeviceStrategy, Inspection, SaveDetails, Target, TargetExport } from './strategy.ts';

export interface AttacherOptions {
  readonly stateDirectory: string;
  readonly driverName: string;
  /**
   * The first makes new devices; all of them serve those that they made. Others than the first may be ones that this
   * machine cannot run.
   */
  readonly strategies: readonly [DeviceStrategy, ...DeviceStrategy[]];
  readonly clock: Clock;
  readonly logger: Logger;
  readonly random?: Random;
  readonly metrics?: AttacherMetrics;
  /** How long I/O waits for a lost volumedriver before it fails. 3600 unless given. */
  readonly reconnectDelaySeconds?: number;
  readonly monitorLimits?: Partial<MonitorLimits>;
  /** The running kernel's boot; read from /proc unless given. */
  readonly bootId?: string;
}

type ExportTarget = Target & { export: TargetExport };

interface Attachment {
  readonly record: AttachmentRecord;
  readonly details: Readonly<Record<string, unknown>>;
}

/** How many volumes are repaired or looked at side by side. */
const concurrency = 8;
/** How long close() waits for running operations; they are bounded themselves, and found at the next start. */
const closeTimeoutMs = 60_000;

export class AttacherService implements DeviceService {
  readonly #options: AttacherOptions;
  readonly #records: RecordStore;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #monitor: DeviceMonitor;
  readonly #locks = new DeviceLocks();
  /** Those that run here. */
  #strategies: readonly DeviceStrategy[] = [];
  #instanceId = '';
  #bootId = '';
  #state: 'new' | 'started' | 'closed' = 'new';

  constructor(options: AttacherOptions) {
    this.#options = options;
    this.#records = new RecordStore(options.stateDirectory);
    this.#clock = options.clock;
    this.#logger = options.logger;
    const { clock, logger, metrics = noMetrics, reconnectDelaySeconds = 3600 } = options;
    const giveUpMs = reconnectDelaySeconds * 1000;
    const limits = { ...defaultMonitorLimits, giveUpMs, ...options.monitorLimits };
    this.#monitor = new DeviceMonitor({ clock, logger, metrics, limits });
  }

  /** Unique to this state directory; empty before start. */
  get instanceId(): string {
    return this.#instanceId;
  }

  /** Finds what exists, finishes or undoes what is half-made, and only then serves. Can be repeated. */
  async start(): Promise<void> {
    this.#instanceId = await this.#records.open(this.#options.random ?? systemRandom);
    this.#bootId = this.#options.bootId ?? (await readBootId());
    const { driverName } = this.#options;
    const stored = await this.#records.list();
    this.#strategies = await startStrategies(this.#options.strategies, {
      identity: { driverName, instanceId: this.#instanceId },
      recorded: new Set(stored.flatMap((each) => ('record' in each ? each.record.strategy : []))),
      logger: this.#logger,
    });
    for (const strategy of this.#strategies) {
      strategy.onTrouble((key) => {
        this.#monitor.nudge(key);
      });
    }
    // What works, or may be healed, waits for nothing else.
    for (const entry of stored)
      if ('record' in entry && this.#outlived(entry.record)) this.#watch(entry.record);
    const limit = pLimit(concurrency);
    await Promise.all(
      stored.map((entry) =>
        limit(async () => {
          if ('record' in entry) await this.#recover(entry.record);
          else
            this.#logger.error('record cannot be read', { key: entry.key, reason: entry.problem });
        }),
      ),
    );
    await this.#reportUnknown(new Set(stored.map((entry) => entry.key)));
    this.#state = 'started';
    const devices = (await this.#records.list()).length;
    if (devices === 0) this.#logger.info('nothing is attached');
    this.#logger.info('attacher started', { driverName, instanceId: this.#instanceId, devices });
  }

  async #reportUnknown(known: ReadonlySet<string>): Promise<void> {
    for (const strategy of this.#strategies) {
      try {
        const unknown = (await strategy.list()).filter((key) => !known.has(key));
        for (const key of unknown)
          this.#logger.error('device without a record', { key, strategy: strategy.name });
      } catch (error) {
        // Those that are known are served all the same.
        this.#logger.error('devices could not be listed', { strategy: strategy.name, error });
      }
    }
  }

  /** Lets running operations end and refuses new ones. Devices stay and go on working. */
  async close(): Promise<void> {
    this.#state = 'closed';
    await this.#monitor.close();
    if (!(await this.#locks.idle(this.#clock, closeTimeoutMs))) {
      this.#logger.warn('closed with operations running', { operations: this.#locks.size });
    }
    for (const strategy of this.#strategies) await strategy.close();
  }

  async attach(request: TargetExport): Promise<Device> {
    validate(request);
    return await this.#exclusively(request.volumeId, () => this.#attach(request));
  }

  async detach(volumeId: string): Promise<void> {
    await this.#exclusively(volumeId, () => this.#detach(volumeId));
  }

  async resize(volumeId: string, sizeBytes: number): Promise<Device> {
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0) {
      throw new VolumeError(
        'INVALID_ARGUMENT',
        `resize ${volumeId}: ${sizeBytes} is no size in bytes`,
      );
    }
    return await this.#exclusively(volumeId, async () => {
      const { record, details } = await this.#require(volumeId);
      const strategy = this.#strategyOf(record);
      const growth = { sizeBytes, save: this.#saving(record) };
      return deviceOf(record, await strategy.resize(targetOf(record), details, growth));
    });
  }

  async getDevice(volumeId: string): Promise<Device> {
    this.#requireStarted();
    const { record } = await this.#require(volumeId);
    return await this.#inspect(record);
  }

  async listDevices(): Promise<Device[]> {
    this.#requireStarted();
    const limit = pLimit(concurrency);
    const shown: AttachmentRecord[] = [];
    for (const entry of await this.#records.list()) {
      if ('record' in entry && isShown(entry.record)) shown.push(entry.record);
    }
    return await Promise.all(shown.map((record) => limit(() => this.#inspectForList(record))));
  }

  async #attach(request: TargetExport): Promise<Device> {
    const key = volumeKey(request.volumeId);
    const stored = await this.#records.read(key);
    if (stored !== null && 'problem' in stored) {
      const why = `its record cannot be read (${stored.problem}): detach it first`;
      throw new VolumeError('CORRUPT', `attach ${request.volumeId}: ${why}`);
    }
    if (stored?.record.phase === 'attached') return await this.#existing(stored.record, request);
    if (stored !== null) await this.#removeDevice(stored.record, this.#strategyOf(stored.record));
    const [strategy] = this.#options.strategies;
    if (stored === null && (await this.#runs(key))) {
      const why = 'it has a device without a record: detach it first';
      throw new VolumeError('CORRUPT', `attach ${request.volumeId}: ${why}`);
    }
    return await this.#attachNew(this.#newRecord(request, strategy.name), strategy);
  }

  async #existing(record: AttachmentRecord, request: TargetExport): Promise<Device> {
    if (record.uri !== request.uri || record.readOnly !== request.readOnly) {
      const mode = record.readOnly ? 'read-only' : 'read-write';
      const why = `it is attached ${mode} from ${record.uri}`;
      throw new VolumeError('ALREADY_EXISTS', `attach ${request.volumeId}: ${why}`);
    }
    return await this.#inspect(record);
  }

  async #attachNew(record: AttachmentRecord, strategy: DeviceStrategy): Promise<Device> {
    const { volumeId } = record;
    await this.#records.write(record);
    let latest = record;
    try {
      const target = targetOf(record);
      const inspection = await strategy.attach(target, async (details) => {
        latest = { ...latest, details };
        await this.#records.write(latest);
      });
      latest = { ...latest, phase: 'attached' };
      await this.#records.write(latest);
      this.#watch(latest);
      this.#logger.info('device attached', { volumeId, device: inspection.path, uri: record.uri });
      return deviceOf(latest, inspection);
    } catch (error) {
      await this.#undo(latest, strategy);
      throw error;
    }
  }

  /** The attach's own error matters more than the undo's, which the next attach or start repeats. */
  async #undo(record: AttachmentRecord, strategy: DeviceStrategy): Promise<void> {
    const { volumeId } = record;
    try {
      await this.#removeDevice(record, strategy);
    } catch (error) {
      this.#logger.error('failed attach could not be undone', { volumeId, error });
    }
  }

  async #detach(volumeId: string): Promise<void> {
    const key = volumeKey(volumeId);
    const stored = await this.#records.read(key);
    if (stored !== null && 'record' in stored) {
      const { record } = stored;
      this.#monitor.forget(key);
      const detaching = { ...record, phase: 'detaching' } as const;
      await this.#records.write(detaching);
      await this.#removeDevice(detaching, this.#strategyOf(record));
      this.#logger.info('device detached', { volumeId });
      return;
    }
    if (stored === null && !(await this.#runs(key))) return;
    this.#logger.warn('detaching a device without a record', { volumeId });
    for (const strategy of this.#strategies)
      await strategy.detach({ key, export: null }, null, () => Promise.resolve());
    await this.#records.remove(key);
  }

  async #removeDevice(record: AttachmentRecord, strategy: DeviceStrategy): Promise<void> {
    const target = targetOf(record);
    await strategy.detach(target, record.details, this.#saving(record));
    await this.#records.remove(target.key);
  }

  /** Whether anything of the volume runs that has no record. */
  async #runs(key: string): Promise<boolean> {
    for (const strategy of this.#strategies) {
      if ((await strategy.list()).includes(key)) return true;
    }
    return false;
  }

  async #recover(record: AttachmentRecord): Promise<void> {
    const { volumeId, phase } = record;
    try {
      await this.#locks.request(volumeId, () => this.#recoverLocked(record));
    } catch (error) {
      // One volume's trouble must not keep the others from being served.
      this.#logger.error('device could not be recovered', { volumeId, phase, error });
    }
  }

  async #recoverLocked(record: AttachmentRecord): Promise<void> {
    const { volumeId, phase } = record;
    const target = targetOf(record);
    if (record.bootId !== this.#bootId) {
      // One that does not run here any more has nothing to forget but files of its own.
      await this.#strategies.find(({ name }) => name === record.strategy)?.forget(target);
      await this.#records.remove(target.key);
      this.#logger.warn('device did not outlive the reboot, its record is cleared', { volumeId });
      return;
    }
    const strategy = this.#strategyOf(record);
    if (phase !== 'attached') {
      this.#logger.warn('half-made device is removed', { volumeId, phase });
      await this.#removeDevice(record, strategy);
      return;
    }
    const { path, state, reason } = await this.#inspect(record);
    const log = state === 'attached' ? 'info' : 'warn';
    this.#logger[log]('device found', { volumeId, device: path, state, reason });
  }

  /** Whether the device is whole, and of this boot. */
  #outlived({ phase, bootId }: AttachmentRecord): boolean {
    return phase === 'attached' && bootId === this.#bootId;
  }

  #watch({ volumeId, strategy: name }: AttachmentRecord): void {
    const strategy = this.#strategies.find((each) => each.name === name);
    if (strategy === undefined) return;
    this.#monitor.watch(volumeKey(volumeId), {
      volumeId,
      isSuspect: async () => {
        const { record, details } = await this.#require(volumeId);
        return await strategy.isSuspect(targetOf(record), details);
      },
      heal: () =>
        this.#repair(volumeId, ({ record, details }, save) =>
          strategy.heal(targetOf(record), details, save),
        ),
      fail: (reason) =>
        this.#repair(volumeId, ({ record, details }, save) =>
          strategy.fail(targetOf(record), details, { reason, save }),
        ),
    });
  }

  /** OPERATION_PENDING while a request has the device, PATH_NOT_FOUND when a request has removed it. */
  async #repair<T>(
    volumeId: string,
    work: (attachment: Attachment, save: SaveDetails) => Promise<T>,
  ): Promise<T> {
    return await this.#locks.repair(volumeId, async () => {
      const attachment = await this.#require(volumeId);
      return await work(attachment, this.#saving(attachment.record));
    });
  }

  /** For as long as the volume is locked. */
  #saving(record: AttachmentRecord): SaveDetails {
    return async (details) => {
      await this.#records.write({ ...record, details });
    };
  }

  async #inspect(record: AttachmentRecord): Promise<Device> {
    if (record.phase === 'detaching') {
      const reason = 'a detach did not complete: repeat it';
      return deviceOf(record, { path: '', sizeBytes: 0, state: 'broken', reason });
    }
    const inspection = await this.#strategyOf(record).inspect(
      targetOf(record),
      record.details ?? {},
    );
    return deviceOf(record, inspection);
  }

  /** One device that cannot be looked at must not hide the others. */
  async #inspectForList(record: AttachmentRecord): Promise<Device> {
    try {
      return await this.#inspect(record);
    } catch (error) {
      const reason = describeError(error);
      const state = hasCode(error, 'UNAVAILABLE') ? 'waiting' : 'broken';
      return deviceOf(record, { path: '', sizeBytes: 0, state, reason });
    }
  }

  async #require(volumeId: string): Promise<Attachment> {
    const stored = await this.#records.read(volumeKey(volumeId));
    if (stored !== null && 'problem' in stored) {
      throw new VolumeError(
        'CORRUPT',
        `device of ${volumeId}: its record cannot be read: ${stored.problem}`,
      );
    }
    if (stored === null || !isShown(stored.record)) {
      throw new VolumeError('PATH_NOT_FOUND', `device of ${volumeId}: it is not attached`);
    }
    return { record: stored.record, details: stored.record.details ?? {} };
  }

  #newRecord(request: TargetExport, strategy: string): AttachmentRecord {
    const phase: Phase = 'attaching';
    const { volumeId, uri, readOnly } = request;
    const [instanceId, bootId] = [this.#instanceId, this.#bootId];
    return {
      version: 1,
      instanceId,
      bootId,
      volumeId,
      uri,
      readOnly,
      strategy,
      phase,
      details: null,
    };
  }

  #strategyOf(record: AttachmentRecord): DeviceStrategy {
    const strategy = this.#strategies.find(({ name }) => name === record.strategy);
    if (strategy !== undefined) return strategy;
    const why = `it was made by the strategy ${record.strategy}, which does not run here`;
    throw new VolumeError('NOT_CAPABLE', `device of ${record.volumeId}: ${why}`);
  }

  async #exclusively<T>(volumeId: string, work: () => Promise<T>): Promise<T> {
    this.#requireStarted();
    return await this.#locks.request(volumeId, work);
  }

  #requireStarted(): void {
    if (this.#state === 'started') return;
    if (this.#state === 'closed')
      throw new VolumeError('SHUTTING_DOWN', 'attacher: it is shutting down');
    throw new VolumeError('UNAVAILABLE', 'attacher: it is still starting');
  }
}

function validate(request: TargetExport): void {
  const bytes = Buffer.byteLength(request.volumeId);
  if (bytes === 0 || bytes > 256) {
    throw new VolumeError('INVALID_ARGUMENT', 'attach: a volume id has 1 to 256 bytes');
  }
  parseNbdUri(request.uri);
}

function isShown(record: AttachmentRecord): boolean {
  return record.phase !== 'attaching';
}

function targetOf(record: AttachmentRecord): ExportTarget {
  const { volumeId, uri, readOnly } = record;
  return { key: volumeKey(volumeId), export: { volumeId, uri, readOnly } };
}

function deviceOf(record: AttachmentRecord, inspection: Inspection): Device {
  const { volumeId, uri, readOnly, strategy } = record;
  return { volumeId, uri, readOnly, strategy, ...inspection };
}
