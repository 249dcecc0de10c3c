/**
 * The way between the host and a user-mode-linux node: a tap device on the host, which is the node's gateway to
 * everything, and a route to the node's pods.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { runCommand } from '../../../src/base/command.ts';

const commandMs = 20_000;
const forwardingPath = '/proc/sys/net/ipv4/ip_forward';

export const umlNetwork = {
  tapDevice: 'vduml0',
  gateway: '10.77.3.1',
  address: '10.77.3.2',
  podCidr: '10.77.4.0/24',
} as const;

/** What takes it away again. */
export type RemoveNetwork = () => Promise<void>;

export async function addUmlNetwork(): Promise<RemoveNetwork> {
  const { tapDevice, gateway, address, podCidr } = umlNetwork;
  const ip = async (...args: string[]): Promise<void> => {
    await runCommand('ip', args, { timeoutMs: commandMs });
  };
  const forwarding = await readFile(forwardingPath, 'utf8');
  const remove = async (): Promise<void> => {
    // Its address and the routes over it go with it.
    await runCommand('ip', ['link', 'del', tapDevice], {
      timeoutMs: commandMs,
      acceptExitCodes: [0, 1],
    });
    await writeFile(forwardingPath, forwarding);
  };
  // One that a killed run left.
  await runCommand('ip', ['link', 'del', tapDevice], {
    timeoutMs: commandMs,
    acceptExitCodes: [0, 1],
  });
  try {
    await ip('tuntap', 'add', 'dev', tapDevice, 'mode', 'tap');
    await ip('address', 'add', `${gateway}/24`, 'dev', tapDevice);
    await ip('link', 'set', tapDevice, 'up');
    await ip('route', 'add', podCidr, 'via', address);
    await writeFile(forwardingPath, '1');
  } catch (error) {
    await remove();
    throw error;
  }
  return remove;
}
