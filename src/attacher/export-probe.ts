/** What strategies make of the server's answer about an export. */
import type { Clock } from '../base/clock.ts';
import { codeOfOptionError } from '../nbd/errors.ts';
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
