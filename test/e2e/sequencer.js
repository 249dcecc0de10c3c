/** Has jest take files in the order in which they were given to it ($E2E_FILES): the longest first, see plan.ts. */
import sequencer from '@jest/test-sequencer';

export default class GivenOrder extends sequencer {
  sort(tests) {
    const order = (process.env.E2E_FILES ?? '').split(',');
    return [...tests].sort((one, other) => order.indexOf(one.path) - order.indexOf(other.path));
  }
}
