/** What a volume's life costs apart from its I/O. */
import { describeMapped, measureMapped, type MappedResult } from './mapped.ts';
import { describePublishing, measurePublishing, type PublishingResult } from './publishing.ts';
import type { Settings } from './settings.ts';

export interface LifecycleResult {
  publishing: PublishingResult;
  mapped: MappedResult[];
}

export async function measureLifecycle(
  settings: Settings,
  directory: string,
  say: (text: string) => void,
): Promise<LifecycleResult> {
  const { repetitions } = settings;
  say('from CreateVolume to a published mount');
  const publishing = await measurePublishing(repetitions, directory);
  const mapped: MappedResult[] = [];
  for (const mappedGiB of settings.mappedGiB) {
    say(`a volume with ${mappedGiB} GiB mapped`);
    mapped.push(await measureMapped(mappedGiB, { repetitions, directory }));
  }
  return { publishing, mapped };
}

export function describeLifecycle({ publishing, mapped }: LifecycleResult): string {
  return `From CreateVolume to a published mount:\n\n${describePublishing(publishing)}
By how much is mapped:\n\n${describeMapped(mapped)}`;
}
