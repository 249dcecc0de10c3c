/** The kernel modules of a user-mode-linux guest, which has no tool to load them. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';

const modulesPath = '/usr/lib/uml/modules';
const finitModuleCall = 313;

/**
 * finit_module(2). Names are below the kernel's folder, as in drivers/block/loop.ko; a module that is there already
 * is left as it is.
 */
export function loadModule(name: string, parameters = ''): void {
  if (isLoaded(name)) return;
  const version = readdirSync(modulesPath)[0] ?? '';
  const path = join(modulesPath, version, 'kernel', name);
  const libc = koffi.load(null);
  const open = libc.func('open', 'int', ['str', 'int']);
  const close = libc.func('close', 'int', ['int']);
  const syscall = libc.func('syscall', 'long', ['long', 'int', 'str', 'int']);
  const descriptor = open(path, 0) as number;
  const result: unknown = syscall(finitModuleCall, descriptor, parameters, 0);
  const errno = koffi.errno();
  close(descriptor);
  if (result !== 0) throw new Error(`cannot load ${path}: ${errno}`);
}

function isLoaded(name: string): boolean {
  const module = name.slice(name.lastIndexOf('/') + 1, -'.ko'.length);
  return readFileSync('/proc/modules', 'utf8')
    .split('\n')
    .some((line) => line.startsWith(`${module} `));
}
