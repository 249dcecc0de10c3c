/** A logger that keeps the messages, whatever their level. */
import type { Logger } from '../../src/base/logger.ts';

export function recordingLogger(): { logger: Logger; messages: string[] } {
  const messages: string[] = [];
  const add = (message: string): void => {
    messages.push(message);
  };
  const logger: Logger = { error: add, warn: add, info: add, debug: add, child: () => logger };
  return { logger, messages };
}
