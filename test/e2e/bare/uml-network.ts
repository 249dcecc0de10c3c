/**
 * The way between a user-mode-linux node and the rest of its cluster: a tap device, which is the node's gateway to
 * everything, and a route to the node's pods. Both are in the network namespace in which the guest's process runs.
 */
import { runCommand } from '../../../src/base/command.ts';

const commandMs = 20_000;

export const umlNetwork = {
  tapDevice: 'vduml0',
  gateway: '10.77.3.1',
  address: '10.77.3.2',
  podCidr: '10.77.4.0/24',
} as const;

/** `enter` is a command that runs the command behind it in the namespace. What was left there is replaced. */
export async function addUmlNetwork(enter: readonly string[]): Promise<void> {
  const { tapDevice, gateway, address, podCidr } = umlNetwork;
  await removeUmlNetwork(enter);
  try {
    await ip(enter, 'tuntap', 'add', 'dev', tapDevice, 'mode', 'tap');
    await ip(enter, 'address', 'add', `${gateway}/24`, 'dev', tapDevice);
    await ip(enter, 'link', 'set', tapDevice, 'up');
    await ip(enter, 'route', 'add', podCidr, 'via', address);
  } catch (error) {
    await removeUmlNetwork(enter);
    throw error;
  }
}

/** Its address and the routes over it go with it. Can be repeated, also when the namespace is gone. */
export async function removeUmlNetwork(enter: readonly string[]): Promise<void> {
  await ip(enter, 'link', 'del', umlNetwork.tapDevice).catch(() => undefined);
}

async function ip(enter: readonly string[], ...args: string[]): Promise<void> {
  const [command = '', ...rest] = [...enter, 'ip', ...args];
  await runCommand(command, rest, { timeoutMs: commandMs });
}
