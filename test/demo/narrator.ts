/**
 * Tells the story: numbered steps, plain sentences, and how long things took. On a terminal a line that counts the
 * seconds stands in for what is under way; elsewhere a line is added every few seconds, so that a log shows it, too.
 * Once it is stopped, whatever still runs in the background can neither print nor go on.
 */
import { styleText } from 'node:util';

const terminalTickMs = 100;
const logTickMs = 5000;
const indent = '    ';

export class Narrator {
  readonly #startedMs = performance.now();
  readonly #output: NodeJS.WriteStream;
  #steps = 0;
  #stepTitle = '';
  #stopped: Error | null = null;
  #liveLine = false;
  readonly #isTerminal: boolean;
  readonly #times: { what: string; ms: number }[] = [];

  constructor(output: NodeJS.WriteStream, environment: NodeJS.ProcessEnv = process.env) {
    this.#output = output;
    this.#isTerminal = output.isTTY && environment['TERM'] !== 'dumb';
  }

  /** What the story was doing, for the message about a failure. */
  get currentStep(): string {
    return this.#stepTitle;
  }

  get seconds(): string {
    return secondsSince(this.#startedMs);
  }

  /** From now on every call throws `reason`. */
  stop(reason: Error): void {
    this.#stopped = reason;
    this.#clearLive();
  }

  headline(text: string): void {
    this.#line(styleText('bold', text, { stream: this.#output }));
  }

  step(title: string): void {
    this.#check();
    this.#steps++;
    this.#stepTitle = title;
    this.#line('');
    this.headline(`${String(this.#steps).padStart(2)}. ${title}`);
  }

  say(text: string): void {
    this.#check();
    for (const line of text.split('\n')) this.#line(`${indent}${line}`);
  }

  /**
   * Shows `doing` while the work lasts, then what `done` makes of its result, with the time that it took; the summary
   * has that as `inSummary`.
   */
  async work<Result>(
    doing: string,
    action: () => Promise<Result>,
    done: (result: Result) => string,
    inSummary?: string,
  ): Promise<Result> {
    this.#check();
    const startedMs = performance.now();
    const tick = (): void => {
      if (this.#stopped !== null) return;
      const text = `${indent}… ${doing} (${secondsSince(startedMs)})`;
      if (this.#isTerminal) this.#live(text);
      else this.#line(text);
    };
    if (this.#isTerminal) tick();
    const timer = setInterval(tick, this.#isTerminal ? terminalTickMs : logTickMs);
    try {
      const result = await action();
      this.#check();
      this.#clearLive();
      if (inSummary !== undefined) this.keepTime(inSummary, performance.now() - startedMs);
      const mark = styleText('green', '✓', { stream: this.#output });
      this.#line(`${indent}${mark} ${done(result)} (${secondsSince(startedMs)})`);
      return result;
    } finally {
      clearInterval(timer);
      this.#clearLive();
    }
  }

  /** Keeps the time of several steps for the summary. */
  async timed<Result>(what: string, action: () => Promise<Result>): Promise<Result> {
    const startedMs = performance.now();
    const result = await action();
    this.keepTime(what, performance.now() - startedMs);
    return result;
  }

  keepTime(what: string, ms: number): void {
    this.#times.push({ what, ms });
  }

  /** All times that were kept, one line each. */
  summary(): void {
    const width = Math.max(...this.#times.map(({ what }) => what.length));
    for (const { what, ms } of this.#times) {
      this.say(`${what.padEnd(width)}  ${formatSeconds(ms).padStart(7)}`);
    }
  }

  /** Can be called after stop(): for the end of the story. */
  epilogue(text: string, style: 'green' | 'red' | 'yellow' | 'reset' = 'reset'): void {
    this.#line(styleText(style, text, { stream: this.#output }));
  }

  #check(): void {
    if (this.#stopped !== null) throw this.#stopped;
  }

  #live(text: string): void {
    // A terminal that does not tell its width says 0.
    const width = this.#output.columns > 0 ? this.#output.columns - 1 : 79;
    this.#output.write(`\r\x1b[K${text.slice(0, width)}`);
    this.#liveLine = true;
  }

  #clearLive(): void {
    if (this.#liveLine) this.#output.write('\r\x1b[K');
    this.#liveLine = false;
  }

  #line(text: string): void {
    this.#clearLive();
    this.#output.write(`${text}\n`);
  }
}

function secondsSince(startedMs: number): string {
  return formatSeconds(performance.now() - startedMs);
}

/** Such as "0.012 s", "1.2 s", "34 s". */
export function formatSeconds(ms: number): string {
  if (ms < 100) return `${(ms / 1000).toFixed(3)} s`;
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`;
}

export function formatMebibytes(bytes: number): string {
  return `${Math.round(bytes / 1024 / 1024)} MiB`;
}
