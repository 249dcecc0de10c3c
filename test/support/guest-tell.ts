/** In a guest's test: one line for whoever runs the suite, shown whether the test passes or not. */
import type { GuestReport } from './guest-jest.ts';
import { report } from './uml.ts';

export function tellHost(line: string): void {
  const told: GuestReport = { told: line };
  report(told);
}
