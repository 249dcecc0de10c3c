/** The entry of bin/vdctl: gives the process's own arguments, environment and streams to runVdctl. */
import { runVdctl } from './vdctl.ts';

// `vdctl volume ls | head` closes the pipe early: nobody is left to tell.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(0);
});

process.exitCode = await runVdctl(process.argv.slice(2), {
  env: process.env,
  stdout: (text) => void process.stdout.write(text),
  stderr: (text) => void process.stderr.write(text),
});
