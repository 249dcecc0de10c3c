/** What strategies make of the server's answer about an export. */
import type { Clock } from '../base/clock.ts';
import { codeOfOptionError } from '../nbd/errors.ts';
import { optionReplies } from '../nbd/protocol.ts';
import { VolumeError } from '../volumes/errors.ts';
import { probeExport, type ExportProbe } from './nbd-probe.ts';

/** A server that has just started may refuse for a moment: a refusal counts when it is repeated. */
const confirmAfterMs = 300;

/** Like probeExport, but a refusal is asked for twice. */
export async function confirmedProbe(
  uri: string,
  wait: { clock: Clock; timeoutMs: number },
): Promise<ExportProbe> {
  const first = await probeExport(uri, wait);
  if (first.kind !== 'refused') return first;
  await wait.clock.sleep(confirmAfterMs);
  return await probeExport(uri, wait);
}

/** UNAVAILABLE when nobody answers, the refusal's own code, READ_ONLY for a mode that the export does not have. */
export function requireOffered(probe: ExportProbe, readOnly: boolean): { sizeBytes: number } {
  if (probe.kind === 'unreachable') {
    throw new VolumeError('UNAVAILABLE', `reach the volumedriver: ${probe.reason}`);
  }
  if (probe.kind === 'refused') {
    throw new VolumeError(codeOfOptionError(probe.reply), `open the export: ${probe.reason}`);
  }
  if (probe.readOnly && !readOnly) {
    throw new VolumeError('READ_ONLY', 'attach read-write: the export is read-only');
  }
  return probe;
}

/**
 * What the answer means for a device that is attached; null when nothing is wrong. Only an export that does not exist
 * any more is lost: a volume that cannot be opened now may be mended, and its device's I/O can wait for that.
 */
export function troubleOf(
  probe: ExportProbe,
): { readonly state: 'waiting' | 'broken'; readonly reason: string } | null {
  if (probe.kind === 'offered') return null;
  if (probe.kind === 'unreachable')
    return { state: 'waiting', reason: `the volumedriver does not answer: ${probe.reason}` };
  if (isGone(probe)) return { state: 'broken', reason: `the export is refused: ${probe.reason}` };
  return { state: 'waiting', reason: `the export is refused for now: ${probe.reason}` };
}

/** Whether waiting for the export is in vain. */
export function isGone(probe: ExportProbe): boolean {
  return probe.kind === 'refused' && probe.reply === optionReplies.ERR_UNKNOWN;
}
