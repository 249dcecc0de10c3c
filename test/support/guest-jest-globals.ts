/** What guest-jest.ts gives test files in place of @jest/globals, which refuses to work outside of jest. */
export { jestExpect as expect } from '@jest/expect';
export { afterAll, afterEach, beforeAll, beforeEach, describe, it, test } from 'jest-circus';
