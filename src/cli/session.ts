/**
 * What every vdctl command has in common: it connects to the endpoint of --api, does its work and prints the
 * answer in the chosen format.
 */
import type { Command } from 'commander';
import { parseEndpoint } from '../api/endpoint.ts';
import { VolumedriverClient } from '../api/volumedriver-client.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';
import { renderJson, type OutputFormat } from './output.ts';

export interface Io {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly stdout: (text: string) => void;
  readonly stderr: (text: string) => void;
}

export interface Answer {
  /** For -o json. */
  readonly json: unknown;
  /** For people. */
  readonly text: string;
}

/** Runs one command against the endpoint that the command line names. */
export async function withService(
  command: Command,
  io: Io,
  work: (service: VolumeService) => Promise<Answer>,
): Promise<void> {
  const options = command.optsWithGlobals<{ api?: string; output: OutputFormat }>();
  const api = options.api ?? io.env['VDCTL_API'];
  if (api === undefined || api === '') {
    throw new VolumeError(
      'INVALID_ARGUMENT',
      'no endpoint: give --api unix:PATH (or set VDCTL_API) as the volumedriver was started with',
    );
  }
  const client = new VolumedriverClient(parseEndpoint(api));
  try {
    const answer = await work(client);
    io.stdout(`${options.output === 'json' ? renderJson(answer.json) : answer.text}\n`);
  } finally {
    client.close();
  }
}
