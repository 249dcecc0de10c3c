/** What a volume's life costs apart from its I/O. */
import { describePublishing, measurePublishing, type PublishingResult } from './publishing.ts';
import type { Settings } from './settings.ts';

export interface LifecycleResult {
  publishing: PublishingResult;
}

export async function measureLifecycle(
  settings: Settings,
  directory: string,
  say: (text: string) => void,
): Promise<LifecycleResult> {
  say('from CreateVolume to a published mount');
  return { publishing: await measurePublishing(settings.repetitions, directory) };
}

export function describeLifecycle(result: LifecycleResult): string {
  return describePublishing(result.publishing);
}
