/**
 * The one importer of winston. A message is a constant lower-case phrase; data goes into fields with the same
 * names everywhere (volumeId, snapshotId, rpc, durationMs, code). Log or throw, never both.
 */
import winston from 'winston';

export type LogFields = Readonly<Record<string, unknown>>;

export interface Logger {
  error(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  debug(message: string, fields?: LogFields): void;
  child(fields: LogFields): Logger;
}

export const logLevels = ['error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof logLevels)[number];

/** JSON lines on standard error, so that standard output stays free for a command's own answer. */
export function createLogger(level: LogLevel, fields: LogFields): Logger {
  const logger = winston.createLogger({
    level,
    defaultMeta: { ...fields },
    format: winston.format.combine(
      winston.format.timestamp(),
      winston.format.errors({ stack: true }),
      winston.format.json(),
    ),
    transports: [new winston.transports.Console({ stderrLevels: [...logLevels] })],
  });
  return adapt(logger);
}

function adapt(logger: winston.Logger): Logger {
  return {
    error: (message, fields) => void logger.error(message, printable(fields)),
    warn: (message, fields) => void logger.warn(message, printable(fields)),
    info: (message, fields) => void logger.info(message, printable(fields)),
    debug: (message, fields) => void logger.debug(message, printable(fields)),
    child: (fields) => adapt(logger.child(fields)),
  };
}

/** Errors have no enumerable fields, so JSON would show them as {}: replace each by its message and causes. */
function printable(fields: LogFields | undefined): LogFields {
  if (fields === undefined) return {};
  return Object.fromEntries(
    Object.entries(fields).map(([key, value]) => [
      key,
      value instanceof Error ? describeError(value) : value,
    ]),
  );
}

/** An error's message followed by those of its causes. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined
    ? error.message
    : `${error.message}: ${describeError(error.cause)}`;
}

export const silentLogger: Logger = {
  error: () => undefined,
  warn: () => undefined,
  info: () => undefined,
  debug: () => undefined,
  child: () => silentLogger,
};
